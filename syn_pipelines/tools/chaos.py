"""Chaos: kill a whole run again and again, and prove on your own data that nothing is lost and nothing is different.

Runs all steps twice with the same options: once undisturbed in a temporary folder, once in the run folder, where the process
is killed (SIGKILL) --kills times at points spread over the whole of it by --seed: half-way through a write, right after one,
before and after each flush and rename, before a file is removed, within the weights of a model, and at any time. Each time
the same command is started again. The model is asked everything twice, for there are two runs; NER trainings are limited
to 20 steps unless --max_steps says otherwise. The killed run stays.

Then every data file, label file, manifest and weight is compared byte for byte. Allowed to differ: run.log.jsonl (times, and
a line for each start), locks, the folder of the data set in manifests and present.json, sentences_per_s in the logs of
trainings, and the order of the replies in a journal. lost: replies that were in a journal at a kill and are gone or changed
later. repeated_calls: requests to the model whose reply was in a journal at an earlier kill, or should have been, because
the model had given the next one too.

reads   data/few_shot/<file_name>/; takes the flags of run_all, and a --config as it does
writes  data/few_shot/<file_name>/<save_type_name>/, which must be empty
run     python -m syn_pipelines.tools.chaos --file_name=weibo --save_type_name=chaos --backend=offline --kills=50

Exit code: 0 when all is identical and nothing lost or repeated, 1 when not, 2 for bad input.
"""

from __future__ import annotations

import json
import logging
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from syn_pipelines import run_all, train_ner
from syn_pipelines.tools._chaos_child import KINDS
from syn_pipelines.tools._chaos_compare import MARK, Replies, Torn, differences
from syn_pipelines.tools._chaos_points import Target, draw, more
from syn_pipelines.tools._chaos_run import HANGS_S, HANGS_TIMES, Processes, Start
from syn_pipelines.utils.dry_run import show
from syn_pipelines.utils.errors import ServiceError, UserError
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.jsonl import write_json
from syn_pipelines.utils.options import LlmOptions, at_least, build_options, load_options, option, parse_flags
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.stored_replies import journal_path
from syn_pipelines.utils.summary import duration, run_script, table

log = logging.getLogger(__name__)

NER_STEPS = 20
MOST_TOLD = 20  # replies that are named, of those lost and of those asked again
# A run that is started again with one of these would do other work than the one that was killed.
CONTRARY = ("overwrite", "retry_failed", "reparse", "dry_run")


@dataclass(frozen=True)
class Options(run_all.Options):
    """Options of the run, and of what is done to it."""

    kills: int = option(20, "how often the run is killed", check=at_least(1))
    json: bool = option(False, "print one JSON line instead of the table")


