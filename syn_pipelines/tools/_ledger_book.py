"""What the ledger is written in: accounts, what does not add up, what is not there yet; and how it reads files.

Nothing here raises for the content of a file: what cannot be used is a finding, and the reading goes on behind it.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from syn_pipelines.utils.fusion import ITEM_KEYS
from syn_pipelines.utils.jsonl import Problems, file_hash, open_input, read_objects
from syn_pipelines.utils.manifest import read_manifest
from syn_pipelines.utils.paths import manifest_path
from syn_pipelines.utils.records import STATUSES, Record, problems_of_entities, short
from syn_pipelines.utils.summary import Account, columns
from syn_pipelines.utils.visible import visible

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
    _seen: set[tuple[str, str, int | None, str]] = field(default_factory=set)

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
        if (key := (str(path), kind, line, text)) in self._seen:
            return
        self._seen.add(key)
        found = self._found.setdefault((str(path), kind), [])
        if len(found) < ALIKE:
            found.append(Problem(str(path), line, text, mend))
        else:
            self._more[str(path), kind] += 1

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


class _IntoBook(Problems):
    """The reader's problems, as findings."""

    def __init__(self, book: Book, path: Path, mend: str) -> None:
        super().__init__(path, "")
        self._book, self._mend = book, mend

    def add(self, line: int, text: str) -> None:
        self._book.problem(self.path, "broken", text, line=line, mend=self._mend)


class DataFile:
    """A file of a data set or a run, with its manifest.

    mend: the command that makes it again, unless the manifest knows better. check: what is wrong with one row, "" for
    nothing.
    """

    def __init__(self, book: Book, path: Path, mend: str, check: Callable[[Record], str] = lambda row: "") -> None:
        self.book, self.path, self.check = book, path, check
        command = self.manifest.get("command")
        self.mend = command if isinstance(command, str) and command else mend

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """{} where there is none that can be used."""
        return read_manifest(self.path)

    @property
    def settings(self) -> dict[str, Any]:
        """The options that shaped the file, as far as its manifest tells."""
        settings = self.manifest.get("settings")
        return settings if isinstance(settings, dict) else {}

    @property
    def anew(self) -> str:
        """The command that asks everything again, where the other one refuses to go on."""
        return self.mend if self.mend.endswith(" --overwrite") else f"{self.mend} --overwrite"

    @cached_property
    def exists(self) -> bool:
        """Whether there is such a file."""
        return self.path.is_file()

    @cached_property
    def is_as_published(self) -> bool:
        """Whether the bytes are those that the manifest speaks of."""
        return self.exists and file_hash(self.path) == self.manifest.get("sha256")

    def problem(self, kind: str, text: str, line: int | None = None) -> None:
        """Note a finding about this file."""
        self.book.problem(self.path, kind, text, line=line, mend=self.mend)

    def rows(self) -> Iterator[tuple[int, Record]]:
        """(line, row with its id as a text) of every row that can be used; the others are findings. None: no rows."""
        if not self.exists:
            return
        for line, row in read_objects(self.path, _IntoBook(self.book, self.path, self.mend)):
            if text := self.check(row):
                self.problem("unusable row", text, line)
            else:
                yield line, {**row, "id": str(row["id"])} if "id" in row else row

    def settle(self, counts: Mapping[str, Any], complete: bool, *, unless: Iterable[str] = (), stale: bool = False) -> None:
        """Compare the manifest with the rows, which were compared with everything else before.

        A file whose rows are all as they should be, with a manifest that speaks of fewer or others, is what a stop
        between the two leaves behind: no imbalance.

        Args:
            counts: of the rows. complete: what the flag should be. unless: counts that were not made. stale: its input
                has changed since, so counts of then and now may differ.
        """
        if not self.manifest:
            return
        told = self.manifest.get("counts")
        told = told if isinstance(told, dict) else {}
        names = [name for name in dict.fromkeys([*counts, *told])
                 if name not in unless and not stale and told.get(name) != counts.get(name)]
        if self.exists and not self.is_as_published:
            if names and not self.book.speaks_of(self.path) and self._may_be_newer():
                self.book.note(f"{self.path}: newer than its manifest, as a stop between the two leaves it. Go on with: {self.mend}")
                return
            self.problem("sha256", f"is not the file that {manifest_path(self.path).name} speaks of (another sha256): one "
                                   "of the two was changed.")
        for name in names:
            self._about_manifest("count", f"'counts' says {name}: {shown(told.get(name))}, but counted were "
                                          f"{shown(counts.get(name))}.")
        if not stale and self.manifest.get("complete") is not complete:
            self._about_manifest("complete", f"'complete' is {shown(self.manifest.get('complete'))} and should be "
                                             f"{shown(complete)}.")

    def _may_be_newer(self) -> bool:
        """Whether a stop can have left this file with the manifest of an earlier one: nothing was made from it yet, and no
        other step was stopped there too."""
        step = str(self.manifest.get("step"))
        if file_hash(self.path) in self.book.made_from or self.book.stopped not in ("", step):
            return False
        self.book.stopped = step
        return True

    def _about_manifest(self, kind: str, text: str) -> None:
        self.book.problem(manifest_path(self.path), kind, text, mend=self.mend)


