"""What the ablation found: rows and summary as JSON values, the Markdown tables, and the plot."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from syn_pipelines.tools._ablation_training import Result, Task
from syn_pipelines.utils.summary import duration

if TYPE_CHECKING:
    import numpy as np

    from syn_pipelines.ner.bootstrap import Difference

RESAMPLES, RESAMPLING_SEED = 2000, 0
BASE = "gold"
# Okabe and Ito's colours without the yellow, which is too pale for a line; markers and dashes differ as well.
STYLES = (("#000000", "o", "-"), ("#0072B2", "s", "--"), ("#D55E00", "^", "-."), ("#009E73", "D", ":"))
DPI = 150


@dataclass(frozen=True)
class Question:
    """What was asked. base: training set and size of which labels are left out, None without --drop_labels.

    labels: those left out, with their number of spans there and their loss weight. marks: by (set, size), what makes a
    figure doubtful. new: numbers of the test sentences that do not stand in the training set; sentences: of all.
    """

    trains: Sequence[str]
    sizes: Sequence[int]
    seeds: Sequence[int]
    new: Sequence[int]
    sentences: int
    base: tuple[str, int] | None = None
    labels: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    marks: Mapping[tuple[str, int], str] = field(default_factory=dict)


class Scores:
    """The counts of all finished trainings."""

    def __init__(self, question: Question, results: Mapping[Task, Result]) -> None:
        self.question, self.results = question, results

    def counts(self, train: str, size: int, dropped: str = "", *, split: str = "new") -> np.ndarray:
        """(R, S, 3) of the trainings of one kind, by seed. split: "dev", "test", or "new" test sentences."""
        import numpy as np

        found = [(task.seed, _counts(result, self.question, split)) for task, result in self.results.items()
                 if task.kind == (train, size) and task.dropped == dropped]
        size_of_one = (0, len(self.question.new) if split == "new" else 0, 3)
        return np.stack([c for _, c in sorted(found, key=lambda row: row[0])]) if found else np.zeros(size_of_one, int)


def _counts(result: Result, question: Question, split: str) -> np.ndarray:
    import numpy as np

    counts = np.asarray(result["dev" if split == "dev" else "test"], dtype=np.int64).reshape(-1, 3)
    return counts[list(question.new)] if split == "new" else counts


def row_of(task: Task, result: Result, question: Question) -> dict[str, Any]:
    """One training as JSON values; ``test_f1`` and its like are those of the new test sentences."""
    from syn_pipelines.ner.bootstrap import rates

    train, size = task.kind
    row = {"train": train, "size": size, "seed": task.seed, "dropped": task.dropped,
           "sentences": result["sentences"], "steps": result["steps"], "seconds": result["seconds"]}
    for split, name in (("dev", "dev"), ("new", "test"), ("test", "test_all")):
        precision, recall, f1 = (round(float(x), 2) for x in rates(_counts(result, question, split).sum(0)))
        row |= {f"{name}_f1": f1} if split == "dev" else {
            f"{name}_f1": f1, f"{name}_precision": precision, f"{name}_recall": recall}
    return row | {"note": question.marks.get(task.kind, "")}


def report(question: Question, results: Mapping[Task, Result]) -> dict[str, Any]:
    """``rows``, ``summary`` (a cell for each set and size) and ``drop_labels``, as JSON values."""
    scores = Scores(question, results)
    rows = [row_of(task, result, question) for task, result in results.items()]
    cells = [cell for size in question.sizes for train in question.trains if (cell := _cell(scores, rows, train, size))]
    return {"rows": rows, "summary": cells, "drop_labels": _drops(scores)}


def _cell(scores: Scores, rows: Sequence[Mapping[str, Any]], train: str, size: int) -> dict[str, Any] | None:
    """One set at one size over its seeds; None as long as no training of it is done."""
    mine = [row for row in rows if (row["train"], row["size"], row["dropped"]) == (train, size, "")]
    if not mine:
        return None
    cell = {"train": train, "size": size, "seeds": sorted(row["seed"] for row in mine), "sentences": mine[0]["sentences"]}
    for name in ("dev_f1", "test_f1", "test_all_f1"):
        cell[name] = _spread([row[name] for row in mine])
    for name, split in (("gain", "new"), ("gain_all", "test"), ("gain_dev", "dev")):
        gain = _difference(scores, (BASE, size, ""), (train, size, ""), split) if train != BASE else None
        cell[name] = gain.to_dict() if gain else None
    return cell | {"note": scores.question.marks.get((train, size), "")}


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and sample standard deviation; None for that of one value."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1) if len(values) > 1 else None
    return {"mean": round(mean, 2), "sd": None if variance is None else round(variance ** 0.5, 2)}


def _difference(scores: Scores, a: tuple[str, int, str], b: tuple[str, int, str], split: str) -> Difference | None:
    """F1 of ``b`` minus that of ``a``, each (set, size, label left out); None as long as one of them is missing."""
    from syn_pipelines.ner.bootstrap import paired_difference

    first, second = (scores.counts(*key, split=split) for key in (a, b))
    if not len(first) or not len(second):
        return None
    return paired_difference(first, second, resamples=RESAMPLES, seed=RESAMPLING_SEED)


def _drops(scores: Scores) -> dict[str, Any] | None:
    """What leaving out each label changes, those that pay most first; None without ``--drop_labels``."""
    question = scores.question
    if question.base is None:
        return None
    train, size = question.base
    labels = []
    for label, (count, weight) in question.labels.items():
        changes = {name: _difference(scores, (train, size, ""), (train, size, label), split)
                   for name, split in (("test", "new"), ("test_all", "test"), ("dev", "dev"))}
        if all(changes.values()):
            labels.append({"label": label, "spans": count, "weight": round(weight, 5),
                           "trainings": len(scores.counts(train, size, label)),
                           **{name: change.to_dict() for name, change in changes.items()}})
    labels.sort(key=lambda row: (row["test"]["mean"], row["label"]))
    return {"train": train, "size": size, "labels": labels}


# --- Markdown --------------------------------------------------------------------------------------------------------

def markdown(content: Mapping[str, Any], command: str) -> str:
    """The tables of ``ablation.json``'s content. command: what made them."""
    test, seeds = content["test"], content["seeds"]
    lines = [
        f"Strict F1 in percent, mean ± sample standard deviation over {len(seeds)} "
        f"{'seed' if len(seeds) == 1 else 'seeds'} ({', '.join(map(str, seeds))}). Dev chose the weights that were kept.",
    ]
    if BASE in content["train"] and len(content["train"]) > 1:
        lines[0] += (f" In brackets the gain over {BASE} and its 95 % interval: paired bootstrap over the test sentences, "
                     f"{RESAMPLES:,} draws, the same for all.")
    lines += ["", f"Test sentences that do not stand in the training set ({test['new']:,} of {test['sentences']:,}):", "",
              *_table(content, "test_f1", "gain")]
    if test["new"] < test["sentences"]:
        lines += ["", f"All {test['sentences']:,} test sentences:", "", *_table(content, "test_all_f1", "gain_all")]
    lines += ["", "Dev:", "", *_table(content, "dev_f1", "gain_dev")]
    notes = dict.fromkeys(cell["note"] for cell in content["summary"] if cell["note"])
    lines += ["", *(f"\\* {_plain(note)}" for note in notes)] if notes else []
    lines += ["", *_drop_table(content["drop_labels"])] if content["drop_labels"] else []
    lines += ["", _times(content["rows"])]
    if content["missing"]:
        lines += ["", f"**Not complete: {content['missing']} trainings are missing.**"]
    return "\n".join([*lines, "", "Made with:", "", "```bash", command, "```", ""])


