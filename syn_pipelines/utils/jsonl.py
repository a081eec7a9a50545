"""JSON lines in, JSON lines out: lines end at \\n only, errors name file and line, files appear complete or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.packing import Output, unpacked

MAX_PROBLEMS = 20
# A file that is no text, such as zeros after a crash, must not fill the memory before it is found out.
MAX_LINE, MAX_WHOLE = 1 << 26, 1 << 30  # bytes of a line, and of a file that is read at once
BUFFER = 1 << 16  # bytes read at once: lines of some KB take a third of the time that they take with the usual 8 KB
MAX_DEPTH = 100  # brackets within brackets; what is much deeper can be read but not written again


class Problems:
    """What is wrong with one input file: collected, then raised together."""

    def __init__(self, path: Path, advice: str) -> None:
        self.path, self.advice, self.found = path, advice, []

    def add(self, line: int, text: str) -> None:
        """Note a problem; the 20th ends the search."""
        self.found.append(f"{self.path}:{line}: {text}")
        if len(self.found) >= MAX_PROBLEMS:
            self.found.append(f"{self.path}: the first {MAX_PROBLEMS} problems are listed.")
            self.raise_if_any()

    def raise_if_any(self) -> None:
        """Raises UserError with one line a problem, the advice behind the last."""
        if self.found:
            raise UserError("\n".join(self.found) + " " + self.advice)


def open_input(path: Path, missing: str = "", *, packed: bool = True, most: int | None = None) -> BinaryIO:
    """Open for reading; UserError (with ``missing``, what makes the file) where that fails.

    packed: False for files that are never compressed, such as journals; else gzip and zstd data are unpacked, to at most
        ``most`` bytes, and the stream can only be read on (``packing.in_any_order``).
    """
    try:
        file = open_regular(path)
        return unpacked(file, path, most) if packed else file
    except FileNotFoundError:
        what = "is a link to nothing" if path.is_symlink() else "does not exist"
        raise UserError(f"{path}: {what}. {missing or 'Check the path.'}") from None
    except OSError as err:
        raise UserError(f"{path}: cannot be read ({err.strerror}). Check the path and its permissions.") from None


def open_regular(path: Path) -> BinaryIO:
    """Open for reading. OSError also for what is no file, such as a pipe or a device: reading might wait or never end."""
    try:
        return open(path, "rb", BUFFER, opener=_opened)
    except ValueError:
        raise OSError(errno.EINVAL, "a path cannot hold NUL", str(path)) from None


def open_own(path: Path) -> BinaryIO:
    """Open a file to add to and to read, such as a log. OSError for a link, which could lead anywhere, and as above."""
    return open(path, "ab+", opener=lambda name, flags: _opened(name, flags | os.O_NOFOLLOW))


def _opened(name: str, flags: int) -> int:
    handle = os.open(name, flags | os.O_NONBLOCK, 0o666)  # does not wait for the other end of a pipe
    kind = os.fstat(handle).st_mode
    if stat.S_ISREG(kind) or stat.S_ISDIR(kind):  # a folder is refused by the caller
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(name))


def read_whole(path: Path, missing: str = "", *, most: int = MAX_WHOLE) -> bytes:
    """The bytes of a file; UserError where it cannot be read or has more than ``most``."""
    with open_input(path, missing, most=most) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise UserError(f"{path}: has more than {most >> 20:,} MiB, which is too much for a file of this kind. Check that it "
                            "is the right one.")
        try:
            return file.read()
        except OSError as err:  # of a bad disk; a read does not name its file
            raise UserError(f"{path}: cannot be read ({err.strerror}). Check the disk it lies on.") from None


def lines_of(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line with its end) of a file; a line beyond ``MAX_LINE`` comes in pieces of that size."""
    return enumerate(iter(partial(file.readline, MAX_LINE), b""), 1)


