"""The names that prompts offer and use: ``configs/inventories/<lang>.yaml``, types and tags to choose from, and
``configs/labels/<dataset>.yaml``, what the target labels of a data set are called and mean.

The format of both is in configs/README.md.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError, did_you_mean
from syn_pipelines.utils.labels import fold, name_problem
from syn_pipelines.utils.options import PROJECT_ROOT
from syn_pipelines.utils.yaml_files import line_of_key, read_yaml

log = logging.getLogger(__name__)

INVENTORY_DIR = PROJECT_ROOT / "configs" / "inventories"
LABEL_DIR = PROJECT_ROOT / "configs" / "labels"
LISTS = ("entity", "pos", "pos_inline")

_TEXTS = ("separator", "closed", "open")
_QUOTES = re.compile(r'["\\“”„＂]')  # what a model would have to escape, or would take for the end of the name
_INLINE_MARKS = re.compile(r"[\s/／]")
_INVENTORY_ADVICE = "Correct it there; the format is in configs/README.md."
_EXAMPLE = "'entity: [person, place]'"
_LABEL_EXAMPLE = "'PER: {name: person, description: the name of a person}'"


@dataclass(frozen=True)
class Inventory:
    """The names of one kind in one language.

    labels: what a model chooses from. meanings: of those that do not speak for themselves. separator: between names in a
    prompt. closed, open: the sentence behind the list, when own names are not, or are, allowed.
    """

    labels: tuple[str, ...]
    separator: str
    closed: str
    open: str
    meanings: dict[str, str] = field(default_factory=dict)

    def listed(self, more: Sequence[str] = (), *, open_labels: bool) -> tuple[tuple[str, ...], str]:
        """All names that are offered, those of ``more`` last, and the text that stands for them in a prompt."""
        labels = tuple(dict.fromkeys([*self.labels, *more]))
        names = self.separator.join(f"{label} {self.meanings.get(label, '')}".rstrip() for label in labels)
        return labels, f"{names}\n{self.open if open_labels else self.closed}"


def load_inventory(kind: str, lang: str, *, folder: Path = INVENTORY_DIR) -> Inventory:
    """The names of a kind ("entity", "pos" or "pos_inline") that the prompts of a language offer.

    Raises:
        UserError: no such file (names the languages that exist), not as configs/README.md says; all problems in one message.
    """
    path = folder / f"{lang}.yaml"
    known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
    content = read_yaml(path, missing=f"Languages with a list: {known}; choose one, or write this file.", example=_EXAMPLE)
    problems = _inventory_problems(content)
    if problems:
        where = [f"{path}:{line_of_key(path, key)}: {key!r} {problem}" for key, problem in problems]
        raise UserError("\n".join(f"{line}. {_INVENTORY_ADVICE}" for line in where))
    names = content[kind]
    return Inventory(tuple(names), content["separator"], content["closed"], content["open"],
                     dict(names) if isinstance(names, dict) else {})


def _inventory_problems(content: dict[Any, Any]) -> list[tuple[str, str]]:
    """(key, what is wrong with it) of everything that is wrong."""
    known = {*_TEXTS, *LISTS}
    found = [(str(key), f"is no key of an inventory{did_you_mean(key, known)}") for key in content if key not in known]
    for key in _TEXTS:
        value = content.get(key)
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            found.append((key, "must be one line of text"))
    separator = str(content.get("separator", "")).strip()
    for key in LISTS:
        value = content.get(key)
        if not isinstance(value, dict if key == "pos_inline" else list) or not value:
            found.append((key, f"must be {'tags with their meanings' if key == 'pos_inline' else 'a list of names'}"))
            continue
        found += [(key, problem) for problem in _list_problems(value, separator, inline=key == "pos_inline")]
        if isinstance(value, dict):
            found += [(key, f"says of {tag!r} what is no text") for tag, text in value.items()
                      if not isinstance(text, str) or not text.isprintable()]
    return found


def _list_problems(names: Collection[Any], separator: str, *, inline: bool) -> list[str]:
    found, seen = [], {}
    for name in names:
        if not isinstance(name, str):
            found.append(f"holds {name!r}, which is no text")
            continue
        if problem := _offered_problem(name, separator, inline):
            found.append(f"holds {name!r}, which {problem}")
        elif (other := seen.setdefault(fold(name) or name, name)) != name or sum(n == name for n in names) > 1:
            found.append(f"holds {name!r} and {other!r}, one name twice")
    return list(dict.fromkeys(found))


def _offered_problem(name: str, separator: str, inline: bool) -> str | None:
    if problem := name_problem(name):
        return problem
    if _QUOTES.search(name):
        return "has a quote or a backslash in it"
    if separator and separator in name:
        return f"has the separator {separator!r} in it"
    return "has a blank or a slash in it, which inline replies use" if inline and _INLINE_MARKS.search(name) else None


# --- target labels ---------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class TargetName:
    """What prompts call a target label, and what it means ("": they do not say)."""

    name: str
    description: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.description}" if self.description else self.name


def load_target_names(dataset: str, targets: Collection[str] | None, *, folder: Path = LABEL_DIR) -> dict[str, TargetName]:
    """Target label -> how prompts speak of it, from ``<folder>/<dataset>.yaml``; {} when there is no such file.

    Args:
        dataset: name of a data set, one plain folder name. targets: the labels of labels.txt; None: any.
    Raises:
        UserError: not valid; all problems in one message. A label that is not among the targets is only warned of: a
            part of a data set may lack a rare one.
    """
    path = folder / f"{dataset}.yaml"
    if Path(dataset).name != dataset or not os.path.isfile(path):  # isfile, as the name may be too long for a file
        return {}
    content = read_yaml(path, missing="Make it readable, or take it away.", example=_LABEL_EXAMPLE)
    problems: list[tuple[str, str]] = []
    for label, value in content.items():
        if problem := _target_problem(value):
            problems.append((str(label), problem))
        elif targets is not None and label not in targets:
            log.warning("%s:%d: %r is not in labels.txt of %s%s, left out", path, line_of_key(path, str(label)), label,
                        dataset, did_you_mean(label, targets))
    if problems:
        raise UserError("\n".join(f"{path}:{line_of_key(path, label)}: {label!r} {problem}. Correct the key or take it out; "
                                  f"lines look like {_LABEL_EXAMPLE}." for label, problem in problems))
    return {label: TargetName(value.get("name", label), value.get("description", ""))
            for label, value in content.items() if targets is None or label in targets}


def _target_problem(value: Any) -> str:
    if not isinstance(value, dict) or not value:
        return "has neither a name nor a description"
    if unknown := [key for key in value if key not in ("name", "description")]:
        return f"has {unknown[0]!r}, which is neither 'name' nor 'description'"
    for key, text in value.items():
        if not isinstance(text, str):
            return f"has a {key} that is no text"
        if problem := name_problem(text):
            return f"has a {key} that {problem}"
        if key == "name" and _QUOTES.search(text):
            return "has a name with a quote or a backslash in it"
    return ""
