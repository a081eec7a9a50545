"""Step 8: the final training sets: merge again, now with the target labels of step 7, and put it together.

Both halves are made, whatever --is_syn says, with what people decided in a review, as in step 5; what step 5 has made is used
if it is up to date, with the target labels put in. Synthetic sentences without target labels would teach a model that their entities are
none, so they stay out until step 7 has run.

reads   everything the steps before made
writes  n/train_n_syn_fusion.jsonl (the synthetic sentences, then the original ones), label_syn_fusion.json with the
        spans really placed, and present.json for the KnowFREE trainer (paths relative to the working directory)
run     python syn_pipelines/s8_process_label_and_combine.py --file_name=weibo --save_type_name=GLM4
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from threading import Event
from typing import Any

from syn_pipelines import s5_merge_data as s5
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.fusion import label_file
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.jsonl import open_input, read_json, write_json, writing
from syn_pipelines.utils.labels import read_target_labels
from syn_pipelines.utils.manifest import Publisher, is_current, warn_of_stale
from syn_pipelines.utils.options import command_of, load_options
from syn_pipelines.utils.packing import Output
from syn_pipelines.utils.paths import SIZES, RunPaths
from syn_pipelines.utils.side_by_side import side_by_side
from syn_pipelines.utils.summary import Summary, run_script, step_log

STEP = "s8_process_label_and_combine"


@dataclass(frozen=True)
class Options(s5.Options):
    """Options of step 8, those of step 5."""


def is_done(opts: Options, paths: RunPaths) -> bool:
    """Whether the final files are there and up to date."""
    files = [*(paths.sized(size, "train_{n}_syn_fusion") for size in SIZES), paths.label_file("syn_fusion")]
    return is_current(paths, {STEP}, {}, files) and _is_present_current(paths)


def _is_present_current(paths: RunPaths) -> bool:
    """Whether present.json says what it would say now: it depends on the working directory and on dev and test."""
    try:
        return read_json(present_path(paths)) == present(paths)
    except UserError:
        return False


def run(opts: Options) -> Summary:
    """Make both halves, then write the combined sets, their label file, and present.json."""
    paths = RunPaths.of(opts)
    shared = {f.name: getattr(opts, f.name) for f in fields(s5.Options)}
    with step_log(opts, paths) as summary, lock(paths.journals, STEP), lock(paths.journals, s5.STEP):
        targets = read_target_labels(paths.labels)
        # Predicted labels that are no targets (any more) would pass for extension labels.
        merged = s5.merge_halves(s5.Options(**{**shared, "is_syn": "both"}), paths, summary, final=True)
        summary.outputs.clear()  # those of step 5; the summary names what this step makes of them
        halves = {size: _halves(paths, size) for size in SIZES}
        wanted = [paths.labels, *(p for found in halves.values() for p in found)]
        publisher = Publisher(paths, STEP, {}, wanted, command_of(opts, is_syn=None, config=None, seed=None, workers=None))
        _say_what_stays_out(paths, summary)
        combined = {size: _combined(paths, size) for size in SIZES}
        outputs = {size: paths.to_write(paths.sized(size, "train_{n}_syn_fusion")) for size in SIZES}
        with ExitStack() as stack:  # no file is replaced before all are written
            files = {size: stack.enter_context(writing(path)) for size, path in outputs.items()}
            side_by_side(lambda size, stop: _join(files[size], [halves[size][half] for half in combined[size]], stop),
                         sorted(SIZES, reverse=True))
        for size, output in outputs.items():
            parts = [merged[synthetic][size] for synthetic in combined[size]]
            counts = sum((part.placed for part in parts), Counter())  # of extension spans by label
            summary.outputs[str(output)] = sum(part.sentences for part in parts)
            publisher.publish(output, files[size].hexdigest(), {"sentences": summary.outputs[str(output)], "extension_spans": counts.total()},
                              inputs=[paths.labels, *halves[size]])
        content = label_file(targets, counts)
        digest = write_json(paths.label_file("syn_fusion"), content)
        publisher.publish(paths.label_file("syn_fusion"), digest, {"labels": len(content)})
        write_json(present_path(paths), present(paths))
        _say_what_stands_in(paths, summary)
        summary.outputs |= {str(paths.label_file("syn_fusion")): len(content), str(present_path(paths)): 1}
        summary.warnings += warn_of_stale(paths, because_of=map(Path, summary.outputs))
    return summary


def _halves(paths: RunPaths, size: int) -> list[Path]:
    return [paths.sized(size, f"train_{{n}}_{kind}") for kind in ("fusion", "synthetic_fusion", "synthetic_target")]


def _combined(paths: RunPaths, size: int) -> list[bool]:
    """The halves that are put together (True: the synthetic one): the synthetic sentences only if they have target labels."""
    ready = _halves(paths, size)[1].is_file() and s5.current_targets(paths, size)
    return [True, False] if ready else [False]


def _join(output: Output, parts: Sequence[Path], stop: Event) -> None:
    """Write one file behind the other; their rows were merged just now. Ends early at ``stop``."""
    for path in parts:
        with open_input(path) as part:
            while not stop.is_set() and (block := part.read(1 << 20)):
                output.write(block)


def _say_what_stays_out(paths: RunPaths, summary: Summary) -> None:
    sizes = [size for size in SIZES if _halves(paths, size)[1].is_file() and not s5.current_targets(paths, size)]
    if sizes:
        summary.warn(f"{_halves(paths, sizes[0])[2]}: not there or out of date, so the synthetic sentences stay out of the "
                     f"{', '.join(map(str, sizes))} sets. Make it with: {paths.command('s7_pred_syn_data')}")


def present_path(paths: RunPaths) -> Path:
    """The file that tells the KnowFREE trainer where the data are."""
    return paths.run / "present.json"


def present(paths: RunPaths) -> dict[str, dict[str, str]]:
    """Data sets by name for the KnowFREE trainer, which needs a dev and a test file: says what stands in for them."""
    held_out = {name: next((p for p in (paths.split(name), paths.split(other)) if p.is_file()), None)
                for name, other in (("dev", "test"), ("test", "dev"))}
    result = {}
    for size in SIZES:
        for kind in ("fusion", "syn_fusion"):
            train = paths.sized(size, f"train_{{n}}_{kind}")
            files = {"train": train, **{name: path or train for name, path in held_out.items()}, "labels": paths.label_file(kind)}
            notes = [f"there is no {name}.jsonl, {files[name].name} stands in" for name in held_out
                     if files[name] != paths.split(name)]
            entry = {name: "./" + Path(os.path.relpath(path)).as_posix() for name, path in files.items()}
            result[f"{paths.file_name}_{paths.save_type_name}_{kind}_{size}"] = (
                {**entry, "note": "; ".join(notes)} if notes else entry)
    return result


def _say_what_stands_in(paths: RunPaths, summary: Summary) -> None:
    absent = [f"{name}.jsonl" for name in ("dev", "test") if not paths.split(name).is_file()]
    if absent:
        summary.warn(f"{present_path(paths)}: there is no {' and no '.join(absent)}; other sentences stand in, and scores on "
                     "these say nothing about quality.")


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Summary:
    """Run the step from the command line, or with keywords only (``cmd_args=False``)."""
    return run(load_options(Options, cmd_args, overrides))


if __name__ == "__main__":
    run_script(main)