def read_lines(path: Path, problems: Problems, missing: str = "") -> Iterator[tuple[int, str]]:
    """(line number from 1, text without its end) of every line that is not blank. A BOM at the start is dropped.

    Lines end at \\n only: U+2028, U+0085 and a lone \\r are characters of the text.
    """
    with open_input(path, missing) as file:
        for number, raw in lines_of(file):
            if len(raw) == MAX_LINE:
                problems.add(number, f"has more than {MAX_LINE >> 20} MiB in one line; no sentence is as long.")
                break
            if number == 1 and raw.startswith(b"\xef\xbb\xbf"):
                raw = raw[3:]
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as err:
                problems.add(number, f"is not UTF-8 (byte 0x{raw[err.start]:02x} at position {err.start + 1}); save the "
                                     "file as UTF-8.")
                continue
            line = line.removesuffix("\n").removesuffix("\r")
            if line.strip():
                yield number, line


def read_objects(path: Path, problems: Problems, missing: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line; broken lines go to ``problems`` and are passed over."""
    for number, line in read_lines(path, problems, missing):
        value = object_of(line, number, problems)
        if value is not None:
            yield number, value


def object_of(line: str, number: int, problems: Problems) -> dict[str, Any] | None:
    """The object of one line; None, and a problem, where it holds none."""
    try:
        value = parsed(line)
    except json.JSONDecodeError as err:
        problems.add(number, f"is not valid JSON ({err.msg.removesuffix(' at')} at column {err.colno}).")
        return None
    if isinstance(value, dict):
        return value
    problems.add(number, f"holds a {type(value).__name__}, not an object.")
    return None


def read_json(path: Path, missing: str = "", *, strict: bool = True) -> Any:
    """The content of a JSON file; UserError with its line where it is broken. strict: see ``parsed``."""
    raw = read_whole(path, missing)
    try:
        return parsed(raw.decode("utf-8-sig"), strict=strict)
    except UnicodeDecodeError as err:
        raise UserError(f"{path}:{raw.count(10, 0, err.start) + 1}: is not UTF-8 (byte 0x{raw[err.start]:02x}). Save it as "
                        "UTF-8.") from None
    except json.JSONDecodeError as err:
        raise UserError(f"{path}:{err.lineno}: is not valid JSON ({err.msg}). {missing or 'Correct the line.'}") from None


class _NoJson(ValueError):
    """(what is wrong, the text to look for) of what Python reads and a careful reader does not."""


def _refuse_constant(name: str) -> Any:
    raise _NoJson(f"{name} is no JSON number", name)


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):  # it would be written as Infinity
        raise _NoJson(f"{text[:20]} is too large a number", text)
    return value


def _object_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):  # one of the two values would be lost in silence
        key = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
        raise _NoJson(f"the key {key!r:.60} stands twice", json.dumps(key, ensure_ascii=False))
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_object_once)
_ENCODER = json.JSONEncoder(ensure_ascii=False)
_DIGITS = bytes(ord("0") if code in b"0123456789" else ord(" ") for code in range(256))
_LONG_NUMBER = b"0" * 19  # digits from which on a whole number may be beyond 64 bits


def parsed(text: str | bytes, *, strict: bool = True) -> Any:
    """JSON that can be written as UTF-8 again. JSONDecodeError for anything else, whatever the parser raises itself.

    text: bytes are UTF-8 (UnicodeDecodeError where they are not). strict: False lets all pass that Python can read, such as the
    NaN in files of other programs.
    """
    if strict:
        try:
            return parsed_fast(text.encode() if isinstance(text, str) else text)
        except ValueError:  # nearly always an error; the careful reader below finds the words for it
            pass
    return _parsed_slowly(text if isinstance(text, str) else text.decode("utf-8"), strict)


def parsed_fast(raw: bytes) -> Any:
    """What ``parsed`` gives for nearly all that is fine, several times faster. ValueError: ask ``parsed``."""
    value = orjson.loads(raw)
    brackets = raw.count(b"[") + raw.count(b"{")
    # Of objects in a row, each is closed before the next one opens.
    if brackets > MAX_DEPTH and brackets - raw.count(b"}, {") - raw.count(b"},{") > MAX_DEPTH and _is_deep(value):
        raise ValueError("deep")
    # Of a key that stands twice one value is gone, and with it a colon. Only an escape could write one more.
    if b"\\u" in raw or raw.count(b":") != orjson.dumps(value).count(b":"):
        raise ValueError("a key may stand twice")
    if may_lose_digits(raw):
        raise ValueError("a number may have lost digits")
    return value


def may_lose_digits(raw: bytes) -> bool:
    """Whether there may be a whole number beyond 64 bits in JSON, which orjson reads as a rounded one."""
    return _LONG_NUMBER in raw.translate(_DIGITS)


def _parsed_slowly(text: str, strict: bool) -> Any:
    try:
        value = _DECODER.decode(text) if strict else json.loads(text)
        if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(value):
            raise RecursionError
        if "\\u" in text and strict:  # half of a surrogate pair can only come from an escape, text decoded as UTF-8 holds none
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError:
        raise
    except UnicodeEncodeError as err:
        half = f"\\u{ord(err.object[err.start]):04x}"
        raise json.JSONDecodeError(f"half of a surrogate pair, {half}", text, max(text.lower().find(half), 0)) from None
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, 0) from None
    except _NoJson as err:
        problem, place = err.args
        raise json.JSONDecodeError(problem, text, max(text.rfind(place), 0)) from None
    except ValueError:
        raise json.JSONDecodeError("a number with too many digits", text, 0) from None
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)
                 if isinstance(inner, (dict, list))]
        if not level:
            return False
    return True


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the system inside it names the file: a full disk is reported without the one that did not fit."""
    try:
        yield
    except OSError as err:
        if err.errno and err.filename is None:
            err.filename = str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of ``path`` when the block ends well, and leaves it alone otherwise.

    The step's lock keeps a second process away from the ``.part`` file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    try:
        with naming(path), part.open("xb") as file:  # never through a link that somebody has put there
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):  # the folder may be gone; that is not the error to tell
            part.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def to_line(row: dict[str, Any]) -> bytes:
    """One JSON line as bytes."""
    return _ENCODER.encode(row).encode("utf-8") + b"\n"


