"""Step 5: bring the model's labels onto one label set, find them in the tokens, and merge them with the gold labels.

Gold labels are never changed, moved or dropped, unless a person has and --apply_gold_review is given. Extension labels come
from --entity_label and --pos_label (canonical name: aliases); what could not be placed or mapped is counted, and
unmapped_labels.json holds the line to add. What people decided in a review is applied last, and counted.

reads   <save_type_name>/{250,500,1000}/ as cut by step 4, labels.txt, the two label maps; review.jsonl and
        gold_corrections.jsonl where they are
writes  n/train_n_fusion.jsonl and label_fusion.json (--is_syn 0); n/train_n_synthetic_fusion.jsonl and
        label_synthetic_fusion.json (--is_syn 1; with the target labels of step 7 where they exist);
        unmapped_labels.json
run     python syn_pipelines/s5_merge_data.py --file_name=weibo --save_type_name=GLM4 --is_syn=0
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import orjson

from syn_pipelines.utils.bulk_merge import Apart, Careful, Files, merge_alike
from syn_pipelines.utils.decisions import GOLD
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.fusion import FusionStats, label_file
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.jsonl import file_hash, lines_of, open_input, parsed, read_json, to_line, write_json, writing
from syn_pipelines.utils.labels import Labels
from syn_pipelines.utils.language import is_dense
from syn_pipelines.utils.manifest import (
    Publisher,
    changed_inputs,
    is_as_written,
    is_current,
    read_manifest,
    warn_of_stale,
)
from syn_pipelines.utils.merging import Merged, Merger
from syn_pipelines.utils.options import PROJECT_ROOT, TextOptions, between, blankless, command_of, load_options, option
from syn_pipelines.utils.packing import Output, plain_path
from syn_pipelines.utils.paths import MODES, SIZES, RunPaths
from syn_pipelines.utils.records import Record, problems_of_row, read_train
from syn_pipelines.utils.reviews import Reviews, accounts_of, review_files
from syn_pipelines.utils.summary import Summary, run_script, step_log
from syn_pipelines.utils.workers import worker_count

STEP = "s5_merge_data"
_ENTITIES = b', "entities": ['
KNOWLEDGE = PROJECT_ROOT / "data" / "fusion_knowledge"


@dataclass(frozen=True)
class Options(TextOptions):
    """Options of steps 5 and 8."""

    is_syn: str = option("both", "0: the original sentences, 1: the synthetic ones", choices=("both", "0", "1"))
    label_prefix: str = option("", "put before every extension label, so that none equals a target label",
                               check=blankless)
    entity_label: str = option(str(KNOWLEDGE / "entity_label.json"), "label map of entity types")
    pos_label: str = option(str(KNOWLEDGE / "pos_label.json"), "label map of POS tags")
    apply_gold_review: bool = option(False, "change gold labels as gold_corrections.jsonl says")
    workers: int = option(0, "processes that merge at the same time; 0: one for each core where the files are large",
                          check=between(0, 1024))


def settings_of(opts: Options) -> dict[str, Any]:
    """The options that shape this step's files; of the label maps the content counts, not the path."""
    return {"label_prefix": opts.label_prefix, "dense_lang": opts.dense_lang,
            "entity_label": file_hash(Path(opts.entity_label)), "pos_label": file_hash(Path(opts.pos_label)),
            **({"apply_gold_review": True} if opts.apply_gold_review else {})}


def is_done(opts: Options, paths: RunPaths) -> bool:
    """Whether both halves, as far as their inputs exist, are made and up to date."""
    kinds = ["fusion"] + ["synthetic_fusion"] * paths.sized(1000, "train_{n}_synthetic").is_file()
    files = [paths.label_file(kind) for kind in kinds]
    files += [paths.sized(size, f"train_{{n}}_{kind}") for kind in kinds for size in SIZES]
    return is_current(paths, {STEP}, settings_of(opts), files)