def _table(content: Mapping[str, Any], name: str, gain: str) -> list[str]:
    cells = {(cell["train"], cell["size"]): cell for cell in content["summary"]}
    lines = [f"| size | {' | '.join(content['train'])} |", f"| ---: |{' ---: |' * len(content['train'])}"]
    for size in content["sizes"]:
        shown = [_shown(cells.get((train, size)), name, gain) for train in content["train"]]
        lines.append(f"| {size} | {' | '.join(shown)} |")
    return lines


def _shown(cell: Mapping[str, Any] | None, name: str, gain: str) -> str:
    """``43.0 ± 0.9 (+1.8 [+0.2, +3.4])``"""
    if cell is None:
        return "-"
    value = cell[name]
    text = f"{value['mean']:.1f}" + ("" if value["sd"] is None else f" ± {value['sd']:.1f}")
    return text + (f" ({_change(cell[gain])})" if cell[gain] else "") + (" \\*" if cell["note"] else "")


def _change(difference: Mapping[str, float]) -> str:
    return f"{difference['mean']:+.1f} [{difference['low']:+.1f}, {difference['high']:+.1f}]"


def _drop_table(drops: Mapping[str, Any]) -> list[str]:
    lines = [
        f"What leaving out one extension label of {drops['train']} {drops['size']} changes (F1 without it minus F1 with it, "
        "mean over the seeds, and 95 % interval): a label at the top pays, one at the bottom costs. Of many labels some "
        "intervals leave out zero by chance.", "",
        "| label | spans | loss weight | test F1 | dev F1 |", "| --- | ---: | ---: | ---: | ---: |",
    ]
    return lines + [f"| {_plain(row['label'])} | {row['spans']:,} | {row['weight']:.4f} | {_change(row['test'])} | "
                    f"{_change(row['dev'])} |" for row in drops["labels"]]


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, also in a table."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$])", r"\\\1", text)


