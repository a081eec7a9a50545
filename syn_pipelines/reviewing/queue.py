"""Which sentences are reviewed, and in which order: a random sample, or the most doubtful first."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator

from syn_pipelines.reviewing.corpus import Corpus, Place, Sentence, Span
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.summary import progress

RANDOM, DOUBT = "random", "doubt"
Wanted = Callable[[Span], bool]
_Rank = tuple[float, int, bool, str]  # (minus the doubt, lot, *place)


def lot(seed: int, place: Place) -> int:
    """The number that a sentence draws. It depends on seed and id alone: a larger sample begins with the smaller one, and
    a first part of the queue is a random sample, too."""
    synthetic, identity = place
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{int(synthetic)}\0{identity}".encode(), digest_size=8).digest(), "big")


def draw(corpus: Corpus, *, n: int, ratio: float, order: str, seed: int, wanted: Wanted | None) -> tuple[list[Place], int]:
    """The queue.

    Args:
        n: sentences; 0: ``ratio`` of all, at least one. wanted: only sentences with a span like that; None: all.
    Returns:
        (the sentences in their order, how many they were drawn from).
    Raises:
        UserError: there is no sentence to draw.
    """
    ranks: Iterator[_Rank]
    if order == RANDOM and wanted is None:
        total = sum(1 for _ in corpus.places())
        ranks = ((0.0, lot(seed, place), *place) for place in corpus.places())
    else:
        found = list(_ranked(corpus, order, seed, wanted))
        total, ranks = len(found), iter(found)
    if not total:
        raise UserError(f"{corpus.files[False]['sentence']}: there is no sentence with such a span. Choose other --labels.")
    count = min(n or max(round(ratio * total), 1), total)
    return [(synthetic, identity) for _, _, synthetic, identity in heapq.nsmallest(count, ranks)], total


def _ranked(corpus: Corpus, order: str, seed: int, wanted: Wanted | None) -> Iterator[_Rank]:
    """Every sentence that is wanted; reads all of them."""
    total = sum(1 for _ in corpus.places())
    sentences = corpus.sentences(spans=wanted is not None)
    for sentence in progress(sentences, total=total, what="looking through the sentences", unit=" sentences"):
        if wanted is None or any(wanted(span) for span in sentence.spans):
            place = (sentence.synthetic, sentence.id)
            yield -doubt_of(sentence) if order == DOUBT else 0.0, lot(seed, place), *place


def doubt_of(sentence: Sentence) -> float:
    """How doubtful a sentence is: the weights of its doubts together."""
    return sum(doubt.weight for doubt in sentence.doubts)
