"""Tag sequences (IO, BIO, BIOES, BMES, BILOU) to spans."""

from __future__ import annotations

from collections.abc import Sequence

Span = tuple[int, int, str]
_OPENS, _SINGLE, _INSIDE, _CLOSES = set("B"), set("SU"), set("IM"), set("EL")


def spans_of_tags(tags: Sequence[str]) -> tuple[list[Span], list[tuple[int, str]]]:
    """Spans of a tag sequence, and what was wrong with it.

    An entity is never lost: a tag that continues nothing (``I-X`` after ``O`` or after another type) opens one, and one
    that is not closed before the next opens ends there. IO columns are read by the same rule.

    Args:
        tags: one tag a token: ``O``, or a letter of B I O E S M L U, ``-`` or ``_``, and the label.
    Returns:
        half-open (start, end, label) token spans from left to right, and (token, what was repaired) pairs. An unknown
        tag is reported and taken as ``O``.
    """
    spans: list[Span] = []
    repairs: list[tuple[int, str]] = []
    opened: tuple[int, str] | None = None
    has_begin = any(tag[:1] in _OPENS and len(tag) > 2 for tag in tags)
    for i, tag in enumerate(tags):
        prefix, label = tag[:1].upper(), tag[2:]
        known = len(tag) > 2 and tag[1] in "-_" and prefix in "BIESMLU"
        continues = known and opened is not None and label == opened[1] and prefix in _INSIDE | _CLOSES
        if opened is not None and not continues:
            spans.append((opened[0], i, opened[1]))
            opened = None
        if not known:
            if tag != "O":
                repairs.append((i, f"unknown tag {tag!r} taken as O"))
            continue
        if not continues:
            if prefix in _INSIDE | _CLOSES and (has_begin or prefix in _CLOSES):
                repairs.append((i, f"{tag} continues nothing, taken as the start of an entity"))
            opened = (i, label)
        if prefix in _SINGLE | _CLOSES:
            spans.append((opened[0], i + 1, opened[1]))
            opened = None
    if opened is not None:
        spans.append((opened[0], len(tags), opened[1]))
    return spans, repairs
