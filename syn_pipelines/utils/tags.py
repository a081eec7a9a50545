"""Tag sequences (IO, BIO, BIOES, BMES, BILOU) to spans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Span = tuple[int, int, str]
_SINGLE, _INSIDE, _CLOSES = set("SU"), set("IM"), set("EL")
_PREFIXES = set("B") | _SINGLE | _INSIDE | _CLOSES


def split_tag(tag: str) -> tuple[str, str] | None:
    """``B-PER`` -> ("B", "PER"); None for anything but a letter of B I E S M L U, ``-`` or ``_``, and a label."""
    prefix = tag[:1].upper()
    return (prefix, tag[2:]) if len(tag) > 2 and tag[1] in "-_" and prefix in _PREFIXES else None


def scheme_of(sequences: Iterable[Sequence[str]]) -> str:
    """How the tags of a whole file are to be read.

    Returns:
        "closed" (BIOES, BMES, BILOU: the last token of an entity is marked); "open" (BIO); "io": ``I-X`` may open an
        entity, and ``B-X`` is written, if ever, only to part it from one of its type right before it (IO and the first
        CoNLL scheme); "bare": no tag has a letter before its label, every tag but ``O`` is a label.
    """
    letters: set[str] = set()
    opens = bare = False
    for tags in sequences:
        previous = None
        for tag in tags:
            parts = split_tag(tag)
            bare = bare or parts is None and tag != "O"
            if parts:
                letters.add(parts[0])
                opens = opens or parts[0] == "B" and (previous is None or previous[1] != parts[1])
            previous = parts
    if letters & (_SINGLE | _CLOSES):
        return "closed"
    if bare and not letters:
        return "bare"
    return "open" if opens else "io"


def spans_of_tags(tags: Sequence[str], scheme: str = "") -> tuple[list[Span], list[tuple[int, str]]]:
    """Spans of a tag sequence, and what was wrong with it.

    An entity is never lost: a tag that continues nothing (``I-X`` after ``O`` or after another type) opens one, and one
    that is not closed before the next opens ends there.

    Args:
        tags: one tag a token: ``O``, or a letter of B I E S M L U, ``-`` or ``_``, and the label.
        scheme: that of the whole file (``scheme_of``), for what counts as wrong; by default told from these tags alone.
    Returns:
        half-open (start, end, label) token spans from left to right, and (token, what was repaired) pairs. An unknown
        tag is reported and taken as ``O``.
    """
    spans: list[Span] = []
    repairs: list[tuple[int, str]] = []
    opened: tuple[int, str] | None = None
    scheme = scheme or scheme_of([tags])
    if scheme == "bare":
        tags = [tag if tag == "O" else f"I-{tag}" for tag in tags]
    for i, tag in enumerate([*tags, "O"]):
        prefix, label = split_tag(tag) or ("O", "")
        continues = opened is not None and label == opened[1] and prefix in _INSIDE | _CLOSES
        if opened is not None and not continues:
            if scheme == "closed":
                repairs.append((i - 1, f"{tags[i - 1]} does not close its entity (repaired: closed)"))
            spans.append((opened[0], i, opened[1]))
            opened = None
        if prefix == "O":
            if tag != "O":
                repairs.append((i, f"{tag!r} is no tag (repaired: O)"))
            continue
        if not continues:
            if prefix in _CLOSES or prefix in _INSIDE and scheme not in ("io", "bare"):
                repairs.append((i, f"{tag} continues nothing (repaired: it opens an entity)"))
            opened = (i, label)
        if prefix in _SINGLE | _CLOSES:
            spans.append((opened[0], i + 1, opened[1]))
            opened = None
    return spans, repairs
