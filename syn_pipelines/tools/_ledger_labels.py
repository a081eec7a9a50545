"""The label files, present.json and the NER models in the ledger: what they say must be what the data hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from syn_pipelines.tools._ledger_book import shown
from syn_pipelines.tools._ledger_case import FINAL, Case
from syn_pipelines.tools._ledger_files import DataFile
from syn_pipelines.tools._ledger_merge import FALLBACKS, Half, prefix_of
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.fusion import label_file
from syn_pipelines.utils.jsonl import read_json
from syn_pipelines.utils.paths import MODES, SIZES, manifest_path


def check_label_file(case: Case, kind: str, counts: Mapping[str, int] | None, step: str, mend: str) -> Counter[str] | None:
    """Compare a label file with the spans in the data; the counts of the file, None where there is none.

    counts: extension spans by label; None: the data they stand for are not there.
    """
    file = DataFile(case.book, case.paths.label_file(kind), mend)
    content = _content(case, file.path, file.mend)
    if content is None:
        return None
    told = Counter({name: row["count"] for name, row in content.items()
                    if isinstance(row, dict) and isinstance(row.get("count"), int) and row["count"] > 0})
    if counts is None:
        file.problem("nowhere", "the data that it counts are not there.")
        return told
    wanted = label_file(case.targets, counts)
    for name in dict.fromkeys([*wanted, *content]):
        found, due = (json.dumps(labels.get(name), sort_keys=True) for labels in (content, wanted))  # 0 is not false
        if found != due:
            file.problem("label", f"{name!r} is {shown(content.get(name))}, the data say {shown(wanted.get(name))}.")
    if list(content) != list(wanted) and content == wanted:
        file.problem("order", "the labels are not in their order.")
    case.book.account(step, f"spans counted in {file.path.name}", {"in the data": told.total()} if told == +Counter(
        counts) else {"as the data have them": (told & Counter(counts)).total(),
                      "not in the data": (told - Counter(counts)).total()})
    file.settle({"labels": len(wanted)}, True, stale=file.path in case.stale)
    return told


def _content(case: Case, path: Path, mend: str) -> dict[str, Any] | None:
    """The object of a JSON file, None where there is no such file or it is broken, which is a finding."""
    if not path.is_file():
        if path.exists():
            case.book.problem(path, "broken", "is no file.", mend=mend)
        return None
    try:
        content = read_json(path)
    except UserError as err:
        case.book.problem(path, "broken", str(err), mend=mend)
        return None
    if not isinstance(content, dict):
        case.book.problem(path, "broken", f"holds a {type(content).__name__}, not an object.", mend=mend)
        return None
    return content


def _note_absent(case: Case, step: str, path: Path, mend: str, *, made: bool) -> None:
    """Note a file that is not there (any more). made: whether its step has come to its other files."""
    if made and not path.exists():
        case.book.note(f"{step}: {path} is not there (a stop, or somebody has removed it). Make it with: {mend}")


def check_label_files(case: Case, halves: Mapping[bool, Half | None], final: Counter[str] | None) -> None:
    """All three label files. halves: by ``synthetic``, at size 1000. final: extension spans of the last training set."""
    parts = {}
    for synthetic, kind in ((False, "fusion"), (True, "synthetic_fusion")):
        half = halves[synthetic]
        parts[synthetic] = check_label_file(case, kind, half.extension if half else None, "s5 1000",
                                            case.paths.command("s5_merge_data", is_syn=int(synthetic)))
    both = DataFile(case.book, case.paths.label_file("syn_fusion"), case.paths.command("s6_combine_syn_fusion_label"))
    if not both.exists:
        if parts[False] is not None:
            case.not_there_yet("s6", both)
    elif both.manifest.get("step") == FINAL or (not both.manifest and final is not None):
        check_label_file(case, "syn_fusion", final, "s8 1000", case.paths.command(FINAL))
    else:
        counts = None if parts[False] is None else parts[False] + (parts[True] or Counter())
        check_label_file(case, "syn_fusion", counts, "s6", both.mend)


def check_unmapped(case: Case, halves: Mapping[bool, Half | None]) -> None:
    """unmapped_labels.json lists the raw types of size 1000 that no alias names."""
    path, mend = case.paths.run / "unmapped_labels.json", case.paths.command("s5_merge_data")
    content = _content(case, path, mend)
    if content is None:
        _note_absent(case, "s5", path, mend, made=case.merged(1000, False).exists)
        return
    for synthetic, name in ((False, "gold"), (True, "synthetic")):
        half, file = halves[synthetic], case.merged(1000, synthetic)
        if (half is None and not synthetic) or file.path in case.stale:
            continue  # not merged (yet)
        unmapped = half.stats.unmapped if half else {}
        wanted = [{"mode": mode, "type": raw, "count": count, "counted_as": prefix_of(case, file) + FALLBACKS[mode]}
                  for mode in MODES for raw, count in sorted(unmapped.get(mode, {}).items(), key=lambda r: (-r[1], r[0]))]
        rows = content.get(name)
        found = [{k: v for k, v in row.items() if k != "add"} if isinstance(row, dict) else row
                 for row in (rows if isinstance(rows, list) else [])]
        if found != wanted:
            first = next((n for n, (a, b) in enumerate(zip(found, wanted)) if a != b), min(len(found), len(wanted)))
            case.book.problem(path, "unmapped", f"entry {first + 1} of {name!r} is {shown(found[first:first + 1])}, the items "
                              f"say {shown(wanted[first:first + 1])}.", mend=file.mend)


def check_present(case: Case) -> None:
    """present.json names the files of this run; what its paths are relative to is not known."""
    path, mend = case.paths.run / "present.json", case.final(1000).mend
    content = _content(case, path, mend)
    if content is None:
        _note_absent(case, "s8", path, mend, made=case.final(1000).exists)
        return
    for size in SIZES:
        for kind in ("fusion", "syn_fusion"):
            name = f"{case.paths.file_name}_{case.paths.save_type_name}_{kind}_{size}"
            entry = content.get(name)
            entry = entry if isinstance(entry, dict) else {}
            wanted = {"train": [case.paths.sized(size, f"train_{{n}}_{kind}")], "labels": [case.paths.label_file(kind)]}
            held_out = [p for p in (case.paths.split("dev"), case.paths.split("test")) if p.is_file()]
            wanted |= {"dev": held_out[:1] or wanted["train"], "test": held_out[-1:] or wanted["train"]}
            for key, (file,) in wanted.items():
                tail = file.relative_to(case.paths.file_dir).parts
                if Path(str(entry.get(key))).parts[-len(tail):] != tail:
                    case.book.problem(path, "present", f"{key!r} of {name!r} is {shown(entry.get(key))} and should end in "
                                      f"{'/'.join(tail)}.", mend=mend)
    for name in content:
        if not any(name == f"{case.paths.file_name}_{case.paths.save_type_name}_{kind}_{size}"
                   for size in SIZES for kind in ("fusion", "syn_fusion")):
            case.book.problem(path, "nowhere", f"{name!r} is no training set of this run.", mend=mend)


def check_models(case: Case) -> None:
    """The NER models of the run: trained on as many sentences as there are."""
    for weights in sorted(case.paths.run.glob("ner/*/model.safetensors"), key=lambda path: (len(str(path)), path)):
        file = DataFile(case.book, weights, "")
        source = _trained_on(case, file.settings)
        if source is None or file.path in case.stale or not file.manifest:
            if not file.manifest:
                case.book.note(f"train: {manifest_path(weights)} is not there yet.")
            continue
        targets = set(case.targets)
        rows = Counter(any(e["entity"] in targets for e in row["entities"]) for row in source.records())
        case.book.account("train", f"training sentences of {weights.parent.name}", {
            "with target entities": rows[True], "without": rows[False]})
        dev = case.file(case.paths.split("dev"), "", lambda row: "")
        unless = [name for name in file.manifest.get("counts", ()) if name not in ("sentences", "dev_sentences")]
        file.settle({"sentences": rows.total(), "dev_sentences": sum(1 for _ in dev.rows())},
                    source.manifest.get("complete") is not False, unless=unless)


def _trained_on(case: Case, settings: Mapping[str, Any]) -> DataFile | None:
    """The training set of a model; None where its manifest names none."""
    size, train = settings.get("size"), settings.get("train")
    if size not in SIZES:
        return None
    if train == "gold":
        part = case.part(size, "train_{n}")
        return part if part.exists or size != 1000 else case.train
    return {"fusion": case.merged(size, False), "syn_fusion": case.final(size)}.get(train)
