"""Grounding: find the strings that a model wrote in the tokens of a sentence.

A match counts only when it begins at the start of a token and ends at the end of one. A string is looked up exactly as
written first; only where that gives nothing it is stripped, and then compared in a folded view (case, width, blanks,
quotes, Unicode form). The folded view is built token by token and carries the token boundaries with it, so no offset can
shift however many characters a token folds to.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

TokenSpan = tuple[int, int]

_QUOTES = {**dict.fromkeys("“”„‟«»「」『』〝〞〟＂❝❞", '"'), **dict.fromkeys("‘’‚‛‹›`´＇′❛❜", "'")}
_QUOTE_TABLE = str.maketrans(_QUOTES)

_PIECE = 256  # code points folded at once: sorting the accents of a text takes the square of its length

_ESCAPED = re.compile(r"(?:\\u[0-9a-fA-F]{4})+")

EXACT, FOLDED = "exact", "folded"
EMPTY, NOT_IN_TEXT, NOT_ON_BOUNDARY, OUT_OF_ORDER = "empty", "not_in_text", "not_on_token_boundary", "out_of_order"


@lru_cache(maxsize=1 << 14)  # the same characters and words come back in every sentence
def fold(text: str) -> str:
    """Text without what writers vary: case, full and half width, blanks, kinds of quotes, Unicode form.

    Folding twice gives the same as folding once.
    """
    if len(text) > _PIECE:
        return "".join(fold(text[i:i + _PIECE]) for i in range(0, len(text), _PIECE))
    for _ in range(2):  # normal width can bring out a quote (U+FF62), a blank taken out can bring two accents together
        text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text.translate(_QUOTE_TABLE)).casefold())
        text = "".join(text.split())
    return text


def unescaped(text: str) -> str:
    """Text that a model escaped twice ("\\\\u5f20" in its JSON), as it was meant; any other text unchanged."""
    if "\\" not in text or not _ESCAPED.fullmatch(text):
        return text
    units = b"".join(int(code, 16).to_bytes(2, "little") for code in text.split("\\u")[1:])
    return units.decode("utf-16-le", "replace")


# Where tokens of one character each begin and end: token i at character i.
_SAME = {i: i for i in range(2049)}


class _View:
    """Tokens joined into one string, with the character offsets where tokens begin and end."""

    def __init__(self, pieces: Sequence[str], joiner: str) -> None:
        self.text = joiner.join(pieces)
        self.starts: Mapping[int, int]
        self.ends: Mapping[int, int]
        self.offsets: Sequence[int]
        if not joiner and len(self.text) == len(pieces) < len(_SAME) and "" not in pieces:  # as in Chinese
            self.offsets, self.starts, self.ends = range(len(pieces)), _SAME, _SAME
            return
        self.offsets = [0, *accumulate(map((len(joiner)).__add__, map(len, pieces)))][:len(pieces)]
        # a token that folds to nothing has no edge of its own
        self.starts = {offset: i for i, (offset, piece) in enumerate(zip(self.offsets, pieces)) if piece}
        self.ends = {offset + len(piece): i for i, (offset, piece) in enumerate(zip(self.offsets, pieces), 1) if piece}

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


# One number holds the score of a chain, its parts in the order of their rank; a sentence has under 2 ** 20 tokens.
_WORD, _TOKEN, _NEIGHBOUR = 1 << 40, 1 << 20, 1
_Link = tuple[int, TokenSpan, Any]  # (number of the word, its place, link of the word before)
_Chain = tuple[int, "_Link | None"]  # (score, its last link)


class _Front:
    """The best chains known by the token where they end; ends and scores both rise strictly."""

    def __init__(self) -> None:
        self._ends: list[int] = [0]
        self._chains: list[_Chain] = [(0, None)]

    def best_until(self, start: int) -> _Chain:
        """The best chain that ends at or before token ``start``."""
        return self._chains[bisect_right(self._ends, start) - 1]

    def add(self, end: int, chain: _Chain) -> None:
        """Take a chain in, unless one that ends no later is as good, and drop those that it makes useless."""
        at = bisect_right(self._ends, end)
        if self._chains[at - 1][0] >= chain[0]:
            return
        first = at - 1 if self._ends[at - 1] == end else at
        last = at
        while last < len(self._chains) and self._chains[last][0] <= chain[0]:
            last += 1
        self._ends[first:last], self._chains[first:last] = [end], [chain]


class Grounder:
    """Looks up strings in one sentence.

    >>> Grounder(["New", "York", "-", "NEW", "york"], dense=False).find("New York")
    ([(0, 2)], 'exact')
    """

    def __init__(self, tokens: Sequence[str], dense: bool) -> None:
        self.tokens = tokens
        self._joiner = "" if dense else " "
        self._exact = _View(tokens, self._joiner)
        self._folded: _View | None = None
        self._found: dict[str, tuple[list[TokenSpan], str]] = {}

    def find(self, surface: str) -> tuple[list[TokenSpan], str]:
        """Half-open token spans of a string from left to right, and how they were found.

        Returns:
            (spans, "exact" | "folded"), or ([], "empty" | "not_in_text" | "not_on_token_boundary").
        """
        found = self._found.get(surface)
        if found is None:  # words come again in a sentence, and a model that loops repeats itself hundreds of times
            found = self._found[surface] = self._find(surface)
        return found

    def _find(self, surface: str) -> tuple[list[TokenSpan], str]:
        if not surface:
            return [], EMPTY
        spans, occurs = self._exact.find(surface)
        if spans:
            return spans, EXACT
        stripped = surface.strip()
        if not stripped:
            return [], EMPTY
        plain = unescaped(stripped)
        for view, text in ((self._exact, plain), (self._folded_view(), fold(plain))):
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

        Words that follow one another without a gap (white space apart) from the first token on are taken as they come.
        Where that breaks, the best chain of places in order is chosen (see ``_chain``).

        Returns:
            for each word (span, "exact" | "folded") or (None, reason); spans rise strictly and do not overlap.
        """
        if (ends := self.ends_in_order(words)) is not None:
            return [(span, EXACT) for span in zip([0, *ends], ends)]
        placed: list[tuple[TokenSpan | None, str]] = []
        cursor = 0
        for word in words:
            if not word.isspace():
                cursor = self._skip_blank(cursor)
            end = self._end_at(cursor, word)
            if end is None:
                return self._chain(words)
            placed.append(((cursor, end), EXACT))
            cursor = end
        return placed

    def ends_in_order(self, words: Sequence[str]) -> list[int] | None:
        """The tokens where words end that begin where the one before has ended, the first at the first token.

        None where that is not so, or is not as simple as that.
        """
        view, gap = self._exact, len(self._joiner)
        if not view.text.startswith(self._joiner.join(words)) or "" in words or "" in self.tokens:
            return None
        if view.text.split(maxsplit=1) != [view.text] and any(map(str.isspace, self.tokens)):
            return None
        if view.ends is _SAME:
            return [*accumulate(map(len, words))]
        ends = [view.ends.get(end - gap) for end in accumulate(map(gap.__add__, map(len, words)))]
        return None if None in ends else ends

    def _end_at(self, cursor: int, word: str) -> int | None:
        """Token where ``word`` ends when it stands exactly at token ``cursor``."""
        if not word or cursor >= len(self.tokens):
            return None
        at = self._exact.offsets[cursor]
        return self._exact.ends.get(at + len(word)) if self._exact.text.startswith(word, at) else None

    def _skip_blank(self, cursor: int) -> int:
        while cursor < len(self.tokens) and self.tokens[cursor].isspace():
            cursor += 1
        return cursor

    def _chain(self, words: Sequence[str]) -> list[tuple[TokenSpan | None, str]]:
        """The best chain of places in word order: most words, then most tokens, then most neighbours, then leftmost.

        Most words first, so that one bad word (not in the text, left out, added, in the wrong place) never costs two
        others their position, however long it is. Neighbours are words that follow one another in the list and in the
        text (white space apart; the edges of both count too): they tell which of several equal words is meant beside
        a gap.
        """
        found = [self.find(word) for word in words]
        after_blank = [self._skip_blank(i) for i in range(len(self.tokens) + 1)]
        front = _Front()
        previous: dict[int, _Chain] = {after_blank[0]: (0, None)}  # chains that end in the word before, by next token
        for number, (spans, _) in enumerate(found):
            extended: list[tuple[int, _Chain]] = []
            for start, end in spans:
                score, link = front.best_until(start)
                beside = previous.get(start)
                if beside and beside[0] + _NEIGHBOUR > score:
                    score, link = beside[0] + _NEIGHBOUR, beside[1]
                score += _WORD + _TOKEN * (end - start)
                if number == len(words) - 1 and after_blank[end] == len(self.tokens):
                    score += _NEIGHBOUR
                extended.append((end, (score, (number, (start, end), link))))
            previous = {}
            for end, chain in extended:
                front.add(end, chain)
                if after_blank[end] not in previous or previous[after_blank[end]][0] < chain[0]:
                    previous[after_blank[end]] = chain
        chosen: dict[int, TokenSpan] = {}
        link = front.best_until(len(self.tokens))[1]
        while link is not None:
            number, span, link = link
            chosen[number] = span
        return [(chosen[n], how) if n in chosen else (None, OUT_OF_ORDER if spans else how)
                for n, (spans, how) in enumerate(found)]
