"""The ablation: does fusion help on your data? Trains on each training set, at each size, with several seeds, and compares.

Dev chooses the weights that are kept; the figures are those of the test sentences that do not stand in train_1000.jsonl.
Every result is on disk as soon as it is there, so a run that was stopped goes on, and a larger one takes what a smaller
one has found. Results of other data or options are never used.

reads   the training sets and label files of a run that went through step 8; dev.jsonl, test.jsonl, train_1000.jsonl
writes  <save_type_name>/ablation/: ablation.json, ablation.md, ablation.png and ablation.svg (with matplotlib), results/,
        logs/ of trainings that failed, models/ with --keep_models
run     python -m syn_pipelines.tools.ablation --file_name=weibo --save_type_name=GLM4 --sizes=250,500,1000 --seeds=3
"""

from __future__ import annotations

import json
import logging
import sys
import time
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any

from syn_pipelines import train_ner
from syn_pipelines.tools._ablation_data import Material, check_files, dropped_labels, file_hashes, new_sentences
from syn_pipelines.tools._ablation_report import Question, markdown, plot, report, row_of
from syn_pipelines.tools._ablation_training import Result, Task, Workshop, program_hash, train_all
from syn_pipelines.utils.dry_run import show
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.jsonl import replacing, write_json
from syn_pipelines.utils.manifest import warn_of_stale
from syn_pipelines.utils.options import TextOptions, at_least, between, build_options, command_of, load_options, option
from syn_pipelines.utils.paths import SIZES, RunPaths
from syn_pipelines.utils.summary import duration, run_script

log = logging.getLogger(__name__)

SETS = tuple(train_ner.MADE_BY)
INSTALL = "pip install matplotlib"
# Options of train_ner that differ from training to training, or that change nothing but what else is written.
SET_HERE = {"size", "output_dir", "keep_last", "tensorboard", "restart", "export_hf"}


def listed(value: str) -> list[str]:
    """``"a, b,a"`` -> a, b"""
    return list(dict.fromkeys(filter(None, map(str.strip, value.split(",")))))


def many(number: int, what: str) -> str:
    """``1 seed``, ``2 seeds``"""
    return f"{number} {what}{'' if number == 1 else 's'}"


def are_among(known: Sequence[Any]) -> Any:
    """Check: a list of these, not empty."""
    names = [str(name) for name in known]

    def check(value: str) -> str:
        bad = [name for name in listed(value) if name not in names]
        return "" if listed(value) and not bad else f"must be some of {', '.join(names)}, with commas between"
    return check


@dataclass(frozen=True)
class OwnOptions(TextOptions):
    """What is asked; how the models are trained is added below."""

    sizes: str = option("250,500,1000", "sizes of the training sets, with commas between", check=are_among(SIZES))
    train: str = option("gold,fusion,syn_fusion", "training sets, with commas between", check=are_among(SETS))
    seeds: int = option(3, "trainings of each set at each size, with the seeds --seed, --seed + 1, ...", check=between(1, 1000))
    drop_labels: str = option("", "also train fusion at the largest size once more without each of these extension labels, "
                              "A,B or all, with every seed")
    jobs: int = option(1, "trainings side by side, each a process with one thread", check=at_least(1))
    keep_models: bool = option(False, "keep the model of each training, in ablation/models/; those of results that are there "
                               "already are not made again")
    dry_run: bool = option(False, "tell how many trainings there are and how long they take, and train nothing")
    json: bool = option(False, "print one JSON line instead of the tables")

    def training(self, train: str, size: int, seed: int, dropped: str = "") -> dict[str, Any]:
        """Keywords of train_ner for one training."""
        shared = {f.name for f in fields(train_ner.Options)} & {f.name for f in fields(self)}
        own = {"train": train, "size": size, "seed": seed, "drop_labels": dropped, "config": ""}
        return {**{name: getattr(self, name) for name in shared}, **own}

    @property
    def kinds(self) -> list[tuple[str, int]]:
        """(training set, size) of every cell of the tables, sizes rising."""
        return [(train, size) for size in self.all_sizes for train in listed(self.train)]

    @property
    def base(self) -> tuple[str, int] | None:
        """The cell of which single labels are left out; None without --drop_labels."""
        if not listed(self.drop_labels):
            return None
        with_labels = [train for train in ("fusion", "syn_fusion") if train in listed(self.train)]
        if not with_labels:
            raise UserError("--drop_labels: gold has no extension labels to leave out. Add fusion to --train.")
        return with_labels[0], self.all_sizes[-1]

    @property
    def all_sizes(self) -> list[int]:
        return sorted(map(int, listed(self.sizes)))

    @property
    def all_seeds(self) -> list[int]:
        return list(range(self.seed, self.seed + self.seeds))


