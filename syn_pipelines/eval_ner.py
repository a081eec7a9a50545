"""Score a trained NER model, or compare two: strict, on entity level, every figure with a 95 % bootstrap interval.

A span counts when start, end and label all equal a gold entity's. The figures are given over all spans (micro), as mean of
the labels (macro), by label, by length, for mentions that train_1000.jsonl has with the same label and for those it lacks,
and on the sentences whose text does not stand in train_1000.jsonl, for social media repeat themselves.

--compare A B takes for A and for B a model of this run (gold, fusion, syn_fusion; of --size), a model folder, or a file of
--save_predictions; or several of these with commas between them, the same training with several seeds, of which the mean
is compared. An interval of "B - A" without zero is a difference that the choice of the test sentences does not explain; of
many labels, one in twenty looks like that by chance.

reads   dev.jsonl or test.jsonl, labels.txt, train_1000.jsonl, a model folder of train_ner.py
writes  nothing but the file of --save_predictions: {"id", "text", "entities", "predicted"}; the scores go to standard output
run     python syn_pipelines/eval_ner.py --file_name=weibo --save_type_name=GLM4 --train=fusion --size=1000 --split=test
        python syn_pipelines/eval_ner.py --file_name=weibo --save_type_name=GLM4 --size=1000 --compare gold fusion
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syn_pipelines.ner.predictions import read_predictions, refuse_foreign, save_predictions, spans_of
from syn_pipelines.train_ner import STEP as TRAIN_STEP
from syn_pipelines.train_ner import is_size
from syn_pipelines.utils.display import folded, summary_html, table
from syn_pipelines.utils.dry_run import show
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.labels import read_target_labels
from syn_pipelines.utils.options import TextOptions, at_least, between, load_options, option
from syn_pipelines.utils.packing import plain_path
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.records import Record, read_sentences, read_train
from syn_pipelines.utils.summary import Account, Summary, run_script, step_log

if TYPE_CHECKING:
    from syn_pipelines.ner.breakdown import Groups, Known, Line, Name, Versus
    from syn_pipelines.ner.data import Entity

log = logging.getLogger(__name__)

STEP = "eval_ner"
MODELS = ("fusion", "gold", "syn_fusion")  # of a run


@dataclass(frozen=True)
class Options(TextOptions):
    """Options of the evaluation."""

    model_from_pretrained: str = option("", "model folder; by default the one of --train and --size")
    train: str = option("fusion", "which model of the run", choices=MODELS)
    size: int = option(1000, "which model of the run: 250, 500 or 1000", check=is_size)
    from_pretrained: str = option("", "base encoder: gives tokenizer and config where the model folder lacks them")
    label_file: str = option("", "label file of a checkpoint of the reference implementation, where its folder holds none")
    split: str = option("test", "data to score on", choices=("dev", "test"))
    compare: tuple[str, ...] = option((), "two models instead of one: what B gains over A", values=("A", "B"))
    resamples: int = option(2000, "draws of the sentences behind every interval", check=between(100, 1_000_000))
    save_predictions: str = option("", "file for the predicted entities, which --compare takes in place of the model")
    batch_size: int = option(16, "sentences a batch", check=at_least(1))
    n_gpu: str = option("0", "index of the GPU; without any GPU the CPU is used")
    json: bool = option(False, "print one JSON line, last of all")


@dataclass
class Evaluation(Summary):
    """Scores of one model in percent. unseen: on the sentences whose text does not stand in train_1000.jsonl; {} where there
    is no such file. scores: all of them, as ``--json`` prints them. table: the same for people."""

    split: str = ""
    model: str = ""
    f1: float = 0.0
    precision: float = 0.0
    recall: float = 0.0
    by_label: dict[str, dict[str, Any]] = field(default_factory=dict)
    unseen: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    table: str = ""

    def as_json(self) -> str:
        """What ``--json`` prints."""
        return json.dumps({**self.scores, "split": self.split, "model": self.model, "warnings": self.warnings},
                          ensure_ascii=False)

    def _repr_html_(self) -> str:
        def row(name: str, group: dict[str, Any]) -> list[str]:
            figures = [_with_interval(group, figure) for figure in ("precision", "recall", "f1")]
            return [name, *(figures if group.get("support") or group.get("predicted") or "support" not in group else "---"),
                    *(f"{group[count]:,}" if count in group else "" for count in ("support", "predicted"))]

        head = ["", "precision", "recall", "F1", "gold", "found"]
        return summary_html(self, *_tables(self, f"Strict scores on {self.split}, {self.model}", head, row))


@dataclass
class Comparison(Summary):
    """What the models ``b`` gain over the models ``a``: see ``Evaluation``."""

    split: str = ""
    a: list[str] = field(default_factory=list)
    b: list[str] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    table: str = ""

    def as_json(self) -> str:
        """What ``--json`` prints."""
        return json.dumps({"models": {"a": self.a, "b": self.b}, **self.scores, "split": self.split,
                           "warnings": self.warnings}, ensure_ascii=False)

    def _repr_html_(self) -> str:
        def row(name: str, group: dict[str, Any]) -> list[str]:
            gain = group["difference"]
            change = f"{gain['mean']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]"
            return [name, *(_with_interval(group[side], "f1") for side in "ab"), change, f"{group['support']:,}"]

        title = f"Strict F1 on {self.split}; A: {', '.join(self.a)}; B: {', '.join(self.b)}"
        return summary_html(self, *_tables(self, title, ["", "F1 of A", "F1 of B", "B - A", "gold"], row))


def _tables(result: Evaluation | Comparison, title: str, head: Sequence[str],
            row: Callable[[str, dict[str, Any]], Sequence[str]]) -> list[str]:
    """The scores for a notebook: those of all spans and of the labels openly, the others folded."""
    scores = result.scores
    if not scores:
        return []
    rows = [row("all (micro)", scores)] + ([row("all (macro)", scores["macro"])] if "macro" in scores else [])
    rows += [row(label, group) for label, group in scores["by_label"].items()]
    more = [row(f"{length} token{'' if length == '1' else 's'}", group) for length, group in scores["by_length"].items()]
    more += [row(f"mentions {which} in training", group) for which, group in scores["by_mention"].items()]
    more += [row("sentences not in training", scores["unseen"])] if scores["unseen"] else []
    return [table(head, rows, caption=f"{title}; in percent with 95 % intervals", figures=True),
            folded("by length, and by what the training set holds", table(head, more, figures=True))]


def _with_interval(group: dict[str, Any], name: str) -> str:
    """``51.2 [47.0, 55.1]``"""
    low, high = group[f"{name}_interval"]
    return f"{group[name]:.1f} [{low:.1f}, {high:.1f}]"


@dataclass(frozen=True)
class Data:
    """What is scored on. known: the training set, None where there is none."""

    path: Path
    rows: list[Record]
    targets: list[str]
    known: Known | None

    @classmethod
    def read(cls, opts: Options, paths: RunPaths) -> Data:
        """Raises UserError: no such split, an empty one, or labels that labels.txt lacks."""
        from syn_pipelines.ner.breakdown import Known

        path, targets = paths.split(opts.split), read_target_labels(paths.labels)
        missing = f"Add it to the data set, or score on {'dev' if opts.split == 'test' else 'test'}."
        rows = list(read_sentences(path, targets=targets, missing=missing))
        train = read_train(paths, again=True) if paths.train.is_file() else None
        known = None if train is None else Known.of((row["text"], spans_of(row["entities"])) for row in train)
        return cls(path, rows, list(targets), known)

    @property
    def gold(self) -> list[list[Entity]]:
        return [spans_of(row["entities"]) for row in self.rows]

    def groups(self, *predictions: Sequence[Sequence[Entity]]) -> Groups:
        """The divisions of the spans; labels that only a model has come after those of labels.txt."""
        from syn_pipelines.ner.breakdown import Groups

        found = {label for predicted in predictions for spans in predicted for _, _, label in spans}
        labels = (*self.targets, *sorted(found - set(self.targets)))
        return Groups([row["text"] for row in self.rows], labels, self.known)


def run(opts: Options) -> Evaluation | Comparison:
    """Predict and score.

    Raises:
        UserError: no such split or model, data with labels that labels.txt lacks, or predictions of other sentences.
    """
    paths = RunPaths.of(opts)
    if opts.compare:
        for name in ("model_from_pretrained", "save_predictions"):
            if getattr(opts, name):
                raise UserError(f"--{name} speaks of one model and --compare names two. Leave one of the flags out.")
        return _compare(opts, paths)
    return _evaluate(opts, paths)


# --------------------------------------------------------------------------------------------------------------------
# One model


def _evaluate(opts: Options, paths: RunPaths) -> Evaluation:
    folder = Path(opts.model_from_pretrained or paths.ner(opts.train, opts.size))
    saved = Path(opts.save_predictions) if opts.save_predictions else None
    result = Evaluation(STEP, split=opts.split, model=str(folder))
    with _log(opts, paths, result):
        data = Data.read(opts, paths)
        if saved:
            refuse_foreign(saved)
        if not opts.model_from_pretrained and not folder.is_dir():
            raise _no_model(opts, paths, opts.train)
        predicted = _predict(opts, paths, data, folder, result)
        if saved:
            result.outputs[str(saved)] = save_predictions(saved, data.rows, predicted)
        groups = data.groups(predicted)
        _account(data, groups, result)
        _take(opts, result, groups, groups.counts(data.gold, predicted))
    return result


def _take(opts: Options, result: Evaluation, groups: Groups, counts: Any) -> None:
    """Work out the scores and put them into the result."""
    from syn_pipelines.ner.breakdown import LABEL, LENGTH, MACRO, MENTION, MICRO, NEW, break_down, lines_table

    lines = break_down(groups, counts, resamples=opts.resamples, seed=opts.seed)
    micro = lines[MICRO, ""].to_dict()
    new = sum(groups.is_new())
    result.f1, result.precision, result.recall = micro["f1"], micro["precision"], micro["recall"]
    result.by_label = _section(lines, LABEL)
    result.unseen = {"sentences": new, **lines[NEW, ""].to_dict()} if (NEW, "") in lines else {}
    result.scores = {
        **micro, "macro": lines[MACRO, ""].to_dict(), "by_label": result.by_label, "by_length": _section(lines, LENGTH),
        "by_mention": _section(lines, MENTION), "unseen": result.unseen, "sentences": len(groups.texts),
        "resamples": opts.resamples}
    result.table = "\n".join([_title(opts, groups), "", lines_table(lines)])
    note = f"{opts.split} F1 {lines[MICRO, ''].f1}"
    if result.unseen and new:
        note += f"; on the {new:,} sentences that are not in the training set {lines[NEW, ''].f1}"
    result.notes.append(note)


def _section(lines: dict[Name, Line] | dict[Name, Versus], section: str) -> dict[str, dict[str, Any]]:
    return {group: line.to_dict() for (of, group), line in lines.items() if of == section}


def _title(opts: Options, groups: Groups) -> str:
    return (f"{opts.file_name} {opts.split}, {len(groups.texts):,} sentences: strict scores in percent with 95 % intervals\n"
            f"({opts.resamples:,} resamples of the sentences, seed {opts.seed})")


def _account(data: Data, groups: Groups, result: Evaluation | Comparison) -> None:
    new = sum(groups.is_new())
    result.accounts.append(Account(f"{plain_path(data.path).stem} sentences", len(data.rows), {
        "not in the training set": new, "also in it": len(data.rows) - new}))
    if not any(data.gold):
        result.warn(f"{data.path}: holds no entity, so no score means anything. Score on a split with gold entities.")


@contextmanager
def _log(opts: Options, paths: RunPaths, result: Evaluation | Comparison) -> Iterator[None]:
    """Log like every step where there is a run; a model from elsewhere must not bring a run folder into being."""
    if not paths.run.is_dir():
        started = time.monotonic()
        yield
        result.seconds = time.monotonic() - started
        log.info("%s", result)
        return
    with step_log(opts, paths) as summary:
        yield
        for name in ("accounts", "warnings", "notes", "outputs"):
            setattr(summary, name, getattr(result, name))
    result.seconds = summary.seconds


# --------------------------------------------------------------------------------------------------------------------
# Predictions


def _no_model(opts: Options, paths: RunPaths, train: str) -> UserError:
    return UserError(f"{paths.ner(train, opts.size)}: there is no such model. "
                     f"{paths.missing(TRAIN_STEP, train=train, size=opts.size)}")


def _predict(opts: Options, paths: RunPaths, data: Data, folder: Path, result: Evaluation | Comparison,
             like: dict[str, Sequence[str]] | None = None) -> list[list[Entity]]:
    """What a model finds. ``like``: targets of the models before it, by name; the others must have the same."""
    from syn_pipelines.ner.prediction import NerPredictor, choose_device

    base = opts.from_pretrained if opts.from_pretrained != "scratch" else None
    predictor = NerPredictor.from_pretrained(folder, base=base or None, device=choose_device(opts.n_gpu),
                                             label_file=opts.label_file or None)
    known = predictor.labels
    if like is not None:
        for other, labels in like.items():
            if set(labels) != set(known):
                raise UserError(f"--compare: {other} predicts {', '.join(labels)}, {folder} predicts {', '.join(known)}. "
                                "Compare models of the same target labels.")
        like[str(folder)] = known
    if set(known) != set(data.targets):
        result.warn(f"{folder}: the model predicts {', '.join(known)}, {paths.labels} names {', '.join(data.targets)}; "
                    "what only one of them has counts as an error.")
    found = predictor((row["text"] for row in data.rows), opts.batch_size)
    return [[(span.start, span.end, span.label) for span in spans] for spans in found]


# --------------------------------------------------------------------------------------------------------------------
# Two models


def _compare(opts: Options, paths: RunPaths) -> Comparison:
    result = Comparison(STEP, split=opts.split)
    with _log(opts, paths, result):
        sides = _sides(opts, paths)
        result.a, result.b = ([str(path) for path in side] for side in sides)
        data = Data.read(opts, paths)
        targets: dict[str, Sequence[str]] = {}
        found = [[_found(opts, paths, data, path, result, targets) for path in side] for side in sides]
        groups = data.groups(*found[0], *found[1])
        _account(data, groups, result)
        _weigh(opts, result, groups, data.gold, found)
    return result


def _sides(opts: Options, paths: RunPaths) -> list[list[Path]]:
    """Folders and files of A and of B; UserError names all that do not exist."""
    sides: list[list[Path]] = []
    problems = []
    for side in opts.compare:
        sides.append([])
        for name in (part.strip() for part in side.split(",")):
            path = paths.ner(name, opts.size) if name in MODELS else Path(name)
            if name in MODELS and not path.is_dir():
                problems.append(str(_no_model(opts, paths, name)))
            elif not name or not path.exists():
                problems.append(f"--compare: {name!r} is no model of a run ({', '.join(MODELS)}), and there is no such model "
                                "folder or file of predictions. Check the name.")
            sides[-1].append(path)
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return sides


def _found(opts: Options, paths: RunPaths, data: Data, path: Path, result: Comparison,
           targets: dict[str, Sequence[str]]) -> list[list[Entity]]:
    if path.is_dir():
        return _predict(opts, paths, data, path, result, targets)
    predicted = read_predictions(path, data.rows, data.path, "Make it with: " + paths.command(
        STEP, split=opts.split, model_from_pretrained="MODEL_FOLDER", save_predictions="FILE.jsonl"))
    other = sorted({label for spans in predicted for _, _, label in spans} - set(data.targets))
    if other:
        result.warn(f"{path}: holds predictions of {', '.join(other)}, which {paths.labels} lacks; they count as errors.")
    return predicted


def _weigh(opts: Options, result: Comparison, groups: Groups, gold: list[list[Entity]],
           found: list[list[list[list[Entity]]]]) -> None:
    """Work out the differences and put them into the result."""
    import numpy as np

    from syn_pipelines.ner.breakdown import LABEL, LENGTH, MENTION, MICRO, NEW, compare, versus_table

    a, b = (np.stack([groups.counts(gold, predicted) for predicted in side]) for side in found)
    lines = compare(groups, a, b, resamples=opts.resamples, seed=opts.seed)
    unseen = {"sentences": sum(groups.is_new()), **lines[NEW, ""].to_dict()} if (NEW, "") in lines else {}
    result.scores = {
        **lines[MICRO, ""].to_dict(), "by_label": _section(lines, LABEL), "by_length": _section(lines, LENGTH),
        "by_mention": _section(lines, MENTION), "unseen": unseen, "sentences": len(groups.texts),
        "resamples": opts.resamples}
    names = [f"{side}: {', '.join(models)}" for side, models in (("A", result.a), ("B", result.b))]
    result.table = "\n".join([_title(opts, groups), *names, "", versus_table(lines, opts.resamples), "",
                              "p: share of the resamples in which B is not better than A"])
    difference = lines[MICRO, ""].difference
    result.notes.append(f"{opts.split} F1 of B minus A {difference}, p {difference.p:.4f}")


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Evaluation | Comparison:
    """Score from the command line, which prints a table or JSON, or with keywords only (``cmd_args=False``)."""
    opts = load_options(Options, cmd_args, overrides)
    result = run(opts)
    if cmd_args is not False:
        show(result.as_json() if opts.json else result.table)
    return result


if __name__ == "__main__":
    run_script(main)
