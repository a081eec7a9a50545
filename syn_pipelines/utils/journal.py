"""Replies on disk the moment they are there: an append-only journal that survives kill -9, and the lock of a step.

A journal is a text file of JSON lines in ``<run folder>/.journal/``. Line 1 is the fingerprint: everything that shapes
a reply (model, prompt, seed, input, sampling, ...). Every other line is one finished reply. The last line about a
request counts, so a request asked again simply appends. A last line without its end was torn by a kill and is cut; any
other broken line stops the step, for then something else has written here.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from syn_pipelines.utils.compact import IdMap
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
_ATTEMPT_BITS = 20  # of the 64 that are known of a request; the others are the place of its last line, up to 16 TiB
_MOST_ATTEMPTS = (1 << _ATTEMPT_BITS) - 1
_IN_MEMORY = 1 << 26  # bytes of a journal that is in no file, before it lies in a temporary one
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
    """The finished replies of a journal by request id, only read: nothing is written, created or mended.

    In memory are 28 bytes a request. A second thread may read, and ask what is there, while the first one adds.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        """Look through the lines of a journal; it is closed with this object.

        path: for messages. file: what the journal holds, seekable; a last line without its end is passed over.
        Raises:
            UserError: the journal is broken (names the line).
        """
        self.path, self._file = path, file
        self._lock = threading.RLock()  # around the place in the file and the index
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
        """A journal with these entries that is in no file of its own."""
        file = tempfile.SpooledTemporaryFile(_IN_MEMORY)
        for line in _lines(fingerprint, entries):  # one by one: a step may have a million
            file.write(line)
        return cls(path, file)

    def _read_in(self) -> None:
        self._index = IdMap(wide=True)  # of a request: place of its last line, number of its lines
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

    def _note(self, identity: str, place: int) -> None:
        with self._lock:
            attempts = min(self.attempts(identity) + 1, _MOST_ATTEMPTS)
            self._index[identity] = place << _ATTEMPT_BITS | attempts

    def __contains__(self, identity: str) -> bool:
        return self.attempts(identity) > 0

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[str]:
        """Request ids, in the order of ``entries``."""
        return (entry["id"] for entry in self.entries())

    def attempts(self, identity: str) -> int:
        """How often a request was answered."""
        with self._lock:
            return (self._index.get(identity) or 0) & _MOST_ATTEMPTS

    def entries(self) -> Iterator[dict[str, Any]]:
        """The last entry stored for each request, in the order of the file."""
        place = len(self._line_at(0))
        while place < self._end:
            line = self._line_at(place)
            entry = self._entry(line)
            with self._lock:
                last = (self._index.get(entry["id"]) or 0) >> _ATTEMPT_BITS
            if last == place:
                yield entry
            place += len(line)

    def read(self, identity: str) -> dict[str, Any]:
        """The last entry stored for a request. KeyError when it has none.

        Raises:
            UserError: the file was changed meanwhile, or the 64 bits kept of two ids are the same.
        """
        with self._lock:
            known = self._index.get(identity)
        if known is None:
            raise KeyError(identity)
        return self._entry(self._line_at(known >> _ATTEMPT_BITS), identity)

    def _line_at(self, place: int) -> bytes:
        with self._lock:
            self._file.seek(place)
            return self._file.readline()

    def _entry(self, line: bytes, identity: str | None = None) -> dict[str, Any]:
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if identity in (None, entry["id"]):
                return entry
        raise UserError(f"{self.path}: a reply{f' about {identity}' if identity else ''} is no longer where it was. Leave this "
                        "file alone while a step runs, and run the same command again.")

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
                for entry in rescued.entries():
                    if rescued.attempts(entry["id"]) > self.attempts(entry["id"]):
                        self.append(entry)
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
        line = to_line(dict(entry))
        with naming(self.path), self._lock:
            place = self._file.seek(0, os.SEEK_END)
            self._file.write(line)
            self._file.flush()
            self._note(str(entry["id"]), place)
            self._end = place + len(line)
        with naming(self.path):
            if time.monotonic() - self._synced >= SYNC_EVERY_S:
                os.fdatasync(self._file.fileno())
                self._synced = time.monotonic()
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
        try:
            with self._lock, replacing(path) as file:
                self._file.seek(0)
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