def _options_of_trainings() -> list[tuple[str, Any, Any]]:
    """Every option of train_ner that is not set here, as train_ner has it."""
    hints = typing.get_type_hints(train_ner.Options)
    own = {f.name for f in fields(OwnOptions)} | SET_HERE
    return [(f.name, hints[f.name], field(default=f.default, metadata=f.metadata))
            for f in fields(train_ner.Options) if f.name not in own]


Options = make_dataclass("Options", _options_of_trainings(), bases=(OwnOptions,), frozen=True, namespace={
    "__doc__": "Options of the ablation; most are those of train_ner, handed to each training.", "__module__": __name__})


@dataclass
class Plan:
    """All trainings, and the results that are there."""

    question: Question
    tasks: list[Task]
    materials: Mapping[tuple[str, int], Material]
    results: dict[Task, Result] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[Task]:
        return [task for task in self.tasks if task not in self.results]

    def seconds(self, tasks: Sequence[Task]) -> float | None:
        """What these trainings will take, one after the other, by those that were timed; None without any.

        The same set and size takes the same time again; others by their number of sentences.
        """
        timed = [(task.kind, r["seconds"]) for task, r in self.results.items() if r["seconds"] is not None]
        if not timed:
            return None
        sentences = sum(self.materials[kind].sentences for kind, _ in timed)
        pace = sum(seconds for _, seconds in timed) / max(sentences, 1)
        total = 0.0
        for task in tasks:
            same = [seconds for kind, seconds in timed if kind == task.kind]
            total += sum(same) / len(same) if same else pace * self.materials[task.kind].sentences
        return total

    def needed(self, tasks: Sequence[Task], jobs: int) -> str:
        """``about 20 min``"""
        seconds = self.seconds(tasks)
        return "how long is not known before the first one is done" if seconds is None else f"about {duration(seconds / jobs)}"

    def tell(self, jobs: int) -> None:
        """Say how many trainings there are, and how long those will take that are not done."""
        question, missing = self.question, self.missing
        seeds, drops = many(len(question.seeds), "seed"), [task for task in self.tasks if task.dropped]
        log.info("ablation: %s = %s x %s x %s%s", many(len(self.tasks), "training"), many(len(question.trains), "set"),
                 many(len(question.sizes), "size"), seeds, f" + {len(drops)} for --drop_labels" if drops else "")
        if drops:
            left = [task for task in drops if task not in self.results]
            log.info("  --drop_labels: %s of %s %d x %s, %d of these trainings to do%s", many(len(question.labels), "label"),
                     *question.base, seeds, len(left), f": {self.needed(left, jobs)}" if left else "")
        log.info("  %d done already, %d to do%s", len(self.results), len(missing),
                 f": {self.needed(missing, jobs)}{f' with {jobs} side by side' if jobs > 1 else ''}" if missing else "")


