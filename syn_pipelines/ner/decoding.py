"""From scored spans to entities. Pure functions, no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

DECODE_MODES = ("flat", "nested")


@dataclass(frozen=True)
class Span:
    """A predicted entity: half-open token offsets, target label, probability."""

    start: int
    end: int
    label: str
    score: float


def resolve_overlaps(spans: Iterable[Span], *, nested: bool) -> list[Span]:
    """Keep the best spans that may stand together, by position.

    Higher scores go first (ties: by position, shorter first, then label). Flat: a span that shares a token with a kept
    one is dropped. Nested: only one that crosses a kept one is; containment and a second label on a span stay.
    """
    kept: list[Span] = []
    for span in sorted(spans, key=lambda s: (-s.score, s.start, s.end, s.label)):
        if not any(_clash(span, other, nested) for other in kept):
            kept.append(span)
    return sorted(kept, key=lambda s: (s.start, s.end, s.label))


def _clash(a: Span, b: Span, nested: bool) -> bool:
    if a.end <= b.start or b.end <= a.start:
        return False
    inside = (a.start <= b.start and b.end <= a.end) or (b.start <= a.start and a.end <= b.end)
    return not (nested and inside)
