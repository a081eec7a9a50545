"""Prompt files: one user message per task, language and version, with ``{{sentence}}`` and ``{{entities}}`` to fill in.

A prompt is ``configs/prompts/<task>.<lang>.v<N>.txt``. The shared instruction stands first and the sentence last, so
that a model server can keep the instruction's part of its cache for all sentences. A changed prompt is a new ``N``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.options import PROJECT_ROOT

PROMPT_DIR = PROJECT_ROOT / "configs" / "prompts"
TASKS = ("entity", "pos", "explain")

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_FILE_NAME = re.compile(r"(?P<task>\w+)\.(?P<lang>\w+)\.v(?P<version>[0-9]+)\.txt")


@dataclass(frozen=True)
class Prompt:
    """One prompt file.

    name: task, language and version, such as "entity.zh.v1". text: the template without the file's last line end.
    sha256: hex digest of ``text`` in UTF-8; it goes into fingerprints, so that an edited prompt is noticed.
    """

    name: str
    text: str
    sha256: str

    def render(self, sentence: str, entities: str = "") -> str:
        """Fill in both placeholders in one pass: a sentence that itself holds "{{entities}}" stays as it is."""
        values = {"sentence": sentence, "entities": entities}
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.text)


def load_prompt(task: str, lang: str, *, folder: Path = PROMPT_DIR) -> Prompt:
    """Read the prompt of a task and language with the highest version number.

    Args:
        task: "entity", "pos" or "explain".
        lang: language code as in the file names, such as "zh".
        folder: where the prompt files lie.
    Raises:
        UserError: no such file (names the languages that exist), not UTF-8, or a wrong set of placeholders.
    """
    versions = _newest(task, folder)
    if lang not in versions:
        raise UserError(_missing(task, lang, sorted(versions), folder))
    path = versions[lang]
    text = _read(path)
    _check_placeholders(path, task, text)
    return Prompt(path.name.removesuffix(".txt"), text, hashlib.sha256(text.encode("utf-8")).hexdigest())


def _newest(task: str, folder: Path) -> dict[str, Path]:
    """Language -> file of the highest version; compared as numbers, so v10 beats v9."""
    best: dict[str, tuple[int, Path]] = {}
    for path in sorted(folder.glob("*.txt")):
        match = _FILE_NAME.fullmatch(path.name)
        if match and match["task"] == task:
            best[match["lang"]] = max(best.get(match["lang"], (-1, path)), (int(match["version"]), path))
    return {lang: path for lang, (_, path) in best.items()}


def _missing(task: str, lang: str, languages: list[str], folder: Path) -> str:
    wanted = folder / f"{task}.{lang}.v1.txt"
    known = f"Languages of this task: {', '.join(languages)}" if languages else f"Tasks: {', '.join(TASKS)}"
    return f"{wanted}: no prompt for task {task!r} in language {lang!r}. {known}; choose one, or write this file."


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").rstrip("\n")
    except UnicodeDecodeError as err:
        raise UserError(f"{path}: not UTF-8 (byte {err.start}). Save the prompt as UTF-8.") from err


def _check_placeholders(path: Path, task: str, text: str) -> None:
    """Each placeholder of the task exactly once and no other, else a UserError with the line that is wrong."""
    needed = ("sentence", "entities") if task == "explain" else ("sentence",)
    found = [(match[1], text.count("\n", 0, match.start()) + 1) for match in _PLACEHOLDER.finditer(text)]
    seen: set[str] = set()
    for name, line in found:
        if name not in needed:
            raise UserError(f"{path}:{line}: unknown placeholder {{{{{name}}}}}. Known here: {_braced(needed)}.")
        if name in seen:
            raise UserError(f"{path}:{line}: {{{{{name}}}}} stands here a second time. Keep it once.")
        seen.add(name)
    absent = [name for name in needed if name not in seen]
    if absent:
        last = text.count("\n") + 1
        raise UserError(f"{path}:{last}: {_braced(absent)} is missing. Add it where the caller's text belongs.")


def _braced(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"{{{{{name}}}}}" for name in names)
