"""What must hold for replies of any shape and any text: what was meant comes back, and nothing else is ever made up."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pipeline import tokens_of_any_kind
from reply_corpus import KEYS, LARGE, ROWS, Pairs, check, read

from syn_pipelines.utils.fusion import FusionStats, columns, extension_spans
from syn_pipelines.utils.replies import parse_reply
from syn_pipelines.utils.spans import EXACT, FOLDED, Grounder, fold

modes = st.sampled_from(sorted(KEYS))
# Any characters that a surface may have; those that are no quotes, brackets or escapes, for forms that cannot carry these.
storable = st.characters(exclude_categories=["Cs"])
plain = st.characters(categories=["Lu", "Ll", "Lo", "Nd"]).filter(lambda char: char.isalnum())
anything = st.text(storable, max_size=10)
words = st.text(plain, min_size=2, max_size=8).filter(lambda text: text.lower() not in ("null", "none", "nil", "undefined", "nan", "true", "false"))
types = st.text(storable, min_size=1, max_size=8).filter(lambda text: text.strip())
any_pairs = st.lists(st.tuples(anything, types), min_size=1, max_size=5)
plain_pairs = st.lists(st.tuples(words, words), min_size=1, max_size=5).filter(
    lambda pairs: not any(text.isdecimal() for pair in pairs for text in pair))


def items(mode: str, pairs: Pairs) -> list[dict[str, str]]:
    return [dict(zip(KEYS[mode], pair)) for pair in pairs]


def dumped(mode: str, pairs: Pairs, **how: object) -> str:
    return json.dumps(items(mode, pairs), **{"ensure_ascii": False, **how})


def lines(mode: str, pairs: Pairs) -> str:
    return "\n".join(json.dumps(item, ensure_ascii=False) for item in items(mode, pairs))


def by_type(mode: str, pairs: Pairs) -> str:
    """{"PER": [...], ...}; only for pairs that stand in the order of their types."""
    grouped: dict[str, list[str]] = {}
    for surface, type_ in pairs:
        grouped.setdefault("T-" + type_, []).append(surface)
    return json.dumps(grouped, ensure_ascii=False)


def with_marks(mode: str, pairs: Pairs, form: str) -> str:
    """Each item in the form, in which E, S, K, T stand for key, surface, key and type."""
    surface_key, type_key = KEYS[mode]
    values = [form.translate(str.maketrans({"E": surface_key, "S": surface, "K": type_key, "T": type_})) for surface, type_ in pairs]
    return "[" + ", ".join(values) + "]"


Rendering = Callable[[str, Pairs], str]
# Forms that carry any text.
EXACT_FORMS: dict[str, Rendering] = {
    "json": dumped,
    "ascii": lambda mode, pairs: dumped(mode, pairs, ensure_ascii=True),
    "indented": lambda mode, pairs: dumped(mode, pairs, indent=2),
    "fence": lambda mode, pairs: f"```json\n{dumped(mode, pairs)}\n```",
    "fence in prose": lambda mode, pairs: f"Here it is:\n\n```\n{dumped(mode, pairs, indent=1)}\n```\nDone.",
    "thoughts": lambda mode, pairs: f"<think>{{[\"so</think>\n{dumped(mode, pairs)}",
    "lines": lines,
    "items": lambda mode, pairs: json.dumps({"items": items(mode, pairs)}),
    "wrapped": lambda mode, pairs: json.dumps({"result": {"entities": items(mode, pairs)}, "count": len(pairs)}),
    "a string": lambda mode, pairs: json.dumps(dumped(mode, pairs)),
    "pairs": lambda mode, pairs: json.dumps(pairs),
    "other keys": lambda mode, pairs: json.dumps([{"name": surface, "label": type_} for surface, type_ in pairs]),
    "keys of Chinese": lambda mode, pairs: json.dumps([{"词": surface, "词性": type_} for surface, type_ in pairs]),
}
# Forms for texts of letters and digits.
LOOSE_FORMS: dict[str, Rendering] = {
    "python": lambda mode, pairs: repr(items(mode, pairs)),
    "python tuples": lambda mode, pairs: repr(pairs),
    "single quotes": lambda mode, pairs: with_marks(mode, pairs, "{'E': 'S', 'K': 'T'}"),
    "no quotes": lambda mode, pairs: with_marks(mode, pairs, "{E: S, K: T}"),
    "trailing commas": lambda mode, pairs: with_marks(mode, pairs, '{"E": "S", "K": "T",}')[:-1] + ",]",
    "full width": lambda mode, pairs: with_marks(mode, pairs, "｛“E”：“S”，“K”：“T”｝").replace(", ", "，").replace("[", "【").replace("]", "】"),
    "comments": lambda mode, pairs: with_marks(mode, pairs, '\n// so\n{"E": "S", /* and */ "K": "T"}'),
    "escaped quotes": lambda mode, pairs: with_marks(mode, pairs, r'{\"E\": \"S\", \"K\": \"T\"}'),
    "commas forgotten": lambda mode, pairs: with_marks(mode, pairs, '{"E": "S" "K": "T"}').replace("}, {", "} {"),
    "ellipsis": lambda mode, pairs: dumped(mode, pairs)[:-1] + ", ...]",
}


@pytest.mark.parametrize("form", EXACT_FORMS)
@settings(max_examples=60, deadline=None)
@given(pairs=any_pairs, mode=modes)
@example(pairs=[("\\", "\""), ("', '", "]}"), ("</think>", "```")], mode="pos")
def test_a_reply_in_any_proper_form_gives_back_its_items(form, pairs, mode):
    if form in ("fence", "fence in prose", "thoughts", "lines") and any("think" in text.lower() for pair in pairs for text in pair):
        return  # what looks like the tags of thoughts is taken for them where the reply is more than JSON
    parsed = parse_reply(EXACT_FORMS[form](mode, pairs), mode)
    assert parsed.items == items(mode, pairs) and parsed.dropped == 0
    assert parsed.status == ("ok" if form in ("json", "ascii", "indented", "items") else "repaired")


@pytest.mark.parametrize("form", LOOSE_FORMS)
@settings(max_examples=60, deadline=None)
@given(pairs=plain_pairs, mode=modes)
def test_a_reply_in_any_broken_form_gives_back_its_items_and_is_called_repaired(form, pairs, mode):
    parsed = parse_reply(LOOSE_FORMS[form](mode, pairs), mode)
    assert (parsed.items, parsed.status) == (items(mode, pairs), "repaired")


@settings(max_examples=100, deadline=None)
@given(pairs=st.lists(st.tuples(anything, words), max_size=6).map(lambda pairs: sorted(pairs, key=lambda pair: pair[1])))
def test_a_dict_of_lists_gives_back_its_items(pairs):
    parsed = parse_reply(by_type("entity", pairs), "entity")
    assert parsed.items == items("entity", [(surface, "T-" + type_) for surface, type_ in pairs])


# --- texts that nobody meant ----------------------------------------------------------------------------------------

SEEDS = [row for name, row in ROWS.items() if name not in LARGE]
NOISE = st.text(st.sampled_from("\"'“”[]{}()【】:：,，/\\`#*<>\n\t 0aE张\ufeff\u200b😀\ud83d\ude00"), max_size=4)


@st.composite
def mutants(draw: st.DrawFn) -> tuple[str, str, bool]:
    """A reply of the corpus with slices deleted, inserted, doubled or moved and its quotes flipped; its task; whether cut."""
    row = draw(st.sampled_from(SEEDS))
    text = row.reply[:400]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        kind = draw(st.sampled_from(["delete", "insert", "double", "move", "flip", "join"]))
        if kind == "delete":
            text = text[:start] + text[end:]
        elif kind == "insert":
            text = text[:start] + draw(NOISE) + text[start:]
        elif kind == "double":
            text = text[:end] + text[start:end] + text[end:]
        elif kind == "move":
            rest = text[:start] + text[end:]
            to = draw(st.integers(0, len(rest)))
            text = rest[:to] + text[start:end] + rest[to:]
        elif kind == "flip":
            text = text[:start] + text[start:].translate(str.maketrans("\"'", "'\""))
        else:
            text += draw(st.sampled_from(SEEDS)).reply[:200]
    return text, row.task, draw(st.booleans())


@settings(max_examples=1500, deadline=None)
@given(mutants())
def test_of_a_reply_changed_anyhow_nothing_is_invented_and_the_same_is_read_again(mutant):
    check(*mutant)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80), st.sampled_from(["entity", "pos", "inline"]), st.booleans())
def test_of_any_text_nothing_is_invented(text, task, cut):
    check(text, task, cut)


@settings(max_examples=300, deadline=None)
@given(plain_pairs, modes, st.sampled_from([form for form in (*EXACT_FORMS, *LOOSE_FORMS) if form != "a string"]), st.data())
def test_a_reply_of_any_form_cut_at_the_limit_gives_the_first_of_its_items_and_no_half_one(pairs, mode, form, data):
    reply = {**EXACT_FORMS, **LOOSE_FORMS}[form](mode, pairs)
    kept = reply[:data.draw(st.integers(0, len(reply) - 1))]
    parsed = parse_reply(kept, mode, cut=True)
    assert parsed.items == items(mode, pairs)[:len(parsed.items)]


# --- grounding ----------------------------------------------------------------------------------------------------

def same_label(raw: object) -> tuple[str, bool]:
    return str(raw), True


@settings(max_examples=300, deadline=None)
@given(tokens_of_any_kind, st.booleans(), st.data())
def test_spans_of_any_items_are_tokens_of_the_sentence_that_say_the_surface_and_every_item_is_counted(tokens, dense, data):
    joiner = "" if dense else " "
    some = st.one_of(st.text(max_size=4), st.builds(lambda a, b: joiner.join(tokens[a:b]), *[st.integers(0, len(tokens))] * 2))
    entities = [{"entity": surface, "type": "X"} for surface in data.draw(st.lists(some, max_size=5))]
    pos = [{"word": word, "pos": "Y"} for word in data.draw(st.lists(some, max_size=5))]
    stats = FusionStats()
    spans = extension_spans(tokens, columns(entities, "entity"), columns(pos, "pos"), dense=dense, entity_label=same_label,
                            pos_label=same_label, stats=stats)
    said = {"X": [item["entity"] for item in entities], "Y": [item["word"] for item in pos]}
    for start, end, label in spans:
        assert 0 <= start < end <= len(tokens)
        written = joiner.join(tokens[start:end])
        assert any(written in (surface, surface.strip()) or "".join(map(fold, tokens[start:end])) == fold(surface.strip())
                   for surface in said[label]), (written, said[label])
    for mode, given_items in (("entity", entities), ("pos", pos)):
        assert stats.items[mode] == len(given_items)
        assert stats.items[mode] == stats.placed[mode] + sum(stats.unplaced.get(mode, {}).values())


@settings(max_examples=200, deadline=None)
@given(mutants(), tokens_of_any_kind, st.booleans())
def test_what_is_read_from_any_reply_is_placed_on_its_tokens_or_counted(mutant, tokens, dense):
    text, task, cut = mutant
    found = [next(iter(item.values())) for item in read(text, task, cut).items]
    grounder = Grounder(tokens, dense)
    for surface in found:
        spans, how = grounder.find(surface)
        assert bool(spans) == (how in (EXACT, FOLDED))
    placed = grounder.align(found)
    chosen = [span for span, _ in placed if span]
    assert len(placed) == len(found) and all(a[1] <= b[0] for a, b in zip(chosen, chosen[1:]))
