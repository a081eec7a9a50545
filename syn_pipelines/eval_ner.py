"""Score a trained NER model: strict, on entity level, by label, and on the sentences that the training set lacks.

A span counts when start, end and label all equal a gold entity's. The second score leaves out the sentences whose text
also stands in train_1000.jsonl, for social media repeat themselves.

reads   dev.jsonl or test.jsonl, labels.txt, train_1000.jsonl, a model folder of train_ner.py
writes  nothing; the scores go to standard output
run     python syn_pipelines/eval_ner.py --file_name=weibo --save_type_name=GLM4 --train=fusion --size=1000 --split=test
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syn_pipelines.train_ner import STEP as TRAIN_STEP
from syn_pipelines.train_ner import is_size
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.labels import read_target_labels
from syn_pipelines.utils.options import TextOptions, at_least, load_options, option
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.records import Record, read_sentences, read_train
from syn_pipelines.utils.summary import Account, Summary, run_script, step_log

if TYPE_CHECKING:
    from syn_pipelines.ner.metrics import Report

log = logging.getLogger(__name__)

STEP = "eval_ner"


@dataclass(frozen=True)
class Options(TextOptions):
    """Options of the evaluation."""

    model_from_pretrained: str = option("", "model folder; by default the one of --train and --size")
    train: str = option("fusion", "which model of the run", choices=("fusion", "gold", "syn_fusion"))
    size: int = option(1000, "which model of the run: 250, 500 or 1000", check=is_size)
    from_pretrained: str = option("", "base encoder: gives tokenizer and config where the model folder lacks them")
    split: str = option("test", "data to score on", choices=("dev", "test"))
    batch_size: int = option(16, "sentences a batch", check=at_least(1))
    n_gpu: str = option("0", "index of the GPU; without any GPU the CPU is used")
    json: bool = option(False, "print one JSON line, last of all")


@dataclass
class Evaluation(Summary):
    """Scores in percent. unseen: the same figures on the sentences whose text does not stand in train_1000.jsonl."""

    split: str = ""
    model: str = ""
    f1: float = 0.0
    precision: float = 0.0
    recall: float = 0.0
    by_label: dict[str, dict[str, float]] = field(default_factory=dict)
    unseen: dict[str, float] = field(default_factory=dict)
    table: str = ""

    def add(self, report: Report, unseen: Report, unseen_sentences: int) -> None:
        """Take over the scores."""
        scores = report.to_dict()
        self.f1, self.precision, self.recall = scores["f1"], scores["precision"], scores["recall"]
        self.by_label, self.table = scores["by_label"], report.table()
        short = {k: v for k, v in unseen.to_dict().items() if k in ("f1", "precision", "recall", "support")}
        self.unseen = {"sentences": unseen_sentences, **short}
        self.notes.append(f"{self.split} F1 {self.f1:.1f}; on the {unseen_sentences} sentences that are not in the "
                          f"training set {self.unseen['f1']:.1f}")

    def as_json(self) -> str:
        """What ``--json`` prints."""
        keys = ("f1", "precision", "recall", "by_label", "unseen", "split", "model", "warnings")
        return json.dumps({key: getattr(self, key) for key in keys}, ensure_ascii=False)


def run(opts: Options) -> Evaluation:
    """Predict and score.

    Raises:
        UserError: no such split or model, or data with labels that labels.txt lacks.
    """
    paths = RunPaths.of(opts)
    folder = Path(opts.model_from_pretrained or paths.ner(opts.train, opts.size))
    result = Evaluation(STEP, split=opts.split, model=str(folder))
    with _log(opts, paths, result):
        path = paths.split(opts.split)
        targets = read_target_labels(paths.labels)
        missing = f"Add it to the data set, or score on {'dev' if opts.split == 'test' else 'test'}."
        rows = list(read_sentences(path, targets=targets, missing=missing))
        predicted = _predict(opts, paths, folder, rows, targets, result)
        seen = {tuple(row["text"]) for row in read_train(paths, again=True)} if paths.train.is_file() else set()
        new = [k for k, row in enumerate(rows) if tuple(row["text"]) not in seen]
        result.accounts.append(Account(f"{opts.split} sentences", len(rows), {
            "not in the training set": len(new), "also in it": len(rows) - len(new)}))
        result.add(_score(rows, predicted, targets), _score([rows[k] for k in new], [predicted[k] for k in new], targets),
                   len(new))
    return result


@contextmanager
def _log(opts: Options, paths: RunPaths, result: Evaluation) -> Iterator[None]:
    """Log like every step where there is a run; a model from elsewhere must not bring a run folder into being."""
    if not paths.run.is_dir():
        started = time.time()
        yield
        result.seconds = time.time() - started
        log.info("%s", result)
        return
    with step_log(opts, paths) as summary:
        yield
        for name in ("accounts", "warnings", "notes"):
            setattr(summary, name, getattr(result, name))
    result.seconds = summary.seconds


def _predict(opts: Options, paths: RunPaths, folder: Path, rows: Sequence[Record], targets: Sequence[str],
             result: Evaluation) -> list[list[tuple[int, int, str]]]:
    if not opts.model_from_pretrained and not folder.is_dir():
        raise UserError(f"{folder}: there is no such model. "
                        f"{paths.missing(TRAIN_STEP, train=opts.train, size=opts.size)}")
    from syn_pipelines.ner.prediction import NerPredictor, choose_device

    base = opts.from_pretrained if opts.from_pretrained != "scratch" else None
    predictor = NerPredictor.from_pretrained(folder, base=base or None, device=choose_device(opts.n_gpu))
    known = predictor.model.labels.targets
    if set(known) != set(targets):
        result.warn(f"{folder}: the model predicts {', '.join(known)}, {paths.labels} names {', '.join(targets)}; "
                    "what only one of them has counts as an error.")
    found = predictor((row["text"] for row in rows), opts.batch_size)
    return [[(span.start, span.end, span.label) for span in spans] for spans in found]


def _score(rows: Sequence[Record], predicted: Sequence[Sequence[tuple[int, int, str]]], targets: Sequence[str]) -> Report:
    from syn_pipelines.ner.metrics import evaluate

    gold = [[(e["start"], e["end"], e["entity"]) for e in row["entities"]] for row in rows]
    others = sorted({label for spans in predicted for _, _, label in spans} - set(targets))
    return evaluate(gold, predicted, [*targets, *others])


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Evaluation:
    """Score from the command line, which prints a table or JSON, or with keywords only (``cmd_args=False``)."""
    opts = load_options(Options, cmd_args, overrides)
    result = run(opts)
    if cmd_args is not False:
        print(result.as_json() if opts.json else result.table, flush=True)
    return result


if __name__ == "__main__":
    run_script(main)