@dataclass
class Ablation:
    """What came out. content: that of ablation.json. markdown: the tables. failed: trainings without a result."""

    content: dict[str, Any] = field(default_factory=dict)
    markdown: str = ""
    failed: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    to_do: int = 0

    @property
    def ok(self) -> bool:
        return not self.failed

    def as_json(self) -> str:
        """What ``--json`` prints."""
        names = ("file_name", "save_type_name", "seeds", "test", "missing", "summary", "drop_labels", "warnings")
        shown = {name: self.content[name] for name in names if name in self.content}
        return json.dumps({**shown, "failed": self.failed, "to_do": self.to_do}, ensure_ascii=False)

    def _repr_markdown_(self) -> str:
        return self.markdown or f"Nothing was trained; {many(self.to_do, 'training')} to do."


def plan(opts: Options, paths: RunPaths, workshop: Workshop) -> Plan:
    """Look at all data, and at what is done.

    Raises:
        UserError: a file is missing or wrong, or a label cannot be left out.
    """
    base = opts.base
    trainings = {kind: build_options(train_ner.Options, opts.training(*kind, opts.seed)) for kind in opts.kinds}
    check_files(paths, trainings.values())
    materials = {kind: Material.read(paths, training) for kind, training in trainings.items()}
    labels = dropped_labels(listed(opts.drop_labels), materials[base]) if base else {}
    new, sentences = new_sentences(paths)
    marks = {kind: material.mark for kind, material in materials.items() if material.mark}
    question = Question(listed(opts.train), opts.all_sizes, opts.all_seeds, new, sentences, base, labels, marks)
    hashes = {kind: file_hashes(paths, training) for kind, training in trainings.items()}
    asked = [(kind, seed, "") for seed in opts.all_seeds for kind in opts.kinds]
    asked += [(base, seed, label) for seed in opts.all_seeds for label in labels]
    tasks = [Task(opts.training(*kind, seed, label), hashes[kind]) for kind, seed, label in asked]
    results = {task: result for task in tasks if (result := workshop.result(task)) and len(result["test"]) == sentences}
    warnings = [text for material in materials.values() for text in material.warnings]
    for text in warnings:
        log.warning("%s", text)
    inputs = dict.fromkeys(p for training in trainings.values() for p in train_ner.Inputs.of(training, paths).paths)
    return Plan(question, tasks, materials, results, warnings + warn_of_stale(paths, inputs))


def run(opts: Options) -> Ablation:
    """Train what is missing, then compare."""
    paths = RunPaths.of(opts)
    workshop = Workshop(paths.run / "ablation", opts.keep_models)
    planned = plan(opts, paths, workshop)
    planned.tell(opts.jobs)
    result = Ablation(to_do=len(planned.missing))
    if opts.dry_run:
        return result
    with lock(paths.journals, "ablation"):
        try:
            for task, problem in _told(train_all(planned.missing, workshop, opts.jobs), planned, workshop, opts.jobs):
                if problem:
                    result.failed.append(f"{task}: {problem} (see {workshop.log_path(task)})")
        except BaseException:  # interrupted, or a mistake that would end the other trainings too: what is done counts
            with suppress(Exception):
                _publish(opts, workshop, planned, result)
            raise
        _publish(opts, workshop, planned, result)
    result.to_do = len(planned.missing)
    if result.outputs:
        log.info("wrote %s", ", ".join(result.outputs))
    return result


def _told(trained: Iterator[tuple[Task, str]], planned: Plan, workshop: Workshop, jobs: int) -> Iterator[tuple[Task, str]]:
    """The trainings as they end, with a log line for each: its scores, and how far the whole is."""
    started, before, ended = time.monotonic(), len(planned.results), 0
    for task, problem in trained:
        ended += 1
        if stored := None if problem else workshop.result(task):
            planned.results[task] = stored
            row = row_of(task, stored, planned.question)
            took = "" if row["seconds"] is None else f" in {duration(row['seconds'])}"
            text = f"dev F1 {row['dev_f1']:.1f}, test F1 {row['test_f1']:.1f}, {row['steps']} steps{took}"
        else:
            problem = problem or "its result is not there"
            text = f"FAILED, {problem}"
        left = len(planned.tasks) - before - ended
        to_do = planned.missing[-left:] if left else []
        log.info("%d of %d: %s: %s; %.1f trainings an hour%s", before + ended, len(planned.tasks), task, text,
                 3600 * ended / (time.monotonic() - started), f", {planned.needed(to_do, jobs)} left" if to_do else "")
        yield task, problem


