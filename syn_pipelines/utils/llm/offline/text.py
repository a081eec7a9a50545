"""Sentence text, token boundaries and pieces: what the taggers of the offline backend share. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class Piece(NamedTuple):
    """A stretch of the sentence text: ``text[start:end] == surface``, half-open code points, ``tag`` as tagged."""

    surface: str
    tag: str
    start: int
    end: int


def sentence_text(tokens: Sequence[str], dense: bool) -> str:
    """The sentence as a prompt shows it: tokens joined by nothing (dense) or by one blank."""
    return ("" if dense else " ").join(tokens)


def token_boundaries(tokens: Sequence[str], dense: bool) -> frozenset[int]:
    """Offsets in ``sentence_text`` at which a token starts or ends; 0 and the length included."""
    offsets, position = {0}, 0
    for token in tokens:
        offsets.update((position, position + len(token)))
        position += len(token) + (0 if dense else 1)
    return frozenset(offsets)


def snap_to_tokens(words: Iterable[tuple[str, str]], boundaries: frozenset[int]) -> list[Piece]:
    """Join neighbouring words until each piece starts and ends on a token boundary.

    Args:
        words: (surface, tag) pairs whose surfaces join to the sentence text without a gap.
        boundaries: see ``token_boundaries``.
    Returns:
        Pieces that cover the text. A joined piece has the tag of its first word that is not white space. This keeps
        tokens of two replacement characters, or of a letter and a combining mark, in one piece.
    """
    pieces: list[Piece] = []
    surface, tag, start, end = "", "", 0, 0
    for word, word_tag in words:
        tag = tag if surface.strip() else word_tag
        surface += word
        end += len(word)
        if end in boundaries:
            pieces.append(Piece(surface, tag, start, end))
            surface, start = "", end
    return pieces


def runs(text: str, class_of: Callable[[str], str]) -> list[tuple[str, str]]:
    """Cut ``text`` into the longest stretches of equal ``class_of``; (surface, class) pairs that cover it.

    Blanks stay single, as the blank between two tokens must not join one at the edge of a token.
    """
    found: list[tuple[str, str]] = []
    for char in text:
        kind = class_of(char)
        if found and found[-1][1] == kind and not char.isspace():
            found[-1] = (found[-1][0] + char, kind)
        else:
            found.append((char, kind))
    return found


def pattern_pieces(
    text: str, patterns: Sequence[tuple[str, re.Pattern[str]]], boundaries: frozenset[int]
) -> list[Piece]:
    """Matches of typed patterns that start and end on a boundary and touch no match of an earlier pattern.

    Args:
        patterns: (type, pattern) pairs, the more specific ones first.
    Returns:
        Pieces by start.
    """
    found: list[Piece] = []
    for kind, pattern in patterns:
        for match in pattern.finditer(text):
            start, end = match.span()
            if start == end or start not in boundaries or end not in boundaries:
                continue
            if all(end <= piece.start or piece.end <= start for piece in found):
                found.append(Piece(match[0], kind, start, end))
    return sorted(found, key=lambda piece: piece.start)


def distinct(pieces: Iterable[Piece]) -> list[tuple[str, str]]:
    """(surface, tag) pairs in order of first appearance, the longer first at the same start, each pair once."""
    ordered = sorted(pieces, key=lambda piece: (piece.start, -piece.end, piece.tag))
    return list(dict.fromkeys((piece.surface, piece.tag) for piece in ordered))
