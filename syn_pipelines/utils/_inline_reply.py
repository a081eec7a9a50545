"""Read replies in the inline form, ``word/TAG word/TAG``: pieces between white space, each a word, a slash and its tag.

The last slash of a piece parts word and tag, as a word may hold slashes and a tag may not. A piece without any belongs to
the word of the piece after it ("New York/PROPN"). A line in which most pieces have none is prose. Signs that stand around
a line, a word or its tag (``**the/DET dog/NOUN**``, ``dog/NOUN,``) are no part of them; a tag of signs alone is one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_THOUGHT_END = re.compile(r"</think(?:ing)?>(?!/)", re.IGNORECASE)  # "</think>/X" is a word of the sentence
_THOUGHT = re.compile(r"\s*<think(?:ing)?>(?!/)", re.IGNORECASE)
_FENCE = re.compile(r"```[\w-]{0,12}")
# Where a model's turn begins, or ends, at the end of a line: elsewhere it is a word of the sentence.
_MARK = re.compile(r"\A\s{0,9}<(?:s|bos)>(?=\s)|(?:(?:<\|[\w ]{1,40}\|>|</?s>|<(?:bos|eos|pad|start_of_turn|end_of_turn)>|\[/?INST\])[ \t]{0,9})+(?=\n|\Z)", re.IGNORECASE)
_LIST_MARK = r"(?:[-*•·+#]|\d{1,3}[.)、])[ \t]+"
_ANSWER = r"""\**(?:answer|output|result|tags|tagged|tagging|输出|答案|结果|标注|标注结果|词性标注|词性标注结果|分词|分词结果|標註|結果|回答
    |出力|출력|결과|답)\**[:：]\**"""
_ANY_LABEL = r"[^/／]{1,60}[:：]\**[ \t]+"
_LABEL = re.compile(rf"(?:{_LIST_MARK})?(?:{_ANSWER}|{_ANY_LABEL})(?=[^/／])|{_LIST_MARK}(?=[^/／])", re.IGNORECASE | re.VERBOSE)
_SENTENCE = re.compile(r"[\s#*>]{0,8}(?:sentence|input|句子|输入|文|入力|문장|입력)\**[ \t]?[:：]", re.IGNORECASE)
_PAIRS = {"**": "**", "*": "*", "`": "`", '"': '"', "'": "'", "“": "”", "‘": "’", "[": "]", "(": ")", "{": "}", "【": "】", "（": "）", "「": "」"}
# No free tag holds one of these: the grammar does not write them.
AROUND_TAGS = ",;.!?…:，；。、！？：\"'`*“”‘’[]{}<>【】「」"
_NOT_IN_TAGS = re.compile(r"[\[\]{}<>\"'`*，；。、,;]")
_LONGEST_TAG = 40  # code points
_MOST_UNTAGGED = 3  # pieces for each that is tagged, in a line that is no prose
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
        elif word and tag and len(tag) <= _LONGEST_TAG and not (_is_named(tag) and _NOT_IN_TAGS.search(tag)):
            self.items.append((word, tag))
        else:
            self.dropped += 1
            self.note("stray_members")


def read_inline(text: str, *, cut: bool) -> InlineFound:
    """Read the words and tags of a reply; never raises, whatever the text.

    cut: generation stopped at the token limit: a last piece without white space behind it may be half a word or half a
    tag and is left out (it does not count as dropped).
    """
    found = InlineFound(notes=["unterminated"] if cut else [])
    text = _without_marks(_without_thoughts(text, found), found)
    slash = "/" if "/" in text else "／"
    if cut:
        text = text[:next((at for at in range(len(text), 0, -1) if text[at - 1].isspace()), 0)]
    if slash == "／" and slash in text:
        found.note("full_width_slash")
    tagged = _tagged_lines([line.strip() for line in text.split("\n") if line.strip()], slash, found)
    if len(tagged) > 1:
        found.note("several_lines")
    for line in tagged:
        _read_line(line, slash, found, whole=not cut)
    return found


def _without_marks(text: str, found: InlineFound) -> str:
    """The first turn with a slash in it, of a text with marks such as <|im_end|> and </s>."""
    turns = _MARK.split(text)
    if len(turns) == 1:
        return text
    found.note("prose")
    number, turn = next(((n, turn) for n, turn in enumerate(turns) if "/" in turn or "／" in turn), (0, ""))
    return turn if number == len(turns) - 1 else turn + "\n"  # what a mark ends is not cut off


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


def _tagged_lines(lines: list[str], slash: str, found: InlineFound) -> list[str]:
    """The lines that hold words and tags; notes what else there is."""
    tagged = [line for i, line in enumerate(lines) if _is_tagged(line, slash, last=i == len(lines) - 1, found=found)]
    said = next((i for i, line in enumerate(tagged) if not _SENTENCE.match(line)), 0)  # behind an echo of the sentence
    end = next((i for i in range(said + 1, len(tagged)) if _SENTENCE.match(tagged[i])), len(tagged))
    if end - said < len(tagged):
        found.note("prose")
    return tagged[said:end]


def _is_tagged(line: str, slash: str, *, last: bool, found: InlineFound) -> bool:
    """Whether a line holds words and tags; notes what else it is."""
    if _FENCE.fullmatch(line):
        found.note("code_fence")
        return False
    pieces = [slash in piece for piece in line.split()]
    if sum(pieces) * _MOST_UNTAGGED < len(pieces) or (line.endswith((":", "：")) and not last):  # "the words and/or tags:"
        found.note("prose")
        return False
    return True


def _read_line(line: str, slash: str, found: InlineFound, *, whole: bool) -> None:
    inner = _unwrapped(line)
    label = _LABEL.match(inner)
    rest = inner[label.end() if label else 0:].strip()
    text = _unwrapped(rest)
    if label:
        found.note("prose")
    if inner != line or text != rest:
        found.note("loose_inline")
    begin = None  # of the word
    for match in _PIECE.finditer(text):
        start, end = match.span()
        begin = start if begin is None else begin
        if text.rfind(slash, start, end) >= 0:
            _read_pair(text[begin:end], slash, found)
            begin = None
    if begin is not None and whole:  # words without a tag
        found.dropped += 1
        found.note("stray_members")


def _read_pair(pair: str, slash: str, found: InlineFound) -> None:
    """Read a word and its tag, without the signs around them."""
    said = pair.rstrip(",，;；、") if _is_named(pair[pair.rfind(slash):]) else pair
    said = _unwrapped(said)
    at = said.rfind(slash)
    word, tag = said[:at].rstrip(), said[at + 1:]
    found.odd |= any(char in pair[pair.rfind(slash) + 1:] for char in "\"'\\")
    core = _unwrapped(tag).strip(AROUND_TAGS) if _is_named(tag) else tag
    if core != tag or said != pair:
        found.note("loose_inline")
    found.take(word, core)


def _is_named(tag: str) -> bool:
    """Whether there is a letter or a digit in a tag; Penn's tags of punctuation have none."""
    return any(char.isalnum() for char in tag)


def _unwrapped(text: str) -> str:
    """The text without the quotes, brackets or stars around all of it, unless one of them is a word or a tag of its own."""
    opening = "**" if text.startswith("**") else text[:1]
    closing = _PAIRS.get(opening)
    if closing is None or len(text) <= len(opening + closing) or not text.endswith(closing):
        return text
    inner = text[len(opening):-len(closing)]
    alone = inner[0] in "/／" or inner[-1] in "/／" or inner != inner.strip()
    return text if alone or closing in inner else inner
