"""Strict entity scores: a predicted span counts only when start, end and label all equal a gold entity's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from syn_pipelines.ner.data import Entity


@dataclass(frozen=True)
class Score:
    """Counts of one label or of all: ``correct`` of ``predicted`` spans are among ``support`` gold spans."""

    correct: int
    predicted: int
    support: int

    @property
    def precision(self) -> float:
        """Percent; 0 when nothing was predicted."""
        return 100.0 * self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Percent; 0 when there is no gold span."""
        return 100.0 * self.correct / self.support if self.support else 0.0

    @property
    def f1(self) -> float:
        """Percent; 0 when neither side has a span, as there is nothing to find."""
        total = self.predicted + self.support
        return 200.0 * self.correct / total if total else 0.0

    def to_dict(self) -> dict[str, float | int]:
        return {
            "precision": round(self.precision, 2),
            "recall": round(self.recall, 2),
            "f1": round(self.f1, 2),
            "support": self.support,
            "predicted": self.predicted,
            "correct": self.correct,
        }


@dataclass(frozen=True)
class Report:
    """Scores over a set of sentences: micro over all spans, and by label in the order given or first met."""

    micro: Score
    by_label: dict[str, Score]

    @property
    def macro_f1(self) -> float:
        """Percent; mean F1 of the labels that have gold or predicted spans, 0 without any."""
        seen = [score.f1 for score in self.by_label.values() if score.support or score.predicted]
        return sum(seen) / len(seen) if seen else 0.0

    def to_dict(self) -> dict:
        """``{"f1", "precision", "recall", "support", "predicted", "correct", "macro_f1", "by_label": {...}}``."""
        by_label = {label: score.to_dict() for label, score in self.by_label.items()}
        return {**self.micro.to_dict(), "macro_f1": round(self.macro_f1, 2), "by_label": by_label}


def evaluate(
    gold: Sequence[Iterable[Entity]], predicted: Sequence[Iterable[Entity]], labels: Sequence[str] = ()
) -> Report:
    """Compare predictions with gold, sentence by sentence.

    Args:
        gold, predicted: for each sentence its ``(start, end, label)`` triples; a repeated triple counts once.
        labels: labels to list first, in this order, also those that never occur; with ``()`` labels as they are met.
            When given, spans with any other label are left out on both sides (extension labels of fusion data).
    Raises:
        ValueError: the two sides differ in their number of sentences.
    """
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold sentences against {len(predicted)} predicted ones")
    wanted = set(labels)
    correct, found, support = Counter(), Counter(), Counter()
    for gold_spans, predicted_spans in zip(gold, predicted):
        right = {tuple(span) for span in gold_spans if not wanted or span[2] in wanted}
        given = {tuple(span) for span in predicted_spans if not wanted or span[2] in wanted}
        support.update(label for _, _, label in sorted(right))
        found.update(label for _, _, label in sorted(given))
        correct.update(label for _, _, label in right & given)
    names = dict.fromkeys([*labels, *support, *found])
    by_label = {name: Score(correct[name], found[name], support[name]) for name in names}
    return Report(Score(correct.total(), found.total(), support.total()), by_label)
