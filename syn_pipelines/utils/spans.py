"""Grounding: find the strings that a model wrote in the tokens of a sentence.

A match counts only when it begins at the start of a token and ends at the end of one. A string is looked up exactly as
written first; only where that gives nothing it is stripped, and then compared in a folded view (case, width, blanks,
quotes, Unicode form). The folded view is built token by token and carries the token boundaries with it, so no offset can
shift however many characters a token folds to.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

TokenSpan = tuple[int, int]

_QUOTES = {**dict.fromkeys("“”„‟«»「」『』〝〞〟＂❝❞", '"'), **dict.fromkeys("‘’‚‛‹›`´＇′❛❜", "'")}
_QUOTE_TABLE = str.maketrans(_QUOTES)

EXACT, FOLDED = "exact", "folded"
EMPTY, NOT_IN_TEXT, NOT_ON_BOUNDARY, OUT_OF_ORDER = "empty", "not_in_text", "not_on_token_boundary", "out_of_order"


@lru_cache(maxsize=65536)  # the same characters and words come back in every sentence
def fold(text: str) -> str:
    """Text without what writers vary: case, full and half width, blanks, kinds of quotes, Unicode form."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text.translate(_QUOTE_TABLE)).casefold())
    return "".join(folded.split())


class _View:
    """Tokens joined into one string, with the character offsets where tokens begin and end."""

    def __init__(self, pieces: Sequence[str], joiner: str) -> None:
        self.text = joiner.join(pieces)
        self.starts: dict[int, int] = {}
        self.ends: dict[int, int] = {}
        self.offsets: list[int] = []
        offset = 0
        for i, piece in enumerate(pieces):
            self.offsets.append(offset)
            if piece:  # a token that folds to nothing has no edge of its own
                self.starts[offset] = i
                self.ends[offset + len(piece)] = i + 1
            offset += len(piece) + len(joiner)

    def find(self, surface: str) -> tuple[list[TokenSpan], bool]:
        """Every occurrence on token boundaries, overlapping ones included, and whether any occurs at all."""
        spans = []
        at = self.text.find(surface)
        occurs = at >= 0
        while at >= 0:
            start, end = self.starts.get(at), self.ends.get(at + len(surface))
            if start is not None and end is not None:
                spans.append((start, end))
            at = self.text.find(surface, at + 1)
        return spans, occurs


class Grounder:
    """Looks up strings in one sentence.

    >>> Grounder(["New", "York", "-", "NEW", "york"], dense=False).find("New York")
    ([(0, 2)], 'exact')
    """

    def __init__(self, tokens: Sequence[str], dense: bool) -> None:
        self.tokens = tokens
        self._exact = _View(tokens, "" if dense else " ")
        self._folded: _View | None = None

    def find(self, surface: str) -> tuple[list[TokenSpan], str]:
        """Half-open token spans of a string from left to right, and how they were found.

        Returns:
            (spans, "exact" | "folded"), or ([], "empty" | "not_in_text" | "not_on_token_boundary").
        """
        if not surface:
            return [], EMPTY
        spans, occurs = self._exact.find(surface)
        if spans:
            return spans, EXACT
        stripped = surface.strip()
        if not stripped:
            return [], EMPTY
        for view, text in ((self._exact, stripped), (self._folded_view(), fold(stripped))):
            spans, seen = view.find(text) if text else ([], False)
            if spans:
                return spans, FOLDED
            occurs = occurs or seen
        return [], NOT_ON_BOUNDARY if occurs else NOT_IN_TEXT

    def _folded_view(self) -> _View:
        if self._folded is None:
            self._folded = _View([fold(token) for token in self.tokens], "")
        return self._folded

    def align(self, words: Sequence[str]) -> list[tuple[TokenSpan | None, str]]:
        """Place words that a model wrote in sentence order, each at its own position.

        Words that follow one another without a gap (white space apart) are taken as they come. Where that breaks, the
        longest chain of places in order is chosen for the rest (most tokens covered, then leftmost), so that a word
        that is not in the text, or stands in the wrong place, costs no other word its position.

        Returns:
            for each word (span, "exact" | "folded") or (None, reason).
        """
        placed: list[tuple[TokenSpan | None, str]] = []
        cursor = 0
        for word in words:
            cursor = self._skip_blank(cursor, word)
            end = self._end_at(cursor, word)
            if end is None:
                return placed + self._chain(words[len(placed):], cursor)
            placed.append(((cursor, end), EXACT))
            cursor = end
        return placed

    def _end_at(self, cursor: int, word: str) -> int | None:
        """Token where ``word`` ends when it stands exactly at token ``cursor``."""
        if not word or cursor >= len(self.tokens):
            return None
        at = self._exact.offsets[cursor]
        return self._exact.ends.get(at + len(word)) if self._exact.text.startswith(word, at) else None

    def _skip_blank(self, cursor: int, word: str) -> int:
        while cursor < len(self.tokens) and self.tokens[cursor].isspace() and not word.isspace():
            cursor += 1
        return cursor

    def _chain(self, words: Sequence[str], cursor: int) -> list[tuple[TokenSpan | None, str]]:
        """Heaviest chain of non-overlapping places in word order, from token ``cursor`` on.

        The front holds, for the best chains known, (end, covered tokens) with both strictly rising; a place extends the
        best chain that ends at or before its start.
        """
        found = [self.find(word) for word in words]
        ends, weights, links = [cursor], [0], [None]
        for number, (spans, _) in enumerate(found):
            extended = []
            for start, end in spans:
                if start >= cursor:
                    before = bisect_right(ends, start) - 1
                    extended.append((end, weights[before] + end - start, (number, (start, end), links[before])))
            for end, weight, link in extended:
                _insert(ends, weights, links, end, weight, link)
        chosen: dict[int, TokenSpan] = {}
        link = links[-1]
        while link is not None:
            number, span, link = link
            chosen[number] = span
        return [(chosen[n], how) if n in chosen else (None, OUT_OF_ORDER if spans else how)
                for n, (spans, how) in enumerate(found)]


def _insert(ends: list[int], weights: list[int], links: list, end: int, weight: int, link: object) -> None:
    """Keep only chains that no chain ending earlier or at the same token outweighs."""
    at = bisect_right(ends, end)
    if weights[at - 1] >= weight:
        return
    first = at - 1 if ends[at - 1] == end else at
    last = at
    while last < len(weights) and weights[last] <= weight:
        last += 1
    ends[first:last], weights[first:last], links[first:last] = [end], [weight], [link]
