"""Continuations of the offline backend: template sentences about the target entities of a sentence."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from syn_pipelines.utils.llm.offline.templates import (
    ABOUT,
    CLOSINGS,
    DEFAULT_CONTEXT,
    KINDS,
    NAME_TEMPLATES,
    OPENINGS,
    TEMPLATES,
    TYPE_CATEGORIES,
)
from syn_pipelines.utils.llm.offline.text import sentence_text

MAX_ENTITIES = 4
_CATEGORY_OF = {name: category for category, names in TYPE_CATEGORIES.items() for name in names.split()}
_COMMON = frozenset(("people", "time", "number"))  # one does not "first hear of" these
_TYPE_PARTS = re.compile(r"[\s._/-]+")


def type_category(label: str) -> str:
    """Category of a target label such as "PER.NAM", "WORK_OF_ART" or "人名"; "other" when nothing in it is known."""
    name = label.strip().upper()
    candidates = [name, *_TYPE_PARTS.split(name)]
    return next((_CATEGORY_OF[part] for part in candidates if part in _CATEGORY_OF), "other")


def usable_entities(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(surface, category) of the first entities with distinct surfaces, those that cannot be printed left out."""
    joiner = "" if record["dense"] else " "
    found: dict[str, str] = {}
    for entity in record["entities"]:
        surface = joiner.join(record["tokens"][entity["start"] : entity["end"]])
        if surface.strip() and surface.isprintable():
            found.setdefault(surface, type_category(str(entity["entity"])))
    return list(found.items())[:MAX_ENTITIES]


def explain(record: Mapping[str, Any], nouns: Sequence[str], seed: int | None) -> str:
    """One to three sentences for each entity of the record, joined to running prose.

    Args:
        record: tokens, dense, lang and entities, as in ``Request.record``.
        nouns: nouns of the sentence, for the slots that tie an explanation to its sentence.
        seed: None for greedy: the choice then hangs on the sentence alone.
    Returns:
        The text; "" when no entity can be written (none given, or all with line breaks).
    """
    lang, entities = record["lang"], usable_entities(record)
    # The sentence is part of the seed, so that one seed for all requests does not give all of them the same templates.
    rng = random.Random(f"{seed}\n{sentence_text(record['tokens'], record['dense'])}\n{entities}")
    most = 3 if len(entities) < 3 else 2
    context = [noun for noun in nouns if not any(noun in surface or surface in noun for surface, _ in entities)]
    sentences = []
    for surface, category in entities:
        pool = TEMPLATES[lang] + (NAME_TEMPLATES[lang] if category not in _COMMON else ())
        templates = rng.sample(pool, rng.randint(1, most))
        sentences += [_fill(template, lang, surface, category, context, rng) for template in templates]
    return ("" if lang in ("zh", "ja") else " ").join(sentences)


def _fill(template: str, lang: str, surface: str, category: str, nouns: Sequence[str], rng: random.Random) -> str:
    """One sentence: the slots are filled in one pass, so braces in an entity or a noun stay as they are."""
    choices = {
        "k": KINDS[lang][category],
        "a": ABOUT[lang][category],
        "x": OPENINGS[lang],
        "f": CLOSINGS[lang],
        "c": "|".join(nouns) or DEFAULT_CONTEXT[lang],
    }
    values = {"e": surface, **{slot: rng.choice(phrases.split("|")) for slot, phrases in choices.items()}}
    sentence = template.format(**values)
    return sentence[0].upper() + sentence[1:] if lang == "en" and not template.startswith("{e}") else sentence


def template_slots(template: str) -> Iterator[str]:
    """Names of the slots of a template."""
    return (name for _, name, _, _ in string.Formatter().parse(template) if name)