def run(opts: Options) -> Summary:
    """Merge one half or both, all sizes."""
    paths = RunPaths.of(opts)
    with step_log(opts, paths) as summary, lock(paths.journals, STEP):
        merge_halves(opts, paths, summary)
        summary.warnings += warn_of_stale(paths, because_of=map(Path, summary.outputs))
    return summary


def merge_halves(opts: Options, paths: RunPaths, summary: Summary, *, final: bool = False) -> dict[bool, dict[int, Merged]]:
    """The halves that --is_syn names, under the lock of this step; step 8 does this too.

    Args:
        final: for step 8: predicted labels must be target labels (UserError where one is not), and what is up to date stays as it
            is; what step 7 has predicted since is put in.
    Returns:
        by half (whether it is the synthetic one) and size what was merged; nothing for a half that is not there.
    """
    labels = Labels.load(opts, paths, summary)
    dense = _is_dense(opts, paths)
    halves = {synthetic: merge_half(opts, paths, labels, dense, summary, synthetic=synthetic, final=final)
              for synthetic in (False, True) if opts.is_syn in ("both", str(int(synthetic)))}
    merged = [sizes[1000].reviews for sizes in halves.values() if sizes]
    summary.accounts += accounts_of(merged) if opts.is_syn == "both" else accounts_of(merged, "not_in_this_half")
    if opts.apply_gold_review and not (paths.run / GOLD).exists():
        summary.warn(f"{paths.run / GOLD}: not there, so --apply_gold_review has no effect.")
    return halves


def _is_dense(opts: Options, paths: RunPaths) -> bool:
    """Whether tokens join without blanks; as step 4 has found, if the training sentences are still the same."""
    manifest = read_manifest(paths.sized(1000, "train_{n}"))
    if opts.dense_lang == "auto" and isinstance(manifest.get("dense"), bool) and not changed_inputs(paths, manifest):
        return manifest["dense"]
    return is_dense(opts, (sentence["text"] for sentence in read_train(paths, again=True)))


def merge_half(opts: Options, paths: RunPaths, labels: Labels, dense: bool, summary: Summary, *,
               synthetic: bool, final: bool) -> dict[int, Merged]:
    """Merge the original or the synthetic sentences at every size; their label file counts size 1000.

    Returns what was merged by size; {} where the half is not there.
    """
    kind, tail = ("synthetic_fusion", "_synthetic") if synthetic else ("fusion", "")
    outputs = {size: paths.sized(size, f"train_{{n}}_{kind}") for size in SIZES}
    inputs = {size: _inputs(paths, size, tail) for size in SIZES}
    maps = [paths.train, paths.labels, Path(opts.entity_label), Path(opts.pos_label), *review_files(paths)]
    publisher = Publisher(paths, STEP, settings_of(opts), [*maps, *(p for found in inputs.values() for p in found)],
                          command_of(opts, is_syn=int(synthetic), config=None, seed=None, workers=None))
    missing = [f"{inputs[size][0]}" for size in SIZES if not os.path.lexists(inputs[size][0])]
    if missing and not synthetic:
        raise UserError(f"{missing[0]}: does not exist. {paths.missing('s4_split_data')}")
    if missing:
        summary.warn(f"{missing[0]}: not there, so there is no synthetic half. Make it with: "
                     f"{paths.command('s2_continous_generation')}, then {paths.command('s4_split_data')}")
        publisher.remove_others([*outputs.values(), paths.label_file(kind)])
        _write_unmapped(opts, paths, "synthetic", FusionStats(), summary)
        return {}
    # Read after the publisher has hashed them: a decision that comes in between makes the files out of date, never unseen.
    reviews = Reviews.load(paths, labels.targets, synthetic=synthetic, apply_gold=opts.apply_gold_review)
    reviews.refuse_unknown(labels.extension)
    _say_what_is_missing(paths, summary, inputs, synthetic)
    targets = [paths.sized(size, "train_{n}_synthetic_target") for size in SIZES if synthetic]
    summary.warnings += warn_of_stale(paths, [*targets, *(p for found in inputs.values() for p in found if p not in targets)])
    outputs = {size: paths.to_write(path) for size, path in outputs.items()}
    merger = Merger(labels, dense, reviews, strict=final)
    kept = _kept(opts, paths, merger, kind) if final else {}
    predicted = {size: found[3] for size, found in inputs.items() if len(found) > 3}
    merged: dict[int, Merged] = {}
    if kept and not predicted:
        merged = kept
    else:
        files = {size: (outputs[size], [*found, *[None] * (4 - len(found))]) for size, found in inputs.items()}
        written = (_with_targets(paths, kept, predicted, outputs, merger, reviews) if kept else {}) or merge_files(
            opts, paths, files, merger, synthetic=synthetic, dense=dense)
        for size, (part, digest) in written.items():
            content = orjson.loads(orjson.dumps(part.as_json(), option=orjson.OPT_SORT_KEYS))  # in an order that depends on nothing
            publisher.publish(outputs[size], digest, part.counts(), inputs=[*maps, *inputs[size]], dense=dense, merged=content)
            merged[size] = part
        content = label_file(labels.targets, merged[1000].placed)
        digest = write_json(paths.label_file(kind), content)
        publisher.publish(paths.label_file(kind), digest, {"labels": len(content)}, inputs=[*maps, *inputs[1000]])
        summary.outputs |= {str(outputs[size]): part.sentences for size, part in merged.items()}
        summary.outputs[str(paths.label_file(kind))] = len(content)
    _write_unmapped(opts, paths, "synthetic" if synthetic else "gold", merged[1000].fusion, summary)
    summary.accounts += merged[1000].accounts("synthetic" if synthetic else "original")
    return merged


