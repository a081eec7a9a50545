"""Read JSON as language models write it: a strict reader, and a tolerant one for what the strict reader refuses.

Both give the same values: ``str``, ``Num`` (a number, as written), ``Bare`` (an unquoted word), ``bool``, ``None``,
``list`` and ``Obj``. The tolerant reader keeps its own stack, so nesting cannot exhaust Python's, and looks at each
character a bounded number of times. On text that *is* JSON, or the beginning of JSON, it reads exactly what JSON means;
all guessing (where does a string with unescaped quotes end?) starts after the first character that JSON forbids.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any


class Num(str):
    """A number, kept as written: 3.50 stays "3.50"."""


class Bare(str):
    """A word that stood without quotes."""


class Arr(list):
    """An array; ``closed`` is False when the text ended before its closing bracket."""

    closed = True


@dataclass
class Obj:
    """An object: its pairs in order, repeated keys kept; ``closed`` as in ``Arr``."""

    pairs: list[tuple[str, Any]] = field(default_factory=list)
    closed: bool = True


@dataclass
class TopValue:
    """An object or array found in a text, at the half-open code points ``start`` to ``end``.

    ``how``: "" when it is strict JSON, else "control_chars" (raw tabs or line ends in strings), "loose_json" or
    "unterminated".
    """

    value: Any
    start: int
    end: int
    how: str


def _decoder(strict: bool) -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=Obj, parse_int=Num, parse_float=Num,
                            parse_constant=lambda _: None, strict=strict)


_STRICT, _RAW_CONTROLS = _decoder(True), _decoder(False)


def decode_strict(text: str) -> Any:
    """Decode ``text`` as one JSON value. Raises ValueError when it is not JSON or is nested too deeply."""
    try:
        return _STRICT.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


_OPEN = {"[": "]", "【": "]", "［": "]", "{": "}", "｛": "}", "(": ")"}
_CLOSE = {"]": "]", "】": "]", "］": "]", "}": "}", "｝": "}", ")": ")"}
_SEPARATORS, _COLONS = ",，;；、", ":："
_DOUBLE, _SINGLE = "\"“”＂", "'‘’＇"
QUOTES = _DOUBLE + _SINGLE
# A string opened by an ASCII quote ends at that quote only: “ and ” inside it are content.
_CLOSERS = {q: "\"" if q == "\"" else _DOUBLE for q in _DOUBLE} | {q: "'" if q == "'" else _SINGLE for q in _SINGLE}
_QUOTE_OR_ESCAPE = {closers: re.compile(rf"\\.|[{closers}]", re.DOTALL) for closers in set(_CLOSERS.values())}
_STOP = re.compile(r"```|</think", re.IGNORECASE)  # between members, these end a value that was never closed

_BLANK = re.compile(r"(?:[\s\ufeff\u200b]|\\[nrt])*")
_LINE_COMMENT = re.compile(r"(?://|\#)[^\n]*")
_MAX_COMMENT = 1000  # code points between /* and */
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[\"'\\/bfnrt“”‘’＂＇])")
_PLAIN_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_WORDS = {"null": None, "none": None, "nil": None, "undefined": None, "nan": None, "true": True, "false": False}
_BARE_KEY = rf"[^{QUOTES}\s:：,，;；、{{}}\[\]【】［］｛｝][^{QUOTES}:：,，{{}}\[\]\n]{{0,60}}"
# What may follow the comma after a string: else the "closing" quote before the comma was part of the string.
_MEMBER = re.compile(rf"""[\s,，:]* (?: [{QUOTES}\[({{【［｛\])}}】］｝/\#] | $ | ``` | \.\.\. | -?\d
    | (?:null|none|true|false)\b | \w{{1,20}}\s*[:：] )""", re.VERBOSE | re.IGNORECASE)
_SHORT_WORD = re.compile(r"\w{1,20}")
_MEMBER_BREAK = re.compile(r"\s{0,4}(?:[}｝]\s{0,4}[,，]?\s{0,4}[{｛]|[,，])\s{0,4}\Z")


def _quoted(quotes: str) -> str:
    return rf"[{quotes}]([^{quotes}\\]*(?:\\.[^{quotes}\\]*)*)[{quotes}]\s*[:：]"


_HALF_QUOTED = rf"[{QUOTES}]{{0,2}}({_BARE_KEY})[{QUOTES}]{{0,2}}\s*[:：]"
_KEY = re.compile("|".join([*map(_quoted, ('"', "'", _DOUBLE, _SINGLE)), _HALF_QUOTED]), re.DOTALL)
_STRING_TO_END = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:\\?|"\s*)\Z', re.DOTALL)
_KEY_WITHOUT_COLON = re.compile(rf"[{QUOTES}](\w{{1,20}})[{QUOTES}](?=\s+[{QUOTES}])")
# A bare word may hold quotes (O'Neil) and blanks (New York); a blank before a quote ends it: a comma was forgotten.
_BARE_CHARS = rf"(?:(?![ \t][{QUOTES}]|</think)[^,，;；\[\]{{}}【】［］｛｝\r\n%s])+"
_BARE = re.compile(_BARE_CHARS % "")
_BARE_IN_PARENS = re.compile(_BARE_CHARS % ")")
# An opening bracket in prose starts a value only when something like JSON follows.
_TOP = re.compile(rf"""<think(?:ing)?> | </think(?:ing)?>
    | [\[【［] (?= (?:\s|\\[nrt])* (?: [{QUOTES}\[{{(【［｛\]】］,/\\] | (?:null|none)\b | $) )
    | [{{｛] (?= (?:\s|\\[nrt])* (?: [{QUOTES}\[{{(【［｛}}｝,/\\] | {_BARE_KEY}[:：] | $) )
    | \( (?= \s* [{QUOTES}\[{{(] )""", re.VERBOSE | re.IGNORECASE)
_STRICT_DEPTH = 3  # members this deep are tried as strict JSON first; with deeper ones the tries would overlap
_MAX_STRICT_FAILURES = 100  # then the tolerant reader alone goes on: an error costs a count of the lines before it
_MAX_RETRIES = 8  # openings tried anew inside a value that never closed and held nothing


def unescape(raw: str) -> str:
    """Undo JSON's and Python's backslash escapes; an unknown escape stays as it is, surrogate pairs are joined."""
    if "\\" not in raw:
        return raw

    def one(match: re.Match[str]) -> str:
        code = match.group(1)
        return chr(int(code[1:], 16)) if len(code) > 1 else _PLAIN_ESCAPES.get(code, code)

    text = _ESCAPE.sub(one, raw)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


class _Source:
    """A text being searched, with what was learnt about it, so that no part of it is tried in vain again and again."""

    def __init__(self, text: str, cut: bool) -> None:
        self.text, self.cut = text, cut
        self.hopeless: set[str] = set()  # kinds of quotes without an acceptable closing one from here to the end
        self.strict_tries = _MAX_STRICT_FAILURES

    def decode(self, decoder: json.JSONDecoder, pos: int) -> tuple[Any, int] | None:
        """The strict JSON value that starts at ``pos`` and its end, or None."""
        if not self.strict_tries or self.text[pos] not in "[{":
            return None
        try:
            return decoder.raw_decode(self.text, pos)
        except (ValueError, RecursionError):
            self.strict_tries -= 1
            return None


@dataclass
class _Frame:
    """A container being read: what closes it, its members or pairs so far, and the key waiting for its value."""

    closer: str
    members: list[Any] = field(default_factory=list)
    key: str | None = None

    @property
    def wants_key(self) -> bool:
        return self.closer == "}" and self.key is None

    def add(self, value: Any) -> None:
        if self.closer != "}":
            self.members.append(value)
            return
        self.members.append((self.key or "", value))
        self.key = None

    def finish(self, closed: bool) -> Any:
        if self.closer == "}":
            if self.key is not None:
                self.members.append((self.key, None))
            return Obj(self.members, closed)
        array = Arr(self.members)
        array.closed = closed
        return array


class _Reader:
    """One tolerant reading of the object or array that opens at ``start``."""

    def __init__(self, source: _Source, start: int) -> None:
        self.source, self.text, self.pos = source, source.text, start
        self.stack: list[_Frame] = []
        self.open_count = {"]": 0, "}": 0, ")": 0}
        self.result: Any = None

    def read(self) -> tuple[Any, int, bool]:
        """The value, where it ends, and whether its closing bracket was there."""
        self._push(self.text[self.pos])
        while self.stack:
            self._skip_blank()
            if self.pos >= len(self.text) or _STOP.match(self.text, self.pos):
                while self.stack:
                    self._pop(closed=False)
                return self.result, self.pos, False
            self._step(self.text[self.pos])
        return self.result, self.pos, True

    def _step(self, char: str) -> None:
        frame = self.stack[-1]
        if char in _OPEN:
            self._open(char)
        elif char in _CLOSE:
            self._close(_CLOSE[char])
        elif char in _SEPARATORS:
            if frame.key is not None:
                frame.add(None)
            self.pos += 1
        elif char in _COLONS:
            self.pos += 1
        elif _STRING_TO_END.match(self.text, self.pos):
            self._break_off()
        elif (frame.wants_key or char in QUOTES and frame.key is None) and (match := _KEY.match(self.text, self.pos)):
            self._key(match)
        elif frame.wants_key and (match := _KEY_WITHOUT_COLON.match(self.text, self.pos)):
            self._key(match)
        elif char in QUOTES:
            self._string(_CLOSERS[char])
        else:
            self._bare(frame)

    def _key(self, match: re.Match[str]) -> None:
        if not self.stack[-1].wants_key:
            self._push("{")  # ["entity": "Ann", ...: a key in a list, the opening brace was forgotten
        key = next(group for group in match.groups() if group is not None)
        self.stack[-1].key = unescape(key if match.group()[0] in QUOTES else key.strip())
        self.pos = match.end()

    def _push(self, char: str) -> None:
        closer = _OPEN[char]
        self.stack.append(_Frame(closer))
        self.open_count[closer] += 1
        self.pos += 1

    def _pop(self, closed: bool) -> None:
        frame = self.stack.pop()
        self.open_count[frame.closer] -= 1
        value = frame.finish(closed)
        if self.stack:
            self.stack[-1].add(value)
        else:
            self.result = value

    def _open(self, char: str) -> None:
        frame = self.stack[-1]
        if _OPEN[char] == "}" and frame.wants_key and frame.members:
            self._pop(closed=True)  # {"a": 1 {"a": 2}: an object where a key belongs; the brace before it was forgotten
            return
        if len(self.stack) <= _STRICT_DEPTH and (decoded := self.source.decode(_RAW_CONTROLS, self.pos)) is not None:
            frame.add(decoded[0])
            self.pos = decoded[1]
            return
        self._push(char)

    def _close(self, closer: str) -> None:
        self.pos += 1
        if not self.open_count[closer] or (closer != "}" and self.stack[-1].key is not None):
            return  # a bracket too many, or one where a value belongs
        while self.stack[-1].closer != closer:
            self._pop(closed=not self.source.cut)  # cut off: the missing bracket may be the cut's
        self._pop(closed=True)

    def _skip_blank(self) -> None:
        self.pos = _BLANK.match(self.text, self.pos).end()
        while self.stack[-1].key is None and (end := self._comment_end()):  # a value may be # or /, a member may not
            self.pos = _BLANK.match(self.text, end).end()

    def _comment_end(self) -> int:
        """Where the comment that begins at ``pos`` ends; 0 when there is none."""
        if self.text.startswith("/*", self.pos):
            end = self.text.find("*/", self.pos + 2, self.pos + 4 + _MAX_COMMENT)
            return end + 2 if end >= 0 else 0
        comment = _LINE_COMMENT.match(self.text, self.pos)
        return comment.end() if comment else 0

    def _bare(self, frame: _Frame) -> None:
        pattern = _BARE_IN_PARENS if frame.closer == ")" else _BARE
        match = pattern.match(self.text, self.pos)
        if match is None:
            self.pos += 1
            return
        self.pos = match.end()
        word = match.group().strip()
        if len(word) > 1 and word[-1] in QUOTES and not set(word[:-1]) & set(QUOTES):
            word = word[:-1]  # {"entity": Ann", ...}: only the opening quote was forgotten
        if word.lower() in _WORDS:
            frame.add(_WORDS[word.lower()])
        else:
            frame.add(Num(word) if _NUMBER.fullmatch(word) else Bare(unescape(word)))

    def _string(self, closers: str) -> None:
        """Read the string whose opening quote stands at ``pos``; without an end it takes the rest of the text."""
        start, first, last = self.pos + 1, None, None
        for match in _QUOTE_OR_ESCAPE[closers].finditer(self.text, start):
            at = match.start()
            if self.text[at] == "\\":  # an escaped character, perhaps a quote
                continue
            first = at if first is None else first
            if closers in self.source.hopeless or self._ends_string(at):
                return self._take(start, at, at + 1)
            if last is not None and (end := self._runs_into_key(start, last, at)) is not None:
                return self._take(start, end, end)
            last = at
        self.source.hopeless.add(closers)
        if first is not None:
            return self._take(start, first, first + 1)
        self._break_off()

    def _break_off(self) -> None:
        """The text ends inside a string, or right after one: whatever it was to be stays open."""
        self.stack[-1].add(None)
        self.pos = len(self.text)

    def _take(self, start: int, end: int, resume: int) -> None:
        self.stack[-1].add(unescape(self.text[start:end]))
        self.pos = resume

    def _ends_string(self, at: int) -> bool:
        """Whether the quote at ``at`` closes a string, judged by what follows it."""
        after = self._next(at + 1)
        char = self.text[after:after + 1]
        if not char or char in _CLOSE or _STOP.match(self.text, after):
            return True
        if char in _SEPARATORS:
            return _MEMBER.match(self.text, after + 1) is not None
        if char in QUOTES:  # a forgotten comma, unless that next quote is itself the closing one
            then = self._char_after(after)
            return bool(then) and then not in _SEPARATORS + _COLONS and then not in _CLOSE
        return char in (_COLONS if self.stack[-1].closer == "}" and self.stack[-1].wants_key else _OPEN)

    def _runs_into_key(self, start: int, quote: int, at: int) -> int | None:
        """Where the value ends whose closing quote is missing: ``"Rome, "type": ...``, ``"LOC}, {"entity": ...``."""
        if self.stack[-1].key is None or self._char_after(at) not in tuple(_COLONS):
            return None
        if _SHORT_WORD.fullmatch(self.text, quote + 1, at) is None:
            return None
        tail_start = max(start, quote - 24)
        tail = _MEMBER_BREAK.search(self.text[tail_start:quote])
        return tail_start + tail.start() if tail else None

    def _next(self, pos: int) -> int:
        return _BLANK.match(self.text, pos).end()

    def _char_after(self, pos: int) -> str:
        after = self._next(pos + 1)
        return self.text[after:after + 1]


def read_values(text: str, *, cut: bool = False) -> tuple[list[TopValue], bool]:
    """All objects and arrays of ``text`` that stand outside one another and outside ``<think>`` blocks, in order.

    Returns:
        The values, and whether a ``<think>`` block was left open. Nothing raises.
    """
    values: list[TopValue] = []
    source = _Source(text, cut)
    pos, retries = 0, _MAX_RETRIES
    while match := _TOP.search(text, pos):
        pos, tag = match.end(), match.group().lower()
        if tag.startswith("</"):
            values.clear()  # what came before was thought as well
        elif tag.startswith("<"):
            end = re.compile(r"</think(?:ing)?>", re.IGNORECASE).search(text, pos)
            if end is None:
                return values, True
            pos = end.end()
        else:
            value = _read_one(source, match.start())
            if value.how == "unterminated" and retries and not _holds_container(value.value):
                retries -= 1  # a stray bracket of the prose: what follows it may still be read
                values.append(TopValue(value.value, match.start(), pos, value.how))
                continue
            values.append(value)
            pos = max(pos, value.end)
    return values, False


def _read_one(source: _Source, start: int) -> TopValue:
    for decoder, how in ((_STRICT, ""), (_RAW_CONTROLS, "control_chars")):
        if (decoded := source.decode(decoder, start)) is not None:
            return TopValue(decoded[0], start, decoded[1], how)
    value, end, closed = _Reader(source, start).read()
    return TopValue(value, start, end, "loose_json" if closed else "unterminated")


def _holds_container(value: Any) -> bool:
    members = [v for _, v in value.pairs] if isinstance(value, Obj) else value
    return any(isinstance(member, (list, Obj)) for member in members)
