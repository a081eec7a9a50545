"""Whether a killed run is the undisturbed one: files byte for byte, replies one by one.

Not compared: ``run.log.jsonl`` (times, and one line for each start) and the report, which tells these times, locks (process
numbers), the folder of the data set in manifests and in ``present.json`` (the two runs lie in different places),
``sentences_per_s`` in the logs of trainings, and the order of the replies in a journal (that of a server is the order in
which it answered).
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import open_input
from syn_pipelines.utils.packing import plain_path
from syn_pipelines.utils.paths import RunPaths

MARK = ".chaos.json"  # in a run folder that chaos is at, or was when it was stopped
BLOCK = 1 << 20  # bytes


def files_of(run: Path) -> dict[str, Path]:
    """What is compared, by its name in the run folder: everything that is not for people or for one process alone."""
    found = {path.relative_to(run).as_posix(): path for path in run.rglob("*") if path.is_file() or path.is_symlink()}
    return {name: path for name, path in sorted(found.items())
            if not name.endswith(".lock") and name not in ("run.log.jsonl", "report.html", MARK)
            and not name.startswith("report/")}


@dataclass
class Difference:
    """A file that is not as it should be."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def differences(reference: RunPaths, killed: RunPaths) -> tuple[int, list[Difference]]:
    """(number of files compared, those that differ) of two runs of the same options."""
    wanted, found = files_of(reference.run), files_of(killed.run)
    result = [Difference(name, "is missing") for name in wanted if name not in found]
    result += [Difference(name, "is left over") for name in found if name not in wanted]
    result += [Difference(f"{name}/", "is left over, an empty folder")
               for name in sorted(_empty_folders(killed.run) - _empty_folders(reference.run))]
    for name in wanted:
        if name in found:
            offset = _first_difference(name, wanted[name], found[name], reference, killed)
            if offset >= 0:
                result.append(Difference(name, f"differs from byte {offset:,} on"))
    return len(set(wanted) | set(found)), result


def _empty_folders(run: Path) -> set[str]:
    return {path.relative_to(run).as_posix() for path in run.rglob("*")
            if path.is_dir() and not path.is_symlink() and not any(path.iterdir())}


def _first_difference(name: str, wanted: Path, found: Path, reference: RunPaths, killed: RunPaths) -> int:
    """Offset of the first byte that differs, -1 where none does."""
    if name.startswith(".journal/"):
        pair = [b"".join(sorted(path.read_bytes().splitlines(keepends=True))) for path in (wanted, found)]
    elif name.startswith("ner/") and name.endswith(".log.jsonl"):
        pair = [_without_speed(path.read_bytes()) for path in (wanted, found)]
    elif name.endswith(".manifest.json") or name == "present.json":
        pair = [_without_place(path.read_bytes(), paths) for path, paths in ((wanted, reference), (found, killed))]
    else:
        return _first_of_files(wanted, found)
    return _first_of(*pair)


