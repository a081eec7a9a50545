"""Prompt files: one user message per task, language and version, with placeholders such as ``{{sentence}}`` to fill in.

A prompt is ``configs/prompts/<task>.<lang>.v<N>.txt``. The shared instruction stands first and the sentence in the last
paragraph, so that a model (or its server) can keep what it computed of the instruction for all sentences; demonstrations
repeat that last paragraph between the two. A changed prompt is a new ``N``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import read_whole
from syn_pipelines.utils.options import PROJECT_ROOT

PROMPT_DIR = PROJECT_ROOT / "configs" / "prompts"
MAX_BYTES = 1 << 20
TASKS = ("entity", "pos", "pos_inline", "explain")

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_FILE_NAME = re.compile(r"(?P<task>\w+)\.(?P<lang>\w+)\.v(?P<version>[0-9]+)\.txt")


@dataclass(frozen=True)
class Prompt:
    """One prompt file.

    name: task, language and version, such as "entity.zh.v2". text: the template without the file's last line end.
    sha256: hex digest of ``text`` in UTF-8; it goes into fingerprints, so that an edited prompt is noticed.
    """

    name: str
    text: str
    sha256: str

    def render(self, sentence: str, entities: str = "", *, labels: str = "",
               shots: Sequence[tuple[str, str]] = ()) -> str:
        """Fill in the placeholders in one pass: a sentence that itself holds "{{entities}}" stays as it is.

        entities: what the sentence is about, one a line. labels: the names to choose from. shots: (sentence, answer) of
        each demonstration.
        """
        def fill(text: str, about: str) -> str:
            values = {"sentence": about, "entities": entities, "labels": labels}
            return _PLACEHOLDER.sub(lambda match: values[match[1]], text)

        shared, gap, question = self.text.rpartition("\n\n")
        blank = " " if question[-1:].isascii() else ""  # "Answer: [...", but a full-width colon brings its own
        shown = "".join(f"{fill(question, about)}{blank}{answer}{gap or chr(10)}" for about, answer in shots)
        return f"{fill(shared, sentence)}{gap}{shown}{fill(question, sentence)}"


def load_prompt(task: str, lang: str, *, folder: Path = PROMPT_DIR) -> Prompt:
    """Read the prompt of a task and language with the highest version number.

    Args:
        task: "entity", "pos", "pos_inline" or "explain".
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
        text = read_whole(path, most=MAX_BYTES).decode("utf-8-sig")
        return text.replace("\r\n", "\n").rstrip("\n")
    except UnicodeDecodeError as err:
        line = err.object.count(b"\n", 0, err.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 (byte {err.start}). Save the prompt as UTF-8.") from err


def _check_placeholders(path: Path, task: str, text: str) -> None:
    """Each placeholder of the task exactly once and no other, else a UserError with the line that is wrong."""
    needed = ("entities" if task == "explain" else "labels", "sentence")
    found = [(match[1], text.count("\n", 0, match.start()) + 1) for match in _PLACEHOLDER.finditer(text)]
    seen: dict[str, int] = {}
    for name, line in found:
        if name not in needed:
            raise UserError(f"{path}:{line}: unknown placeholder {{{{{name}}}}}. Known here: {_braced(needed)}.")
        if name in seen:
            raise UserError(f"{path}:{line}: {{{{{name}}}}} stands here a second time. Keep it once.")
        seen[name] = line
    absent = [name for name in needed if name not in seen]
    if absent:
        last = text.count("\n") + 1
        raise UserError(f"{path}:{last}: {_braced(absent)} is missing. Add it where the caller's text belongs.")
    if "{{sentence}}" not in text.rpartition("\n\n")[2]:
        raise UserError(f"{path}:{seen['sentence']}: {{{{sentence}}}} must stand in the last paragraph: what is the same "
                        "for all sentences comes before it. Move it there.")


def _braced(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"{{{{{name}}}}}" for name in names)
