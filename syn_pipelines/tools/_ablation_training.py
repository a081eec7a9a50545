"""One training of the ablation: train, score, keep the result on disk. Also a program of its own, for --jobs.

A result file holds the fingerprint of its training (options, and the sha256 of all data that its scores depend on), so a
result is used again for the very same question only, and what every dev and test sentence got: all scores follow from
these counts, without any model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from syn_pipelines import train_ner
from syn_pipelines.ner.side_files import UnusableCheckpoint, checkpoint_path
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import replacing, to_line
from syn_pipelines.utils.labels import read_target_labels
from syn_pipelines.utils.manifest import read_manifest
from syn_pipelines.utils.options import PROJECT_ROOT, build_options
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.records import read_sentences
from syn_pipelines.utils.summary import run_script

log = logging.getLogger(__name__)

SPLITS = ("dev", "test")
WAIT_S = 0.1  # between two looks at the processes
LOG_TAIL = 2000  # characters of a failed training's log that are looked through for its error

Result = dict[str, Any]


@dataclass(frozen=True, eq=False)  # a key of dicts
class Task:
    """One training. options: keywords of train_ner. data: sha256 of every file that counts, by its role."""

    options: Mapping[str, Any]
    data: Mapping[str, str | None]

    @cached_property
    def training(self) -> train_ner.Options:
        """The options of train_ner, checked."""
        return build_options(train_ner.Options, self.options)

    @property
    def kind(self) -> tuple[str, int]:
        """(training set, size)"""
        return self.training.train, self.training.size

    @property
    def seed(self) -> int:
        return self.training.seed

    @property
    def dropped(self) -> str:
        """The extension label that is left out; "" for none."""
        return self.training.drop_labels

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """All that the scores depend on; JSON values."""
        return {**train_ner.settings_of(self.training), "data": dict(self.data)}

    @cached_property
    def key(self) -> str:
        """Name of this training's files: plain letters, whatever the labels are called."""
        digest = hashlib.sha256(json.dumps(self.fingerprint, sort_keys=True).encode()).hexdigest()
        train, size = self.kind
        return f"{train}_{size}{'_without' if self.dropped else ''}_seed{self.seed}_{digest[:12]}"

    def __str__(self) -> str:
        train, size = self.kind
        return f"{train} {size}{f' without {self.dropped}' if self.dropped else ''}, seed {self.seed}"


@dataclass(frozen=True)
class Workshop:
    """Where the files of all trainings are: ``<run>/ablation``."""

    folder: Path
    keep_models: bool = False

    def result_path(self, task: Task) -> Path:
        return self.folder / "results" / f"{task.key}.json"

    def model_path(self, task: Task) -> Path:
        return self.folder / "models" / task.key

    def files_of_model(self, task: Task) -> list[Path]:
        """The model folder, and what the training keeps beside it, such as a checkpoint."""
        found = self.model_path(task).parent.glob(f"*{task.key}*")
        return [path for path in found if path.name.strip(".").split(".")[0] == task.key]

    def remove_model(self, task: Task) -> None:
        """Take away the model and all that belongs to it."""
        for path in self.files_of_model(task):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def log_path(self, task: Task) -> Path:
        """Of a training that failed."""
        return self.folder / "logs" / f"{task.key}.log"

    def result(self, task: Task) -> Result | None:
        """The stored result; None when there is none, or none that can be used."""
        try:
            result = json.loads(self.result_path(task).read_text(encoding="utf-8"))
            usable = result.pop("sha256") == _digest(result) and result["fingerprint"] == task.fingerprint
        except FileNotFoundError:
            return None
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            usable = False
        if not usable:
            log.warning("%s: cannot be used, this training runs again.", self.result_path(task))
        return result if usable else None


def _digest(result: Result) -> str:
    return hashlib.sha256(to_line(result)).hexdigest()


def train_and_score(task: Task, workshop: Workshop) -> None:
    """Train the model, score it on dev and test, and store the result.

    A model that an earlier run trained but did not come to score is taken as it is, and a training that was killed goes
    on from its checkpoint; what these took in all is not known then, and ``seconds`` is None.
    """
    model = workshop.model_path(task)
    begun = checkpoint_path(model).exists()
    started = time.monotonic()
    try:
        found = train_ner.main(cmd_args=False, **task.options, output_dir=str(model))
    except UnusableCheckpoint:  # damaged, or of another program or torch: no more than time lost
        begun = False
        started = time.monotonic()
        found = train_ner.main(cmd_args=False, **task.options, output_dir=str(model), restart=True)
    seconds = None if begun or found.up_to_date else round(time.monotonic() - started, 1)
    counts = read_manifest(train_ner.weights_path(model)).get("counts", {})
    result = {"fingerprint": task.fingerprint, "program": program_hash(), "seconds": seconds, "keeps_model": workshop.keep_models,
              "steps": counts.get("steps"), "sentences": counts.get("sentences"), **_score(task, model)}
    with replacing(workshop.result_path(task)) as file:
        file.write(to_line({**result, "sha256": _digest(result)}))
    workshop.log_path(task).unlink(missing_ok=True)
    if not workshop.keep_models:
        workshop.remove_model(task)


