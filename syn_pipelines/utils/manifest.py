"""What made a file: every output has a manifest beside it, and a manifest tells when its file is out of date.

A manifest holds the step, its settings, the sha256 of every input (null: looked for and absent) and of the file itself,
the counts and ``complete``. It holds no times (those go to run.log.jsonl), so equal work gives equal bytes.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import file_hash, read_json, write_json
from syn_pipelines.utils.packing import form_there, plain_path
from syn_pipelines.utils.paths import RunPaths, manifest_path
from syn_pipelines.utils.side_by_side import side_by_side

log = logging.getLogger(__name__)
# Types of what a manifest holds; "inputs" and "file" are always there.
_FIELDS = {"step": str, "file": str, "complete": bool, "counts": dict, "settings": dict, "fingerprint": dict, "inputs": dict,
           "command": str, "sha256": str}
# Inputs that count once they are there: a manifest that does not name one of them is that of a file made before it appeared.
APPEARING = {"s5_merge_data": ("review.jsonl", "gold_corrections.jsonl")}
STALE_LOG = f"{__name__}.stale"  # a name of its own, so that a run of all steps can keep these warnings quiet


def read_manifest(path: Path) -> dict[str, Any]:
    """Manifest of a data file; {} when there is none or it cannot be used."""
    try:
        value = read_json(manifest_path(path))
    except UserError:
        return {}
    if not isinstance(value, dict) or not {"inputs", "file"} <= value.keys():
        return {}
    if not all(isinstance(value[name], kind) for name, kind in _FIELDS.items() if name in value):
        return {}
    if not value["file"] or Path(value["file"]).name != value["file"]:
        return {}
    return value if _can_be_pasted(value.get("command", "")) else {**value, "command": ""}


def _can_be_pasted(command: str) -> bool:
    """Whether a command line does no more than start Python: messages offer it, and a data set may come from anywhere."""
    try:
        words = shlex.split(command)
    except ValueError:
        return False
    return words[:1] in ([], ["python"]) and shlex.join(words) == command and command.isprintable()


def is_as_written(path: Path) -> bool:
    """Whether a file is, byte for byte, what its manifest speaks of: then its lines need not be looked at closely again."""
    sha256 = read_manifest(path).get("sha256")
    return sha256 is not None and sha256 == _hash_of(path)


@dataclass
class Publisher:
    """Writes the manifests of one step's outputs.

    settings: the options that shape the outputs. inputs: every file the step looked at, present or not. command: renews
    the outputs.
    """

    paths: RunPaths
    step: str
    settings: Mapping[str, Any]
    inputs: Iterable[Path]
    command: str

    def __post_init__(self) -> None:
        self._hashes = {self._name(path): sha256 for path, sha256 in _hashes(self.inputs, file_hash).items()}
        self._written: set[Path] = set()

    def _name(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.paths.run)).as_posix()

    def publish(self, path: Path, sha256: str, counts: Mapping[str, Any], *, complete: bool = True,
                inputs: Iterable[Path] | None = None, **extra: Any) -> None:
        """Write the manifest of a finished file. ``inputs``: those of this file alone, all of the step's by default."""
        names = sorted(self._hashes if inputs is None else {self._name(p) for p in inputs})
        self._written.add(path)
        write_json(manifest_path(path), {
            "step": self.step, "file": path.name, "complete": complete, "counts": dict(counts),
            "settings": dict(self.settings), **extra, "inputs": {name: self._hashes[name] for name in names},
            "command": self.command, "sha256": sha256,
        })

    def remove_others(self, candidates: Iterable[Path]) -> None:
        """Take away this step's earlier outputs among ``candidates`` that this run no longer makes."""
        for path in candidates:
            if path not in self._written and read_manifest(path).get("step") == self.step:
                log.warning("%s: removed, its inputs are gone.", path)
                path.unlink(missing_ok=True)
                manifest_path(path).unlink(missing_ok=True)


