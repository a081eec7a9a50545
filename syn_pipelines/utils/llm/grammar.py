r"""What a reply about a sentence can be, as a grammar for llguidance: only what parses and can be found in the sentence.

JSON is written as ``json.dumps(..., ensure_ascii=False)`` writes it, blanks after ``,`` and ``:`` included, which is what
the prompts show and chat models write:

    entity        [{"entity": "New York", "type": "LOC"}, {"entity": "York", "type": "LOC"}]     [] for none
    pos           [{"word": "New", "pos": "PROPN"}, {"word": "York", "pos": "PROPN"}]            [] for no words
    pos, inline   New/PROPN York/PROPN

An entity is a span of tokens as they stand in the text; it neither begins nor ends with white space (``str.isspace``),
so a token with white space around it can only stand inside a span. The words of a pos reply are the whole sentence in
order: dense text may be broken between any two tokens, spaced text is broken at every joining blank; white space
around tokens is no word and breaks, white space inside a token stays.

Inline, a word's last "/" ends it, a word may hold others: ``1/2/NUM``. White space inside a word is written as one
blank, and a piece without "/" goes on in the piece after it (``New York/PROPN`` is one word); in a sentence with a "/"
that could not be told from two words, so there such white space breaks. White space and "/" in a label become "_".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syn_pipelines.utils._inline_reply import AROUND_TAGS
from syn_pipelines.utils.llm import Constraint

MAX_FREE_LABEL = 24  # code points
_SPACES = "".join(rf"\x{{{code:x}}}" for code in range(0x3001) if chr(code).isspace())
# What cannot be seen: controls, joiners and directions, private use. Spelled out, for a class such as \p{C} makes a
# matcher five times slower to build.
_UNSEEN = (r"\x00-\x1f\x7f-\x9f\x{ad}\x{200b}-\x{200f}\x{202a}-\x{202e}\x{2060}-\x{206f}\x{e000}-\x{f8ff}\x{feff}"
           r"\x{fff0}-\x{fffb}\x{e0000}-\x{10ffff}")
# One character of a JSON string (as json.dumps writes it), without and with those that are white space.
_SOLID = rf'([^"\\\x00-\x1f{_SPACES}]|\\["\\b]|\\u00(0[0-7ef]|1[0-9ab]))'
_ANY = r'([^"\\]|\\["\\bfnrt]|\\u00[01][0-9a-f])'


@dataclass(frozen=True)
class Form:
    """The text around the surfaces and labels of a reply: ``opening`` surface ``middle`` label [``following`` ...]
    ``closing``. ``none``: a reply without items."""

    opening: str
    middle: str
    following: str
    closing: str
    none: str = "[]"


ENTITIES = Form('[{"entity": "', '", "type": "', '"}, {"entity": "', '"}]')
WORDS = Form('[{"word": "', '", "pos": "', '"}, {"word": "', '"}]')
INLINE = Form("", "/", " ", "")


def form_of(constraint: Constraint) -> Form:
    if constraint.mode == "entity":
        return ENTITIES
    return INLINE if constraint.reply_format == "inline" else WORDS


@dataclass(frozen=True)
class Piece:
    """A part of the sentence that no break can fall into. text: as written in the reply. apart: a break must stand
    before it; otherwise one may."""

    text: str
    apart: bool


def pieces_of(constraint: Constraint) -> list[Piece]:
    """The sentence of a pos reply, white space between the pieces left out."""
    inline = constraint.reply_format == "inline"
    split = inline and any("/" in token for token in constraint.tokens)
    pieces: list[Piece] = []
    apart = True
    for token in constraint.tokens:
        core = token.strip()
        if not core:
            apart = True
            continue
        apart = apart or not constraint.dense or token[0].isspace()
        for part in core.split() if split else [" ".join(core.split()) if inline else escaped(core)]:
            pieces.append(Piece(part, apart))
            apart = True
        apart = token[-1].isspace()
    return pieces


def chunks_of(constraint: Constraint) -> tuple[list[str], list[bool], list[bool]]:
    """The sentence of an entity reply: (JSON-escaped chunks, whether a span can begin with each, and end with each).

    Chunks around them that no span can hold are left out; without any token to begin or end with, nothing is left.
    """
    joined: list[str] = []
    for token in constraint.tokens:
        joined += [token] if constraint.dense or not joined else [" ", token]
    joined = [chunk for chunk in joined if chunk]
    begins = [not chunk[0].isspace() for chunk in joined]
    ends = [not chunk[-1].isspace() for chunk in joined]
    first = begins.index(True) if True in begins else len(joined)
    last = len(ends) - ends[::-1].index(True) if True in ends else 0
    kept = slice(first, last)
    return [escaped(chunk) for chunk in joined[kept]], begins[kept], ends[kept]


def labels_of(constraint: Constraint) -> tuple[str, ...]:
    """The labels as written in the reply, without blank and repeated ones; empty: any short name."""
    if constraint.reply_format == "inline" and constraint.mode == "pos":
        written = ["_".join(label.replace("/", " ").split()) for label in constraint.labels]
    else:
        written = [escaped(label) for label in constraint.labels if label.strip()]
    return tuple(dict.fromkeys(label for label in written if label))


def max_entities(chunks: int) -> int:
    """How many items an entity reply can have at most: three for every two chunks, and four.

    Nested entities and one surface with two types are rare, so no real answer comes near it; without a bound a model
    that repeats itself goes on until the room runs out.
    """
    return 4 + 3 * chunks // 2


def lark_of(constraint: Constraint) -> str:
    """Lark text for ``LLMatcher.grammar_from_lark``: the replies that the constraint allows."""
    return _entity_lark(constraint) if constraint.mode == "entity" else _pos_lark(constraint)


def _entity_lark(constraint: Constraint) -> str:
    chunks, _, _ = chunks_of(constraint)
    if not chunks:
        return f"start: {literal(ENTITIES.none)}\n"
    return "\n".join([
        f'start: "[" (item (", " item){{0,{max_entities(len(chunks)) - 1}}})? "]"',
        f'item: {literal(ENTITIES.opening[1:])} SPAN {literal(ENTITIES.middle)} LABEL {literal(ENTITIES.closing[:-1])}',
        f"SPAN: CHUNKS & /{_SOLID}({_ANY}*{_SOLID})?/",
        f'CHUNKS: %regex {{"substring_chunks": {json.dumps(chunks)}}}',
        f"LABEL: {label_rule(constraint)}",
        "",
    ])


def _pos_lark(constraint: Constraint) -> str:
    pieces, form = pieces_of(constraint), form_of(constraint)
    if not pieces:
        return f"start: {literal(form.none)}\n"
    parts = [form.opening]
    for i, piece in enumerate(pieces):
        parts += [] if not i else ["BREAK" if piece.apart else "BREAK?"]
        parts.append(literal((form.opening if not i else "") + piece.text))
    return "\n".join([
        # Inline, one terminal: whether a "/" ends a word may show only later, and a lexer would not look back.
        ("start: REPLY\nREPLY: " if form is INLINE else "start: ") + " ".join([*parts[1:], "END"]),
        f"BREAK: {literal(form.middle)} LABEL {literal(form.following)}",
        f"END: {literal(form.middle)} LABEL {literal(form.closing)}" if form.closing else f"END: {literal(form.middle)} LABEL",
        f"LABEL: {label_rule(constraint)}",
        "",
    ])


def label_rule(constraint: Constraint) -> str:
    """Right side of the terminal of a type or tag."""
    labels = labels_of(constraint)
    if labels:
        return " | ".join(map(literal, labels))
    solid = free_character(constraint)
    if form_of(constraint) is INLINE:
        return f"/{solid}{{1,{MAX_FREE_LABEL}}}/"
    return f"/{solid}( ?{solid})*/ & /.{{1,{MAX_FREE_LABEL}}}/"


def free_character(constraint: Constraint) -> str:
    """Regular expression of one character of a free label, the blank apart: what can be seen, and no quote; inline, where
    nothing marks the end of a tag, no sign that may stand around one."""
    signs = "".join(f"\\{sign}" if sign in "[]/" else sign for sign in (AROUND_TAGS + "/()（）").replace('"', ""))
    return rf'[^"\\{_UNSEEN}{_SPACES}' + (f"{signs}]" if form_of(constraint) is INLINE else "]")


def escaped(text: str) -> str:
    """Text as it stands inside a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def literal(text: str) -> str:
    """Text as a Lark literal."""
    return json.dumps(text)


