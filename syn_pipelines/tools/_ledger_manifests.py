"""Manifests in the ledger: each speaks of a file that is there, as it is, made from what is there now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from syn_pipelines.s5_merge_data import KNOWLEDGE
from syn_pipelines.tools._ledger_case import FINAL, Case
from syn_pipelines.utils.jsonl import file_hash
from syn_pipelines.utils.manifest import appeared, read_manifest
from syn_pipelines.utils.packing import form_there, plain_path
from syn_pipelines.utils.paths import manifest_path


def check_manifests(case: Case) -> None:
    """Look at every manifest of the run; fills ``case.stale``. Counts and flags are compared where rows are counted."""
    hashes = _Hashes()
    known = {*_published(case)}  # their checksums are looked at when their rows have been
    named: set[Path] = set()  # files that others were made from
    for path in sorted(case.paths.run.rglob("*.manifest.json")):
        manifest = _read(case, path)
        if manifest is None:
            continue
        file = form_there(path.with_name(manifest["file"]))
        case.book.made_from.update(filter(None, manifest["inputs"].values()))
        named.update((case.paths.run / name).resolve() for name in manifest["inputs"] if "\0" not in name)
        mend = manifest.get("command", "")
        if not file.is_file():
            case.book.problem(file, "gone", f"is gone, but {path.name} speaks of it.", mend=mend)
        elif file not in known and hashes.of(file) != manifest.get("sha256"):
            case.book.problem(file, "sha256", f"is not the file that {path.name} speaks of (another sha256): one of the two "
                                              "was changed.", mend=mend)
        changed = [name for name, sha256 in manifest["inputs"].items() if not _is_unchanged(case, hashes, name, sha256)]
        changed += appeared(case.paths, manifest)
        if changed:
            case.stale[file] = (f"is out of date: {', '.join(changed)} {'have' if len(changed) > 1 else 'has'} changed since it "
                                "was made.", mend)
    _check_absent(case, named)
    _look_at_data_set(case, hashes)


def report_stale(case: Case) -> None:
    """Name the files that are out of date; after all else, for what changed is to be mended first."""
    for file, (text, mend) in case.stale.items():
        case.book.problem(file, "stale", text, mend=mend)


class _Hashes:
    """sha256 of files, each read once."""

    def __init__(self) -> None:
        self._known: dict[Path, str | None] = {}

    def of(self, path: Path) -> str | None:
        """None for what is no file, or cannot be read."""
        if path not in self._known:
            try:
                self._known[path] = file_hash(path) if path.is_file() else None
            except (OSError, ValueError):
                self._known[path] = None
        return self._known[path]


def _read(case: Case, path: Path) -> dict[str, Any] | None:
    """A manifest; a broken one is a finding."""
    value = read_manifest(path.with_name(path.name.removesuffix(".manifest.json") + ".jsonl"))
    if value and "counts" in value and manifest_path(path.with_name(value["file"])) == path:
        return value
    case.book.problem(path, "broken", "is no manifest that can be read.", mend=_mend_of(case, path))
    return None


def _mend_of(case: Case, manifest: Path) -> str:
    steps = {"label_fusion": "s5_merge_data", "label_synthetic_fusion": "s5_merge_data", "label_syn_fusion": FINAL}
    step = steps.get(manifest.name.removesuffix(".manifest.json"), "train_ner")
    return next((file.mend for file in case.data_files() if manifest_path(file.path) == manifest), case.paths.command(step))


def _is_unchanged(case: Case, hashes: _Hashes, name: str, sha256: Any) -> bool:
    """Whether an input is what it was. A label map of this project may lie elsewhere on another machine."""
    if "\0" in name:
        return False
    path = form_there(case.paths.run / name)
    shipped = KNOWLEDGE / path.name
    return hashes.of(path) == sha256 or (not path.exists() and sha256 is not None and hashes.of(shipped) == sha256)


def _check_absent(case: Case, named: set[Path]) -> None:
    """A file without a manifest was left by a stop between the two, unless something was made from it afterwards."""
    alone, last = [], case.paths.label_file("syn_fusion")
    for path in _published(case):
        if not path.is_file() or manifest_path(path).is_file():
            continue
        final = plain_path(path).stem.endswith("_syn_fusion") and read_manifest(last).get("step") == FINAL
        if path.resolve() in named or final or (path.suffix == ".json" and path != last and last.is_file()):
            case.book.problem(manifest_path(path), "gone", f"is gone: other files were made from {path.name} and its manifest.",
                              mend=_mend_of(case, manifest_path(path)))
        else:
            alone.append(path)
    if alone:
        more = f" and {len(alone) - 1} more files" if len(alone) > 1 else ""
        case.book.note(f"{alone[0]}{more}: without a manifest (yet); the step that makes it writes one. "
                       f"Make it with: {_mend_of(case, manifest_path(alone[0]))}")


def _published(case: Case) -> Iterator[Path]:
    yield from (file.path for file in case.data_files())
    yield from (case.paths.label_file(kind) for kind in ("fusion", "synthetic_fusion", "syn_fusion"))


def _look_at_data_set(case: Case, hashes: _Hashes) -> None:
    """Files of step 0: a person may correct them by hand, which is said; what was not corrected must be as it was."""
    for path in (case.paths.train, case.paths.split("dev"), case.paths.split("test")):
        manifest = read_manifest(path)
        if manifest and hashes.of(path) != manifest.get("sha256"):
            case.book.note(f"{path}: was changed (or taken away) after step 0 made it.")
        elif manifest and path == case.paths.train:
            case.train.settle({"sentences": len(case), "entities": case.entities.total()}, True)
