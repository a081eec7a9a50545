"""How the ledger reads files of rows, and lays one beside another.

Nothing here raises for the content of a file: what cannot be used is a finding, and the reading goes on behind it. The files
of a run stand in the order of their sentences, so two of them are read side by side; ids are kept (as numbers of a few
bytes) only where two files part ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from syn_pipelines.tools._ledger_book import Book, shown
from syn_pipelines.utils.compact import IdMap
from syn_pipelines.utils.fusion import ITEM_KEYS
from syn_pipelines.utils.jsonl import Problems, file_hash, object_of, read_lines
from syn_pipelines.utils.manifest import read_manifest
from syn_pipelines.utils.paths import manifest_path
from syn_pipelines.utils.records import STATUSES, Record, problems_of_entities, short

Check = Callable[[Record], str]
_REMEMBERED = 1 << 17  # characters of lines


class _IntoBook(Problems):
    """The reader's problems, as findings about a file."""

    def __init__(self, file: DataFile) -> None:
        super().__init__(file.path, "")
        self._file = file

    def add(self, line: int, text: str) -> None:
        self._file.problem("broken", text, line)


class _Recent:
    """The rows of the lines that came last: most files hold lines of another one that is read beside them."""

    def __init__(self) -> None:
        self._rows: dict[Check, dict[str, Record]] = {}
        self._size = 0

    def of(self, check: Check) -> dict[str, Record]:
        """By line the rows that passed a check."""
        return self._rows.setdefault(check, {})

    def add(self, check: Check, line: str, row: Record) -> None:
        """Remember one more, and forget all others when it gets too much."""
        self._size += len(line)
        if self._size > _REMEMBERED:
            for rows in self._rows.values():
                rows.clear()
            self._size = len(line)
        self._rows[check][line] = row


_RECENT = _Recent()


class DataFile:
    """A file of a data set or a run, with its manifest.

    mend: the command that makes it again, unless the manifest knows better. check: what is wrong with one row, "" for
    nothing. distinct: no id stands there twice, as far as was looked.
    """

    def __init__(self, book: Book, path: Path, mend: str, check: Check = lambda row: "") -> None:
        self.book, self.path, self.check, self.distinct = book, path, check, False
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
        """(line, row with its id as a text) of every row that can be used; the others are findings. None: no rows.

        The same line gives the same object: rows are not to be changed.
        """
        if not self.exists:
            return
        problems, check, recent = _IntoBook(self), self.check, _RECENT.of(self.check)
        for number, line in read_lines(self.path, problems):
            row = recent.get(line)
            if row is None:
                row = object_of(line, number, problems)
                if row is None:
                    continue
                if text := check(row):
                    self.problem("unusable row", text, number)
                    continue
                if "id" in row and not isinstance(row["id"], str):
                    row["id"] = str(row["id"])
                _RECENT.add(check, line, row)
            yield number, row

    def records(self) -> Iterator[Record]:
        """The rows without their lines."""
        return (row for _, row in self.rows())

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


# --- rows ----------------------------------------------------------------------------------------------------------

def sentence_problem(row: Record) -> str:
    """What is wrong with a row of sentences, "" for nothing."""
    tokens = row.get("text")
    if not isinstance(row.get("id"), str) or not row["id"]:
        return f"id {short(row.get('id'))} is no text."
    if not isinstance(tokens, list) or not tokens or set(map(type, tokens)) != {str} or "" in tokens:
        return f"'text' must be a list of texts that are not empty, got {short(tokens)}."
    found = problems_of_entities(row.get("entities"), tokens)
    return found[0] if found else ""


def synthetic_problem(row: Record) -> str:
    """The check of a row of synthetic sentences."""
    if text := sentence_problem(row):
        return text
    if not isinstance(row.get("source_id"), str) or row.get("synthetic") is not True:
        return "has no 'source_id', or 'synthetic' is not true."
    return ""


