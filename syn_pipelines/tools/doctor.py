"""The doctor: what will work here, and what to do about the rest. Reads no weights and writes nothing.

Looks at Python, torch, the GPUs, the chosen model or server, the data set and the run folder. Takes the flags of the
steps, and a --config as run_all does. Exit code: 0 when nothing is a problem, 1 when something is, 2 for wrong flags.

run     python -m syn_pipelines.tools.doctor --file_name=weibo --model_from_pretrained=MODEL
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import syn_pipelines.s1_predict_data as s1
import syn_pipelines.s5_merge_data as s5
from syn_pipelines.tools import _doctor_data, _doctor_machine, _doctor_model
from syn_pipelines.tools._diagnosis import Case, Look, Report, looked_at
from syn_pipelines.utils.dry_run import show
from syn_pipelines.utils.options import LabelOptions, at_least, build_options, load_options, option, parse_flags
from syn_pipelines.utils.summary import run_script

# In this order: later ones use what earlier ones found.
LOOKS: dict[str, Look] = {
    "python": _doctor_machine.look_at_python,
    "backend": _doctor_model.look_at_choice,
    "packages": _doctor_machine.look_at_packages,
    "torch": _doctor_machine.look_at_torch,
    "gpu": _doctor_machine.look_at_gpus,
    "checkpoint": _doctor_model.look_at_checkpoint,
    "memory": _doctor_model.look_at_memory,
    "tokenizer": _doctor_model.look_at_tokenizer,
    "server": _doctor_model.look_at_server,
    "data": _doctor_data.look_at_data,
    "labels": _doctor_data.look_at_labels,
    "splits": _doctor_data.look_at_splits,
    "prompts": _doctor_data.look_at_prompts,
    "context": _doctor_data.look_at_context,
    "disk": _doctor_machine.look_at_disk,
    "run": _doctor_data.look_at_run,
}


@dataclass(frozen=True)
class Options(LabelOptions):
    """Options of the doctor."""

    batch_size: int | None = option(None, "prompts that a local model answers side by side "
                                     "(step 1's by default)", check=at_least(1))
    label_prefix: str = option("", "put before every extension label, so that none equals a target label")
    entity_label: str = option("", "label map of entity types (the shipped one by default)")
    pos_label: str = option("", "label map of POS tags (the shipped one by default)")
    json: bool = option(False, "print one JSON line instead of the table")


def examine(given: Mapping[str, Any]) -> Report:
    """Look at everything. ``given``: the flags or keywords really given.

    Raises:
        UserError: for wrong flags or a broken --config only; all else is in the report.
    """
    def options_of(script: Any) -> Any:
        fields = {field.name for field in dataclasses.fields(script.Options)}
        return build_options(script.Options, {name: value for name, value in given.items() if name in fields})

    case = Case(options_of(s1), options_of(s5))
    return Report([check for name, look in LOOKS.items() for check in looked_at(name, look, case)])


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Report:
    """Run from the command line, or with keywords only (``cmd_args=False``)."""
    given = dict(overrides)
    if cmd_args is not False:
        given |= parse_flags(Options, sys.argv[1:] if cmd_args is True else cmd_args)
    opts = load_options(Options, False, given)
    level = logging.getLogger("syn_pipelines").level
    logging.getLogger("syn_pipelines").setLevel(logging.ERROR)  # what modules tell on the way is in the report
    try:
        report = examine(given)
    finally:
        logging.getLogger("syn_pipelines").setLevel(level)
    if cmd_args is not False:
        show(json.dumps(report.as_dict(), ensure_ascii=False) if opts.json else str(report))
    return report


def command() -> None:
    """``main`` as a command; exit code 1 when something is a problem."""
    if not main().ok:
        sys.exit(1)


if __name__ == "__main__":
    run_script(command)
