"""Strict scores in detail: by label, by length, by what the training set holds, each figure with its interval; and the
same for the difference of two models."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from syn_pipelines.ner.bootstrap import (
    Difference,
    bounds,
    grouped_counts,
    macro_rates,
    paired_differences,
    rates,
    resampled_sums,
    sentence_counts,
)
from syn_pipelines.ner.data import Entity
from syn_pipelines.ner.metrics import Score
from syn_pipelines.utils.summary import columns, table

if TYPE_CHECKING:
    import numpy as np

LENGTHS = ("1", "2", "3", "4", "5-6", "7+")  # in tokens
SEEN, UNSEEN = "seen", "unseen"
WIDEST = 100  # columns of a printed table

# Sections of a report, in its order. MICRO, MACRO and NEW have one group, without a name.
MICRO, MACRO, LABEL, LENGTH, MENTION, NEW = "micro", "macro", "label", "length", "mention", "new"
SHOWN = {(MICRO, ""): "all (micro)", (MACRO, ""): "all (macro)", (MENTION, SEEN): "seen in training",
         (MENTION, UNSEEN): "not in training", (NEW, ""): "not in training"}
HEADINGS = {LABEL: "by label", LENGTH: "by length in tokens", MENTION: "by mention (same words and label)",
            NEW: "by sentence"}

Name = tuple[str, str]  # section, group


def length_group(tokens: int) -> str:
    """The one of ``LENGTHS`` that an entity of so many tokens belongs to."""
    return str(tokens) if tokens <= 4 else "5-6" if tokens <= 6 else "7+"


@dataclass(frozen=True)
class Known:
    """What a training set holds: its sentences, and its mentions (tokens of an entity, label)."""

    sentences: Collection[tuple[str, ...]]
    mentions: Collection[tuple[tuple[str, ...], str]]

    @classmethod
    def of(cls, sentences: Iterable[tuple[Sequence[str], Iterable[Entity]]]) -> Known:
        """From pairs (tokens, entities)."""
        texts, mentions = set(), set()
        for tokens, entities in sentences:
            texts.add(tuple(tokens))
            mentions.update((tuple(tokens[start:end]), label) for start, end, label in entities)
        return cls(texts, mentions)


@dataclass(frozen=True)
class Groups:
    """The ways to divide the spans of a set of sentences: all, by label, by length, by mention, in new sentences.

    A mention is seen when the same tokens with the same label are an entity of the training set. Gold and predicted spans
    are asked alike, so a wrong prediction counts against the group it looks like. A sentence is new when its tokens are not
    those of a training sentence. Without ``known`` these two divisions are left out.

    texts: tokens of each sentence. labels: spans with any other label are left out on both sides.
    """

    texts: Sequence[Sequence[str]]
    labels: Sequence[str]
    known: Known | None = None

    @property
    def names(self) -> list[Name]:
        """(section, group), in the order of the counts."""
        names = [(MICRO, ""), *((LABEL, label) for label in self.labels), *((LENGTH, length) for length in LENGTHS)]
        return names if self.known is None else [*names, (MENTION, SEEN), (MENTION, UNSEEN), (NEW, "")]

    def is_new(self) -> list[bool]:
        """For each sentence whether it is new; all are without ``known``."""
        known = self.known.sentences if self.known else ()
        return [tuple(tokens) not in known for tokens in self.texts]

    def counts(self, gold: Sequence[Iterable[Entity]], predicted: Sequence[Iterable[Entity]]) -> np.ndarray:
        """Spans of each group and sentence, (G, S, 3): correct, predicted, support.

        Raises:
            ValueError: the two sides differ in their number of sentences.
        """
        import numpy as np

        wanted = set(self.labels)
        gold, predicted = ([[span for span in spans if span[2] in wanted] for spans in side] for side in (gold, predicted))
        micro = sentence_counts(gold, predicted, ())[None]
        parts = [micro, grouped_counts(gold, predicted, self.labels, lambda k, span: span[2]),
                 grouped_counts(gold, predicted, LENGTHS, lambda k, span: length_group(span[1] - span[0]))]
        if self.known is not None:
            parts += [grouped_counts(gold, predicted, (SEEN, UNSEEN), self._mention),
                      micro * np.array(self.is_new(), dtype=np.int64)[:, None]]
        return np.concatenate(parts)

    def _mention(self, sentence: int, span: Entity) -> str:
        start, end, label = span
        return SEEN if (tuple(self.texts[sentence][start:end]), label) in self.known.mentions else UNSEEN


# --------------------------------------------------------------------------------------------------------------------
# One model


@dataclass(frozen=True)
class Estimate:
    """A figure in percent and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """``51.2 [47.0, 55.1]``"""
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"

    def to_dict(self, name: str) -> dict[str, Any]:
        return {name: round(self.value, 2), f"{name}_interval": [round(self.low, 2), round(self.high, 2)]}


@dataclass(frozen=True)
class Line:
    """Figures of one group of spans; the macro line, a mean over labels, has no counts."""

    precision: Estimate
    recall: Estimate
    f1: Estimate
    counts: Score | None = None

    def to_dict(self) -> dict[str, Any]:
        """``{"precision", "precision_interval": [low, high], "recall", ..., "f1", ..., "support", "predicted", "correct"}``."""
        counts = self.counts
        found = {"support": counts.support, "predicted": counts.predicted, "correct": counts.correct} if counts else {}
        return {**self.precision.to_dict("precision"), **self.recall.to_dict("recall"), **self.f1.to_dict("f1"), **found}


