"""How sure a score is: bootstrap intervals over sentences.

The sentences of the test set are drawn anew with replacement, as many as there are, and the score is computed again from
the counts of those drawn; the spread over many such draws is the interval. Sentences are drawn and not spans, for the
spans of one sentence succeed and fail together. Only what comes with the choice of test sentences is measured: that a
training with another seed gives another model is not, unless the runs of several seeds are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from syn_pipelines.ner.data import Entity

if TYPE_CHECKING:
    import numpy as np

# Draws held at once: 4 M numbers of 8 bytes, whatever the number of sentences and resamples.
MOST_DRAWS = 1 << 22


@dataclass(frozen=True)
class Difference:
    """F1 of B minus F1 of A, in percentage points.

    mean: as measured on all sentences, the mean over runs. low, high: 95 % interval. p: share of the resamples in which
    B is not better than A (a tie is not better; 1 for two equal models).
    """

    mean: float
    low: float
    high: float
    p: float

    def to_dict(self) -> dict[str, float]:
        return {"mean": round(self.mean, 2), "low": round(self.low, 2), "high": round(self.high, 2), "p": round(self.p, 5)}

    def __str__(self) -> str:
        """``+3.1 [-0.2, +5.9]``"""
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def sentence_counts(gold: Sequence[Iterable[Entity]], predicted: Sequence[Iterable[Entity]],
                    labels: Iterable[str]) -> np.ndarray:
    """Spans of each sentence: (S, 3) whole numbers, the columns correct, predicted and support.

    labels: spans with any other label are left out on both sides; ``()`` counts all.

    Raises:
        ValueError: the two sides differ in their number of sentences.
    """
    wanted = set(labels)
    return grouped_counts(gold, predicted, [""], lambda k, span: "" if not wanted or span[2] in wanted else None)[0]


def grouped_counts(gold: Sequence[Iterable[Entity]], predicted: Sequence[Iterable[Entity]], groups: Sequence[str],
                   group_of: Callable[[int, Entity], str | None]) -> np.ndarray:
    """The same by group of spans: (G, S, 3) for G groups.

    group_of: (number of the sentence, span) -> its group, which must not depend on whether it is gold or predicted; a span
        of no group in ``groups`` is left out. A repeated span counts once.

    Raises:
        ValueError: the two sides differ in their number of sentences.
    """
    import numpy as np

    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold sentences against {len(predicted)} predicted ones")
    counts = np.zeros((len(groups), len(gold), 3), dtype=np.int64)
    index = {group: g for g, group in enumerate(groups)}
    for k, (right, given) in enumerate(zip(gold, predicted)):
        right, given = set(map(tuple, right)), set(map(tuple, given))
        for column, spans in enumerate((right & given, given, right)):
            for span in spans:
                g = index.get(group_of(k, span))
                if g is not None:
                    counts[g, k, column] += 1
    return counts


def rates(counts: np.ndarray) -> np.ndarray:
    """Precision, recall and F1 in percent, (..., 3), of counts (..., 3); 0 where there is nothing to divide by."""
    import numpy as np

    correct, predicted, support = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    parts = [(100.0 * correct, predicted), (100.0 * correct, support), (200.0 * correct, predicted + support)]
    return np.stack([np.divide(a, b, out=np.zeros_like(a), where=b > 0) for a, b in parts], axis=-1)


def macro_rates(counts: np.ndarray) -> np.ndarray:
    """Means of the rates over the groups that have gold or predicted spans: (..., G, 3) -> (..., 3), 0 without any."""
    import numpy as np

    there = (np.asarray(counts)[..., 1:].sum(-1) > 0)[..., None]
    total = (rates(counts) * there).sum(-2)
    return total / np.maximum(there.sum(-2), 1)


def drawn_sentences(sentences: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """The sentences of each resample: arrays (b, S) of sentence numbers, ``resamples`` rows in all."""
    import numpy as np

    draw = np.random.default_rng(seed)
    at_once = max(1, MOST_DRAWS // max(sentences, 1))
    for first in range(0, resamples, at_once):
        yield draw.integers(0, sentences, size=(min(at_once, resamples - first), sentences))


def resampled_sums(counts: np.ndarray, *, resamples: int, seed: int) -> np.ndarray:
    """Counts summed over the sentences of each resample: (..., S, 3) -> (resamples, ..., 3).

    All leading axes (runs, groups) see the same draws, so that their differences are paired. No sentences sum to 0.

    Raises:
        ValueError: less than one resample.
    """
    import numpy as np

    if resamples < 1:
        raise ValueError(f"{resamples} resamples give no interval")
    counts = np.asarray(counts, dtype=np.float64)  # a product of floats takes BLAS and is exact up to 2^53
    *axes, size, _ = counts.shape
    if not size:
        return np.zeros((resamples, *axes, 3))
    columns = np.moveaxis(counts, -2, 0).reshape(size, -1)
    sums = []
    for drawn in drawn_sentences(size, resamples, seed):
        cell = drawn + size * np.arange(len(drawn))[:, None]
        times = np.bincount(cell.ravel(), minlength=drawn.size).reshape(drawn.shape)
        sums.append(times.astype(np.float64) @ columns)
    return np.concatenate(sums).reshape(resamples, *axes, 3)


def bounds(values: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval over the first axis: (B, ...) -> low (...), high (...)."""
    import numpy as np

    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def interval(counts: np.ndarray, *, resamples: int = 2000, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of the micro F1 in percent.

    Args:
        counts: of ``sentence_counts``, (S, 3), or (R, S, 3) of R runs on the same sentences, whose F1 is averaged in
            each resample.
        level: share of the resamples inside, between 0 and 1.
    Raises:
        ValueError: less than one resample.
    """
    sums = resampled_sums(_runs(counts), resamples=resamples, seed=seed)  # (B, R, 3)
    low, high = bounds(rates(sums)[..., 2].mean(1), level)
    return float(low), float(high)


def paired_difference(a: np.ndarray, b: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> Difference:
    """Mean F1 of the runs of ``b`` minus that of ``a``, both on the same sentences of every resample.

    Args:
        a, b: counts (R, S, 3), or (S, 3) of one run; the number of runs may differ, the sentences are the same.
    Raises:
        ValueError: another number of sentences, or less than one resample.
    """
    return paired_differences(_runs(a)[:, None], _runs(b)[:, None], resamples=resamples, seed=seed)[0]


def paired_differences(a: np.ndarray, b: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> list[Difference]:
    """One difference a group, of counts (R, G, S, 3); see ``paired_difference``."""
    import numpy as np

    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"counts of {a.shape[-2]} sentences against {b.shape[-2]} (groups: {a.shape[1]}, {b.shape[1]})")
    sums = resampled_sums(np.concatenate([a, b]), resamples=resamples, seed=seed)  # (B, R + R, G, 3)
    observed = rates(b.sum(-2))[..., 2].mean(0) - rates(a.sum(-2))[..., 2].mean(0)
    drawn = rates(sums[:, len(a):])[..., 2].mean(1) - rates(sums[:, :len(a)])[..., 2].mean(1)
    low, high = bounds(drawn)
    # The same F1s averaged in another order differ in the last bits: without the margin a tie could count as better.
    not_better = (drawn <= 1e-9).mean(0)
    return [Difference(*map(float, row)) for row in zip(observed, low, high, not_better)]


def _runs(counts: np.ndarray) -> np.ndarray:
    """Counts with an axis of runs: (S, 3) becomes (1, S, 3)."""
    import numpy as np

    counts = np.asarray(counts)
    return counts[None] if counts.ndim == 2 else counts
