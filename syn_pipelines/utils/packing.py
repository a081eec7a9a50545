"""Data files may be compressed: ``x.jsonl``, ``x.jsonl.gz`` and ``x.jsonl.zst`` are three forms of one file.

Reading goes by the first bytes, so a file under a wrong name is read too; writing goes by the name. What does not unpack to
its end is a ``UserError``, never a shorter file.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from syn_pipelines.utils.errors import UserError

FORMS = {"none": "", "gzip": ".gz", "zstd": ".zst"}  # what is put behind the name
BLOCK = 1 << 17  # bytes that are packed or unpacked at once
# Beyond these a file gets some 8 % smaller in 1.7 (gzip) or 2.5 times (zstd) the time, and steps 4 to 8 would mostly wait.
GZIP_LEVEL, ZSTD_LEVEL = 5, 3
ZSTD_WINDOW = 19  # 512 KiB in place of 2 MiB: 2 % larger, and steps have up to 18 files open
# A block of zstd data takes at least 4 bytes and unpacks to 128 KiB at most, so this gives no more than 32 MiB at once.
ZSTD_BITE = 1 << 10
_GZIP, _ZSTD, _SKIPPED = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"  # the last: of a zstd frame without data, from byte 2
_AGAIN = "Copy or make the file again."


def form_of(path: Path) -> str:
    """What stands behind the name of a compressed file: ".gz", ".zst", or "" for any other."""
    return path.suffix if path.suffix in (".gz", ".zst") and path.stem.strip(".") else ""  # "..gz" without it is no name


def plain_path(path: Path) -> Path:
    """The path without that: ``a/x.jsonl.gz`` -> ``a/x.jsonl``, whose stem and suffix are those of the data."""
    return path.with_suffix("") if form_of(path) else path


def forms_there(path: Path) -> list[Path]:
    """Those of the three forms of a file that are there, links to nothing included."""
    plain = plain_path(path)
    forms = [plain.with_name(plain.name + form) for form in FORMS.values()]
    return [other for other in forms if os.path.lexists(other)]


def form_there(path: Path) -> Path:
    """The path itself, or the other form of the file where only that is there."""
    return path if os.path.lexists(path) else next(iter(forms_there(path)), path)


# --- reading -----------------------------------------------------------------------------------------------------------

def unpacked(file: BinaryIO, path: Path, most: int | None = None) -> BinaryIO:
    """The content of an open file: the file itself, or where it begins as gzip or zstd data do, what is in them.

    Such a stream can be read from its beginning to its end only. Closing it closes the file.
    Args:
        most: bytes; what unpacks to more is refused.
    Raises:
        UserError: here or at any read, where the data end too early, are damaged, or something follows them.
    """
    try:
        head = file.peek(4)[:4]  # type: ignore[attr-defined]  # a buffered file
        for form, magic, kind, pieces in ((".gz", _GZIP, "gzip", _gunzipped), (".zst", _ZSTD, "zstd", _unzstd)):
            if _begins(head, magic) or (form_of(path) == form and magic.startswith(head)):  # cut off before its first bytes were whole
                return io.BufferedReader(_Unpacked(file, path, kind, pieces(file), most), BLOCK)
    except BaseException:
        file.close()
        raise
    return file


def _begins(data: bytes, magic: bytes) -> bool:
    """Whether gzip or zstd data begin here."""
    return data.startswith(magic) or (magic == _ZSTD and data[1:4] == _SKIPPED and data[0] >> 4 == 5)


class _Broken(Exception):
    """(what is wrong, what to do)"""


class _Unpacked(io.RawIOBase):
    """Reads pieces as a file, and tells the line in which they broke off."""

    def __init__(self, file: BinaryIO, path: Path, kind: str, pieces: Iterator[bytes], most: int | None) -> None:
        self._file, self._path, self._kind, self._pieces, self._most = file, path, kind, pieces, most
        self._rest, self._line, self._size = memoryview(b""), 1, 0

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            if (piece := self._next()) is None:
                return 0
            self._rest = memoryview(piece)
            self._line += piece.count(b"\n")
            self._size += len(piece)
            if self._most is not None and self._size > self._most:
                raise UserError(f"{self._path}: unpacks to more than {self._most >> 20:,} MiB, which is too much for a file of this "
                                "kind. Check that it is the right one.")
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def _next(self) -> bytes | None:
        try:
            return next(self._pieces, None)
        except _Broken as err:
            problem, advice = err.args
            raise UserError(f"{self._path}:{self._line}: the {self._kind} data {problem}. {advice}") from None
        except OSError as err:  # of a bad disk; a read does not name its file
            raise UserError(f"{self._path}:{self._line}: cannot be read ({err.strerror}). Check the disk it lies on.") from None

    def close(self) -> None:
        self._file.close()
        super().close()


def _gunzipped(file: BinaryIO) -> Iterator[bytes]:
    """What is in all members of gzip data, one behind the other."""
    data = _beginning(file, b"", _GZIP) or _more(file, 1)
    while data:
        engine = zlib.decompressobj(wbits=31)  # 31: gzip, with its checksum
        while not engine.eof:
            data = data or _more(file, BLOCK)
            try:
                yield engine.decompress(data, BLOCK)
            except zlib.error as err:
                raise _Broken(f"are damaged here ({err})", _AGAIN) from None
            data = engine.unconsumed_tail
        data = _beginning(file, engine.unused_data, _GZIP)


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    """What is in all frames of zstd data, one behind the other."""
    zstandard = _zstandard()
    data = _beginning(file, b"", _ZSTD) or _more(file, 1)
    while data:
        engine = zstandard.ZstdDecompressor().decompressobj()
        while not engine.eof:
            bite, data = data[:ZSTD_BITE], data[ZSTD_BITE:]
            try:
                yield engine.decompress(bite or _more(file, ZSTD_BITE))
            except zstandard.ZstdError as err:
                if "too much memory" in str(err):
                    raise _Broken("need a window of more than 128 MiB to be read", "Compress the file again without --long or "
                                  "--ultra.") from None
                raise _Broken(f"are damaged here ({err})", _AGAIN) from None
        data = _beginning(file, engine.unused_data + data, _ZSTD)


def _more(file: BinaryIO, size: int) -> bytes:
    if not (data := file.read(size)):
        raise _Broken("end here, in the middle", f"The file was cut off. {_AGAIN}")
    return data


def _beginning(file: BinaryIO, data: bytes, magic: bytes) -> bytes:
    """The next bytes of the file, where packed data must begin again; nothing at its end."""
    if len(data) < 4:
        data += file.read(4 - len(data))
    if data and not _begins(data, magic) and not magic.startswith(data):
        raise _Broken("end here, and something else follows them", f"The file was added to or damaged. {_AGAIN}")
    return data


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise UserError("files in zstd form (.zst) need the package zstandard, which is not installed here. Install it: pip install "
                        "zstandard; or use gzip.") from None
    return zstandard


def in_any_order(stream: BinaryIO) -> BinaryIO:
    """The stream of ``unpacked`` for ``seek``: as it is where it is a file, else copied into one that has no name."""
    if stream.seekable():
        return stream
    import tempfile  # only pages and imports need it

    place = tempfile.TemporaryFile()
    try:
        with stream:
            while block := stream.read(BLOCK):
                place.write(block)
        place.seek(0)
    except OSError as err:
        place.close()
        err.filename = err.filename or tempfile.gettempdir()  # a full disk is reported without the place
        raise
    except BaseException:
        place.close()
        raise
    return place


# --- writing -----------------------------------------------------------------------------------------------------------

class Output:
    """Bytes on their way into a data file: packed as its name says, hashed as they come to lie on the disk.

    Equal content gives equal bytes: there is no name and no time in them.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path, self._packer, self._digest = file, path, _packer(form_of(path)), hashlib.sha256()
        self._held: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> int:
        """Add bytes, mostly whole lines; many are brought on together."""
        self._held.append(data)
        self._size += len(data)
        if self._size >= BLOCK:
            self._send()
        return len(data)

    def finish(self) -> None:
        """Bring on what is held back, and end the packed data."""
        self._send()
        if self._packer:
            self._put(self._packer.flush())

    def hexdigest(self) -> str:
        """sha256 of the file, once it is finished."""
        return self._digest.hexdigest()

    def _send(self) -> None:
        data = b"".join(self._held)
        self._held, self._size = [], 0
        self._put(self._packer.compress(data) if self._packer else data)

    def _put(self, data: bytes) -> None:
        self._digest.update(data)
        try:
            self._file.write(data)
        except OSError as err:  # a full disk is reported without the file, and several may be written side by side
            err.filename = err.filename or str(self._path)
            raise


def _packer(form: str) -> Any:
    if form == ".gz":
        return zlib.compressobj(GZIP_LEVEL, wbits=31)
    if form == ".zst":
        library = _zstandard()
        how = library.ZstdCompressionParameters.from_level(ZSTD_LEVEL, window_log=ZSTD_WINDOW, write_checksum=True)
        return library.ZstdCompressor(compression_params=how).compressobj()
    return None