def _first_of(one: bytes, other: bytes) -> int:
    if one == other:
        return -1
    return next((k for k, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def _first_of_files(one: Path, other: Path) -> int:
    with one.open("rb") as first, other.open("rb") as second:
        offset = 0
        while True:
            a, b = first.read(BLOCK), second.read(BLOCK)
            if a != b:
                return offset + _first_of(a, b)
            if not a:
                return -1
            offset += len(a)


def _without_speed(content: bytes) -> bytes:
    """The log of a training without what the clock has a part in."""
    lines = []
    for line in content.splitlines():
        try:
            row = json.loads(line)
            row.pop("sentences_per_s", None)
            lines.append(json.dumps(row).encode())
        except (ValueError, AttributeError):
            lines.append(line)
    return b"\n".join(lines)


def _without_place(content: bytes, paths: RunPaths) -> bytes:
    """A manifest or present.json as it would be wherever the data set lay; what is broken stays as it is."""
    try:
        value = json.loads(content)
        inputs = value.get("inputs", {})
        if content.decode("utf-8") != _written(value):
            return content
    except (ValueError, AttributeError):
        return content
    if inputs:  # those outside the data set are named from the run folder, too
        value["inputs"] = dict(sorted((os.path.normpath(paths.run.absolute() / name) if name.startswith("../../") else name,
                                       sha256) for name, sha256 in inputs.items()))
    text = _written(value)
    words = [" " + shlex.quote(f"--file_dir={folder}") for folder in (f"{paths.file_dir}", f"./{paths.file_dir}")]
    for place in (*words, "./" + Path(os.path.relpath(paths.dataset)).as_posix() + "/"):
        text = text.replace(json.dumps(place, ensure_ascii=False)[1:-1], "")
    return text.encode("utf-8")


def _written(value: object) -> str:
    """As ``jsonl.write_json`` writes it."""
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


@dataclass
class Torn:
    """Looks, after each kill, for files that have their final name and only a part of their content."""

    reference: RunPaths
    killed: RunPaths
    _seen: dict[str, tuple[int, int]] = field(default_factory=dict)

    def find(self) -> list[Difference]:
        """Those that have changed since the last look and are torn."""
        wanted = files_of(self.reference.run)
        return [Difference(name, f"was torn by a kill after byte {size:,}") for name, path, size in self._changed()
                if name in wanted and (_ends_early(path) or self._is_torn(name, path, wanted[name], size))]

    def _changed(self) -> Iterator[tuple[str, Path, int]]:
        for name, path in files_of(self.killed.run).items():
            state = path.stat()
            if not name.startswith(".journal/") and self._seen.get(name) != (state.st_mtime_ns, state.st_size):
                self._seen[name] = (state.st_mtime_ns, state.st_size)
                yield name, path, state.st_size

    def _is_torn(self, name: str, path: Path, wanted: Path, size: int) -> bool:
        if size >= wanted.stat().st_size:
            return False
        with path.open("rb") as one, wanted.open("rb") as other:
            found = one.read()
            # The log of a training grows by whole lines, each time as a new file.
            return not (name.startswith("ner/") and found.endswith(b"\n")) and other.read(size) == found


def _ends_early(path: Path) -> bool:
    """Whether a file is half of one, whatever it should hold: manifests tell where they lie, so they are compared with none."""
    if path.suffix == ".json":
        try:
            json.loads(path.read_bytes())
        except ValueError:
            return True
    elif plain_path(path).suffix == ".jsonl":
        try:
            with open_input(path) as file:
                rows = file.read()
        except UserError:  # half of the compressed data
            return True
        return not rows.endswith(b"\n") and len(rows) > 0
    return False


@dataclass
class Replies:
    """Keeps account of the replies that were in a journal when the run was killed.

    lost: those that were gone or changed later. repeated: requests asked again although their reply was there, or should have
    been: the model had answered them, and something else after them. Both by (journal, request id).
    """

    folder: Path
    lost: set[tuple[str, str]] = field(default_factory=set)
    repeated: list[tuple[str, str]] = field(default_factory=list)
    _stored: dict[tuple[str, str], bytes] = field(default_factory=dict)
    _answered: set[tuple[str, str]] = field(default_factory=set)

    def look(self) -> None:
        """See what is there now, after a kill or at the end."""
        now: dict[tuple[str, str], bytes] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in path.read_bytes().splitlines(keepends=True)[1:]:
                if line.endswith(b"\n"):
                    now[path.stem, _id_of(line)] = hashlib.blake2b(line, digest_size=16).digest()
        self.lost |= {key for key, digest in self._stored.items() if now.get(key) != digest}
        self._stored |= now

    def count(self, asked: Path, journals: dict[str, str]) -> None:
        """Look through the requests of a process, before ``look``. journals: the one of each step."""
        if not asked.exists():
            return
        last = None  # this reply may have been in the middle of being written
        for line in asked.read_text(encoding="utf-8").split("\n")[:-1]:
            what, _, request = line.partition("\t")
            step, _, identity = request.partition("\t")
            key = journals.get(step, step), identity
            if what == "answered":
                self._answered |= {last} if last else set()
                last = key
            elif key in self._stored or key in self._answered:
                self.repeated.append(key)

    def stand_twice(self) -> list[tuple[str, str]]:
        """Requests with more than one reply in a journal."""
        result = []
        for path in sorted(self.folder.glob("*.jsonl")):
            ids = Counter(_id_of(line) for line in path.read_bytes().splitlines()[1:])
            result += [(path.stem, identity) for identity, count in ids.items() for _ in range(count - 1)]
        return result


def _id_of(line: bytes) -> str:
    try:
        return str(json.loads(line)["id"])
    except (ValueError, KeyError, TypeError):
        return f"a broken line, {line[:40]!r}"
