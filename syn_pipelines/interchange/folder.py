"""A folder of exported files that appears complete or not at all, and replaces nothing but an earlier export."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import file_hash, naming, read_json, sync_folder, write_json
from syn_pipelines.utils.manifest import read_manifest
from syn_pipelines.utils.paths import manifest_path

STEP = "export"
INDEX = "export.json"  # what is in the folder: {"format", "files": {name: sha256}}; its manifest says how it was made
_ADVICE = "Name another folder with --output, or move that away."


def refuse_foreign(folder: Path) -> None:
    """UserError where ``folder`` holds anything that an export did not write as it is: it would be lost."""
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise UserError(f"{folder}: is there and is no folder. {_ADVICE}")
    own = _own(folder)
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        name = path.relative_to(folder).as_posix()
        if name not in own:
            raise UserError(f"{path}: was not written by an export. {_ADVICE}")
        if own[name] and (path.is_symlink() or file_hash(path) != own[name]):
            raise UserError(f"{path}: was changed after it was exported. {_ADVICE}")


def _own(folder: Path) -> dict[str, str]:
    """Names of the files that an earlier export wrote here, with their sha256 ("": not looked at)."""
    index = folder / INDEX
    manifest = read_manifest(index)
    if manifest.get("step") != STEP or manifest.get("sha256") != file_hash(index):
        return {}
    content = read_json(index)
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict):
        return {}
    return {**files, INDEX: "", manifest_path(index).name: ""}


class Folder:
    """The files of one export, written beside their place; they take it when the block ends well.

    While an earlier export is replaced it stands for a moment as ``.<name>.old``; after a kill at that moment the next
    export puts it back first. Hold the lock of the step.
    """

    def __init__(self, path: Path, format: str) -> None:
        """UserError where something else is at ``path``."""
        self.path, self.format = path, format
        self._fresh, self._old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
        if self._old.is_dir() and not os.path.lexists(path):
            self._old.rename(path)
        refuse_foreign(path)
        self.files: dict[str, str] = {}  # sha256 by name

    def __enter__(self) -> Folder:
        for leftover in (self._fresh, self._old):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._fresh.mkdir()
        return self

    @contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        """A new file to write; ``name`` is relative and may hold folders."""
        path = self._fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path), path.open("xb") as raw:
            file = _Hashing(raw)
            yield file  # type: ignore[misc]  # writes are all that it is used for
            raw.flush()
            os.fsync(raw.fileno())
        self.files[name] = file.digest.hexdigest()

    def finish(self, publish: Any) -> None:
        """Write the list of files, and its manifest with ``publish(path, sha256)``; the last thing to be written."""
        content: Mapping[str, Any] = {"format": self.format, "files": dict(sorted(self.files.items()))}
        publish(self._fresh / INDEX, write_json(self._fresh / INDEX, content))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            shutil.rmtree(self._fresh, ignore_errors=True)
            return
        for folder in {path.parent for path in self._fresh.rglob("*")}:
            sync_folder(folder)
        if self.path.exists():
            self.path.rename(self._old)
        self._fresh.rename(self.path)
        sync_folder(self.path.parent)
        shutil.rmtree(self._old, ignore_errors=True)


class _Hashing:
    """A file that is hashed as it is written."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw, self.digest = raw, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._raw.write(data)
