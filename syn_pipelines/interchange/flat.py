"""One label a token: which of many nested spans a flat format can hold, and as which tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from syn_pipelines.utils.fusion import LabelledSpan

# Why a span is left out, by how it lies to the one that was taken in its place.
SAME, INSIDE, AROUND, CROSSING = "on the same tokens", "inside another", "around another", "crossing another"


def flattened(spans: Sequence[LabelledSpan], targets: Collection[str], left_out: Counter[str]) -> list[LabelledSpan]:
    """The spans that do not overlap: target labels before extension labels, then the outermost, then the leftmost, then
    in the given order.

    left_out: is added to, by reason.
    Returns:
        half-open (start, end, label) token spans from left to right. ``spans`` = returned + left out.
    """
    order = sorted(range(len(spans)), key=lambda i: (spans[i][2] not in targets, spans[i][0] - spans[i][1], spans[i][0], i))
    owner: dict[int, LabelledSpan] = {}  # by token
    taken = []
    for start, end, label in (spans[i] for i in order):
        other = next((owner[i] for i in range(start, end) if i in owner), None)
        if other is not None:
            left_out[_reason((start, end), other[:2])] += 1
            continue
        owner.update(dict.fromkeys(range(start, end), (start, end, label)))
        taken.append((start, end, label))
    return sorted(taken)


def _reason(span: tuple[int, int], other: tuple[int, int]) -> str:
    if span == other:
        return SAME
    if other[0] <= span[0] and span[1] <= other[1]:
        return INSIDE
    return AROUND if span[0] <= other[0] and other[1] <= span[1] else CROSSING


def tags_of(count: int, spans: Sequence[LabelledSpan], scheme: str) -> list[str]:
    """Tags of ``count`` tokens. scheme: "bio" or "bioes". spans: as ``flattened`` gives them."""
    tags = ["O"] * count
    for start, end, label in spans:
        letters = ["B", *"I" * (end - start - 1)]
        if scheme == "bioes":
            letters = ["S"] if end - start == 1 else [*letters[:-1], "E"]
        tags[start:end] = [f"{letter}-{label}" for letter in letters]
    return tags
