r"""Read a model's reply: find the JSON in it, mend what models get wrong, return the items as the model wrote them.

Strict JSON is taken as it is. Anything else is searched for objects and arrays by a tolerant reader (`_loose_json`),
and what they hold becomes items whatever the shape (`_reply_items`). Which of several values is the answer:

1. Values with nothing but blanks, commas, list marks or code fences between them belong together (JSON lines, one
   fenced block after the other); so do single objects that are items, with any text between.
2. Arrays under headings of their own (``Persons:``, ``Cities:``) belong together when they share no surface.
3. Of several other groups the last one with items counts: models show an example or a draft first and the answer last.
   But a lone object in prose does not stand for the answer, nor what a model that runs on makes of the next sentence.
   Items passed over so are counted as dropped.

Examples:
    '```json\n[{"name": "Ann", "label": "PERSON"},]\n```'   ->  [{"entity": "Ann", "type": "PERSON"}], repaired
    '{"人名": ["张三", "李四"], "地名": ["北京'                ->  only 张三 and 李四: 北京 may be half a name
    'There are no entities.'                                 ->  rejected, no_json
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from syn_pipelines.utils._inline_reply import read_inline
from syn_pipelines.utils._loose_json import QUOTES, Num, Obj, TopValue, decode_strict, read_values, unescape
from syn_pipelines.utils._reply_items import CANONICAL, Found, Mode, is_closed, is_item, is_pair

__all__ = ["Mode", "ParsedReply", "parse_reply"]

_BLANK = " \t\r\n\f\v\u00a0\u3000\ufeff\u200b"
_THINK = re.compile(r"</?think(?:ing)?>", re.IGNORECASE)
_GAP = re.compile(r"(?:[\s\ufeff\u200b,，;；、。.\]}】］｝*•-]|```\w{0,12}(?!\w)|\d{1,4}[.):、])*")
_MAX_GAP = 80  # code points; a longer gap between two values is text
_OPENING = re.compile(r"[\[{]")
_SENTENCE = re.compile(r"^[ \t#*>]{0,8}(?:sentence|input|句子|输入|文|入力|문장|입력)\**[ \t]?[:：]", re.IGNORECASE | re.MULTILINE)
_LONGEST_HEADING = 60  # code points
_ANSWER = re.compile(r"(?:final)?(?:answer|output|results?)|答案|输出|结果|回答|出力|結果|답|답변|출력|결과")
_EXAMPLE = re.compile(r"example|instance|format|例|格式|形式|예시|형식")
_DRAFT = re.compile(r"draft|attempt|version|final|correct|revis|updat|improv|草|初步|最终|最後|最終|修正|修改|更正|改正|초안|최종|수정")

_Read = tuple[Found, list[TopValue]]  # values that belong together, and what was read from them


@dataclass(frozen=True)
class ParsedReply:
    """What a reply said.

    Attributes:
        items: [{"entity", "type"}, ...] or [{"word", "pos"}, ...] in the reply's order, duplicates kept; the values are
            decoded but neither stripped nor normalised, and can be stored as UTF-8. A surface may be empty.
        status: "ok": a JSON array of well-formed items (or tagged words on one line), as asked for; "repaired": usable, but
            something was mended or left out; "rejected": nothing usable, ``items`` is empty.
        reason: "" for ok; for repaired what was mended, the gravest first ("unterminated" before all others, then from
            the outside in); for rejected why (empty_reply, no_json, no_items, unclosed_think, unterminated).
        dropped: members left out because they are no items (null, no surface, no type, half a surrogate pair), and items
            of arrays and objects that are not the answer. The item that an unterminated reply broke off in is not counted.
    """

    items: list[dict[str, str]]
    status: str
    reason: str
    dropped: int


def parse_reply(reply: str, mode: Mode, *, cut: bool = False, reply_format: str = "json") -> ParsedReply:
    """Read the items of a model's reply; never raises, whatever the text.

    Args:
        reply: the text as generated.
        mode: "entity" or "pos": the keys of the items returned. Either mode's keys are understood in both.
        cut: generation stopped at the token limit. Items whose closing brace (inline: the white space behind the tag) is
            there are kept either way; a missing brace is then never taken for a forgotten one.
        reply_format: what was asked for, "json" or "inline" (``word/TAG word/TAG``; JSON is understood there too).
    """
    if reply_format == "inline":
        return _read_inline(reply, mode, cut)
    text = reply.lstrip(_BLANK)
    if not text:
        return ParsedReply([], "rejected", "empty_reply", 0)
    notes = ["bom"] if "\ufeff" in reply[:len(reply) - len(text)] else []
    try:
        value = decode_strict(text)
    except ValueError:
        return _read_tolerantly(text, mode, cut, notes)
    if isinstance(value, str) and not isinstance(value, Num):
        return _inner_reply(value, mode, cut)
    if not isinstance(value, (list, Obj)):
        return ParsedReply([], "rejected", "no_json", 0)
    if isinstance(value, Obj) and len(value.pairs) == 1 and value.pairs[0][0] == "items" and type(value.pairs[0][1]) is list:
        value = value.pairs[0][1]  # servers held to a JSON schema are asked for an object around the array
    found = _collect([TopValue(value, 0, len(text), "")], mode)
    return _result(found, [*notes, *found.notes, "single_object" if isinstance(value, Obj) else ""])


def _read_inline(reply: str, mode: Mode, cut: bool) -> ParsedReply:
    if not reply.strip(_BLANK):
        return ParsedReply([], "rejected", "empty_reply", 0)
    if reply.strip() == "[]":  # there is no word, in either form
        return ParsedReply([], "ok", "", 0)
    found = read_inline(reply, cut=cut)
    # No model leaves out every quote: without one, a bracket belongs to a word.
    if (found.odd or found.notes) and _OPENING.search(reply) and not set(QUOTES).isdisjoint(reply):
        answer = parse_reply(reply, mode, cut=cut)
        if answer.items and len(answer.items) >= len(found.items):
            reason = "unterminated" if answer.reason == "unterminated" else "json"
            return ParsedReply(answer.items, "repaired", reason, answer.dropped)
    if not found.items:
        grave = [note for note in found.notes if note in ("unclosed_think", "unterminated")]
        return ParsedReply([], "rejected", grave[-1] if grave else "no_items", found.dropped)
    keys = CANONICAL[mode]
    return ParsedReply([dict(zip(keys, item)) for item in found.items], "repaired" if found.notes else "ok",
                       found.notes[0] if found.notes else "", found.dropped)


def _inner_reply(reply: str, mode: Mode, cut: bool) -> ParsedReply:
    """The whole reply was a JSON string with the reply in it."""
    inner = parse_reply(reply, mode, cut=cut)
    if inner.status == "ok":
        return ParsedReply(inner.items, "repaired", "json_string", inner.dropped)
    return inner


def _read_tolerantly(text: str, mode: Mode, cut: bool, notes: list[str]) -> ParsedReply:
    text, mended = _unescape_once(text)
    values, open_think = read_values(text, cut=cut)
    found, used = _answer(text, values, mode)
    if found is None or any(value.how in ("loose_json", "unterminated") for value in used):
        answer = _after_hidden_thoughts(text)
        if answer and (parsed := _read_tolerantly(answer, mode, cut, [*notes, "think"])).items:
            return parsed
    if found is None:
        return _rejected(values, open_think, mode)
    around = _outside(text, values)
    hows = [value.how for value in used]
    notes = [
        "unterminated" if "unterminated" in hows else "", *notes, *mended,
        "think" if open_think or _THINK.search(around) else "",
        "code_fence" if "```" in around else "",
        "prose" if re.search(r"\w", re.sub(r"```\w*", "", around)) else "",
        *(how for how in ("loose_json", "control_chars") if how in hows),
        "json_lines" if len(used) > 1 else "",
        *found.notes,
        "single_object" if isinstance(used[0].value, Obj) else "",
    ]
    return _result(found, notes)


def _after_hidden_thoughts(text: str) -> str:
    """What follows thoughts without an opening tag (it was in the prompt) whose brackets or quotes hid the closing tag.

    "" when there are none; a reply that opens with JSON did not think.
    """
    tags = list(_THINK.finditer(text))
    return text[tags[-1].end():] if tags and tags[-1].group().startswith("</") and text[0] not in "[{" else ""


def _result(found: Found, notes: list[str]) -> ParsedReply:
    reasons = [note for note in notes if note]
    if not found.items and found.dropped:
        return ParsedReply([], "rejected", "no_items", found.dropped)
    surface_key, type_key = CANONICAL[found.mode]
    items = [{surface_key: surface, type_key: type_} for surface, type_ in found.items]
    return ParsedReply(items, "repaired" if reasons else "ok", reasons[0] if reasons else "", found.dropped)


def _unescape_once(text: str) -> tuple[str, list[str]]:
    """Undo a second layer of escapes, [{\\"entity\\": ...: the inside of a JSON string without the string's quotes."""
    opening = _OPENING.search(text)
    quote = text.find('"', opening.end()) if opening else -1
    return (unescape(text), ["escaped"]) if quote > 0 and text[quote - 1] == "\\" else (text, [])


def _collect(values: list[TopValue], mode: Mode) -> Found:
    """The items of values that belong together."""
    found = Found(mode)
    if len(values) > 1 and all(is_pair(value.value) for value in values):
        found.array([value.value for value in values])
        return found
    for value in values:
        one = Found(mode)
        if isinstance(value.value, Obj):
            one.object(value.value, in_list=len(values) > 1)
        else:
            one.array(value.value)
        if one.items or len(values) == 1:  # brackets of the prose hold no items and lose none
            found.items += one.items
            found.dropped += one.dropped
            for note in one.notes:
                found.note(note)
    return found


def _answer(text: str, values: list[TopValue], mode: Mode) -> tuple[Found | None, list[TopValue]]:
    """The group of values that is the answer (see the module's rules) with its items; None when there is none."""
    groups = _groups(text, values)
    read = [(_collect(group, mode), group) for group in groups]
    headings = [_heading(text[before:group[0].start])
                for before, group in zip([0, *(group[-1].end for group in groups)], groups)]
    end = _run_on(text, groups)
    found, used = _chosen(read[:end], headings, mode)
    if found is None:
        found, used = _chosen(read, headings, mode)
    if found is not None and found.items:
        kept = set(found.items)
        passed = sum(item not in kept for other, _ in read for item in other.items)
        found.dropped += passed
        found.note("stray_members" if passed else "")
    return found, used


def _chosen(read: list[_Read], headings: list[str], mode: Mode) -> tuple[Found | None, list[TopValue]]:
    full = [(found, group, heading) for (found, group), heading in zip(read, headings) if found.items]
    values = [value for _, group, _ in full for value in group]
    if len(full) > 1 and (all(isinstance(value.value, Obj) for value in values) or _are_parts(full)):
        return _collect(values, mode), values
    answers = [(found, group) for found, group, heading in full
               if len(group) > 1 or not is_item(group[0].value, mode) or _ANSWER.fullmatch(heading) or _DRAFT.search(heading)]
    if full:
        return answers[-1] if answers else full[-1][:2]
    empty = [(found, group) for found, group in read if not found.dropped and all(_says_nothing(v) for v in group)]
    return empty[-1] if empty else (None, [])


def _heading(before: str) -> str:
    """The letters of the heading that a text ends with, such as ``Cities:`` or ``## Cities``; "" when there is none."""
    lines = [line.strip() for line in re.sub(r"```\w*", "", before[-4 * _LONGEST_HEADING:]).split("\n") if line.strip()]
    if not lines or len(lines[-1]) > _LONGEST_HEADING:
        return ""
    is_one = lines[-1].startswith(("#", "**")) or lines[-1].rstrip("* ").endswith((":", "："))
    return re.sub(r"\W", "", lines[-1]).casefold() if is_one else ""


def _are_parts(full: list[tuple[Found, list[TopValue], str]]) -> bool:
    """Whether each group has a heading of its own, none of a draft or an example, and no surface is in two groups."""
    headings = [heading for _, _, heading in full]
    surfaces = [surface for found, _, _ in full for surface in {surface for surface, _ in found.items}]
    return (all(headings) and len({*headings}) == len(headings) and len({*surfaces}) == len(surfaces)
            and not any(_ANSWER.fullmatch(heading) or _EXAMPLE.search(heading) or _DRAFT.search(heading) for heading in headings))


def _run_on(text: str, groups: list[list[TopValue]]) -> int:
    """How many groups there are before a model that answered at once goes on with a sentence of its own."""
    opening = text[:groups[0][0].start] if groups else ""
    if len(opening) > _LONGEST_HEADING or _SENTENCE.search(opening) or _EXAMPLE.search(opening.casefold()):
        return len(groups)  # this is the prompt, said again
    return next((n for n in range(1, len(groups)) if _SENTENCE.search(text, groups[n - 1][-1].end, groups[n][0].start)),
                len(groups))


def _says_nothing(value: TopValue) -> bool:
    """Whether the value is an answer without items, such as [] or {"PERSON": []}, and came to its end."""
    members = [v for _, v in value.value.pairs] if isinstance(value.value, Obj) else value.value
    return value.how != "unterminated" and is_closed(value.value) and all(map(is_closed, members))


def _groups(text: str, values: list[TopValue]) -> list[list[TopValue]]:
    groups: list[list[TopValue]] = []
    for value in values:
        gap = text[groups[-1][-1].end:value.start] if groups else ""
        if groups and len(gap) <= _MAX_GAP and _GAP.fullmatch(gap):
            groups[-1].append(value)
        else:
            groups.append([value])
    return groups


def _outside(text: str, values: list[TopValue]) -> str:
    """The text around the values."""
    pieces, pos = [], 0
    for value in values:
        pieces.append(text[pos:value.start])
        pos = max(pos, value.end)
    return "\n".join([*pieces, text[pos:]])


def _rejected(values: list[TopValue], open_think: bool, mode: Mode) -> ParsedReply:
    # A stray bracket that is one character long was read anew behind it: its members are counted there.
    dropped = sum(_collect([value], mode).dropped for value in values if value.end - value.start > 1)
    if open_think:
        reason = "unclosed_think"
    elif any(value.how == "unterminated" for value in values):
        reason = "unterminated"
    else:
        reason = "no_items" if dropped else "no_json"
    return ParsedReply([], "rejected", reason, dropped)
