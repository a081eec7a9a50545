"""Stored replies in the ledger, read without the steps' own reader."""

from __future__ import annotations

import difflib
import json
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from syn_pipelines.tools._ledger_book import Book
from syn_pipelines.utils.compact import IdMap
from syn_pipelines.utils.jsonl import open_input

_MARKED = 16  # the place of every so-manieth line is kept
_AT_ONCE = 1000  # ids


class Journal:
    """All attempts at each request, in file order; some 5 bytes a request that is ``known``, 26 for one that is not.

    exists: whether there is such a file. fingerprint: of line 1. lines: of replies, broken ones not counted. requests: that
    have a reply. known_requests: of these, those that are known. samples: the largest n of the requests named "17#n".
    """

    def __init__(self, book: Book, path: Path, mend: str, known: IdMap | None = None) -> None:
        """known: numbers of ids, from 0 on without a gap."""
        self.path, self.fingerprint, self.lines, self.requests, self.known_requests, self.samples = path, {}, 0, 0, 0, 1
        self._known, self._others = known if known is not None else IdMap(), IdMap()
        self._last = array("I", bytes(4 * len(self._known)))  # by number of the id, the line of the last attempt
        self._before = IdMap()  # by line of an attempt, the line of the one before it
        self._marks = array("Q")  # where the lines 1, 17, ... begin
        self._at = 0  # the line that the file stands before; 0: not known
        self._file = open_input(path, packed=False) if path.is_file() else None
        self.exists = self._file is not None
        if self._file is not None:
            self._read_in(book, mend)

    def _read_in(self, book: Book, mend: str) -> None:
        offset = 0
        for number, raw in enumerate(self._file, 1):
            if number % _MARKED == 1:
                self._marks.append(offset)
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
                    self._note(entry["id"], number)
            except (ValueError, KeyError, TypeError, RecursionError):
                book.problem(self.path, "broken", "this line is broken; remove it first, and its request is asked again.", line=number,
                             mend=mend)
            offset += len(raw)

    def _note(self, identity: str, line: int) -> None:
        number = self._number(identity)
        if number is None:
            number = self._others[identity] = len(self._last)
            self._last.append(0)
            sample = identity.rpartition("#")[2]
            if sample.isdecimal() and len(sample) < 6:
                self.samples = max(self.samples, int(sample))
        if before := self._last[number]:
            self._before[str(line)] = before
        else:
            self.requests += 1
            self.known_requests += number < len(self._known)
        self._last[number] = line
        self.lines += 1

    def _number(self, identity: str) -> int | None:
        found = self._known.get(identity)
        return self._others.get(identity) if found is None else found

    def attempts(self, identity: str) -> list[dict[str, Any]]:
        """All that was answered to a request, the first attempt first; the last one counts."""
        line, lines = self.line(identity), []
        while line:
            lines.append(line)
            line = self._before.get(str(line)) if self.lines > self.requests else None
        return [self._read(line) for line in reversed(lines)]

    def line(self, identity: str) -> int | None:
        """Line of the reply that counts."""
        number = self._number(identity)
        return None if number is None else self._last[number] or None

    def others(self) -> Iterator[tuple[str, int]]:
        """(id, line of the reply that counts) of the requests that are not known, in the order in which they were answered."""
        return ((self._read(line)["id"], line) for line in islice(self._last, len(self._known), None))

    def _read(self, line: int) -> dict[str, Any]:
        if line != self._at:  # replies mostly stand in the order in which they are asked for
            self._at = line - (line - 1) % _MARKED
            self._file.seek(self._marks[(line - 1) // _MARKED])
        while self._at < line:
            self._file.readline()
            self._at += 1
        self._at += 1
        return json.loads(self._file.readline())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def near(identity: str, known: Iterable[str]) -> list[str]:
    """Up to three ids that look like this one."""
    ids, best = iter(known), []
    while some := list(islice(ids, _AT_ONCE)):
        best = difflib.get_close_matches(identity, [*best, *some], n=3, cutoff=0.3)
    return best
