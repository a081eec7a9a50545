"""Read replies in the inline form, ``word/TAG word/TAG``: pieces between white space, each a word, a slash and its tag.

The last slash of a piece parts word and tag, as a word may hold slashes and a tag may not. A piece without any belongs to
the word of the piece after it ("New York/PROPN").
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_THOUGHT_END = re.compile(r"</think(?:ing)?>(?!/)", re.IGNORECASE)  # "</think>/X" is a word of the sentence
_THOUGHT = re.compile(r"\s*<think(?:ing)?>(?!/)", re.IGNORECASE)
_FENCE = re.compile(r"```[\w-]{0,12}")
_ANSWER = re.compile(r"(?:answer|output|result|tags|输出|答案|结果|标注结果|出力|출력)[:：]", re.IGNORECASE)
_PIECE = re.compile(r"\S+")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class InlineFound:
    """What was read: (word, tag) in order, members left out, and what was mended or missing, the gravest first.

    odd: some tag has a quote in it, as when JSON with slashes is read as pieces.
    """

    items: list[tuple[str, str]] = field(default_factory=list)
    dropped: int = 0
    notes: list[str] = field(default_factory=list)
    odd: bool = False

    def note(self, what: str) -> None:
        if what not in self.notes:
            self.notes.append(what)

    def take(self, word: str, tag: str) -> None:
        if _SURROGATE.search(word + tag):  # no UTF-8 file can store it
            self.dropped += 1
            self.note("lone_surrogate")
        elif word and tag:
            self.items.append((word, tag))
            self.odd |= any(char in tag for char in "\"'\\")
        else:
            self.dropped += 1
            self.note("stray_members")


def read_inline(text: str, *, cut: bool) -> InlineFound:
    """Read the words and tags of a reply; never raises, whatever the text.

    cut: generation stopped at the token limit: a last piece without white space behind it may be half a word or half a
    tag and is left out (it does not count as dropped).
    """
    found = InlineFound(notes=["unterminated"] if cut else [])
    text = _without_thoughts(text, found)
    if cut:
        text = text[:next((at for at in range(len(text), 0, -1) if text[at - 1].isspace()), 0)]
    slash = "/" if "/" in text else "／"
    if slash == "／" and slash in text:
        found.note("full_width_slash")
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    tagged = [line for i, line in enumerate(lines) if _is_tagged(line, slash, last=i == len(lines) - 1, found=found)]
    if len(tagged) > 1:
        found.note("several_lines")
    for line in tagged:
        _read_line(line, slash, found, whole=not cut)
    return found


def _without_thoughts(text: str, found: InlineFound) -> str:
    """The text behind what a model thought aloud; nothing when it never stopped thinking."""
    ends = list(_THOUGHT_END.finditer(text))
    if ends:
        found.note("think")
        return text[ends[-1].end():]
    if _THOUGHT.match(text):
        found.note("unclosed_think")
        return ""
    return text


def _is_tagged(line: str, slash: str, *, last: bool, found: InlineFound) -> bool:
    """Whether a line holds words and tags; notes what else it is."""
    if _FENCE.fullmatch(line):
        found.note("code_fence")
        return False
    if slash not in line or (line.endswith((":", "：")) and not last):  # "These are the words and/or tags:"
        found.note("prose")
        return False
    return True


def _read_line(line: str, slash: str, found: InlineFound, *, whole: bool) -> None:
    spans = [match.span() for match in _PIECE.finditer(line)]
    if _ANSWER.fullmatch(line, *spans[0]):
        found.note("prose")
        del spans[0]
    begin = None  # of the word
    for start, end in spans:
        begin = start if begin is None else begin
        at = line.rfind(slash, start, end)
        if at >= 0:
            found.take(line[begin:at].rstrip(), line[at + 1:end])
            begin = None
    if begin is not None and whole:  # words without a tag
        found.dropped += 1
        found.note("stray_members")
