"""Offsets in the joined text of a sentence and offsets in its tokens, both ways, in code points or UTF-16 code units.

A tool shows a sentence as one text and counts characters of it. Python counts code points; JavaScript counts UTF-16 code
units, where every character beyond U+FFFF (most emoji, rare Han) is two. Nothing here searches for a surface: an offset
either is an edge of a token or it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

CODE_POINTS, UTF16 = "codepoint", "utf16"
UNITS = (CODE_POINTS, UTF16)


class Layout:
    """Where the tokens of one sentence lie in its text.

    tokens: n >= 1 texts, none empty. joiner: "" or " ". unit: what the offsets of the tool count.
    """

    def __init__(self, tokens: Sequence[str], joiner: str, unit: str = CODE_POINTS) -> None:
        self.tokens, self.joiner, self.unit = tokens, joiner, unit
        self.text = joiner.join(tokens)
        self._begins: list[int] = []
        self._ends: list[int] = []
        at = 0
        for token in tokens:
            size = length(token, unit)
            self._begins.append(at)
            self._ends.append(at + size)
            at += size + len(joiner)
        self._tokens_at: dict[int, int] | None = None
        self._tokens_to: dict[int, int] = {}

    def outside(self, start: int, end: int) -> tuple[int, int]:
        """Half-open character offsets of a half-open token span, 0 <= start < end <= n."""
        return self._begins[start], self._ends[end - 1]

    def inside(self, start: int, end: int) -> tuple[int, int] | None:
        """Half-open token span of half-open character offsets; None where one of them is no edge of a token.

        The blank that joins two tokens belongs to neither: a selection that begins or ends with it means the words.
        """
        if self._tokens_at is None:
            self._tokens_at = {at: i for i, at in enumerate(self._begins)}
            self._tokens_to = {at: i + 1 for i, at in enumerate(self._ends)}
        first, last = self._tokens_at.get(start), self._tokens_to.get(end)
        if first is None and self.joiner and start in self._tokens_to:
            first = self._tokens_at.get(start + len(self.joiner))
        if last is None and self.joiner and end in self._tokens_at:
            last = self._tokens_to.get(end - len(self.joiner))
        return (first, last) if first is not None and last is not None and first < last else None

    def shown(self, start: int, end: int) -> str:
        """What stands between two character offsets, for messages and checks; "" where they lie outside the text."""
        at, to = index(self.text, start, self.unit), index(self.text, end, self.unit)
        return self.text[at:to] if at is not None and to is not None and at <= to else ""


def length(text: str, unit: str) -> int:
    """Length of a text in code points or in UTF-16 code units."""
    return len(text) if unit == CODE_POINTS or text.isascii() else len(text) + sum(char > "\uffff" for char in text)


def index(text: str, offset: int, unit: str) -> int | None:
    """The code point at an offset; None beyond the text and within a surrogate pair."""
    if not 0 <= offset <= length(text, unit):
        return None
    if unit == CODE_POINTS or text.isascii():
        return offset
    at = units = 0
    while units < offset:
        units += 1 + (text[at] > "\uffff")
        at += 1
    return at if units == offset else None


def beyond_bmp(text: str) -> bool:
    """Whether the two ways of counting differ in this text."""
    return not text.isascii() and any(char > "\uffff" for char in text)


def first_difference(expected: str, found: str) -> int:
    """The first code point in which two different texts differ."""
    return next((i for i, (a, b) in enumerate(zip(expected, found)) if a != b), min(len(expected), len(found)))