def _publish(opts: Options, workshop: Workshop, planned: Plan, result: Ablation) -> None:
    """Write ablation.json, the tables and the plot of what is done; nothing when that is nothing."""
    found = {task: workshop.result(task) for task in planned.missing}  # an interrupt may come right after one was stored
    planned.results |= {task: stored for task, stored in found.items() if stored}
    results = {task: planned.results[task] for task in planned.tasks if task in planned.results}
    if not results:
        return
    others = sum(r.get("program") != program_hash() for r in results.values())
    if others:
        planned.warnings.append(f"{others} of {len(results)} results were made by another version of this program. Remove "
                                f"{workshop.folder / 'results'} to train all again.")
        log.warning("%s", planned.warnings[-1])
    result.content = _content(opts, planned, results)
    result.markdown = markdown(result.content, _command(opts))
    write_json(workshop.folder / "ablation.json", result.content)
    files = {"md": result.markdown.encode("utf-8"), **_plots(workshop.folder, result.content)}
    for kind, content in files.items():
        with replacing(workshop.folder / f"ablation.{kind}") as file:
            file.write(content)
    for task, stored in results.items():  # a kill may have come before its log and its model were removed
        workshop.log_path(task).unlink(missing_ok=True)
        if not stored.get("keeps_model"):
            workshop.remove_model(task)
    for name in ("models", "logs"):  # nothing is left in them where all went well
        with suppress(OSError):
            (workshop.folder / name).rmdir()
    result.outputs = [str(workshop.folder / f"ablation.{kind}") for kind in ("json", *files)]


def _content(opts: Options, planned: Plan, results: Mapping[Task, Result]) -> dict[str, Any]:
    """That of ablation.json."""
    question, silent = planned.question, {"file_dir", "config", "jobs", "keep_models", "dry_run", "json", "n_gpu"}
    return {
        "file_name": opts.file_name, "save_type_name": opts.save_type_name, "train": list(question.trains),
        "sizes": list(question.sizes), "seeds": list(question.seeds),
        "options": {f.name: getattr(opts, f.name) for f in fields(opts) if f.name not in silent},
        "test": {"sentences": question.sentences, "new": len(question.new)}, "missing": len(planned.missing),
        **report(question, results), "warnings": planned.warnings,
    }


def _plots(folder: Path, content: Mapping[str, Any]) -> dict[str, bytes]:
    """The plot in both formats; none, and none of an earlier run, without matplotlib."""
    try:
        return plot(content)
    except ImportError:
        log.warning("no plot, for matplotlib is not installed: %s", INSTALL)
        for kind in ("png", "svg"):
            (folder / f"ablation.{kind}").unlink(missing_ok=True)
        return {}


def _command(opts: Options) -> str:
    """The command line that gives these tables again."""
    line = command_of(opts, config=None, jobs=None, keep_models=None, dry_run=None, json=None, n_gpu=None)
    return line.replace("python syn_pipelines/ablation.py", "python -m syn_pipelines.tools.ablation", 1)


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Ablation:
    """Run from the command line, or with keywords only (``cmd_args=False``)."""
    opts = load_options(Options, cmd_args, overrides)
    result = run(opts)
    for text in result.failed:
        log.error("failed: %s", text)
    if cmd_args is not False:
        show(result.as_json() if opts.json else result.markdown or "nothing was trained")
    return result


def command() -> None:
    """``main`` as a command; exit code 1 when a training failed."""
    if not main().ok:
        sys.exit(1)


if __name__ == "__main__":
    run_script(command)