@dataclass
class Report:
    """What came out. points: step, kind and file of each kill. problems: readable, one for each broken promise."""

    wanted: int
    run: str
    points: list[dict[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    files: int = 0
    different: int = 0
    lost: int = 0
    repeated_calls: int = 0
    seconds: float = 0.0
    undisturbed_s: float = 0.0
    killed_s: float = 0.0
    reference: str = ""

    @property
    def identical(self) -> bool:
        return self.files > 0 and not self.different

    @property
    def ok(self) -> bool:
        return self.identical and not self.lost and not self.repeated_calls and not self.problems

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {"kills": len(self.points), "identical": self.identical, "lost": self.lost,
                "repeated_calls": self.repeated_calls, "points": self.points, "seconds": round(self.seconds, 1),
                "files": self.files, "problems": self.problems}

    def __str__(self) -> str:
        kinds = [kind for kind in KINDS if any(point["kind"] == kind for point in self.points)]
        counts = Counter((short(point["step"]), point["kind"]) for point in self.points)
        steps = list(dict.fromkeys(step for step, _ in counts))
        rows = [("kills", *kinds, "all"), *((step, *(str(counts[step, kind] or ".") for kind in kinds),
                                             str(sum(counts[step, kind] for kind in kinds))) for step in steps)]
        same = "identical" if self.identical else f"{self.different:,} DIFFERENT" if self.files else "NOT COMPARED"
        each = max(self.killed_s - self.undisturbed_s, 0.0) / max(len(self.points), 1)
        lines = [table(rows), "", f"{len(self.points)} of {self.wanted} kills, {self.files:,} files compared: {same}",
                 f"finished replies lost: {self.lost:,}; requests asked again although finished: {self.repeated_calls:,}",
                 f"undisturbed run {duration(self.undisturbed_s)}, killed run {duration(self.killed_s)}: a kill costs "
                 f"{each:.1f} s", *(f"PROBLEM: {text}" for text in self.problems)]
        lines += [f"The undisturbed run, to compare with: {self.reference}"] if self.reference else []
        return "\n".join([*lines, "", f"{self.run}: " + ("kept all promises." if self.ok else "BROKE A PROMISE.")])


def short(step: str) -> str:
    """``train_ner size=250 train=fusion`` -> ``train 250``; "start" for what comes before the first step."""
    script, _, flags = step.partition(" ")
    return " ".join(filter(None, [script.partition("_")[0], flags.partition(" ")[0].partition("=")[2]])) or "start"


@dataclass
class Chaos:
    """One run of this tool. flags: of run_all. real, reference: where the killed and the undisturbed run are."""

    opts: Options
    flags: dict[str, Any]
    real: RunPaths
    reference: RunPaths
    processes: Processes
    report: Report
    replies: Replies = field(init=False)
    torn: Torn = field(init=False)

    def __post_init__(self) -> None:
        self.replies, self.torn = Replies(self.real.journals), Torn(self.reference, self.real)
        scripts = run_all.plan(has_test=True)
        run_all.configure(scripts, {"backend": "offline"})
        self.journals = {step.name: journal_path(self.real, run_all.output_of(step, self.real)).stem for step in scripts
                         if isinstance(step.opts, LlmOptions)}

    def undisturbed(self) -> None:
        """Make the run to compare with.

        Raises:
            UserError, ServiceError: it did not come to its end.
        """
        log.info("chaos: the undisturbed run, in %s", self.reference.run)
        copy_data_set(self.real, self.reference)
        start = self.processes.run({**self.flags, "file_dir": self.reference.file_dir}, self.reference.run, counts=True)
        if start.code == 2:
            raise UserError(complaint(start))
        if start.code:
            raise ServiceError(f"the undisturbed run ended with exit code {start.code}: {start.said[-1000:]}")
        self.report.undisturbed_s = start.seconds
        self.processes.limit_s = max(HANGS_S, HANGS_TIMES * start.seconds)

    def kill(self) -> bool:
        """Kill the run until it was killed often enough, then let it end. Whether it came to its end."""
        events, rng = self.processes.events(), random.Random(self.opts.seed)
        targets, others = draw(events, self.opts.kills, rng), more(events, rng)
        log.info("chaos: %d kills spread over %s events of %s", self.opts.kills, f"{len(events):,}", duration(
            self.report.undisturbed_s))
        self.replies.look()
        misses = 0
        # A complete run still writes in its first steps, so a target is missed a few times in a row at most.
        while len(self.report.points) < self.opts.kills and misses < 2 * self.opts.kills + 50:
            start = self._start(targets.pop(0) if targets else next(others))
            if start.point is None and start.code:
                if start.code == 2 and not self.report.points:
                    raise UserError(complaint(start))
                return self._failed(start)
            misses += start.point is None
        if len(self.report.points) < self.opts.kills:
            self.report.problems.append(f"only {len(self.report.points)} of {self.opts.kills} kills came about")
        start = self._start(None)
        return self._failed(start) if start.code else True

    def _start(self, target: Target | None) -> Start:
        start = self.processes.run(self.flags, self.real.run, target)
        self.report.killed_s += start.seconds
        self.replies.count(start.asked, self.journals)
        self.replies.look()
        self.report.problems += [str(found) for found in self.torn.find()]
        if start.point:
            self.report.points.append(start.point)
            log.info("kill %d of %d: %s, %s %s (%.1f s)", len(self.report.points), self.opts.kills,
                     start.point["step"] or "start", start.point["kind"], start.point["file"], start.seconds)
        return start

    def _failed(self, start: Start) -> bool:
        point = self.report.points[-1] if self.report.points else {"step": "", "kind": "", "file": ""}
        ended = f"ended with exit code {start.code}" if start.seconds < self.processes.limit_s else "did not end"
        self.report.problems.append(f"after the kill in {point['step']} ({point['kind']} {point['file']}) the same command "
                                    f"{ended}: {start.said[-1000:]}")
        return False

    def compare(self) -> None:
        """Fill in what is equal and what is not."""
        self.report.files, found = differences(self.reference, self.real)
        self.report.different = len(found)
        self.report.problems += map(str, found)

    def count(self) -> None:
        """Fill in what was lost and what was asked twice."""
        again = self.replies.repeated + [key for key in self.replies.stand_twice() if key not in self.replies.repeated]
        for keys, what in ((sorted(self.replies.lost), "was lost or changed, a finished reply"),
                           (again, "was asked again although it was finished")):
            self.report.problems += [f".journal/{journal}.jsonl: {identity} {what}" for journal, identity in keys[:MOST_TOLD]]
            if len(keys) > MOST_TOLD:
                self.report.problems.append(f"{len(keys) - MOST_TOLD:,} more of these")
        self.report.lost, self.report.repeated_calls = len(self.replies.lost), len(again)


def complaint(start: Start) -> str:
    """What a process that ended with exit code 2 said last."""
    return re.split("^error: ", start.said, flags=re.MULTILINE)[-1]


def copy_data_set(real: RunPaths, reference: RunPaths) -> None:
    """The files of a data set without its runs."""
    reference.dataset.mkdir(parents=True)
    for path in real.dataset.iterdir():
        if path.is_file():
            shutil.copyfile(path, reference.dataset / path.name)


def flags_of(given: Mapping[str, Any], opts: Options) -> dict[str, Any]:
    """The flags of run_all among those given, with the limit of the trainings."""
    own = {f.name for f in fields(Options)} - {f.name for f in fields(run_all.Options)}
    flags = {name: int(value) if isinstance(value, bool) else value for name, value in given.items()
             if name not in own and value is not None}
    flags = {name: ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value for name, value in flags.items()}
    if Path(opts.file_dir) != Path(Options.file_dir):
        flags["file_dir"] = str(Path(opts.file_dir))
    training = build_options(train_ner.Options, {name: flags[name] for name in ("config", "max_steps") if name in flags})
    if "max_steps" not in flags and training.max_steps == train_ner.Options.max_steps:
        flags["max_steps"] = NER_STEPS
    return flags


def refuse_used(paths: RunPaths, opts: Options, flags: Mapping[str, Any]) -> None:
    """UserError for a run folder that holds something which chaos has not made, or has made with other flags, or for flags
    that end the comparison."""
    contrary = [f"--{name}" for name in CONTRARY if getattr(opts, name)]
    if contrary:
        raise UserError(f"{', '.join(contrary)}: chaos starts the same command again and again, which would do other work "
                        "each time with this. Leave it out.")
    if paths.run.exists() and not (paths.run / MARK).is_file() and (not paths.run.is_dir() or any(paths.run.iterdir())):
        raise UserError(f"{paths.run}: is not empty, and chaos kills a run from its beginning to its end. Name a new run with "
                        "--save_type_name, or remove that folder.")
    before, now = marked_flags(paths), told_flags(flags)
    if other := [f"--{name} was {before.get(name, 'not given')} and is {now.get(name, 'not given')}"
                 for name in sorted({*before, *now}) if before.get(name) != now.get(name)] if before is not None else []:
        raise UserError(f"{paths.run}: was begun with other flags: {'; '.join(other)}. Go on with those, name a new run with "
                        "--save_type_name, or remove that folder.")


def told_flags(flags: Mapping[str, Any]) -> dict[str, str]:
    """The flags that shape a run, as texts; where it lies is no part of that."""
    return {name: str(value) for name, value in flags.items() if name != "file_dir"}


def marked_flags(paths: RunPaths) -> dict[str, Any] | None:
    """The flags of the run that was begun here; None where nothing tells."""
    try:
        flags = json.loads((paths.run / MARK).read_bytes())["flags"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return flags if isinstance(flags, dict) else None


def run(opts: Options, given: Mapping[str, Any]) -> Report:
    """Make both runs and compare them. ``given``: the flags or keywords really given, for run_all.

    Raises:
        UserError: flags or data that run_all refuses, or a run folder in use.
        ServiceError: the undisturbed run did not come to its end.
    """
    real, began = RunPaths.of(opts), time.monotonic()
    flags = flags_of(given, opts)
    refuse_used(real, opts, flags)
    workplace = Path(tempfile.mkdtemp(prefix="chaos-"))
    reference = RunPaths(workplace / "data", opts.file_name, opts.save_type_name)
    report = Report(opts.kills, str(real.run))
    chaos = Chaos(opts, flags, real, reference, Processes(workplace), report)
    try:
        with _own(real, flags):
            chaos.undisturbed()
            if chaos.kill():
                chaos.compare()
                (real.run / MARK).unlink()
            chaos.count()
    finally:
        if not report.problems:
            shutil.rmtree(workplace, ignore_errors=True)
    report.seconds = time.monotonic() - began
    report.reference = str(reference.run) if report.problems else ""
    return report


@contextmanager
def _own(paths: RunPaths, flags: Mapping[str, Any]) -> Iterator[None]:
    """The run folder, marked as one that may be killed; one in which nothing came about goes again.

    Raises:
        UserError: another process has it.
    """
    with lock(paths.journals, "chaos"):
        write_json(paths.run / MARK, {"note": "chaos is at this run, or was stopped; it may be started again here",
                                      "flags": told_flags(flags)})
        try:
            yield
        finally:
            (paths.journals / "chaos.lock").unlink(missing_ok=True)
            if {path.name for path in paths.run.rglob("*")} <= {MARK, ".journal"}:
                shutil.rmtree(paths.run, ignore_errors=True)


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Report:
    """Run from the command line, or with keywords only (``cmd_args=False``)."""
    given = dict(overrides)
    if cmd_args is not False:
        given |= parse_flags(Options, sys.argv[1:] if cmd_args is True else cmd_args)
    opts = load_options(Options, False, given)
    report = run(opts, given)
    if cmd_args is not False:
        show(json.dumps(report.as_dict(), ensure_ascii=False) if opts.json else str(report))
    return report


def command() -> None:
    """``main`` as a command; exit code 1 when a promise was broken."""
    if not main().ok:
        sys.exit(1)


if __name__ == "__main__":
    run_script(command)
