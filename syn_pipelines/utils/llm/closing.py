"""Ending a reply in form when its room runs out: how many tokens that takes from any byte on, and the grammar for it.

An entity reply ends the span being written where it can end next, gives it a type and closes the array. A pos reply
breaks no more than it must: the rest of dense text is one word, each word of spaced text stands alone. The label being
written, or the next one, can be chosen; all later ones are the shortest there is, for the room must do for them.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

from syn_pipelines.utils.llm import Constraint
from syn_pipelines.utils.llm.grammar import (
    INLINE,
    chunks_of,
    form_of,
    free_character,
    labels_of,
    literal,
    pieces_of,
)

FREE_LABELS = {"entity": "other", "pos": "X"}  # written where any name is allowed and none was begun
# Forced tokens stop short of a choice where the last of them might be one with what follows; the model may then write
# their characters one by one.
_SEAM = 4
_SLACK = 8  # of a whole reply: its end token, the rest of a character, a text that takes more tokens than its parts
_NEAR = 16  # bytes: one can still choose among the spans that end so soon

_STRING = r'[^"\\]*(?:\\.[^"\\]*)*'
_SURFACE = re.compile(_STRING.encode() + rb"\\?", re.DOTALL)

Count = Callable[[str], int]


@dataclass(frozen=True)
class Part:
    """Of what is still to write. tokens: upper bound. lark: its text."""

    tokens: int
    lark: Callable[[], str]


@dataclass(frozen=True)
class Ending:
    """One way to end a reply: its first ``kept`` bytes (whole characters), then ``parts``."""

    kept: int
    parts: Sequence[Part]


class Closer:
    """Knows at every byte of one reply how many tokens it takes to end it in form, and the grammar that does so.

    Args:
        count_tokens: length of a text in the tokens that a grammar forces for it.

    Attributes:
        least: tokens that the shortest whole reply takes; with a lower limit there is none.
        margin: how many tokens one choice of the model, with the text that it forces, adds to used + room at most.
        most: no room() exceeds it.

    Before a choice of the model with ``left`` tokens to go, push what was written; when ``left <= room() + margin``,
    go on with a matcher for ``lark()`` that has consumed all tokens so far. While ``left > most + margin`` nothing
    needs to be pushed. All figures include one end token and hold where the tokens that a grammar forces are written as
    it forces them.
    """

    def __init__(self, constraint: Constraint, count_tokens: Count) -> None:
        self._reply = bytearray()
        self._state = (_Spans if constraint.mode == "entity" else _Words)(constraint, _Costs(constraint, count_tokens))
        self.margin = self._state.margin + _SLACK
        self.most = self._state.most + _SLACK
        self.least = self.room()

    def push(self, data: bytes) -> None:
        """More bytes of the reply, in order; they may end inside a character."""
        self._reply += data

    def room(self) -> int:
        """Upper bound of the tokens that closing takes from here."""
        endings = self._state.endings(self._reply)
        return max((sum(part.tokens for part in ending.parts) for ending in endings), default=self._state.most) + _SLACK

    def lark(self) -> str:
        """The grammar of the replies that begin with the bytes pushed so far and end in the shortest ways."""
        ways = []
        for ending in self._state.endings(self._reply):
            texts = [literal(self._reply[:ending.kept].decode("utf-8")), *(part.lark() for part in ending.parts)]
            ways.append(" ".join(text for text in texts if text != literal("")) or literal(""))
        # One terminal: the ways have a beginning in common, and a lexer would settle on the longest of them.
        return "start: REPLY\nREPLY: " + " | ".join(f"({way})" for way in ways) + "\n"


class _Costs:
    """Parts with their bounds."""

    def __init__(self, constraint: Constraint, count_tokens: Count) -> None:
        self.count = lru_cache(maxsize=None)(lambda text: count_tokens(text) if text else 0)
        self._labels = tuple(label.encode() for label in labels_of(constraint))
        self._default = FREE_LABELS[constraint.mode]
        self._free = free_character(constraint)
        self._next_label = self.choice(self._labels, 0) if self._labels else self.fixed(self._default)
        self.label = self._next_label.tokens if self._labels else self._next_label.tokens + 4 + _SEAM
        self.shortest = min((label.decode() for label in self._labels), key=self.count, default=self._default)

    def fixed(self, text: str) -> Part:
        return Part(self.count(text), lambda: literal(text))

    def choice(self, options: Sequence[bytes], written: int) -> Part:
        """One of several texts, the first ``written`` bytes of which are there already.

        Bound: a byte for each decision up to where a text differs from all others, the rest of it as forced.
        """
        ordered = sorted(options)
        common = [0, *(_common(one, other) for one, other in pairwise(ordered)), 0]
        most = 0
        for i, option in enumerate(ordered):
            decided = max(common[i], common[i + 1]) + 1 if len(ordered) > 1 else 0
            decided = _boundary(option, max(min(decided, len(option)), written))
            most = max(most, decided - written + self.count(option[decided:].decode()))
        return Part(most + _SEAM, lambda: "(" + " | ".join(literal(option.decode()) for option in ordered) + ")")

    def next_label(self, begun: bytes = b"") -> Part | None:
        """The label that begins with these bytes; None when none does."""
        if not begun:
            return self._next_label
        if self._labels:
            options = [label for label in self._labels if label.startswith(begun)]
            return self.choice(options, len(begun)) if options else None
        text = begun.decode("utf-8", "ignore")
        if len(text.encode()) < len(begun) or text.endswith(" "):  # one more character, of 4 bytes at most
            return Part(4 + _SEAM, lambda: f"{literal(text)} /{self._free}/" if text else f"/{self._free}/")
        return Part(_SEAM, lambda: literal(text))


class _Spans:
    """The state of an entity reply."""

    def __init__(self, constraint: Constraint, costs: _Costs) -> None:
        self._form, self._costs = form_of(constraint), costs
        self._complete = _item_pattern(self._form.middle)
        chunks, begins, ends = chunks_of(constraint)
        edges = [0, *accumulate(len(chunk.encode()) for chunk in chunks)]
        self._text = "".join(chunks).encode()
        self._starts = [edge for edge, is_one in zip(edges, begins) if is_one]
        self._ends = [edge for edge, is_one in zip(edges[1:], ends) if is_one]
        self._span = len(self._form.opening)  # where the text of the last item begins in the reply
        self._any_span = self._spans_from(b"")
        count = costs.count
        # No step from one place where a span can end to the next is longer than these.
        longest = max([_NEAR, *(count(self._text[a:self._end_after(a + 1)].decode()) for a in self._starts)]) + _SEAM
        self.margin = count(self._form.following) + longest + count(self._form.middle) + costs.label + 2 * _SEAM
        self.most = self.margin + count('"}]')

    def endings(self, reply: bytearray) -> list[Ending]:
        """The one way to end a reply."""
        form, fixed = self._form, self._costs.fixed
        if not self._text:
            return [Ending(len(reply), [fixed(form.none[len(reply):])])]
        while found := self._complete.match(reply, self._span):
            self._span = found.end() - 1 + len(form.following)
        begun = len(reply) - self._span  # bytes of the span; when negative, what stands before it is not complete
        if begun < 0:
            return [Ending(len(reply), self._before_span(reply, -begun))]
        if begun == 0:
            return [Ending(len(reply), [self._any_span, fixed(form.middle), self._costs.next_label(), fixed('"}]')])]
        length = _SURFACE.match(reply, self._span).end() - self._span
        if length < begun:  # its quote stands
            label = self._span + length + len(form.middle)
            return [Ending(min(len(reply), label), [fixed(form.middle[begun - length:]),
                                                    self._costs.next_label(bytes(reply[label:])), fixed('"}]')])]
        span = self._spans_from(bytes(reply[self._span:]))
        return [Ending(self._span, [span, fixed(form.middle), self._costs.next_label(), fixed('"}]')])]

    def _before_span(self, reply: bytearray, missing: int) -> list[Part]:
        """``missing`` bytes are lacking before a span, unless the array ends without it."""
        form, fixed = self._form, self._costs.fixed
        first = self._span == len(form.opening)
        lead = form.opening if first else form.following
        written = len(lead) - missing
        if reply.endswith(b"]"):
            return []
        if written <= (1 if first else 2):
            return [fixed((form.none if first else form.closing)[written:])]
        return [fixed(lead[written:]), self._any_span, fixed(form.middle), self._costs.next_label(), fixed(form.closing)]

    def _spans_from(self, begun: bytes) -> Part:
        """The spans that begin with these bytes and end as soon as they can, those not far from their end."""
        starts = [at for at in _places(self._text, begun) if _among(self._starts, at)] if begun else self._starts
        spans = {self._text[at:self._end_after(at + max(len(begun), 1))] for at in starts}
        near = max(_NEAR + len(begun), min(map(len, spans), default=0))
        return self._costs.choice([span for span in spans if len(span) <= near], len(begun))

    def _end_after(self, at: int) -> int:
        """The first place from ``at`` on where a span can end."""
        return self._ends[bisect_left(self._ends, at)]


class _Words:
    """The state of a pos reply."""

    def __init__(self, constraint: Constraint, costs: _Costs) -> None:
        form = self._form = form_of(constraint)
        self._costs = costs
        self._complete = _item_pattern(form.middle) if form is not INLINE else _INLINE_ITEM
        pieces = pieces_of(constraint)
        self._edges = [0, *accumulate(len(piece.text.encode()) for piece in pieces)]
        self._text = "".join(piece.text for piece in pieces).encode()
        self._apart = [edge for edge, piece in zip(self._edges, pieces) if piece.apart and edge]
        self._word, self._at = len(form.opening), 0  # where the last word begins, in the reply and in the text
        self._whole = 0  # where all words are written: the place in the reply behind them
        self._left = [*accumulate([0, *(costs.count(piece.text) for piece in reversed(pieces))])][::-1]  # by piece
        self._break = costs.count(form.middle) + costs.count(costs.shortest) + costs.count(form.following)
        self.margin = self._break + 2 * (costs.label + _SEAM)
        self.most = self.margin + self._left[0] + len(self._apart) * self._break + costs.count(form.closing)

    def endings(self, reply: bytearray) -> list[Ending]:
        """The ways to end a reply: two where a "/" of the sentence may also end the word (inline)."""
        form, fixed = self._form, self._costs.fixed
        if not self._text:
            return [Ending(len(reply), [fixed(form.none[len(reply):])])]
        while not self._whole and (found := self._complete.match(reply, self._word)):
            self._at += len(found[1])
            if self._at == len(self._text):
                self._whole = found.end() - 1
            else:
                self._word = found.end() - 1 + len(form.following)
        if self._whole:
            return [Ending(len(reply), [fixed(form.closing[len(reply) - self._whole:])])]
        begun = len(reply) - self._word
        if begun < 0:  # what stands before the word is not complete
            lead = form.following if self._at else form.opening
            return [Ending(len(reply), [fixed(lead[begun:]), *self._words_from(self._at)])]
        return self._within(reply, bytes(reply[self._word:]))

    def _within(self, reply: bytearray, begun: bytes) -> list[Ending]:
        """begun: the last word, or the last word and its tag, as far as they are written."""
        length = begun.rfind(b"/") if self._form is INLINE else _SURFACE.match(begun).end()
        ways = []
        if self._form is INLINE or length == len(begun):
            ways += self._in_word(reply, begun)
        if 0 < length < len(begun):
            ways += self._in_label(begun, length)
        return ways

    def _in_word(self, reply: bytearray, begun: bytes) -> list[Ending]:
        here = self._at + len(begun)
        if not self._text.startswith(begun, self._at) or here > self._word_end(self._at):
            return []
        inside = 0
        while here - inside > self._at and _inside_character(self._text, here - inside):
            inside += 1
        return [Ending(len(reply) - inside, self._words_from(here - inside))]

    def _in_label(self, begun: bytes, length: int) -> list[Ending]:
        end, middle = self._at + length, self._form.middle
        label = self._costs.next_label(begun[length + len(middle):])
        if (not self._text.startswith(begun[:length], self._at) or not _among(self._edges, end) or label is None
                or end > self._word_end(self._at)):
            return []
        kept = self._word + min(len(begun), length + len(middle))
        return [Ending(kept, [self._costs.fixed(middle[len(begun) - length:]), label, *self._later_words(end)])]

    def _words_from(self, at: int) -> list[Part]:
        """The word whose text goes on at ``at``, its tag, and all words behind it."""
        end = self._word_end(self._at)
        piece, last = bisect_right(self._edges, at) - 1, bisect_left(self._edges, end)
        tokens = self._left[piece] - self._left[last]
        return [Part(tokens, lambda: literal(self._text[at:end].decode())), self._costs.fixed(self._form.middle),
                self._costs.next_label(), *self._later_words(end)]

    def _later_words(self, at: int) -> list[Part]:
        """The end of the reply behind the word that ends at ``at``."""
        form = self._form
        words = len(self._apart) - bisect_right(self._apart, at) + 1 if at < len(self._text) else 0
        tokens = self._left[bisect_left(self._edges, at)] + words * self._break + self._costs.count(form.closing)

        def lark() -> str:
            edges = [at, *self._apart[bisect_right(self._apart, at):], len(self._text)]
            label = form.middle + self._costs.shortest
            texts = [form.following + self._text[a:b].decode() + label for a, b in pairwise(edges) if a < b]
            return literal("".join(texts) + form.closing)

        return [Part(tokens + _SEAM, lark)]

    def _word_end(self, at: int) -> int:
        """The end of the longest word that begins at ``at``."""
        later = bisect_right(self._apart, at)
        return self._apart[later] if later < len(self._apart) else len(self._text)


_INLINE_ITEM = re.compile(rb"((?:[^/ ]+ )*[^ ]*)/([^/ ]+) ")


def _item_pattern(middle: str) -> re.Pattern[bytes]:
    """Surface and label of a JSON item, from the surface's first byte to the label's closing quote."""
    return re.compile(f'({_STRING}){re.escape(middle)}({_STRING})"'.encode(), re.DOTALL)


def _places(text: bytes, part: bytes) -> list[int]:
    """Where ``part`` stands in ``text``, overlapping places included."""
    places, at = [], text.find(part)
    while at >= 0:
        places.append(at)
        at = text.find(part, at + 1)
    return places


def _among(ordered: Sequence[int], value: int) -> bool:
    at = bisect_left(ordered, value)
    return at < len(ordered) and ordered[at] == value


def _common(one: bytes, other: bytes) -> int:
    """Length of the common beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def _inside_character(text: bytes, at: int) -> bool:
    return at < len(text) and text[at] & 0xC0 == 0x80


def _boundary(text: bytes, at: int) -> int:
    """The first place from ``at`` on that is not inside a character."""
    while _inside_character(text, at):
        at += 1
    return at