def _kept(opts: Options, paths: RunPaths, merger: Merger, kind: str) -> dict[int, Merged]:
    """What is in the files of a half, as their manifests say, if these are all up to date and hold no predictions; else nothing."""
    files = {size: paths.sized(size, f"train_{{n}}_{kind}") for size in SIZES}
    predicted = any(Path(f"{size}/train_{size}_synthetic_target.jsonl") in _inputs_of(path) for size, path in files.items())
    if predicted or not is_current(paths, {STEP}, settings_of(opts), [*files.values(), paths.label_file(kind)]):
        return {}
    kept = {size: merger.afresh() for size in files}
    try:
        for size, path in files.items():
            kept[size].add(read_manifest(path)["merged"])
    except (AttributeError, KeyError, TypeError, ValueError):  # made by an earlier release, or somebody has changed it
        return {}
    return kept


def _with_targets(paths: RunPaths, kept: Mapping[int, Merged], predicted: Mapping[int, Path], outputs: Mapping[int, Path],
                  merger: Merger, reviews: Reviews) -> dict[int, tuple[Merged, str]]:
    """Put the predictions into the files of the synthetic half, where that is all there is to do: nothing is merged again.

    Returns:
        by size what is in the file, and its sha256; nothing where this does not do it, and no file is replaced then.
    """
    alone = not reviews.files and not any(part.gold for part in kept.values())
    if not alone or [*predicted] != [*kept] or not all(map(is_as_written, predicted.values())):
        return {}
    written = {}
    try:
        with ExitStack() as finished:  # no file is replaced before all have been looked at
            for size, path in predicted.items():
                written[size] = finished.enter_context(writing(outputs[size]))
                for line, number in _predicted_first(paths.sized(size, "train_{n}_synthetic_fusion"), path, merger.labels.targets):
                    written[size].write(line)
                    kept[size].predicted += number
    except Careful:
        return {}
    return {size: (kept[size], file.hexdigest()) for size, file in written.items()}


