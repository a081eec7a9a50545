"""Replies on disk the moment they are there: an append-only journal that survives kill -9, and the lock of a step.

A journal is a text file of JSON lines in ``<run folder>/.journal/``. Line 1 is the fingerprint: everything that shapes
a reply (model, prompt, seed, input, sampling, ...). Every other line is one finished reply. The last line about a
request counts, so a request asked again simply appends. A last line without its end was torn by a kill and is cut; any
other broken line stops the step, for then something else has written here.
"""

from __future__ import annotations

import fcntl
import glob
import io
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import MAX_LINE, lines_of, naming, open_own, open_regular, parsed, replacing, to_line

# Every reply is handed to the system at once, so no kill loses it. The disk is waited for at most this often: a power
# cut may cost the replies of the last batch (they are asked again), and a fast backend is not slowed down tenfold.
SYNC_EVERY_S = 0.1
STORED = ("id", "text", "finish_reason", "error")  # texts that every line about a reply must hold
ENDINGS = {"stop", "length", "too_long", "error"}  # see ``syn_pipelines.utils.llm.Reply``
_BROKEN = ("is broken; the replies in this file cannot be trusted blindly. Remove that line to ask its sentence again, or use "
           "--overwrite to ask all again.")
_BROKEN_HEAD = ("is not the line that says how these replies were made. Put it back from a copy of this file. Without one, move "
                "this file away (steps 1 and 3 then take the replies from the file that they have published), or use --overwrite "
                "to ask all again.")
# Where a name in the fingerprint says too little.
SAID = {"input": "input (the sentences asked about)"}
SHAPES_INPUT = {"prompt_sha256", "labels", "label_names", "shots"}  # whole questions make the input: these change it, too


