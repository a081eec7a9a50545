"""JSON lines in, JSON lines out: lines end at \\n only, errors name file and line, files appear complete or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from syn_pipelines.utils.errors import UserError

MAX_PROBLEMS = 20


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


def open_input(path: Path, missing: str = "") -> BinaryIO:
    """Open for reading; UserError (with ``missing``, what makes the file) where that fails."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist. {missing or 'Check the path.'}") from None
    except OSError as err:
        raise UserError(f"{path}: cannot be read ({err.strerror}). Check the path and its permissions.") from None


def read_lines(path: Path, problems: Problems, missing: str = "") -> Iterator[tuple[int, str]]:
    """(line number from 1, text without its end) of every line that is not blank. A BOM at the start is dropped.

    Lines end at \\n only: U+2028, U+0085 and a lone \\r are characters of the text.
    """
    with open_input(path, missing) as file:
        for number, raw in enumerate(file, 1):
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
        try:
            value = _parsed(line)
        except json.JSONDecodeError as err:
            problems.add(number, f"is not valid JSON ({err.msg.removesuffix(' at')} at column {err.colno}).")
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            problems.add(number, f"holds a {type(value).__name__}, not an object.")


def read_json(path: Path, missing: str = "") -> Any:
    """The content of a JSON file; UserError with its line where it is broken."""
    with open_input(path, missing) as file:
        raw = file.read()
    try:
        return _parsed(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8. Save it as UTF-8.") from None
    except json.JSONDecodeError as err:
        raise UserError(f"{path}:{err.lineno}: is not valid JSON ({err.msg}). {missing or 'Correct the line.'}") from None


class _NoJson(ValueError):
    """NaN, Infinity or -Infinity, which Python reads and other readers of our files do not."""


def _refuse_constant(name: str) -> Any:
    raise _NoJson(name)


def _parsed(text: str) -> Any:
    """JSON that can be written as UTF-8 again. JSONDecodeError for anything else, whatever the parser raises itself."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text:  # half of a surrogate pair can only come from an escape, text decoded as UTF-8 holds none
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError:
        raise
    except UnicodeEncodeError as err:
        half = f"\\u{ord(err.object[err.start]):04x}"
        raise json.JSONDecodeError(f"half of a surrogate pair, {half}", text, max(text.lower().find(half), 0)) from None
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, 0) from None
    except _NoJson as err:
        raise json.JSONDecodeError(f"{err} is no JSON number", text, max(text.find(str(err)), 0)) from None
    except ValueError:
        raise json.JSONDecodeError("a number with too many digits", text, 0) from None
    return value


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of ``path`` when the block ends well, and leaves it alone otherwise.

    The step's lock keeps a second process away from the ``.part`` file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as err:
        if isinstance(err, OSError) and err.errno and err.filename is None:
            err.filename = str(path)  # a full disk is reported without the file that did not fit
        part.unlink(missing_ok=True)
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
    return json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n"


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> tuple[int, str]:
    """Write rows as they come. Returns (number of rows, sha256 of the file)."""
    count, digest = 0, hashlib.sha256()
    with replacing(path) as file:
        for row in rows:
            line = to_line(row)
            file.write(line)
            digest.update(line)
            count += 1
    return count, digest.hexdigest()


def write_json(path: Path, value: Any) -> str:
    """Write one JSON value, indented. Returns the sha256 of the file."""
    data = (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode("utf-8")
    with replacing(path) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def file_hash(path: Path) -> str | None:
    """sha256 of a file's bytes; None when there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _digest(file: BinaryIO) -> str:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