def _predicted_first(merged: Path, predicted: Path, targets: Sequence[str]) -> Iterator[tuple[bytes, int]]:
    """(line with the predicted entities before the others, how many these are) of every sentence, both files as written.

    Raises:
        Careful: something is not as it should be.
    """
    with open_input(merged) as lines, open_input(predicted) as labelled:
        for (_, line), (_, own) in zip_longest(lines_of(lines), lines_of(labelled), fillvalue=(0, b"")):
            at = line.find(_ENTITIES) + len(_ENTITIES)
            row = _fine_row(own, targets)
            # With these keys first, what was found is the list of entities, and no text: there a quote stands behind a backslash.
            if [*row][:3] != ["id", "text", "entities"] or at < len(_ENTITIES) or not own.startswith(line[:at]):
                raise Careful
            parts = [to_line(entity)[:-1] for entity in row["entities"]] + [b""] * (not line.startswith(b"]", at))
            yield line[:at] + b", ".join(parts) + line[at:], len(row["entities"])


def _fine_row(line: bytes, targets: Sequence[str]) -> Record:
    """A sentence with predicted entities. Careful where something is wrong with it."""
    try:
        row = parsed(line)
        fine = not problems_of_row(row, targets)
    except (ValueError, AttributeError):
        fine = False
    if not fine:
        raise Careful
    return row


def merge_files(opts: Options, paths: RunPaths, files: Mapping[int, tuple[Path, Files]], merger: Merger, *, synthetic: bool,
                dense: bool) -> dict[int, tuple[Merged, str]]:
    """Write (output, files it is made from) of every size: all in one pass as far as the smaller ones are parts of the largest.

    Returns:
        by size what was merged, and the sha256 of the output. UserError names what is wrong, as if each was merged alone.
    """
    arguments = {"paths": [str(paths.file_dir), paths.file_name, paths.save_type_name], "dense": dense, "synthetic": synthetic,
                 "apply_gold": opts.apply_gold_review, "strict": merger.strict,
                 "as_written": all(is_as_written(path) for _, found in files.values() for path in found
                                 if path and os.path.lexists(path)),
                 "maps": {name: getattr(opts, name) for name in ("entity_label", "pos_label", "label_prefix")}}
    workers = worker_count(opts.workers, filter(None, files[max(files)][1]))
    written: dict[int, tuple[Merged, Output]] = {}
    with ExitStack() as finished:  # no file is replaced before all have been looked at
        try:
            alike = sorted(files, reverse=True)
            while alike:
                try:
                    with ExitStack() as stack:
                        outputs = [stack.enter_context(writing(files[size][0])) for size in alike]
                        merged = merge_alike([_to_read(files[size][1], files[alike[0]][1], arguments["as_written"])
                                              for size in alike], outputs, merger.afresh, workers=workers, arguments=arguments)
                        finished.push(stack.pop_all())
                except Apart as apart:
                    alike = alike[:apart.number]
                else:
                    written |= {size: result for size, *result in zip(alike, merged, outputs)}
                    alike = sorted(set(files) - set(written), reverse=True)
        except Careful:
            for size in (size for size in files if size not in written):
                written[size] = merger.afresh(), finished.enter_context(writing(files[size][0]))
                for row in merger.rows(paths, files[size][1], written[size][0]):
                    written[size][1].write(to_line(row))
    return {size: (written[size][0], written[size][1].hexdigest()) for size in files}


def _to_read(files: Files, largest: Files, as_written: bool) -> Files:
    """The files of a size that have to be read: not the annotations, if step 4 has cut them together with those of the largest."""
    def cut(path: Path | None) -> tuple[Any, ...]:
        manifest = read_manifest(path) if path and os.path.lexists(path) else {}  # it may have outlived its file
        return tuple(manifest.get(name) for name in ("step", "settings", "inputs"))
    source, *modes, targets = files
    alike = all(cut(path) == cut(other) and cut(path)[0] == "s4_split_data" for path, other in zip(files[:-1], largest) if other)
    return [source, targets] if as_written and alike and files is not largest else files