def _times(rows: Iterable[Mapping[str, Any]]) -> str:
    known = [row["seconds"] for row in rows if row["seconds"] is not None]
    if not known:
        return "How long the trainings took is not known."
    return (f"{len(known)} trainings that were timed took {duration(sum(known))} together, the longest of them "
            f"{duration(max(known))}.")


# --- plot ------------------------------------------------------------------------------------------------------------

def plot(content: Mapping[str, Any]) -> dict[str, bytes]:
    """F1 on the new test sentences against size, a line for each training set: {"png": ..., "svg": ...}.

    The same content gives the same bytes with the same matplotlib.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "ablation"}):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        for number, train in enumerate(content["train"]):
            _line(axes, [cell for cell in content["summary"] if cell["train"] == train], train,
                  STYLES[number % len(STYLES)], shift=8 * (number - (len(content["train"]) - 1) / 2))
        axes.set_xticks(content["sizes"], [f"{size:,}" for size in content["sizes"]])
        axes.set_xlabel("size of the training set (sentences before augmentation)")
        axes.set_ylabel("F1 on new test sentences (%, strict)")
        axes.grid(axis="y", color="#DDDDDD")
        axes.set_axisbelow(True)
        axes.legend(title="trained on", frameon=False)
        files = {}
        for kind in ("png", "svg"):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)
            files[kind] = buffer.getvalue()
    return files


def _line(axes: Any, cells: Sequence[Mapping[str, Any]], train: str, style: tuple[str, str, str], *, shift: float) -> None:
    """shift: to the right, so that error bars at the same size stand side by side."""
    colour, marker, dashes = style
    deviations = [cell["test_f1"]["sd"] or 0.0 for cell in cells]
    axes.errorbar([cell["size"] + shift for cell in cells], [cell["test_f1"]["mean"] for cell in cells],
                  yerr=deviations if any(deviations) else None, label=train, color=colour, marker=marker, linestyle=dashes,
                  capsize=3, linewidth=1.6, markersize=6)