@cache
def annotation_problem(mode: str) -> Check:
    """The check of a row of annotations."""
    surface, kind = keys = ITEM_KEYS[mode]

    def check(row: Record) -> str:
        if not isinstance(row.get("id"), str) or not row["id"]:
            return f"id {short(row.get('id'))} is no text."
        if row.get("status") not in STATUSES:
            return f"status {short(row.get('status'))} is none of {', '.join(STATUSES)}."
        if not isinstance(row.get("reply"), str) or not isinstance(row.get("reason"), str):
            return "'reply' and 'reason' must be texts."
        items = row.get("items")
        if not isinstance(items, list) or not all(type(item) is dict and type(item.get(surface)) is str
                                                  and type(item.get(kind)) is str for item in items):
            return f"'items' must be a list of objects with the texts {' and '.join(keys)}."
        return ""
    return check


def differing_keys(found: Record, wanted: Record) -> str:
    """``'a' and 'b'``: the keys in which two rows differ, "" when they are equal."""
    if found is wanted:
        return ""
    names = [repr(name) for name in dict.fromkeys([*wanted, *found])
             if name not in found or name not in wanted or found[name] != wanted[name]]
    return " and ".join(names)


# --- one file beside another ---------------------------------------------------------------------------------------

class Order:
    """The places of ids in a source, of an id that stands there twice the first; looked up only once they are asked for.

    ids: of the source, in its order. distinct: it is known that none of them stands there twice. places: of all ids, where
    they are known.
    """

    def __init__(self, ids: Callable[[], Iterable[str]], *, distinct: bool, places: IdMap | None = None) -> None:
        self._ids, self._places, self.distinct = ids, places, distinct

    def place(self, identity: str) -> int:
        """-1 where the source has no such id."""
        if self._places is None:  # two files part ways, or ids may stand there twice
            self._places = IdMap()
            for place, known in enumerate(self._ids()):
                if known not in self._places:
                    self._places[known] = place
        found = self._places.get(identity)
        return -1 if found is None else found


class Follower:
    """The rows of a file, each given out beside the record of a source that it belongs to.

    Rows that come from nowhere, stand there twice or out of order are findings.
    """

    def __init__(self, file: DataFile, order: Order, belongs: str, takes: Callable[[str], bool] = lambda identity: True) -> None:
        """belongs: what the ids come from, for messages. takes: tells the ids of the source that the file should hold."""
        self.file, self._order, self._belongs, self._takes = file, order, belongs, takes
        self._rows, self._misfits = file.rows(), False
        self._next()

    def _next(self) -> None:
        self._line, self._row = next(self._rows, (0, None))

    def _place(self, identity: str) -> int:
        return self._order.place(identity) if self._takes(identity) else -1

    def beside(self, identity: str, place: int) -> tuple[int, Record | None]:
        """(line, row) of the record with this id at this place of the source, (0, None) where it has none. Places rise."""
        while self._row is not None:
            if self._row["id"] != identity or not self._order.distinct:
                where = self._place(self._row["id"])
                if where < place:
                    self._misfit()
                    continue
                if where > place:
                    break
            found = self._line, self._row
            self._next()
            return found
        return 0, None

    def end(self) -> None:
        """Look at the rows that are left, behind the last record."""
        while self._row is not None:
            self._misfit()
        self.file.distinct = self._order.distinct and not self._misfits

    def _misfit(self) -> None:
        name, self._misfits = short(self._row["id"]), True
        if self._place(self._row["id"]) >= 0:
            self.file.problem("order", f"id {name} stands there twice or out of the order of {self._belongs}.", self._line)
        else:
            self.file.problem("nowhere", f"id {name} comes from nowhere: it is not in {self._belongs}.", self._line)
        self._next()


def matched(expected: Iterable[Record], order: Order, file: DataFile, belongs: str) -> Iterator[tuple[Record, int, Record | None]]:
    """Each expected record with its row of the file (line, row), None where it has none; in one pass over both."""
    for record, ((line, row),) in joined(expected, order, [file], belongs):
        yield record, line, row


def joined(expected: Iterable[Record], order: Order, files: Iterable[DataFile], belongs: str
           ) -> Iterator[tuple[Record, list[tuple[int, Record | None]]]]:
    """As ``matched``, with the rows of several files."""
    followers = [Follower(file, order, belongs) for file in files]
    for place, record in enumerate(expected):
        yield record, [follower.beside(record["id"], place) for follower in followers]
    for follower in followers:
        follower.end()
