"""Step 6: one label file for the original and the synthetic sentences together.

reads   <save_type_name>/label_fusion.json and label_synthetic_fusion.json, of step 5
writes  <save_type_name>/label_syn_fusion.json
run     python syn_pipelines/s6_combine_syn_fusion_label.py --file_name=weibo --save_type_name=GLM4
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.fusion import label_file
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.jsonl import read_json, write_json
from syn_pipelines.utils.manifest import Publisher, is_current, warn_of_stale
from syn_pipelines.utils.options import TextOptions, command_of, load_options
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.summary import Summary, run_script, step_log

STEP, FINAL = "s6_combine_syn_fusion_label", "s8_process_label_and_combine"


@dataclass(frozen=True)
class Options(TextOptions):
    """Options of step 6."""


def is_done(opts: Options, paths: RunPaths) -> bool:
    """Whether the label file is there and up to date; step 8 writes it too, from the spans of the final data."""
    return is_current(paths, {STEP, FINAL}, {}, [paths.label_file("syn_fusion")])


def run(opts: Options) -> Summary:
    """Add up both label files; without synthetic sentences the result equals label_fusion.json."""
    paths = RunPaths.of(opts)
    with step_log(opts, paths) as summary, lock(paths.journals, STEP):
        if is_current(paths, {FINAL}, {}, [paths.label_file("syn_fusion")]):
            summary.up_to_date = True
            summary.notes.append(f"{paths.label_file('syn_fusion')} stays as step 8 made it from the final data")
            return summary
        summary.warnings += warn_of_stale(paths, [paths.label_file(kind) for kind in ("fusion", "synthetic_fusion")])
        parts = {0: paths.label_file("fusion"), 1: paths.label_file("synthetic_fusion")}
        targets, counts = _read(parts[0], paths.missing("s5_merge_data", is_syn=0))
        if os.path.lexists(parts[1]):
            others, more = _read(parts[1], "")
            if others != targets:
                raise UserError(f"{parts[1]}: its target labels are not those of {parts[0].name}. Run step 5 again.")
            counts.update(more)
        else:
            summary.warn(f"{parts[1]}: not there, so the labels are those of the original sentences. Make it with: "
                         f"{paths.command('s5_merge_data', is_syn=1)}")
        content = label_file(targets, counts)
        publisher = Publisher(paths, STEP, {}, parts.values(), command_of(opts, config=None, seed=None, dense_lang=None, lang=None))
        digest = write_json(paths.label_file("syn_fusion"), content)
        publisher.publish(paths.label_file("syn_fusion"), digest, {"labels": len(content)})
        summary.outputs[str(paths.label_file("syn_fusion"))] = len(content)
        summary.notes.append(f"{len(targets)} target labels, {len(counts)} extension labels")
        summary.warnings += warn_of_stale(paths, because_of=map(Path, summary.outputs))
    return summary


def _read(path: Path, missing: str) -> tuple[list[str], Counter[str]]:
    """(target labels without O, spans by extension label) of a label file."""
    content = read_json(path, missing)
    try:
        targets = [name for name, row in content.items() if row["is_target"] and name != "O"]
        counts = Counter({name: int(row["count"]) for name, row in content.items() if not row["is_target"]})
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{path}: is not a label file. Run step 5 again.") from None
    return targets, counts


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Summary:
    """Run the step from the command line, or with keywords only (``cmd_args=False``)."""
    return run(load_options(Options, cmd_args, overrides))


if __name__ == "__main__":
    run_script(main)