def _score(task: Task, model: Path) -> dict[str, list[list[int]]]:
    """By split: (correct, predicted, support) of every sentence."""
    from syn_pipelines.ner.bootstrap import sentence_counts
    from syn_pipelines.ner.prediction import NerPredictor, choose_device

    paths = RunPaths.of(task.training)
    targets = read_target_labels(paths.labels)
    predictor = NerPredictor.from_pretrained(model, device=choose_device(task.training.n_gpu))
    result = {}
    for split in SPLITS:
        rows = list(read_sentences(paths.split(split), targets=targets, again=True))
        gold = [[(e["start"], e["end"], e["entity"]) for e in row["entities"]] for row in rows]
        found = [[(s.start, s.end, s.label) for s in spans] for spans in predictor(row["text"] for row in rows)]
        result[split] = sentence_counts(gold, found, targets).tolist()
    return result


@cache
def program_hash() -> str:
    """sha256 over the source of model and training: two results of other programs need not be comparable."""
    package = Path(train_ner.__file__).parent
    digest = hashlib.sha256()
    for path in [Path(train_ner.__file__), *sorted((package / "ner").glob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


# --- many of them ----------------------------------------------------------------------------------------------------

def train_all(tasks: Sequence[Task], workshop: Workshop, jobs: int) -> Iterator[tuple[Task, str]]:
    """Run the trainings; gives each with "" as soon as its result is stored, or with what went wrong.

    Raises:
        UserError, OSError: as soon as a training raises one, for it would end most others too.
    """
    return _train_here(tasks, workshop) if jobs == 1 else _train_beside(tasks, workshop, jobs)


def _train_here(tasks: Sequence[Task], workshop: Workshop) -> Iterator[tuple[Task, str]]:
    for task in tasks:
        problem = ""
        try:
            with _quiet():
                train_and_score(task, workshop)
        except (UserError, OSError):  # a full disk, say, is nothing that the next training would mend
            raise
        except Exception as err:  # whatever a training dies of, the others may not
            problem = f"{type(err).__name__}: {' '.join(str(err).split())[:200]}"
            workshop.log_path(task).parent.mkdir(parents=True, exist_ok=True)
            workshop.log_path(task).write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
        yield task, problem


@contextmanager
def _quiet() -> Iterator[None]:
    """Of what the trainings tell only the worst: each has a line in the ablation's own log."""
    logger = logging.getLogger("syn_pipelines")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _train_beside(tasks: Sequence[Task], workshop: Workshop, jobs: int) -> Iterator[tuple[Task, str]]:
    """As processes, ``jobs`` of them at a time."""
    waiting, running = deque(tasks), list[tuple[Task, subprocess.Popen[bytes]]]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.popleft()
                running.append((task, _start(task, workshop)))
            ended = [job for job in running if job[1].poll() is not None]
            for task, process in ended:
                running.remove((task, process))
                _close(process)
                yield task, _outcome(task, workshop, process.returncode)
            if not ended:
                time.sleep(WAIT_S)
    finally:
        for _, process in running:
            process.terminate()
        for _, process in running:
            process.wait()
            _close(process)


def _start(task: Task, workshop: Workshop) -> subprocess.Popen[bytes]:
    """Start the process of one training. It ends when this process does, however that ends: its input is closed then."""
    path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    workshop.log_path(task).parent.mkdir(parents=True, exist_ok=True)
    with workshop.log_path(task).open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "syn_pipelines.tools._ablation_training"], env=environment,
                                   stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT)
    order = {**dataclasses.asdict(task), "folder": str(workshop.folder), "keep_models": workshop.keep_models}
    try:
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:  # it is dead already, which its exit code will say
        pass
    return process


def _close(process: subprocess.Popen[bytes]) -> None:
    with suppress(BrokenPipeError):  # it died before it read its order
        process.stdin.close()


def _outcome(task: Task, workshop: Workshop, code: int) -> str:
    """What went wrong, "" for nothing. Raises UserError where the training ended with one."""
    if code == 0:
        return ""
    try:
        lines = workshop.log_path(task).read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:].strip().split("\n")
    except OSError:
        lines = [""]
    if code == 2 and "error: " in "\n".join(lines):
        raise UserError("\n".join(lines).rpartition("error: ")[2])
    return f"exit code {code}: {lines[-1][:200]}" if code > 0 else f"killed by signal {-code}"


def main() -> None:
    """One training as a process of its own; what to do is the first line of standard input."""
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    train_and_score(Task(order["options"], order["data"]), Workshop(Path(order["folder"]), order["keep_models"]))


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1):  # not through the buffer, whose lock would be in the way when Python ends
        pass
    os._exit(1)


if __name__ == "__main__":
    run_script(main)
