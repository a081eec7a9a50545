"""How a server is told what a reply can be, and whether it listens.

There is no common field for grammars: each server has its own, the others refuse it or, worse, ignore it in silence.
So each way is tried once, with a sentence of our own and an instruction to write something else; a server that listens
cannot follow the instruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from syn_pipelines.utils.llm import Constraint
from syn_pipelines.utils.llm.grammar import json_schema_of, lark_of
from syn_pipelines.utils.replies import parse_reply

PROBE_MESSAGES = ({"role": "user", "content": "Write the word hello and nothing else."},)
# Enough for every word of the sentences below with its tag, one byte a token.
PROBE_TOKENS = 400
_PROBE_TOKENS_DENSE = tuple("明天天气很好")
_PROBE_TOKENS_SPACED = ("Tomorrow", "will", "be", "fine")


@dataclass(frozen=True)
class Way:
    """One way of telling a server. ``decoded``: as in ``Reply``; fields: what goes into the request, {} where this way
    cannot say it."""

    name: str
    decoded: str
    fields: Callable[[Constraint], dict[str, Any]]


def _json_schema(constraint: Constraint) -> dict[str, Any]:
    schema = json_schema_of(constraint)
    if schema is None:
        return {}
    return {"response_format": {"type": "json_schema",
                                "json_schema": {"name": "reply", "schema": schema, "strict": True}}}


# In the order of trying. The first line of the last two is how SGLang and llama.cpp (built with llguidance) tell a
# grammar of this kind from their own.
WAYS = (
    Way("grammar (structured_outputs, as vLLM)", "grammar", lambda c: {"structured_outputs": {"grammar": lark_of(c)}}),
    Way("grammar (ebnf, as SGLang)", "grammar", lambda c: {"ebnf": "%llguidance {}\n" + lark_of(c)}),
    Way("grammar (grammar, as llama.cpp)", "grammar", lambda c: {"grammar": "%llguidance {}\n" + lark_of(c)}),
    Way("JSON schema", "json_schema", _json_schema),
)
FREE = Way("nothing, for this server takes neither a grammar nor a JSON schema", "", lambda _: {})


def probe_constraint(constraint: Constraint) -> Constraint:
    """The same kind of constraint about a sentence of our own."""
    return replace(constraint, tokens=_PROBE_TOKENS_DENSE if constraint.dense else _PROBE_TOKENS_SPACED)


def obeys(way: Way, constraint: Constraint, text: str, *, cut: bool) -> bool:
    """Whether an answer to ``PROBE_MESSAGES`` is what the constraint allows. cut: it ended at the token limit."""
    if constraint.reply_format == "inline":
        items = [{"word": word, "pos": tag} for word, tag in re.findall(r"(\S+)/([^\s/]+)", text)]
    elif text.lstrip()[:1] == ("[" if way.decoded == "grammar" else "{"):
        items = parse_reply(text, constraint.mode, cut=cut).items
    else:
        return False
    surface, label = ("entity", "type") if constraint.mode == "entity" else ("word", "pos")
    if constraint.labels and any(item[label] not in constraint.labels for item in items):
        return False
    return way.decoded != "grammar" or _is_of_the_sentence(constraint, [item[surface] for item in items], cut=cut)


def _is_of_the_sentence(constraint: Constraint, surfaces: list[str], *, cut: bool) -> bool:
    if constraint.mode == "entity":
        sentence = ("" if constraint.dense else " ").join(constraint.tokens)
        return all(surface in sentence for surface in surfaces)
    words, sentence = "".join(surfaces), "".join(constraint.tokens)
    return bool(words) and sentence.startswith(words) if cut else words == sentence
