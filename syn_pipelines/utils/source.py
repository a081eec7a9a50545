"""The sentences of a file that is read again in each pass over them, because a million of them do not fit the memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import Problems, read_objects
from syn_pipelines.utils.records import Record


class Source:
    """The sentences of one file: iterate over it as often as needed, each pass reads the file anew.

    The first pass checks every line; later ones rely on that, for they only go on while the file is the one that was
    there at the beginning: no sentence of another content is ever given.

    number: sentences of the file, known after the first pass.
    """

    def __init__(self, path: Path, checked: Callable[[], Iterable[Record]]) -> None:
        """checked: a pass that checks the file; raises UserError for what is wrong with it."""
        self.path, self._checked = path, checked
        self._is_checked = False
        self.number = 0
        self._stamp = _stamp(path)

    def __iter__(self) -> Iterator[Record]:
        """The sentences, in file order.

        Raises:
            UserError: the file has changed since the first pass began; the first pass: the file is wrong.
        """
        number = 0
        for sentence in self._again() if self._is_checked else self._checked():
            if self._is_checked:
                self.refuse_changed()  # 2 us, where reading takes 20: so nothing is asked about, or paired with, another file
            number += 1
            yield sentence
        self.refuse_changed()
        self.number, self._is_checked = number, True

    def _again(self) -> Iterator[Record]:
        """The sentences as ``read_sentences`` gives them, of a file known to be right."""
        try:
            for line, row in read_objects(self.path, Problems(self.path, "")):
                yield {"id": str(row.get("id", line)), **{name: value for name, value in row.items() if name != "id"}}
        except UserError:  # of a file that is gone, or torn, meanwhile
            self.refuse_changed()
            raise

    def check(self) -> None:
        """Make the first pass, unless there was one. UserError for what is wrong with the file."""
        if not self._is_checked:
            for _ in self:
                pass

    def has_changed(self) -> bool:
        """Whether the file is no longer the one that was there at the beginning."""
        return _stamp(self.path) != self._stamp

    def refuse_changed(self) -> None:
        """UserError where the file is another one now."""
        if self.has_changed():
            raise UserError(f"{self.path}: has changed while the step runs, so nothing was published. Run the same command "
                            "again; replies to questions that have stayed the same are kept.")


def _stamp(path: Path) -> tuple[int, ...]:
    """What tells one state of a file from any other, for its content is not read: () where there is none.

    The time of the last change of content alone can be set back, as tools do that copy files.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