def _inputs(paths: RunPaths, size: int, tail: str) -> list[Path]:
    """The sentences of a subset and their annotations, present or not; of synthetic ones the target labels if present.

    Absent target labels are no input: the first run of step 7 is no reason to call the files of this step out of date,
    for step 8 merges them anyway.
    """
    files = [paths.sized(size, f"train_{{n}}{tail}"), *(paths.sized(size, f"{m}_train_{{n}}{tail}") for m in MODES)]
    target = current_targets(paths, size) if tail else None
    return [*files, target] if target else files


def current_targets(paths: RunPaths, size: int) -> Path | None:
    """The target labels of the synthetic sentences, if step 7 has run since these were cut.

    Those of other sentences are as good as none: nothing that comes before step 7 may be held up by them.
    """
    path, source = paths.sized(size, "train_{n}_synthetic_target"), paths.sized(size, "train_{n}_synthetic")
    made_from = _inputs_of(path).get(Path(f"{size}/{plain_path(source).name}"))
    return path if path.is_file() and made_from in (None, file_hash(source)) else None


def _inputs_of(path: Path) -> dict[Path, str | None]:
    """sha256 of what a file was made from, by name in the plain form."""
    return {plain_path(Path(name)): sha256 for name, sha256 in read_manifest(path).get("inputs", {}).items()}


def _say_what_is_missing(paths: RunPaths, summary: Summary, inputs: Mapping[int, Sequence[Path]], synthetic: bool) -> None:
    step = "s3_predict_syn_data" if synthetic else "s1_predict_data"
    for mode, path in zip(MODES, inputs[1000][1:]):
        if not os.path.lexists(path):
            summary.warn(f"{path}: not there, merged without {mode} labels. Make it with: {paths.command(step, mode=mode)}, "
                         f"then {paths.command('s4_split_data')}")
        elif read_manifest(path).get("complete") is False:
            # the command of the manifest names the model too
            ask_rest = read_manifest(paths.annotation(mode, synthetic)).get("command") or paths.command(step, mode=mode)
            summary.warn(f"{path}: not complete; sentences without an annotation keep their gold labels only. Ask the "
                         f"rest with: {ask_rest}, then {paths.command('s4_split_data')}")
    if not any(p.is_file() for p in inputs[1000][1:3]) and not synthetic:
        raise UserError(f"{inputs[1000][1]}: there is no annotation to merge. {paths.missing('s4_split_data')}")


def _write_unmapped(opts: Options, paths: RunPaths, half: str, stats: FusionStats, summary: Summary) -> None:
    """unmapped_labels.json: types that no alias names, most frequent first, with the line to add. Keeps the other half."""
    path = paths.run / "unmapped_labels.json"
    try:
        content = read_json(path)
    except UserError:  # it is made anew
        content = None
    kept = content if isinstance(content, dict) else {}
    files = {"entity": (opts.entity_label, "OTHER"), "pos": (opts.pos_label, "WORD")}
    rows = [{"mode": mode, "type": raw, "count": count, "counted_as": opts.label_prefix + files[mode][1],
             "add": f"{json.dumps(raw, ensure_ascii=False)} to the aliases of a label in {Path(files[mode][0]).name}"}
            for mode in MODES
            for raw, count in sorted(stats.unmapped.get(mode, {}).items(), key=lambda r: (-r[1], r[0]))]
    halves = {"gold": kept.get("gold", []), "synthetic": kept.get("synthetic", []), half: rows}
    write_json(path, {name: halves[name] for name in ("gold", "synthetic")})
    if rows:
        total = sum(row["count"] for row in rows)
        summary.warn(f"{total:,} items of {len(rows):,} unmapped types became {opts.label_prefix}OTHER or "
                     f"{opts.label_prefix}WORD ({half}); {path} lists them.")


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Summary:
    """Run the step from the command line, or with keywords only (``cmd_args=False``)."""
    return run(load_options(Options, cmd_args, overrides))


if __name__ == "__main__":
    run_script(main)