def shown(value: Any) -> str:
    """A value of a JSON file as it stands there, shortened."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."


def sentence_problem(row: Record) -> str:
    """What is wrong with a row of sentences, "" for nothing."""
    tokens = row.get("text")
    if not isinstance(row.get("id"), str) or not row["id"]:
        return f"id {short(row.get('id'))} is no text."
    if not isinstance(tokens, list) or not tokens or not all(isinstance(t, str) and t for t in tokens):
        return f"'text' must be a list of texts that are not empty, got {short(tokens)}."
    found = problems_of_entities(row.get("entities"), tokens)
    return found[0] if found else ""


def annotation_problem(mode: str) -> Callable[[Record], str]:
    """The check of a row of annotations."""
    keys = ITEM_KEYS[mode]

    def check(row: Record) -> str:
        if not isinstance(row.get("id"), str) or not row["id"]:
            return f"id {short(row.get('id'))} is no text."
        if row.get("status") not in STATUSES:
            return f"status {short(row.get('status'))} is none of {', '.join(STATUSES)}."
        if not isinstance(row.get("reply"), str) or not isinstance(row.get("reason"), str):
            return "'reply' and 'reason' must be texts."
        items = row.get("items")
        if not isinstance(items, list) or not all(isinstance(i, dict) and all(isinstance(i.get(k), str) for k in keys)
                                                  for i in items):
            return f"'items' must be a list of objects with the texts {' and '.join(keys)}."
        return ""
    return check


def places_of(ids: Iterable[str]) -> dict[str, int]:
    """The place of each id; of an id that stands there twice the first."""
    places: dict[str, int] = {}
    for place, identity in enumerate(ids):
        places.setdefault(identity, place)
    return places


def matched(expected: Iterable[Record], places: Mapping[str, int], file: DataFile,
            belongs: str) -> Iterator[tuple[Record, int, Record | None]]:
    """Each expected record with its row of the file (line, row), None where it has none; in one pass over both.

    Rows that come from nowhere, stand there twice or out of order are findings.

    Args:
        places: of the expected ids, in their order. belongs: what the ids come from, for messages.
    """
    rows = file.rows()
    line, row = next(rows, (0, None))
    place = -1
    for place, record in enumerate(expected):
        while row is not None and places.get(row["id"], -1) < place:
            _misfit(file, line, row, places, belongs)
            line, row = next(rows, (0, None))
        if row is not None and places[row["id"]] == place:
            yield record, line, row
            line, row = next(rows, (0, None))
        else:
            yield record, 0, None
    while row is not None:
        _misfit(file, line, row, places, belongs)
        line, row = next(rows, (0, None))


def _misfit(file: DataFile, line: int, row: Record, places: Mapping[str, int], belongs: str) -> None:
    if row["id"] in places:
        file.problem("order", f"id {short(row['id'])} stands there twice or out of the order of {belongs}.", line)
    else:
        file.problem("nowhere", f"id {short(row['id'])} comes from nowhere: it is not in {belongs}.", line)


def differing_keys(found: Record, wanted: Record) -> str:
    """``'a' and 'b'``: the keys in which two rows differ, "" when they are equal."""
    names = [repr(name) for name in dict.fromkeys([*wanted, *found])
             if name not in found or name not in wanted or found[name] != wanted[name]]
    return " and ".join(names)


class Journal:
    """Stored replies, read without the steps' own reader: all attempts at each request, in file order.

    exists: whether there is such a file. fingerprint: of line 1. lines: of replies, broken ones not counted.
    """

    def __init__(self, book: Book, path: Path, mend: str) -> None:
        self.path, self.fingerprint, self.lines = path, {}, 0
        self.places: dict[str, list[tuple[int, int]]] = {}  # by request: (line, offset) of each attempt
        self._file = open_input(path, packed=False) if path.is_file() else None
        self.exists = self._file is not None
        if self._file is not None:
            self._read_in(book, mend)

    def _read_in(self, book: Book, mend: str) -> None:
        offset = 0
        for number, raw in enumerate(self._file, 1):
            if not raw.endswith(b"\n"):
                book.note(f"{self.path}:{number}: the last line was cut by a stop; the step takes it away and asks again.")
                break
            try:
                entry = json.loads(raw)
                if number == 1:
                    self.fingerprint = dict(entry["fingerprint"])
                elif not all(isinstance(entry[name], str) for name in ("id", "text", "finish_reason", "error")):
                    raise TypeError
                else:
                    self.places.setdefault(entry["id"], []).append((number, offset))
                    self.lines += 1
            except (ValueError, KeyError, TypeError, RecursionError):
                book.problem(self.path, "broken", "this line is broken; remove it first, and its request is asked again.", line=number,
                             mend=mend)
            offset += len(raw)

    def attempts(self, identity: str) -> list[dict[str, Any]]:
        """All that was answered to a request, the first attempt first; the last one counts."""
        result = []
        for _, offset in self.places.get(identity, ()):
            self._file.seek(offset)
            result.append(json.loads(self._file.readline()))
        return result

    def line(self, identity: str) -> int | None:
        """Line of the reply that counts."""
        return self.places[identity][-1][0] if identity in self.places else None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def near(identity: str, known: Iterable[str]) -> list[str]:
    """Up to three ids that look like this one."""
    return difflib.get_close_matches(identity, list(known), n=3, cutoff=0.3)
