"""What the ledger is written in: accounts, what does not add up, what is not there yet."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syn_pipelines.utils.compact import IdMap
from syn_pipelines.utils.summary import Account, columns
from syn_pipelines.utils.visible import visible

if TYPE_CHECKING:
    from syn_pipelines.tools._ledger_files import DataFile

ALIKE = 3  # findings of one kind in one file that are listed; the others are counted
ORDER = ("data", "s1", "s2", "s3", "s4", "s5", "s6", "train", "s7", "s8")


@dataclass(frozen=True)
class Problem:
    """Something that does not add up. line: from 1, None for the file as a whole. mend: the command that mends it."""

    file: str
    line: int | None
    problem: str
    mend: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.problem}" + (f"\n    mend: {self.mend}" if self.mend else "")


@dataclass
class Book:
    """The whole account, filled in by the checks. notes: what is not there yet, and what could not be looked at."""

    lines: list[tuple[str, Account]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    made_from: set[str] = field(default_factory=set)  # sha256 of everything that manifests say something was made from
    stopped: str = ""  # the step that a stop left between a file and its manifest; there can be one such step
    _found: dict[tuple[str, str], list[Problem]] = field(default_factory=dict)
    _more: Counter[tuple[str, str]] = field(default_factory=Counter)
    _seen: IdMap = field(default_factory=lambda: IdMap(narrow=True))  # all findings: a file is read more than once

    def account(self, step: str, what: str, parts: Mapping[str, int], reasons: Mapping[str, int] | None = None, *,
                total: int | None = None, file: DataFile | None = None) -> None:
        """Note ``total what = parts (reasons)``.

        total: counted in another way than the parts, so that something that is in no part is a finding about ``file``;
        None where nothing else counts them.
        """
        found, parts = sum(parts.values()), dict(parts)
        if total is not None and total != found:
            said = " + ".join(f"{n:,} {name}" for name, n in parts.items())
            parts["unaccounted for"] = total - found
            if file is not None:
                file.problem("total", f"{step}: {total:,} {what}, but {said} are {found:,}.")
        self.lines.append((step, Account(what, sum(parts.values()), parts, dict(reasons or {}))))

    def note(self, text: str) -> None:
        """Note something that is no imbalance, once."""
        if text not in self.notes:
            self.notes.append(text)

    def problem(self, path: Path, kind: str, text: str, *, line: int | None = None, mend: str = "") -> None:
        """Note what does not add up, once; of each ``kind`` in a file the first few are listed."""
        if (key := f"{path}\0{kind}\0{line}\0{text}") in self._seen:
            return
        self._seen[key] = 0
        found = self._found.setdefault((str(path), kind), [])
        if len(found) < ALIKE:
            found.append(Problem(str(path), line, text, mend))
        else:
            self._more[str(path), kind] += 1

    def apart(self) -> Book:
        """A book for findings that stand behind others which are still to come; see ``take_in``."""
        return Book(made_from=self.made_from, stopped=self.stopped, _seen=self._seen)

    def take_in(self, other: Book) -> None:
        """Add the findings of a book that was apart."""
        for key, problems in other._found.items():
            found = self._found.setdefault(key, [])
            room = ALIKE - len(found)
            found += problems[:room]
            self._more[key] += len(problems[room:]) + other._more[key]

    def lists(self, path: Path, kind: str) -> bool:
        """Whether one more finding of a kind in a file would be listed, and not only counted."""
        return len(self._found.get((str(path), kind), ())) < ALIKE

    def speaks_of(self, path: Path) -> bool:
        """Whether there is a finding about a file."""
        return any(name == str(path) for name, _ in self._found)

    @property
    def problems(self) -> list[Problem]:
        """In the order in which they were found, those of a kind together."""
        result = []
        for (path, kind), found in self._found.items():
            result += found
            if more := self._more[path, kind]:
                result.append(Problem(path, None, f"{more:,} more like the one before.", found[-1].mend))
        return result

    @property
    def balanced(self) -> bool:
        """Whether everything adds up."""
        return not self._found

    def as_dict(self) -> dict[str, Any]:
        """``balanced``, ``steps``, ``problems``, ``notes``: JSON values only."""
        return {"balanced": self.balanced, "steps": [{"step": step, **asdict(account)} for step, account in self.in_order()],
                "problems": [asdict(problem) for problem in self.problems], "notes": self.notes_in_order()}

    def notes_in_order(self) -> list[str]:
        """The notes in the order of the steps that they begin with, then the others."""
        def place(text: str) -> int:
            step = text.split(":")[0].split(" ")[0]
            return ORDER.index(step) if step in ORDER else len(ORDER)

        return sorted(self.notes, key=place)

    def in_order(self) -> list[tuple[str, Account]]:
        """The accounts in the order of the steps."""
        def place(line: tuple[str, Account]) -> tuple[int, int]:
            step, _, part = line[0].partition(" ")
            return ORDER.index(step), int(part) if part.isdecimal() else 0

        return sorted(self.lines, key=place)

    def __str__(self) -> str:
        """The accounts as a table, step by step, then what is not there yet and what does not add up."""
        width = max((columns(step) for step, _ in self.lines), default=0)
        digits = max((len(f"{account.total:,}") for _, account in self.lines), default=0)
        names = max((columns(account.what) for _, account in self.lines), default=0)
        lines, last = [], ""
        for step, account in self.in_order():
            shown = "" if step == last else step
            if lines and step.split(" ")[0] != last.split(" ")[0]:
                lines.append("")
            last = step
            parts = str(account).removeprefix(f"{account.total:,} {account.what} = ")
            lines.append(f"{shown}{' ' * (width - columns(shown))}  {account.total:>{digits},}  "
                         f"{account.what}{' ' * (names - columns(account.what))} = {parts}")
        for head, found in (("Not there, or not looked at:", self.notes_in_order()), ("Does not add up:", self.problems)):
            if found:
                lines += ["", head, *(f"  {str(one).replace(chr(10), chr(10) + '  ')}" for one in found)]
        count = sum(len(found) for found in self._found.values()) + self._more.total()
        verdict = "Balanced: every row is accounted for." if self.balanced else f"Not balanced: {count:,} findings."
        return visible("\n".join([*lines, "", verdict]))


def shown(value: Any) -> str:
    """A value of a JSON file as it stands there, shortened."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."
