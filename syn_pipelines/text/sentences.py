"""Running text to sentences, for Chinese, Japanese, Korean and English as language models write them.

A sentence keeps its end mark and whatever closes it: quotes, brackets, an emoji, a note number. Nothing but white space
is lost. ``;`` and ``；`` do not split. In doubt two sentences stay together: a long sentence does training no harm, a
stump does.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from .tokens import BEFORE_NUMBERS, EMAIL, EMOJI, TITLES, URL, WORDS

_MARKS = "。．｡.!?！？…‥⋯"
_CLOSERS = "”’」』）)】〕〗》〉］\\]｝}\"'＂~～"
_AFTER_MARK = rf"(?:[{_CLOSERS}]|\[\d{{1,3}}\]|(?![0-9#*])(?:{EMOJI}))"
# Marks, then what closes the sentence, as often as they alternate: 。” .) ！」。 ?!"
_END = re.compile(rf"[{_MARKS}]+(?:{_AFTER_MARK}|\s+(?![0-9#*])(?:{EMOJI})|\s+[”」』）】》)]|[{_MARKS}])*")
# Nothing follows the stars of these two: emoji can be taken apart in many ways, and a pattern that fails behind a row of
# them tries all of those, twice as many with each emoji.
_CLOSING = re.compile(rf"(?:{_AFTER_MARK}|\s)*")
_TAIL = re.compile(rf"(?:{_AFTER_MARK}|[{_MARKS}]|\s)+")
_ADDRESS = re.compile(rf"{URL}|{EMAIL}")
# Quoted or bracketed text of moderate length; longer ones are more often a missing partner.
_ENCLOSED = re.compile(
    r'“[^“”]{0,200}”|「[^「」]{0,200}」|『[^『』]{0,200}』|（[^（）]{0,200}）|\([^()]{0,200}\)|"[^"]{0,200}"|《[^《》]{0,80}》'
)
_LIST_NUMBER = re.compile(r"[(（]?(?:\d{1,3}|[A-Za-z]|[ivx]{1,4}|[IVX]{1,4})")
_LAST_WORD = re.compile(r"[^\s\"'“”‘’()\[\],!?:;\u1100-\u11ff\u2e80-\uffff]*$")  # CJK is no part of it: 和J.K.
# Words that open a sentence and hardly ever follow an abbreviation or an initial inside one.
_OPENERS = frozenset(
    "A About After All Also Although An And Another Are As At Because Before Both But By Can Did Do Does Each "
    "Even For From Had Has Have He Her His How However I If In Is It Its Later Many Meanwhile Most My No Now On "
    "Once One Our She Since So Some Such That The Their Then There These They This Those Though Through Today "
    "Under Until Was We Were What When Where While Who Why With Without Yes Yet You Your".split()
)
_NEVER_LAST_WORDS = frozenset({"e.g", "i.e", "vs", "cf", "viz"})
_NEVER_LAST = frozenset(f"{word}." for word in TITLES | _NEVER_LAST_WORDS)
_ACRONYM = re.compile(r"(?:[^\W\d_]{1,3}\.)+[^\W\d_]{1,2}")  # U.S, a.m, Ph.D
_KOREAN_DATE = re.compile(r"\d{4}\.\s?\d{1,2}(?:\.\s?\d{1,2})?$")
_NAMES_WITH_MARK = ("Yahoo", "モーニング娘")  # Yahoo!, モーニング娘。: the mark is part of the name
_NOT_BLANK = re.compile(r"\S")
_LOOK_BACK = 64  # code points before a mark that tell whether it ends the sentence; no rule looks at more than 40
_COMMAS = ",，、；;：:"
# What follows a quotation that is part of a longer sentence, with no blank between.
_CARRIES_ON = {"ja": "とはがをにでもなの", "zh": "的地得是也"}


def split_sentences(text: str, lang: str) -> list[tuple[str, bool]]:
    """Cut ``text`` into sentences.

    A line break ends a sentence, unless the line ends with a comma or the next one goes on in lower case; a blank line
    always does. ``...`` and ``……`` inside a line end a sentence only before white space or after a closing quote.

    Args:
        text: any text.
        lang: "zh", "ja", "ko" or "en"; any other is treated as "en".
    Returns:
        (sentence, finished) pairs in order, the sentences trimmed, none empty. finished: it ends with an end mark,
        closing quotes, brackets and emoji aside, and not with a title ("Mr."), nor is it a bare list number ("2."). A
        line break inside a sentence has become a blank. Without white space the sentences joined are the text.
    """
    found = []
    for paragraph in _paragraphs(text):
        start = 0
        for end in _boundaries(paragraph, lang):
            found.append(paragraph[start:end].strip())
            start = end
        found.append(paragraph[start:].strip())
    return [(sentence, _is_finished(sentence)) for sentence in found if sentence]


def _is_finished(sentence: str) -> bool:
    last = max(map(sentence.rfind, _MARKS))
    if last < 0 or _CLOSING.match(sentence, last + 1).end() < len(sentence):
        return False
    return not (
        _LIST_NUMBER.fullmatch(sentence.rstrip(".)）")) is not None
        or sentence.rsplit(None, 1)[-1].lstrip("(（\"'“‘[") in _NEVER_LAST
    )


def _paragraphs(text: str) -> Iterator[str]:
    """Lines, the wrapped ones joined by a blank."""
    held = ""
    for line in re.split(r"\r\n|[\n\r]", text):
        line = line.strip()
        wrapped = held and line and (held[-1] in ",，、" or (line[0].islower() and held[-1] not in ":：" + _MARKS))
        if wrapped:
            held += " " + line
            continue
        if held:
            yield held
        held = line
    if held:
        yield held


def _boundaries(text: str, lang: str) -> Iterator[int]:
    """Offsets in ``text`` where one sentence ends and another begins, ascending, strictly inside the text."""
    addresses, enclosed = _spans(_ADDRESS, text), _spans(_ENCLOSED, text)
    tail = next((span[0] for span in _spans(_TAIL, text)[-1:] if span[1] == len(text)), len(text))
    start, letter = 0, -1  # of the sentence, and its first letter
    for match in _END.finditer(text):
        if match.end() >= tail:
            return
        after = _NOT_BLANK.search(text, match.end())
        if _around(addresses, match.start()):
            continue
        if (span := _around(enclosed, match.start())) and _is_inside(text, match, *span):
            if start < span[0] or _goes_on(text[span[1] : span[1] + 20], lang):
                continue
        if letter < start:
            letter = next((i for i in range(start, len(text)) if text[i].isalpha()), len(text))
        lower = letter < match.start() and text[letter].islower()
        before = text[max(start, match.start() - _LOOK_BACK) : match.start()]
        if _ends_here(before, match, text[match.end() : after.start() + 20], lang, lower):
            yield match.end()
            start = after.start()


def _spans(pattern: re.Pattern[str], text: str) -> list[tuple[int, int]]:
    return [match.span() for match in pattern.finditer(text)]


def _around(spans: Sequence[tuple[int, int]], place: int) -> tuple[int, int] | None:
    """The one of the sorted spans, none of which overlap, that has ``place`` inside, its first character aside."""
    i = bisect_left(spans, (place,)) - 1
    return spans[i] if i >= 0 and place < spans[i][1] else None


def _goes_on(rest: str, lang: str) -> bool:
    """Whether a sentence goes on after a closing quote or bracket: 「…。」と言った, “……！”的口号, "Stop!" he cried."""
    if not rest:
        return False
    if lang in _CARRIES_ON:
        return rest[0] in _COMMAS or rest[0] in _CARRIES_ON[lang]
    return rest[0] in _COMMAS or rest.lstrip()[:1].islower()


def _is_inside(text: str, match: re.Match[str], low: int, high: int) -> bool:
    """Whether marks within the enclosed text[low:high] leave the sentence around it open.

    The last mark before a closing quote may end the sentence, before a bracket only if another mark follows it.
    """
    quoted = text[low] in "“「『\""
    return match.end() < high or (not quoted and not any(mark in _MARKS for mark in text[high : match.end()]))


def _ends_here(before: str, match: re.Match[str], rest: str, lang: str, lower: bool) -> bool:
    """Whether the marks of ``match`` end a sentence.

    before, rest: the end of what precedes them, from the sentence's start at most, and the beginning of what follows.
    lower: the sentence opens in lower case. Who does not capitalise the first word (chat style) does not capitalise the
    next sentence either.
    """
    marks = re.match(rf"[{_MARKS}]+", match.group()).group()
    closers = match.group()[len(marks) :]
    gap, following = rest[0].isspace(), rest.lstrip()
    if (closers and _goes_on(rest, lang)) or (not gap and following[0] in _COMMAS) or following[0] in _MARKS:
        return False
    if following[0].islower() and not lower:
        return False
    if marks in (".", "．"):
        return _dot_ends(before, bool(closers), gap, following, lang)
    if not marks.strip(".…‥⋯"):  # an ellipsis
        return gap or any(closer in _CLOSERS for closer in closers)
    if marks.isascii() and not gap and not closers and following[0].isascii():
        return following[0].isupper() and before[-1:].islower() and not before.endswith(_NAMES_WITH_MARK)
    return not before.endswith(_NAMES_WITH_MARK)


def _is_caseless(char: str) -> bool:
    """A letter of a script without capitals: Chinese, Japanese, Korean."""
    return char.isalpha() and char.lower() == char.upper()


def _dot_ends(before: str, closed: bool, gap: bool, following: str, lang: str) -> bool:
    """``_ends_here`` for a single full stop: the one mark that has other uses."""
    word = _LAST_WORD.search(before[-40:]).group().lstrip(".")
    opener = re.match(r"[\"'“‘(（\[「『]*(\w*)", following).group(1)
    if not closed and _LIST_NUMBER.fullmatch(before):
        return False
    if word in TITLES or word in _NEVER_LAST_WORDS:
        return False
    if not gap:  # 他来了.然后 ends; 3.5, v2.0, node.js, 第3.节, A.苹果 do not
        short = word.capitalize() in WORDS or _ACRONYM.fullmatch(word) or word[-1:].isdigit() or len(word) == 1
        caseless, after_caseless = _is_caseless(following[0]), _is_caseless(before[-1:])
        return not short and (caseless or (following[0].isupper() and (closed or after_caseless)))
    if opener[:1].isdigit():
        in_date = lang == "ko" or len(word) < 4
        return word not in WORDS and word not in BEFORE_NUMBERS and not (word.isdigit() and in_date)
    if lang == "ko" and _KOREAN_DATE.search(before):
        return False
    if word == "etc":
        return opener[:1].isupper()
    if word in WORDS or _ACRONYM.fullmatch(word) or (len(word) == 1 and word.isupper()):
        return opener in _OPENERS
    return word != "v"
