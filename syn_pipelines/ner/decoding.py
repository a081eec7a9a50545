"""From scored spans to entities. Pure functions, no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

DECODE_MODES = ("flat", "nested", "multilabel")


@dataclass(frozen=True)
class Span:
    """A predicted entity: half-open token offsets, target label, probability."""

    start: int
    end: int
    label: str
    score: float


def resolve_overlaps(spans: Iterable[Span], mode: str) -> list[Span]:
    """Keep the best spans that may stand together, by position.

    Higher scores go first (ties: by position, shorter first, then label). The time grows with the number of spans
    times their width, not with the square of their number.

    Args:
        mode: "flat": a span that shares a token with a kept one is dropped. "nested": only one that crosses a kept one
            is, or a second label of the same span. "multilabel": as nested, and a span may carry several labels.
    Raises:
        ValueError: unknown mode.
    """
    if mode not in DECODE_MODES:
        raise ValueError(f"decode must be one of {DECODE_MODES}, got {mode!r}")
    best = sorted(spans, key=lambda s: (-s.score, s.start, s.end, s.label))
    length = max((span.end for span in best), default=0)
    kept = _apart(best, length) if mode == "flat" else _uncrossed(best, length, several=mode == "multilabel")
    return sorted(kept, key=lambda s: (s.start, s.end, s.label))


def _apart(spans: Iterable[Span], length: int) -> list[Span]:
    """The spans that share no token with an earlier one that stays."""
    kept, taken = [], bytearray(length)
    for span in spans:
        if 1 not in taken[span.start : span.end]:
            taken[span.start : span.end] = b"\1" * (span.end - span.start)
            kept.append(span)
    return kept


def _uncrossed(spans: Iterable[Span], length: int, *, several: bool) -> list[Span]:
    """The spans that cross no earlier one that stays; several: also those that only bring another label."""
    kept: list[Span] = []
    seen: set[tuple[int, int]] = set()
    # Of the kept spans: the last end of those that start at a token, the first start of those that end before it.
    last_end, first_start = [0] * (length + 1), [length] * (length + 1)
    for span in spans:
        start, end = span.start, span.end
        if (start, end) in seen:
            if several:
                kept.append(span)
            continue
        if end - start > 1 and (
            max(last_end[start + 1 : end]) > end or min(first_start[start + 1 : end]) < start
        ):
            continue
        last_end[start], first_start[end] = max(last_end[start], end), min(first_start[end], start)
        seen.add((start, end))
        kept.append(span)
    return kept