@contextmanager
def writing(path: Path) -> Iterator[Output]:
    """As ``replacing``, for a data file: compressed where its name ends in .gz or .zst. After the block it knows its sha256."""
    with replacing(path) as file:
        output = Output(file, path)
        yield output
        output.finish()
    remember_hash(path, output.hexdigest())


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> tuple[int, str]:
    """Write rows as they come, in the form that the name tells. Returns (number of rows, sha256 of the file)."""
    count = 0
    with writing(path) as file:
        for row in rows:
            file.write(to_line(row))
            count += 1
    return count, file.hexdigest()


def write_json(path: Path, value: Any) -> str:
    """Write one JSON value, indented. Returns the sha256 of the file."""
    data = (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode("utf-8")
    with replacing(path) as file:
        file.write(data)
    return remember_hash(path, hashlib.sha256(data).hexdigest())


# sha256 by what tells a file and its state apart. A step looks at each file several times, and reading is what takes the time.
_HASHES: dict[tuple[int, ...], str] = {}
_SETTLED_NS = 2 * 10**9  # a file changed later than so long ago may change once more without another time of change


def file_hash(path: Path) -> str | None:
    """sha256 of a file's bytes; None when there is no such file. A file that has not changed since is not read again."""
    try:
        with open_regular(path) as file:
            state = _state(os.fstat(file.fileno()))
            if digest := _HASHES.get(state):
                return digest
            asked = time.time_ns()  # the clock that files are dated by; where it is set back they look new, and are read again
            digest = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)
            if _state(os.fstat(file.fileno())) == state and max(state[3:]) < asked - _SETTLED_NS:
                _HASHES[state] = digest
            return digest
    except (FileNotFoundError, NotADirectoryError):
        return None


def content_hash(path: Path) -> str | None:
    """sha256 of what is in a file, the same in every form; None when there is no such file. UserError where it is broken."""
    try:
        file = open_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with unpacked(file, path) as content:
        return _digest(content)


def remember_hash(path: Path, digest: str) -> str:
    """Note the sha256 of a file that this process has just written, and give it back: it need not be read again."""
    with suppress(OSError):
        _HASHES[_state(os.stat(path))] = digest
    return digest


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(file: BinaryIO) -> str:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