def json_schema_of(constraint: Constraint) -> dict[str, Any] | None:
    """JSON schema for servers without grammars; None for the inline format.

    The items stand in an object, ``{"items": [...]}``, for strict servers take no array at the root.
    """
    form = form_of(constraint)
    if form is INLINE:
        return None
    surface, label = ("entity", "type") if form is ENTITIES else ("word", "pos")
    labels = list(dict.fromkeys(text for text in constraint.labels if text.strip()))
    properties = {surface: {"type": "string"}, label: {"type": "string", "enum": labels} if labels else {"type": "string"}}
    item = {"type": "object", "properties": properties, "required": [surface, label], "additionalProperties": False}
    return {"type": "object", "properties": {"items": {"type": "array", "items": item}}, "required": ["items"],
            "additionalProperties": False}


def is_grounded(constraint: Constraint, items: Sequence[Mapping[str, str]]) -> bool:
    """Whether the surfaces of a parsed reply can be found as the constraint asks; labels are not looked at."""
    if constraint.mode == "pos":
        return _are_the_words(constraint, ["".join(item["word"].split()) for item in items])
    chunks, begins, ends = chunks_of(constraint)
    edges = [0]
    for chunk in chunks:
        edges.append(edges[-1] + len(chunk))
    starts, stops = ({edge for edge, is_one in zip(edges[at:], flags) if is_one} for at, flags in ((0, begins), (1, ends)))
    text = "".join(chunks)
    for item in items:
        surface = escaped(item["entity"])
        at = text.find(surface) if surface else -1
        while at >= 0 and not (at in starts and at + len(surface) in stops):
            at = text.find(surface, at + 1)
        if at < 0:
            return False
    return True


def _are_the_words(constraint: Constraint, words: Sequence[str]) -> bool:
    """Whether words (white space taken out) are the sentence, broken where it can and must be."""
    inline = constraint.reply_format == "inline"
    must, may, length = set(), set(), 0
    for piece in pieces_of(constraint):
        (must if piece.apart else may).add(length)
        length += len("".join((piece.text if inline else json.loads(f'"{piece.text}"')).split()))
    breaks, at = [], 0
    for word in words:
        breaks.append(at)
        at += len(word)
    text = "".join("".join(constraint.tokens).split())
    return "".join(words) == text and all(words) and must <= set(breaks) <= must | may
