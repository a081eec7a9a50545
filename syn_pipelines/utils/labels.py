"""Label names: what a model calls a type or a part of speech, and the one name the data sets use for it.

An alias map is a JSON file ``{"CANONICAL": [alias, ...]}``; data/fusion_knowledge/README.md has its format and choices.
Target labels are those of a dataset's labels.txt; extension labels are canonical names, prefixed where a prefix is set.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import MAX_PROBLEMS, Problems, read_lines, read_whole

if TYPE_CHECKING:
    from syn_pipelines.utils.fusion import Canonical
    from syn_pipelines.utils.paths import RunPaths
    from syn_pipelines.utils.summary import Summary

OUTSIDE = "O"  # first line of labels.txt and of every label file: no entity

# Models vary blanks, underscores and dashes (BODY_PART, body-part, Body part) and sometimes leave invisible characters.
_IGNORED = re.compile(r"[\s_\-\u00ad\u2010-\u2015\u200b-\u200f\u2060\ufeff]+")
_NAME_ADVICE = "A label is one line of visible characters without blanks around it."
_MAP_ADVICE = 'The file is one JSON object {"CANONICAL": ["alias", ...], ...}; correct it there.'
_MAP_MISSING = 'Restore the shipped file, or name your own; it looks like {"CANONICAL": ["alias", ...], ...}.'
_TARGET_ADVICE = "labels.txt holds O in its first line, then one target label a line; correct it."
_TARGET_MISSING = "labels.txt is needed: O in the first line, then one target label a line, such as O, PER, LOC, ORG."

Entry = tuple[str, object]  # one member of the JSON object: (canonical name, what should be its list of aliases)
_LONGEST_NAME = 1000  # code points; sorting the accents of a longer text takes long, and no label is called so
Finding = tuple[str, str]  # (the name a problem is about, the problem)


def fold(name: str) -> str:
    """The form in which spellings of one name meet: case, width, blanks, underscores and dashes do not count.

    >>> fold(" Body-Part "), fold("ＢＯＤＹ＿ＰＡＲＴ")
    ('bodypart', 'bodypart')

    "" where nothing else is left (``"-"``). Folding twice gives the same as folding once.
    """
    for _ in range(2):  # dropping a dash can bring a letter and a combining mark together: compose and fold those too
        name = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
        name = _IGNORED.sub("", name)
    return name


@dataclass(frozen=True, slots=True, eq=False)
class AliasMap:
    """Names as models write them -> canonical labels. Never changes after loading; make one with load() or of().

    source: the file it came from, for messages. fallback: the label of what is not known, always among ``labels``.
    labels: canonical names in file order.
    """

    source: str
    fallback: str
    labels: tuple[str, ...]
    _exact: dict[str, str] = field(repr=False)
    _folded: dict[str, str] = field(repr=False)

    @classmethod
    def load(cls, path: str | Path, *, fallback: str) -> AliasMap:
        """Read an alias file; ``fallback`` is added as the last label where the file does not have it.

        Raises:
            UserError: the file is missing, not UTF-8, not JSON, not an object of lists of strings, repeats a key, has
                an empty or unprintable name, or an alias under two labels. Names the lines, of 20 problems at most.
        """
        path = Path(path)
        text = _read_text(path)
        labels, exact, findings = _collect(_parse(path, text), fallback)
        problems = Problems(path, _MAP_ADVICE)
        for name, problem in findings:
            problems.add(_line_of(text, name), problem)
        problems.raise_if_any()
        return cls(str(path), fallback, labels, exact, _folded_forms(exact))

    @classmethod
    def of(cls, aliases: Mapping[str, Iterable[str]], *, fallback: str, source: str = "label map") -> AliasMap:
        """The same from a mapping; ``AliasMap.of(dict.fromkeys(targets, ()), fallback="OTHER")`` is an identity map.

        Raises:
            UserError: as load() does for the content of a file.
        """
        # A bare string is iterable too: left as it is, it is reported instead of being taken for one-letter aliases.
        entries = [(label, names if isinstance(names, str) else list(names)) for label, names in aliases.items()]
        labels, exact, findings = _collect(entries, fallback)
        if findings:
            raise UserError("\n".join(f"{source}: {problem}" for _, problem in findings[:MAX_PROBLEMS]))
        return cls(source, fallback, labels, exact, _folded_forms(exact))

    def lookup(self, raw: object) -> str | None:
        """The canonical label of ``raw``; None when it is not known, or no string at all. Never raises.

        Exactly as written first, because case tells tag sets apart (PKU ``m`` is a numeral, CTB ``M`` a measure word);
        then without outer blanks, then in normal width, last folded where the folded form names one label only.
        """
        if not isinstance(raw, str):
            return None
        found = self._exact.get(raw) or self._exact.get(raw.strip())
        if found is None and len(raw) <= _LONGEST_NAME:
            found = self._exact.get(unicodedata.normalize("NFKC", raw).strip()) or self._folded.get(fold(raw))
        return found

    def canonical(self, raw: object) -> tuple[str, bool]:
        """(label, True), or (fallback, False) when ``raw`` is not known."""
        found = self.lookup(raw)
        return (self.fallback, False) if found is None else (found, True)


def _read_text(path: Path) -> str:
    """The whole file as text, without a BOM. UserError with the line of the first byte that is not UTF-8."""
    raw = read_whole(path, _MAP_MISSING)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line, byte = err.object.count(b"\n", 0, err.start) + 1, err.object[err.start]
        raise UserError(f"{path}:{line}: is not UTF-8 (byte 0x{byte:02x}). Save it as UTF-8.") from None


class _Object(list):
    """A JSON object as its (key, value) pairs: a dict would hide that a key stands there twice."""


def _parse(path: Path, text: str) -> list[Entry]:
    """The members of the JSON object, repeated keys included. UserError when it is broken or no object."""
    try:
        value = json.loads(text, object_pairs_hook=_Object)
    except json.JSONDecodeError as err:
        raise UserError(
            f"{path}:{err.lineno}: is not valid JSON ({err.msg}, column {err.colno}). Correct the line."
        ) from None
    except (RecursionError, ValueError) as err:  # nested too deeply, or a number of thousands of digits
        raise UserError(f"{path}:1: is not valid JSON ({type(err).__name__}). {_MAP_ADVICE}") from None
    if not isinstance(value, _Object):
        raise UserError(f"{path}:1: holds {_kind(value)}, not an object. {_MAP_ADVICE}")
    return value


def _collect(entries: Sequence[Entry], fallback: str) -> tuple[tuple[str, ...], dict[str, str], list[Finding]]:
    """(labels in order, exact alias -> label, problems). Canonical names first: each is an alias of itself."""
    findings: list[Finding] = []
    exact: dict[str, str] = {}
    for label, _ in entries:
        if label in exact:
            findings.append((label, f"label {label!r} stands there twice; join its lists of aliases."))
        elif problem := name_problem(label):
            findings.append((label, f"label {label!r} {problem}. {_NAME_ADVICE}"))
        exact[label] = label
    exact.setdefault(fallback, fallback)
    labels = tuple(exact)
    for label, names in entries:
        if not isinstance(names, list) or isinstance(names, _Object):
            findings.append((label, f"label {label!r} has {_kind(names)} where a list of aliases belongs."))
            continue
        for name in names:
            if problem := _add_alias(exact, label, name):
                findings.append((name if isinstance(name, str) else label, problem))
    return labels, exact, findings


def _add_alias(exact: dict[str, str], label: str, name: object) -> str | None:
    """Note one alias; returns what is wrong with it. The same alias twice under one label does no harm."""
    if not isinstance(name, str):
        return f"label {label!r} has {_kind(name)} among its aliases; write a string."
    if not name.strip():
        return f"label {label!r} has an empty alias; take it out."
    if (other := exact.setdefault(name, label)) != label:
        return f"alias {name!r} of label {label!r} already stands for {other!r}; keep one of the two."
    return None


def _folded_forms(exact: Mapping[str, str]) -> dict[str, str]:
    """Folded alias -> label, without the forms that two labels share and without the empty one."""
    folded: dict[str, str | None] = {}
    for name, label in exact.items():
        form = fold(name)
        folded[form] = label if folded.get(form, label) == label else None
    return {form: label for form, label in folded.items() if form and label is not None}


def name_problem(name: str) -> str | None:
    """What keeps ``name`` from being a label (read after its name: "is empty"); None when nothing does."""
    if not name.strip():
        return "is empty"
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in name):
        return "has a line end or another control character in it"
    return "has blanks around it" if name != name.strip() else None


def _kind(value: object) -> str:
    """A JSON value's type in words."""
    names = {_Object: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _line_of(text: str, name: str) -> int:
    """Line of the last place where ``name`` stands as a JSON string, 1 when it is written in an unusual way."""
    # Of two places that contradict each other the later one is the one to look at.
    at = max(text.rfind(json.dumps(name, ensure_ascii=ascii_only)) for ascii_only in (False, True))
    return text.count("\n", 0, max(at, 0)) + 1


def check_maps(entity: AliasMap, pos: AliasMap) -> None:
    """Entity types and parts of speech end in one label file, so no canonical name may be in both maps.

    Raises:
        UserError: naming every shared label and both files.
    """
    shared = sorted(set(entity.labels) & set(pos.labels))
    if shared:
        raise UserError(
            f"{pos.source}: {', '.join(map(repr, shared))} is a canonical name in {entity.source} too. "
            "Rename it in one of the two files; aliases may stand in both."
        )


def clashes(targets: Sequence[str], extension_labels: Iterable[str]) -> tuple[list[str], list[str]]:
    """Extension labels, prefix included, that would be taken for a target label.

    Returns:
        (equal to a target or to O, equal to one of these but for case), each in the order given, without repetition.
        The first would turn a model's spans into gold; the second are allowed but easily confused (see case_twins).
    """
    reserved = {*targets, OUTSIDE}
    names = list(dict.fromkeys(extension_labels))
    equal = [name for name in names if name in reserved]
    return equal, [name for name in names if name not in reserved and case_twins(name, [*targets, OUTSIDE])]


def case_twins(label: str, others: Iterable[str]) -> list[str]:
    """Those of ``others`` that differ from ``label`` in case alone."""
    return [other for other in others if other != label and other.casefold() == label.casefold()]


def read_target_labels(path: str | Path) -> list[str]:
    """The target labels of labels.txt in their order, without the O of the first line. Blank lines do not count.

    Raises:
        UserError: the file is missing or not UTF-8, O is not first, a label is repeated or has a blank or control
            character in it, or there is no label but O. Names the lines; the first 20 problems are listed.
    """
    problems = Problems(Path(path), _TARGET_ADVICE)
    seen: dict[str, int] = {}
    for number, line in read_lines(problems.path, problems, _TARGET_MISSING):
        label = line.strip()
        if not seen and label != OUTSIDE:
            problems.add(number, f"starts with {label!r}, not with O.")
        if label in seen:
            problems.add(number, f"repeats {label!r} of line {seen[label]}.")
        elif (problem := name_problem(label)) or len(label.split()) > 1:
            problems.add(number, f"{label!r} {problem or 'has a blank in it'}.")
        seen.setdefault(label, number)
    if not problems.found and len(seen) < 2:
        problems.add(max(seen.values(), default=0) + 1, "names no target label.")
    problems.raise_if_any()
    return [label for label in seen if label != OUTSIDE]


@dataclass(frozen=True)
class Labels:
    """Target labels (without O) and the two maps onto extension labels."""

    targets: tuple[str, ...]
    entity: AliasMap
    pos: AliasMap
    prefix: str

    @classmethod
    def load(cls, opts: Any, paths: RunPaths, summary: Summary | None = None) -> Labels:
        """Read and check all label files. opts: as those of step 5.

        Raises:
            UserError: a file is missing or broken, or an extension label equals a target label.
        """
        labels = cls(tuple(read_target_labels(paths.labels)), AliasMap.load(opts.entity_label, fallback="OTHER"),
                     AliasMap.load(opts.pos_label, fallback="WORD"), opts.label_prefix)
        check_maps(labels.entity, labels.pos)
        equal, nearly = clashes(labels.targets, labels.extension)
        if equal:
            raise UserError(f"{paths.labels}: the target labels {', '.join(equal)} are also extension labels of "
                            f"{opts.entity_label} or {opts.pos_label}; the model's guesses would pass as gold. Give the "
                            "extension labels a prefix, such as --label_prefix=X_, or rename them in the map.")
        if nearly and summary:
            summary.warn(f"{paths.labels}: extension labels differ from target labels by case only: {', '.join(nearly)}. "
                         "--label_prefix=X_ would keep them apart for readers.")
        return labels

    @property
    def extension(self) -> list[str]:
        """All extension labels, with the prefix."""
        return [self.prefix + name for name in (*self.entity.labels, *self.pos.labels)]

    def canonical(self, mode: str) -> Canonical:
        """raw type -> (label with prefix, whether the raw type is known)."""
        aliases = self.entity if mode == "entity" else self.pos

        @lru_cache(maxsize=4096)  # a model uses a few dozen types, and an unknown one is looked up in four ways
        def label(raw: object) -> tuple[str, bool]:
            name, known = aliases.canonical(raw)
            return self.prefix + name, known
        return label