def break_down(groups: Groups, counts: np.ndarray, *, resamples: int, seed: int) -> dict[Name, Line]:
    """The figures of every group, micro and macro first.

    counts: (G, S, 3), of ``Groups.counts``. The macro figures are means over the labels that have gold or predicted spans,
    in a resample those that have some there.
    """
    sums = resampled_sums(counts, resamples=resamples, seed=seed)  # (B, G, 3)
    labels = [g for g, (section, _) in enumerate(groups.names) if section == LABEL]
    total = counts.sum(1)
    lines = {name: Line(*estimates, Score(*map(int, total[g])))
             for g, (name, estimates) in enumerate(zip(groups.names, _estimates(rates(total), rates(sums))))}
    macro = Line(*_estimates(macro_rates(total[labels])[None], macro_rates(sums[:, labels])[:, None])[0])
    return {(MICRO, ""): lines.pop((MICRO, "")), (MACRO, ""): macro, **lines}


def _estimates(values: np.ndarray, drawn: np.ndarray) -> list[list[Estimate]]:
    """(G, 3) and (B, G, 3) -> precision, recall and F1 of each group."""
    low, high = bounds(drawn)
    return [[Estimate(*map(float, figure)) for figure in zip(*group)] for group in zip(values, low, high)]


def lines_table(lines: Mapping[Name, Line]) -> str:
    """For people: one group a line, at most 100 columns wide where labels can be shortened to that."""
    rows = []
    for name, line in lines.items():
        counts = (f"{line.counts.support}", f"{line.counts.predicted}") if line.counts else ("", "")
        figures = (str(line.precision), str(line.recall), str(line.f1)) if counts != ("0", "0") else ("-", "-", "-")
        rows.append((name, (*figures, *counts)))
    return _render(("precision", "recall", "f1", "gold", "found"), rows)


# --------------------------------------------------------------------------------------------------------------------
# Two models


@dataclass(frozen=True)
class Versus:
    """F1 of A and of B on one group of spans (means over their runs), B minus A on the same resamples, gold spans."""

    a: Estimate
    b: Estimate
    difference: Difference
    support: int

    def to_dict(self) -> dict[str, Any]:
        """``{"a": {"f1", "f1_interval"}, "b": {...}, "difference": {"mean", "low", "high", "p"}, "support"}``."""
        return {"a": self.a.to_dict("f1"), "b": self.b.to_dict("f1"), "difference": self.difference.to_dict(),
                "support": self.support}


def compare(groups: Groups, a: np.ndarray, b: np.ndarray, *, resamples: int, seed: int) -> dict[Name, Versus]:
    """B against A in every group; a, b: (R, G, S, 3), ``Groups.counts`` of each run."""
    found = paired_differences(a, b, resamples=resamples, seed=seed)
    first, second = (_mean_f1(side, resamples, seed) for side in (a, b))
    support = a[0, :, :, 2].sum(-1).tolist()  # the same in every run
    return {name: Versus(*row) for name, row in zip(groups.names, zip(first, second, found, support))}


def _mean_f1(counts: np.ndarray, resamples: int, seed: int) -> list[Estimate]:
    drawn = rates(resampled_sums(counts, resamples=resamples, seed=seed))[..., 2].mean(1)  # (B, G)
    values = rates(counts.sum(2))[..., 2].mean(0)
    return [Estimate(*map(float, row)) for row in zip(values, *bounds(drawn))]


def versus_table(lines: Mapping[Name, Versus], resamples: int) -> str:
    """For people, as ``lines_table``."""
    rows = [(name, (str(line.a), str(line.b), str(line.difference), _shown_p(line.difference.p, resamples),
                    f"{line.support}"))
            for name, line in lines.items()]
    return _render(("f1 of A", "f1 of B", "B - A", "p", "gold"), rows)


def _shown_p(p: float, resamples: int) -> str:
    """No resample of 2,000 means less than 1 in 2,000, not never."""
    return f"{p:.4f}" if p else f"<{1 / resamples:.4f}"


def _render(head: Sequence[str], rows: Sequence[tuple[Name, Sequence[str]]]) -> str:
    """A table with a heading above each section that has one; names are shortened where the table would grow too wide."""
    others = sum(2 + max(map(columns, column)) for column in zip(head, *(cells for _, cells in rows)))
    room = max(WIDEST - others, 12)
    names = [("  " if name[0] in HEADINGS else "") + SHOWN.get(name, name[1]) for name, _ in rows]
    body = table([("", *head), *((fit(text, room), *cells) for text, (_, cells) in zip(names, rows))]).split("\n")
    lines, last = [body[0]], ""
    for (name, _), line in zip(rows, body[1:]):
        if name[0] != last and name[0] in HEADINGS:
            lines.append(HEADINGS[name[0]])
        lines.append(line.rstrip())
        last = name[0]
    return "\n".join(lines)


def fit(text: str, width: int) -> str:
    """The text in at most ``width`` columns of a terminal, "..." in place of what does not fit; nothing invisible."""
    text = text if text.isprintable() else ascii(text)
    if columns(text) <= width:
        return text
    while columns(text) > width - 3:
        text = text[:-1]
    return text + "..."