@contextmanager
def lock(folder: Path, name: str) -> Iterator[None]:
    """Keep a second process from the same work; the system frees the lock when the process ends, however it ends.

    Raises:
        UserError: another process holds it; names that process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.lock"
    with open_own(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{path}: process {file.read(20).decode('utf-8', 'replace').strip() or '?'} is at the same work ({name}) right now. "
                            "Wait for it to end, or stop it, then run this again.") from None
        with naming(path):
            file.truncate(0)
            os.write(file.fileno(), str(os.getpid()).encode())  # not through a buffer, which a full disk would keep
        yield


class Replies:
    """The finished replies of a journal by request id, only read: nothing is written, created or mended."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        """Look through the lines of a journal; it is closed with this object.

        path: for messages. file: what the journal holds, seekable; a last line without its end is passed over.
        Raises:
            UserError: the journal is broken (names the line).
        """
        self.path, self._file = path, file
        try:
            self._read_in()
        except BaseException:
            file.close()
            raise

    @classmethod
    def stored(cls, path: Path) -> Replies:
        """Those in a file; none when there is no journal yet."""
        return cls(path, open_regular(path)) if is_begun(path) else cls.of(path, {}, [])

    @classmethod
    def of(cls, path: Path, fingerprint: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> Replies:
        """A journal in memory, with these entries."""
        return cls(path, io.BytesIO(b"".join(_lines(fingerprint, entries))))

    def _read_in(self) -> None:
        self._offsets: dict[str, int] = {}
        self.attempts: dict[str, int] = {}
        self.fingerprint: dict[str, Any] = {}
        self._end = 0  # of the last whole line
        self._file.seek(0)
        for number, line in lines_of(self._file):
            if not line.endswith(b"\n") and len(line) < MAX_LINE:
                break
            try:
                entry = parsed(line.decode("utf-8" if number > 1 else "utf-8-sig"))
                if number == 1:
                    self.fingerprint = dict(entry["fingerprint"].items())
                elif all(isinstance(entry[name], str) for name in STORED) and entry["finish_reason"] in ENDINGS:
                    self._note(entry["id"], self._end)
                else:
                    raise TypeError
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UserError(f"{self.path}:{number}: {_BROKEN if number > 1 else _BROKEN_HEAD}") from None
            self._end += len(line)

    def _note(self, identity: str, offset: int) -> None:
        self._offsets[identity] = offset
        self.attempts[identity] = self.attempts.get(identity, 0) + 1

    def __contains__(self, identity: object) -> bool:
        return identity in self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[str]:
        """Request ids, in the order in which they were first answered."""
        return iter(self._offsets)

    def read(self, identity: str) -> dict[str, Any]:
        """The last entry stored for a request. KeyError when it has none."""
        self._file.seek(self._offsets[identity])
        return json.loads(self._file.readline())

    def refuse_others(self, fingerprint: Mapping[str, Any], advice: str) -> None:
        """UserError when the replies, if there are any, were made with another fingerprint (names the differences)."""
        if len(self) and (differences := differing(self.fingerprint, fingerprint)):
            raise self.refusal(differences, advice)

    def refusal(self, differences: str, advice: str) -> UserError:
        """The error for work that does not fit what is stored."""
        return UserError(f"{self.path}: the replies there were made otherwise: {differences}. {advice}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Journal(Replies):
    """Finished replies that more can be added to. Hold the step's lock while one is open."""

    def __init__(self, path: Path, fingerprint: Mapping[str, Any], *, advice: str, overwrite: bool = False) -> None:
        """Open or begin a journal; a last line without its end is cut.

        Args:
            fingerprint: flat, JSON values.
            advice: what a person can do when the fingerprint is another one.
            overwrite: begin anew whatever is there.
        Raises:
            UserError: the journal was made with another fingerprint (names the differences) or is broken (names the line).
        """
        self._synced = 0.0
        if overwrite:
            for rescued in _rescued(path):
                rescued.unlink()
        if overwrite or not is_begun(path):
            self.begin(path, fingerprint)
        super().__init__(path, path.open("r+b"))
        try:
            self.refuse_others(fingerprint, advice)
            if differing(self.fingerprint, fingerprint):  # no reply yet (a mistyped model, say): nothing would be mixed
                self._file.close()
                self.begin(path, fingerprint)
                super().__init__(path, path.open("r+b"))
            self._file.truncate(self._end)
            self._take_in_rescued(fingerprint)
        except BaseException:
            self._file.close()
            raise

    def _take_in_rescued(self, fingerprint: Mapping[str, Any]) -> None:
        """Add what an earlier run stored in a file that was replaced meanwhile (see ``_put_back``), where it fits."""
        for path in _rescued(self.path):
            with closing(Replies.stored(path)) as rescued:
                if differing(rescued.fingerprint, fingerprint):
                    continue
                for identity, attempts in rescued.attempts.items():
                    if attempts > self.attempts.get(identity, 0):
                        self.append(rescued.read(identity))
            os.fdatasync(self._file.fileno())
            path.unlink()

    @staticmethod
    def begin(path: Path, fingerprint: Mapping[str, Any], entries: Iterable[Mapping[str, Any]] = ()) -> None:
        """Write a new journal with these entries in place of whatever is there."""
        with replacing(path) as file:
            file.writelines(_lines(fingerprint, entries))

    def append(self, entry: Mapping[str, Any]) -> None:
        """Store one finished reply (``STORED`` and whatever the step needs); no kill can take it away afterwards.

        Raises:
            UserError: the file is no longer where it was (its folder was removed, say).
        """
        with naming(self.path):
            offset = self._file.seek(0, os.SEEK_END)
            self._file.write(to_line(dict(entry)))
            self._file.flush()
            if time.monotonic() - self._synced >= SYNC_EVERY_S:
                os.fdatasync(self._file.fileno())
                self._synced = time.monotonic()
        self._note(str(entry["id"]), offset)
        self.refuse_gone()

    def refuse_gone(self) -> None:
        """UserError when somebody has taken the file away: what is stored then would be lost. If it was removed, and not
        moved, it is put back first, for the replies in it were paid for."""
        here = os.fstat(self._file.fileno())
        try:
            there = os.stat(self.path)
        except OSError:
            there = None
        if there and os.path.samestat(here, there):
            return
        found = "was moved away; put it back" if here.st_nlink else self._put_back(free=there is None)
        raise UserError(f"{self.path}: somebody has changed this folder while the step runs: the file with the replies "
                        f"{found}. Run the same command again; replies that are in that file are not asked for again.")

    def _put_back(self, *, free: bool) -> str:
        """Write the replies to disk again; beside what has taken their place, unless that is free."""
        path = self.path if free else next(
            name for n in count(1) if not (name := self.path.with_name(f"{self.path.stem}.rescued-{n}.jsonl")).exists())
        self._file.seek(0)
        try:
            with replacing(path) as file:
                shutil.copyfileobj(self._file, file)
        except OSError as err:
            return f"was removed, and cannot be put back ({err.strerror})"
        return "was removed; it has been put back" if free else f"was replaced by another one; its replies are in {path.name}"

    def close(self) -> None:
        """Make sure that all is on disk, and close the file."""
        try:
            with naming(self.path):
                self._file.flush()
                os.fdatasync(self._file.fileno())
        finally:
            with naming(self.path):
                super().close()


def _lines(fingerprint: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    yield to_line({"fingerprint": dict(fingerprint)})
    for entry in entries:
        yield to_line(dict(entry))


def _rescued(path: Path) -> list[Path]:
    """The files beside a journal that hold replies of one that was replaced while a step wrote it."""
    return sorted(path.parent.glob(f"{glob.escape(path.stem)}.rescued-*.jsonl"))


def is_begun(path: Path) -> bool:
    """Whether there is a journal with a whole first line; without one no reply was ever stored."""
    try:
        with open_regular(path) as file:
            return file.readline(MAX_LINE).endswith(b"\n")
    except FileNotFoundError:
        return False


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Readable differences of two fingerprints: "seed 42 -> 7; prompt ..."; "" when they are equal."""
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    if SHAPES_INPUT.intersection(names):
        names = [name for name in names if name != "input"]
    return "; ".join(f"{SAID.get(name, name)} {_shown(found.get(name))} -> {_shown(wanted.get(name))}"
                     for name in names)


def _shown(value: Any) -> str:
    text = str(value)
    return text[:12] + "..." if len(text) == 64 and text.isalnum() else text  # a sha256 need not be read whole