def is_current(paths: RunPaths, steps: Collection[str], settings: Mapping[str, Any], files: Iterable[Path]) -> bool:
    """Whether all these files exist, unchanged, complete, made by one of ``steps`` with these settings from the inputs
    as they are now."""
    manifests = {path: read_manifest(path) for path in files}
    return bool(manifests) and all(
        m.get("step") in steps and m.get("settings") == dict(settings) and m.get("complete") is True for m in manifests.values()
    ) and all(sha256 == manifests[path].get("sha256") for path, sha256 in _hashes(manifests, file_hash).items()) and not any(
        changed_inputs(paths, m) for m in manifests.values())


def changed_inputs(paths: RunPaths, manifest: Mapping[str, Any], folder: Path | None = None,
                   among: Collection[str] | None = None) -> list[str]:
    """Names of the inputs that are no longer what the file was made from. folder: what the names are relative to. among: look
    at these inputs only, by their plain names: each that is looked at is read."""
    then = manifest.get("inputs", {})
    files = {name: (folder or paths.run) / name for name in then if among is None or _plain(name) in among}
    now = _hashes(files.values(), _hash_of)
    changed = [name for name, path in files.items() if now[path] != then[name]]
    return changed + [name for name in appeared(paths, manifest) if among is None or name in among]


def appeared(paths: RunPaths, manifest: Mapping[str, Any]) -> list[str]:
    """Names of the inputs that were not there when the file was made, and now are."""
    return [name for name in APPEARING.get(manifest.get("step", ""), ())
            if name not in manifest.get("inputs", {}) and os.path.lexists(paths.run / name)]


def _plain(name: str) -> str:
    """The name of an input, the same for all forms of a file."""
    return plain_path(Path(name)).as_posix()


def _hashes(paths: Iterable[Path], hash_of: Callable[[Path], str | None]) -> dict[Path, str | None]:
    """sha256 by path, several at a time: a disk can read four files some four times as fast as one."""
    files = [*dict.fromkeys(paths)]
    return dict(zip(files, side_by_side(lambda path, _: hash_of(path), files, at_once=4)))


def _hash_of(path: Path) -> str | None:
    try:
        return file_hash(form_there(path))
    except OSError:  # a folder, or a name that no file can have: not what the file was made from
        return ""


def stale_files(paths: RunPaths, among: Iterable[Path] | None = None,
                because_of: Iterable[Path] | None = None) -> list[tuple[Path, list[str], str]]:
    """(file, changed inputs, command that renews it) of every output made from something that has changed since.

    among: look at these files only; all files of the run by default. because_of: look at these inputs only.
    """
    causes = None if because_of is None else {_plain(os.path.relpath(path, paths.run)) for path in because_of}
    if among is None:
        manifests = sorted(paths.run.rglob("*.manifest.json"))
    else:
        manifests = [manifest_path(path) for path in among]
    result = []
    for path in manifests:
        manifest = read_manifest(path.with_name(path.name.replace(".manifest.json", ".jsonl")))
        # The files of step 0 belong to the data set, not to a run; their inputs are named from there. The files a data
        # set was made from are often gone, or were never on this machine: that changes nothing.
        folder = paths.dataset if path.parent == paths.dataset else paths.run
        names = changed_inputs(paths, manifest, folder, causes)
        if folder == paths.dataset:
            names = [name for name in names if (folder / name).exists()]
        if names:
            result.append((path.with_name(manifest["file"]), names, manifest.get("command", "")))
    return result


def warn_of_stale(paths: RunPaths, among: Iterable[Path] | None = None,
                  because_of: Iterable[Path] | None = None) -> list[str]:
    """Log one warning for each command that would renew something; returns the warnings.

    among: look at these files only. because_of: speak only of what was made from an earlier version of these files.
    """
    by_command: dict[str, list[tuple[Path, str]]] = {}
    for path, names, command in stale_files(paths, among, because_of):
        by_command.setdefault(command, []).append((path, names[0]))
    warnings = []
    for command, found in by_command.items():
        path, name = found[0]
        more = f" and {len(found) - 1} more of that step" if len(found) > 1 else ""
        warnings.append(f"{path}{more}: out of date, {Path(name).name} has changed since. Renew with: {command}")
        logging.getLogger(STALE_LOG).warning(warnings[-1])
    return warnings
