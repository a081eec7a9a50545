"""What of a model's explanation is worth keeping: candidate sentences, each with the reason that speaks against it.

``markup`` takes out whole blocks and lines first; the sentences of the rest are judged here one by one. Every piece of
a reply ends as kept or with one of ``REASONS``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .markup import Segment, has_markup, segments, without_number
from .sentences import split_sentences
from .tokens import tokenize

# A sentence carries the first that fits, in this order (the first two are for whole blocks only).
REASONS = (
    "thinking",
    "next_turn",
    "markdown",
    "refusal",
    "copy_of_source",
    "prompt_echo",
    "chatter",  # "Sure! Here is the continuation:", "I hope this helps!"
    "unfinished",
    "too_short",
    "wrong_language",
    "too_long",
    "duplicate",
)
MAX_TOKENS = 510  # an encoder of 512 positions less its two special tokens
MIN_LETTERS_DENSE = 4  # letters and digits of a dense sentence
MIN_WORDS = 4  # tokens with a letter or digit of a spaced sentence
MIN_WORDS_KOREAN = 3  # particles are part of the word: 나는 학교에 갔다 is a whole sentence
_MIN_SOURCE = 8  # letters; a shorter source may stand inside a new sentence by right
_MIN_COPY = 4  # letters of a source that is split off the head of a line
_MIN_ECHO = 6  # letters; a shorter sentence occurs in the instructions by chance
_MIN_SHINGLES = 8  # below this a share of shingles says little
_COPY_SHARE = 0.9
_ECHO_SHARE = 0.85

# Clear wherever they stand: only an assistant speaks so.
_REFUSAL = re.compile(
    r"\b(?:as|i am|i'm|i’m)(?: just| only| merely)? an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bi(?: am|'m|’m)? (?:cannot|can't|can’t|can not|unable to|not able to|won't|won’t|will not|must decline to)"
    r" (?:provide|help|assist|continue|generate|fulfil|fulfill|comply|answer|create|write|produce|engage|process)\b"
    r"|(?:作为|我(?:只)?是)(?:一[个名款位])?(?:AI|人工智能|智能助手|(?:大型?)?语言模型)"
    r"|我(?:无法|不能|没有办法|没办法|不便)(?:[为帮给]您|[为帮给]你)?(?:直接)?"
    r"(?:提供|回答|继续|完成|生成|协助|帮助|满足|处理|续写|解释|讨论|执行)"
    r"|(?:AI|人工知能|言語モデル)(?:アシスタント|モデル)?(?:として|なので|ですので|であるため|である私)"
    r"|(?:お答え|お手伝い|ご提供|ご回答|生成)(?:する)?(?:こと)?[はが]?(?:いた|致)?し?"
    r"(?:できません|出来ません|できかねます|かねます)"
    r"|(?:인공지능|AI|언어)\s?(?:언어\s?)?(?:모델|어시스턴트)(?:로서|이기|이므로|입니다|이라)"
    r"|(?:도와드릴|제공할|제공해 드릴|답변할|답변드릴|생성할|계속할)\s?수\s?(?:가\s?)?없",
    re.IGNORECASE,
)
# People say these too: a refusal only where the reply begins.
_REFUSAL_OPENING = re.compile(
    r"\W*(?:i(?: am|'m|’m) (?:very |so |really )?sorry\b|(?:sorry|apologies|unfortunately)\W"
    r"|i apologi[sz]e\b|my apologies\b"
    r"|i (?:cannot|can't|can’t|can not|am unable|am not able)\b|(?:非常|很|十分)?(?:抱歉|对不起)|我(?:无法|不能)"
    r"|(?:大変|誠に)?申し訳(?:ありません|ございません|ない)|죄송(?:합니다|하지만|해요))",
    re.IGNORECASE,
)
_CHATTER = re.compile(
    r"\W*(?:(?:sure|certainly|of course|absolutely|okay)\b\W.*\b(?:here|below|continu|explain|help)"
    r"|(?:sure|certainly|of course|absolutely)\W*$"
    r"|(?:here(?: is| are|'s|’s)|below (?:is|are))\b.{0,40}\b"
    r"(?:continu|explan|entit|text|sentence|version|respon|answer)"
    r"|i hope (?:this|that|it) helps|(?:please )?let me know if|feel free to (?:ask|let|reach|contact)"
    r"|if you (?:have|need) (?:any|more|further)"
    r"|(?:当然(?:可以)?|好的|没问题)[，,！!。.：:](?:.*(?:以下|下面|续写|解释|帮)|\W*$)"
    r"|(?:以下|下面)(?:是|为).{0,20}(?:续写|解释|说明|句子|文本|内容|实体)"
    r"|希望(?:这|以上|我的).{0,10}(?:帮助|满意)"
    r"|如果(?:您|你)(?:还)?(?:有|需要).{0,12}(?:问题|帮助|信息)|(?:はい|承知|かしこまり|もちろん).{0,12}(?:以下|続き|説明)"
    r"|以下[はにが].{0,20}(?:続き|説明|文|回答)|(?:ご|何か)不明な点"
    r"|(?:네|물론|알겠습니다)[,.! ].*(?:다음은|아래|설명|이어)"
    r"|(?:다음은|아래는)\s.{0,30}(?:입니다|설명)|도움이\s?(?:되었기|되길|되셨|필요하))",
    re.IGNORECASE,
)
# Cut by the token limit right after one of these, the full stop may be that of "3.5" or "U.S.".
_CUT_DOT = re.compile(r"(?:\d|\b[A-Za-z])\.$")
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff々〇"
_KANA, _HANGUL = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f", "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"
_OWN_SCRIPT = {
    "zh": re.compile(f"[{_HAN}]"),
    "ja": re.compile(f"[{_HAN}{_KANA}]"),
    "ko": re.compile(f"[{_HANGUL}{_HAN}]"),
    "en": re.compile("[A-Za-z\u00c0-\u024f]"),
}
_OTHER_SCRIPT = {"zh": re.compile(f"[{_KANA}{_HANGUL}]")}  # Japanese and Korean text holds Han characters too
# Goes with a copy of the source at the head of a continuation; a quote after a blank opens the next sentence.
_AFTER_COPY = re.compile(r"[。．.!?！？…,，、;；:：~～”’」』）)】\"']*(?:\s*[。．.!?！？…,，、;；])*\s*")


@dataclass(frozen=True)
class Candidate:
    """A piece of a reply. ``reason``: "" to keep it, else one of ``REASONS``. ``tokens`` of a block that was not split
    into sentences are []."""

    text: str
    tokens: list[str]
    reason: str


def candidates(
    reply: str, *, source: Sequence[str], prompt: str, dense: bool, lang: str, cut: bool
) -> list[Candidate]:
    """Cut a model's explanation into sentences and say of each whether it may become a synthetic one.

    Args:
        reply: as the model wrote it; anything goes, nothing raises.
        source: tokens of the sentence the model was asked to continue.
        prompt: the text it was asked with; the source may stand in it.
        dense, lang: of the data set, as for ``tokenize`` and ``split_sentences``.
        cut: generation stopped at its token limit, so a last full stop after a digit or a letter is not trusted.
    Returns:
        pieces in the order of the reply, none blank. The tokens of one with reason "", joined, are its text without
        white space. A line without an end mark is "unfinished" wherever it stands. A sentence that the reply repeats is
        kept once; other replies are the caller's to compare. What ``markup`` wipes off is no piece of its own.
    """
    judge = _Judge(_letters("".join(source)), prompt, dense, lang)
    parts = _without_source(segments(reply), "".join(source))
    last = max((i for i, (_, reason) in enumerate(parts) if not reason), default=-1)
    found: list[Candidate] = []
    for i, (text, reason) in enumerate(parts):
        if reason:
            found.append(Candidate(text.strip(), [], reason))
        else:
            found.extend(_judged(text, judge, cut and i == last))
    return found


def _judged(text: str, judge: _Judge, cut: bool) -> Iterator[Candidate]:
    """The sentences of cleaned text. A clear refusal takes the rest of its paragraph with it."""
    paragraphs = [split_sentences(paragraph, judge.lang) for paragraph in re.split(r"\n\s*\n", text)]
    left = sum(map(len, paragraphs))
    for sentences in paragraphs:
        refused = False
        for sentence, finished in sentences:
            sentence = without_number(sentence)
            left -= 1
            if cut and not left and _CUT_DOT.search(sentence):
                finished = False
            tokens = tokenize(sentence, judge.dense)
            reason = "refusal" if refused else judge.reason(sentence, tokens, finished)
            refused = refused or _REFUSAL.search(sentence) is not None
            yield Candidate(sentence, tokens, reason)


def _without_source(parts: list[Segment], source: str) -> list[Segment]:
    """Split off the source where a line of prose begins with it word for word; only its first copy."""
    wanted = [char.casefold() for char in source if not char.isspace()]
    while wanted and not wanted[-1].isalnum():
        wanted.pop()
    for i, (text, reason) in enumerate(parts):
        starts = [] if reason else [match.start() for match in re.finditer(r"^[^\S\n]*\S", text, re.MULTILINE)]
        for start in starts:
            end = _end_of_copy(text, start, wanted)
            if end:
                split = [(text[:start], ""), (text[start:end], "copy_of_source"), (text[end:], "")]
                return [*parts[:i], *(part for part in split if part[0].strip()), *parts[i + 1 :]]
    return parts


def _end_of_copy(text: str, start: int, wanted: Sequence[str]) -> int:
    """Offset in ``text`` after a copy of the source that begins at ``start`` and the marks behind it; 0 for no copy.

    wanted: the source's characters without case and white space, up to its last letter or digit. The text must not go on
    with the same word: 小明去了北京 is no head of 小明去了北京大学读书.
    """
    matched, position = 0, start
    while position < len(text) and matched < len(wanted):
        if not text[position].isspace():
            if text[position].casefold() != wanted[matched]:
                return 0
            matched += 1
        position += 1
    if matched < max(_MIN_COPY, len(wanted)) or text[position : position + 1].isalnum():
        return 0
    return _AFTER_COPY.match(text, position).end()


def _letters(text: str) -> str:
    """What sentences are compared by: letters and digits, without case, white space and marks."""
    return "".join(char for char in text.casefold() if char.isalnum())


def _shingles(letters: str, size: int = 5) -> set[str]:
    return {letters[i : i + size] for i in range(len(letters) - size + 1)}


def _share(part: set[str], whole: set[str]) -> float:
    """Share of ``part`` found in ``whole``; 0 when ``part`` is too small to tell."""
    return len(part & whole) / len(part) if len(part) >= _MIN_SHINGLES else 0.0


class _Judge:
    """Finds what speaks against a sentence. It remembers the sentences it let pass: use a new one for each reply."""

    def __init__(self, source: str, prompt: str, dense: bool, lang: str) -> None:
        self.source, self.dense, self.lang = source, dense, lang
        # what a sentence shares with the source, which stands in the prompt, is no echo of the instructions
        self.instructions = _letters(prompt).replace(source, "\n") if source else _letters(prompt)
        self.instruction_shingles = _shingles(self.instructions)
        self.source_shingles = _shingles(source)
        self.opened = False
        self.kept: set[str] = set()

    def reason(self, sentence: str, tokens: list[str], finished: bool) -> str:
        """The first of ``REASONS`` that fits, "" when none does."""
        key = _letters(sentence)
        opening, self.opened = not self.opened, self.opened or bool(key)
        shingles = _shingles(key)
        checks = (
            ("markdown", has_markup(sentence)),
            ("refusal", _REFUSAL.search(sentence) or (opening and _REFUSAL_OPENING.match(sentence))),
            ("copy_of_source", self._is_copy(key, shingles)),
            ("prompt_echo", self._is_echo(key, shingles)),
            ("chatter", _CHATTER.match(sentence)),
            ("unfinished", not finished),
            ("too_short", self._is_short(key, tokens)),
            ("wrong_language", self._is_foreign(sentence)),
            ("too_long", len(tokens) > MAX_TOKENS),
            ("duplicate", key in self.kept),
        )
        found = next((name for name, holds in checks if holds), "")
        if not found:
            self.kept.add(key)
        return found

    def _is_copy(self, key: str, shingles: set[str]) -> bool:
        if not key or not self.source:
            return False
        if key == self.source or (len(key) >= _MIN_ECHO and key in self.source):
            return True
        if self.source in key and (len(self.source) >= _MIN_SOURCE or len(self.source) >= _COPY_SHARE * len(key)):
            return True
        shared = max(_share(shingles, self.source_shingles), _share(self.source_shingles, shingles))
        return shared >= _COPY_SHARE

    def _is_echo(self, key: str, shingles: set[str]) -> bool:
        if len(key) >= _MIN_ECHO and key in self.instructions:
            return True
        return _share(shingles, self.instruction_shingles) >= _ECHO_SHARE

    def _is_short(self, key: str, tokens: list[str]) -> bool:
        if self.dense:
            return len(key) < MIN_LETTERS_DENSE
        words = sum(any(char.isalnum() for char in token) for token in tokens)
        return words < (MIN_WORDS_KOREAN if self.lang == "ko" else MIN_WORDS)

    def _is_foreign(self, sentence: str) -> bool:
        """Fewer than 10 % of the letters in a script of the language, or over 30 % in one of a neighbour."""
        letters = [char for char in sentence if char.isalpha()]
        own, other = _OWN_SCRIPT.get(self.lang), _OTHER_SCRIPT.get(self.lang)
        if own is None or not letters:
            return False
        if other is not None and sum(map(bool, map(other.match, letters))) > 0.3 * len(letters):
            return True
        return sum(map(bool, map(own.match, letters))) < 0.1 * len(letters)
