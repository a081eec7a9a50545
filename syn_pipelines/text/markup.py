"""A model's reply without what is not prose: thinking, code, a next turn, tables; harmless markdown wiped off.

Text goes in, (text, reason) pairs come out, in order: a reason says why the piece is no prose, "" means "look closer".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

Segment = tuple[str, str]

_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\u2060\ufeff\ud800-\udfff]")
_LINE_BREAK = re.compile("\r\n|[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]|<br\\s*/?>", re.IGNORECASE)

_THINK = r"(?:think|thinking|thought|reasoning)"
_THINKING = re.compile(
    rf"<({_THINK})\b[^<>]*>.*?(?:</\1\s*>|\Z)"
    rf"|\A(?:(?!<{_THINK}\b).)*?</{_THINK}\s*>",  # the opening tag is often part of the chat template
    re.DOTALL | re.IGNORECASE,
)
_FENCE = re.compile(
    r"^[ \t]*(```+|~~~+)[ \t]*(?![ \t])([\w+-]*)(?![\w+-])[^\n`]*(?:\n|\Z)(.*?)(?:^[ \t]*\1[`~]*[ \t]*$|\Z)", re.DOTALL | re.MULTILINE
)
_TEXT_FENCES = frozenset({"text", "txt", "plaintext", "plain", "markdown", "md"})
_MARKER = r"(?:<[|｜][^|｜<>\n]{1,40}[|｜]>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>|<(?:eos|bos|pad|unk)>)"
_NEXT_TURN = re.compile(
    rf"{_MARKER}|^[ \t#*]*(?:User|Human|Assistant|用户|人类|助手|ユーザー|アシスタント|사용자|어시스턴트)[ \t*]*[:：]",
    re.MULTILINE | re.IGNORECASE,
)
# At the head of a reply these introduce the reply itself.
_OWN_TURN = re.compile(
    rf"\s*(?:(?!<[|｜](?:user|human|system)){_MARKER}"
    r"|(?:Assistant|AI|Model|助手|アシスタント|어시스턴트)[ \t]*[:：]|assistant[ \t]*\n)",
    re.IGNORECASE,
)

_NOT_BLANK = re.compile(r"\S")
_HTML_TAG = re.compile(
    r"</?(?:p|b|i|u|em|strong|span|div|ul|ol|li|h[1-6]|code|pre|hr|font|sub|sup)\b[^<>]*>", re.IGNORECASE
)
_REJECTED_LINE = re.compile(
    r"""
      \#{1,6}\s+\S.* | \#{1,6}                              # heading; "#tag" without a blank is text
    | (?:[-*_=~]\s*){3,}                                    # rule, underline of a heading
    | \|.*\| | \|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)+\|?  # table
    | (?:\*\*|__)[^*_]{1,60}(?:\*\*|__)\s*[:：]?            # a line all in bold is a heading ...
    | [\[{]\s*["'{].*[\]}],? | [\[\]{}]+,? | "[^"]{1,30}"\s*:\s.*   # JSON; "[哈哈]" is an emoticon
    | \$\$.* | \\(?:begin|end)\{.*
    """,
    re.VERBOSE,
)
_BOLD_SENTENCE = re.compile(r"[。.!?！？…][*_]+")  # ... unless it is a sentence
_QUOTE_PREFIX = re.compile(r"^(?:>+(?:\s+|$))+")
_LIST_PREFIX = re.compile(
    r"(?:[-*+•·▪◦●○■◆★☆※✓✔➤▶]|[–—](?=\s))\s+|[•▪◦●■◆➤▶]"
    r"|\d{1,2}(?:\.\)|[.)、）](?!\d))\s*|[（(]\d{1,2}[)）]\s*"
    r"|[①-⑳]\s*|[一二三四五六七八九十]{1,2}、|[a-z]\)\s+|\[[ x]\]\s+"
)
_NUMBER = re.compile(r"(?:\d{1,2}(?:\.\)|[.)、）](?!\d))|[（(]\d{1,2}[)）]|[①-⑳])\s*")
_LABEL = re.compile(
    r"""[*_【\[]*(?:
      (?:the\ )?(?:explanations?|continuations?|continued(?:\ (?:text|sentence))?|answers?|outputs?|responses?
        |reply|text|sentences?|entit(?:y|ies)|entity\ explanations?
        |explanation\ of\ (?:the\ )?entities|notes?|summary|paragraph)
    | (?:实体|文本|句子)?(?:解释|说明|续写)(?:部分|内容|文本|句子|结果)?
    | 实体|文本|句子|原文|继续|回答|答案|答|输出|结果|注释|注|总结
    | 説明|解説|続き(?:の文章?)?|回答|出力|文章?|エンティティ(?:の説明)?
    | 설명|해설|이어쓰기|계속|답변|출력|문장|결과|개체(?:\ 설명)?
    )\s*(?:(?:\d{1,2}[*_】\]]*|[*_】\]]+)\s*)?[:：][*_]*\s*""",
    re.VERBOSE | re.IGNORECASE,
)
_INLINE: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"!?\[([^\[\]\n]*)\]\([^()\s]*(?:\s+\"[^\"]*\")?\)"), r"\1"),
    (re.compile(r"(\*\*\*|\*\*|(?<![A-Za-z0-9_])__)(?=\S)(.{1,300}?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<![A-Za-z0-9*])\*(?=[^\s*])([^*\n]+?)(?<=[^\s*])\*(?![A-Za-z0-9*])"), r"\1"),
    (re.compile(r"(?<![A-Za-z0-9_])_(?=[^\s_])([^_\n]+?)(?<=[^\s_])_(?![A-Za-z0-9_])"), r"\1"),
    (re.compile(r"~~(?=\S)(.{1,300}?)(?<=\S)~~"), r"\1"),
    (re.compile(r"(?<!`)`([^`\n]+)`(?!`)"), r"\1"),
    (re.compile(r"\*\*+"), ""),  # its partner stands in another line
    (re.compile(r"\\([*_#`~>\[\]()|.!-])"), r"\1"),
)
_RESIDUE = re.compile(
    r"```|~~~|\]\(|\|\s*-{2,}|\s\|\s.*\s\|\s|\\(?:frac|text|begin|end|boxed)\b|</?[A-Za-z]\w*(?:\s[^<>]*)?>"
    r"|[\"”]\s*[:：]\s*[\"“\[{]"
)


def segments(reply: str) -> list[Segment]:
    """Cut a reply into what is not prose and cleaned prose.

    Args:
        reply: any text.
    Returns:
        (text, reason) pairs in order, none blank; reason "thinking", "next_turn", "markdown", or "" for prose, in which
        a blank line parts the items of a list. Wiped off without a trace: invisible characters, role markers at either
        end, labels such as "Explanation:", list bullets, quote and inline marks, link targets.
    """
    reply = _INVISIBLE.sub("", _LINE_BREAK.sub("\n", reply))
    blocks = _carve([(_without_head(reply), "")], _THINKING, lambda _: "thinking")
    blocks = _carve(blocks, _FENCE, _fence_reason, inner=3)
    out: list[Segment] = []
    for text, reason in _until_next_turn(blocks):
        out.extend([(text, reason)] if reason else _lines(text))
    return [(text, reason) for text, reason in out if text.strip()]


def has_markup(sentence: str) -> bool:
    """Whether a cleaned sentence still holds code, table, link or JSON syntax."""
    return _RESIDUE.search(sentence) is not None


def without_number(sentence: str) -> str:
    """The sentence without the list number it begins with, for lists written in one line; never empty."""
    match = _NUMBER.match(sentence)
    return sentence if match is None or match.end() == len(sentence) else sentence[match.end() :]


def _without_head(text: str) -> str:
    start = 0
    while (marker := _OWN_TURN.match(text, start)) is not None:
        start = marker.end()
    return text[start:]


def _until_next_turn(blocks: list[Segment]) -> Iterator[Segment]:
    """The blocks up to the first role marker, then all the rest as one piece; a mere end marker is dropped."""
    spoken = False
    for i, (text, reason) in enumerate(blocks):
        if reason:
            yield text, reason
            continue
        text = text if spoken else _without_head(text)
        spoken = True
        turn = _NEXT_TURN.search(text)
        if turn is None:
            yield text, ""
            continue
        yield text[: turn.start()], ""
        rest = text[turn.start() :] + "".join(later for later, _ in blocks[i + 1 :])
        if re.sub(_MARKER, "", rest, flags=re.IGNORECASE).strip():
            yield rest, "next_turn"
        return


def _fence_reason(match: re.Match[str]) -> str:
    """A fence around prose is marked as text, or unmarked around the whole reply."""
    if match[2]:
        return "" if match[2].lower() in _TEXT_FENCES else "markdown"
    text = match.string
    alone = _NOT_BLANK.search(text, match.end()) is None and _NOT_BLANK.search(text).start() >= match.start()
    return "" if alone else "markdown"


def _carve(
    pieces: list[Segment], pattern: re.Pattern[str], reason_of: Callable[[re.Match[str]], str], inner: int = 0
) -> list[Segment]:
    """Give every match in the open pieces its reason; a match without one stays open, as its group ``inner``."""
    out: list[Segment] = []
    for text, reason in pieces:
        if reason:
            out.append((text, reason))
            continue
        done = 0
        for match in pattern.finditer(text):
            why = reason_of(match)
            out += [(text[done : match.start()], ""), (match.group() if why else match.group(inner), why)]
            done = match.end()
        out.append((text[done:], ""))
    return [(text, reason) for text, reason in out if text.strip()]


def _lines(text: str) -> Iterator[Segment]:
    """Reject table rows, headings and the like; clean the other lines and group them."""
    held = ""
    for line in text.split("\n"):
        line = _HTML_TAG.sub("", _QUOTE_PREFIX.sub("", line.strip(), count=1)).strip()
        if _REJECTED_LINE.fullmatch(line) and not _BOLD_SENTENCE.search(line):
            yield from ((held, ""), (line, "markdown"))
            held = ""
            continue
        body, starts_item = _clean_line(line)
        # an item of a list is a paragraph of its own, never the wrapped end of the one before
        held += ("\n\n" if starts_item else "\n") + body
    yield held, ""


def _clean_line(line: str) -> tuple[str, bool]:
    """(the line without list bullet, label and inline marks, whether there was a bullet or a label)."""
    starts_item = False
    for prefix in (_LIST_PREFIX, _LABEL, _LIST_PREFIX, _LABEL):
        match = prefix.match(line)
        if match is not None:
            line, starts_item = line[match.end() :], True
    for pattern, replacement in _INLINE:
        line = pattern.sub(replacement, line)
    return line.strip(), starts_item
