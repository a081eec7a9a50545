"""What the grammars let through: nothing that does not parse, nothing that is not in the sentence."""

from __future__ import annotations

import functools
import json
import random
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("llguidance")
pytest.importorskip("transformers")

from tiny_tokenizers import MAKES, ends_of

from syn_pipelines.utils.llm import Constraint
from syn_pipelines.utils.llm.closing import Closer
from syn_pipelines.utils.llm.grammar import is_grounded, json_schema_of, lark_of, max_entities, pieces_of
from syn_pipelines.utils.llm.vocabulary import decode_bytes, guidance_tokenizer
from syn_pipelines.utils.replies import parse_reply

TYPES = ("PER", "LOC")
HOSTILE = ["a", "b ", " c", "New", "York", "New York", " ", "\u3000", "\t", "\u00a0", "\x85", "\u2028", "\\", "\\t", '"', "/", "//",
           "N", "NN", "a/b", "😀", "e\u0301", "\ufffd", "\x00", "\x1f", "\x0b", "\x7f", "</s>", "<|user|>", "北", "京", "北京",
           "http://t.cn/x?y=1", "{", "}]", '", "type": "', '"}, {"word": "', "\u2581", "\U0010ffff"]
TOKENS = st.lists(st.sampled_from(HOSTILE) | st.text(min_size=1, max_size=6).filter(lambda t: not set(t) & SURROGATES), max_size=12)
SURROGATES = {chr(code) for code in range(0xD800, 0xE000)}
LABELS = st.sampled_from([(), ("N", "NN"), ("PER", "LOC"), ("名词", "名字", "动词"), ("proper noun", "noun", "x/y"), ('"', "\\"), ("X",)])


@st.composite
def constraints(draw):
    mode = draw(st.sampled_from(["entity", "pos"]))
    reply_format = draw(st.sampled_from(["json", "inline"])) if mode == "pos" else "json"
    return Constraint(mode, tuple(draw(TOKENS)), draw(st.booleans()), draw(LABELS), reply_format)


@functools.cache
def vocabulary(make="fast_byte_level"):
    tokenizer = MAKES[make]()
    return guidance_tokenizer(tokenizer, 600, ends_of(tokenizer))


def matcher_of(guidance, lark):
    from llguidance import LLMatcher

    matcher = LLMatcher(guidance, LLMatcher.grammar_from_lark(lark))
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def accepts(constraint, reply, lark=None):
    """Whether the grammar takes the reply as a whole."""
    guidance = vocabulary("slow_byte_level")  # a token for each byte: nothing depends on where tokens end
    matcher = matcher_of(guidance, lark or lark_of(constraint))
    ids = guidance.tokenize_str(reply)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def allowed(matcher):
    import numpy as np

    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
    return np.flatnonzero(bits).tolist()


def write_on(guidance, matcher, ids, rng, *, steps=10_000, spelled=False):
    """Take random allowed tokens and all that are forced, in place; spelled: short tokens first. True when whole."""
    for _ in range(steps):
        forced = [] if matcher.is_stopped() else matcher.compute_ff_tokens()
        assert not forced or matcher.consume_tokens(forced), matcher.get_error()
        ids += forced
        if matcher.is_stopped():
            break
        choices = allowed(matcher)
        assert choices, matcher.get_error()
        if spelled:
            choices = sorted(choices, key=lambda i: len(decode_bytes(guidance, [i])) or 99)[:2]
        token = rng.choice(choices)
        if token in guidance.eos_tokens:
            return True
        assert matcher.consume_token(token), matcher.get_error()
        ids.append(token)
    assert not matcher.is_error(), matcher.get_error()
    return matcher.is_stopped()


def items_of(constraint, reply):
    """The items of a reply that must be exactly as asked for."""
    if constraint.reply_format == "inline" and pieces_of(constraint):
        items, before = [], []
        for piece in reply.split():
            word, slash, tag = piece.rpartition("/")
            before.append(word if slash else piece)
            if slash:
                items.append({"word": " ".join(before), "pos": tag})
                before = []
        assert not before
        return items
    parsed = parse_reply(reply, constraint.mode)
    assert (parsed.status, parsed.dropped) == ("ok", 0), reply
    return parsed.items


def check(constraint, reply):
    items = items_of(constraint, reply)
    assert is_grounded(constraint, items), reply
    labels = [item["type" if constraint.mode == "entity" else "pos"] for item in items]
    if constraint.labels:
        inline = constraint.reply_format == "inline"
        assert set(labels) <= {label.replace(" ", "_").replace("/", "_") if inline else label for label in constraint.labels}
    else:
        assert all(1 <= len(label) <= 24 and label == label.strip() for label in labels)
        assert not [c for c in "".join(labels) if c != " " and unicodedata.category(c) in ("Cc", "Co", "Zs")]


# --- what is taken and what is not -------------------------------------------------------------------------------

def entity_reply(*surfaces, type_="LOC"):
    return json.dumps([{"entity": surface, "type": type_} for surface in surfaces], ensure_ascii=False)


@pytest.mark.parametrize(("tokens", "dense", "taken", "refused"), [
    (["in", "New", "York", "."], False, ["New", "York", "New York", "in New York .", "."],
     ["ew Yor", "New Yor", "ew York", "NewYork", "New  York", " York", "New ", "", "Boston", "York New"]),
    (["New York", "City"], False, ["New York", "New York City", "City"], ["New", "York", "York City"]),
    (list("北京大学"), True, ["北", "北京", "京大学", "北京大学"], ["北大", "", "学北", "北 京"]),
    (["北京", "大学"], True, ["北京", "北京大学"], ["北", "京大", "北京大"]),
    (["a", " ", "b", "\u3000"], True, ["a", "b", "a b"], [" ", "a ", " b", "\u3000", "b\u3000", "ab"]),
    (["a", "b ", " c", "d"], True, ["a", "d", "ab  cd"], ["b ", "b", "ab ", " c", "c", "ab", " cd", "cd"]),
    (["\t", "a", "\t", "b", "\x85"], True, ["a", "a\tb"], ["\t", "a\t", "\tb", "b\x85"]),
    (["\\t", "x"], True, ["\\t", "\\tx"], ["\t", "t", "\\", "\\tx\t"]),
    (['"', "\\", '\\"'], False, ['"', "\\", '" \\', '\\"'], ['"\\', "\\ ", '\\" ']),
    (["\x00", "\x1f", "\x0b", "y"], False, ["\x00", "\x00 \x1f \x0b y", "y"], ["\x1f", "\x0b", "\x0b y", "\x00 \x1f"]),
    (["\ufffd", "\ufffd\ufffd", "😀"], True, ["\ufffd", "\ufffd" * 2, "\ufffd" * 3 + "😀"], ["\ufffd" * 4]),
    ([" ", "\u3000"], False, [], [" ", "\u3000", ""]),
    ([], True, [], ["", "a"]),
])
def test_entities_are_spans_of_tokens_without_white_space_around_them(tokens, dense, taken, refused):
    constraint = Constraint("entity", tuple(tokens), dense, TYPES)
    assert accepts(constraint, "[]")
    for surface in taken:
        assert accepts(constraint, entity_reply(surface)), surface
        assert is_grounded(constraint, [{"entity": surface, "type": "LOC"}]), surface
    for surface in refused:
        assert not accepts(constraint, entity_reply(surface)), surface
        assert not is_grounded(constraint, [{"entity": surface, "type": "LOC"}]), surface


def test_an_entity_reply_is_json_as_json_dumps_writes_it():
    constraint = Constraint("entity", ("New", "York"), False, TYPES)
    assert accepts(constraint, entity_reply("New", "York", "New York", "New"))
    assert not accepts(constraint, entity_reply("New").replace(": ", ":"))
    assert not accepts(constraint, entity_reply("New")[:-1])
    assert not accepts(constraint, entity_reply("New") + "\n")
    assert not accepts(constraint, "")


def test_a_type_is_one_of_the_labels_or_any_short_name():
    labels = ('say "x"', "a\\b", "人名", "PERSON", "PER")
    closed, free = (Constraint("entity", ("x",), True, names) for names in (labels, ()))
    for label in labels:
        assert accepts(closed, entity_reply("x", type_=label))
    for label in ("人名", "work of art", "a", "x" * 24, "名" * 24):
        assert accepts(free, entity_reply("x", type_=label))
        assert accepts(closed, entity_reply("x", type_=label)) == (label in labels)
    for label in ("", " a", "a ", "a\tb", 'a"b', "a\\b", "a  b", "x" * 25, "a\u3000b", "a\x7fb", "a\u200bb"):
        assert not accepts(free, entity_reply("x", type_=label)), label


def test_an_entity_reply_ends_after_a_bounded_number_of_items():
    constraint = Constraint("entity", tuple("abc"), True, TYPES)
    assert accepts(constraint, entity_reply(*["a"] * max_entities(3)))
    assert not accepts(constraint, entity_reply(*["a"] * (max_entities(3) + 1)))


def words_reply(*words, tag="N"):
    return json.dumps([{"word": word, "pos": tag} for word in words], ensure_ascii=False)


@pytest.mark.parametrize(("tokens", "dense", "taken", "refused"), [
    (list("我爱北京"), True, [["我", "爱", "北京"], ["我爱北京"], list("我爱北京")], [["我", "北京"], ["我", "爱", "北"], ["我", "爱", "京北"]]),
    (["北京", "大学"], True, [["北京", "大学"], ["北京大学"]], [["北", "京大学"]]),
    (["a", " ", "b", "c\u3000", "\t", "d"], True, [["a", "b", "c", "d"], ["a", "bc", "d"]], [["ab", "c", "d"], ["a b", "c", "d"]]),
    (["I", "love", "New York", "!"], False, [["I", "love", "New York", "!"]], [["I", "love", "New", "York", "!"], ["I love", "New York", "!"]]),
    (["\u3000", " a ", "b", "\u00a0"], False, [["a", "b"]], [["a b"], [" a ", "b"], ["\u3000", "a", "b"]]),
    (['"', "\\", "\x00", "😀"], False, [['"', "\\", "\x00", "😀"]], [['"\\', "\x00", "😀"]]),
    ([" ", "\u3000"], True, [[]], [[" "], [""]]),
    ([], False, [[]], [["a"]]),
])
def test_words_are_the_sentence_in_order_broken_between_tokens(tokens, dense, taken, refused):
    constraint = Constraint("pos", tuple(tokens), dense, ("N", "V"))
    for words in taken:
        assert accepts(constraint, words_reply(*words)), words
        assert is_grounded(constraint, [{"word": word, "pos": "N"} for word in words]), words
    for words in refused:
        assert not accepts(constraint, words_reply(*words)), words
        # Blanks around a word are no reason to lose it where a server wrote it.
        grounded = is_grounded(constraint, [{"word": word, "pos": "N"} for word in words])
        assert grounded == ([word.strip() for word in words] in taken), words


@pytest.mark.parametrize(("tokens", "dense", "taken", "refused"), [
    (list("我爱北京"), True, ["我/PN 爱/VV 北京/NR", "我爱北京/NR"], ["我/PN爱/VV 北京/NR", "我/PN 爱/VV 北京/NR ", "我 爱北京/NR", "我/XX 爱北京/NR"]),
    (["1", "/", "2"], True, ["1/2/NR", "1/NR //NR 2/NR"], ["1/NR 2/NR", "1//2/NR"]),
    (["a", "/", "N", "R"], True, ["a/NR/NR", "a/NR //NR NR/NR", "a//NR NR/NR"], ["a/NR"]),
    (["New York", "x"], False, ["New York/NR x/VV"], ["New/NR York/NR x/VV"]),
    (["New\u00a0York", "and/or"], False, ["New/NR York/NR and/or/VV"], ["New York/NR and/or/VV"]),
    ([" "], False, ["[]"], ["", " "]),
])
def test_inline_words_end_at_their_last_slash(tokens, dense, taken, refused):
    constraint = Constraint("pos", tuple(tokens), dense, ("PN", "VV", "NR"), "inline")
    for reply in taken:
        assert accepts(constraint, reply), reply
        check(constraint, reply)
    assert not [reply for reply in refused if accepts(constraint, reply)]


def test_inline_labels_hold_neither_blanks_nor_slashes():
    constraint = Constraint("pos", ("x",), True, ("proper noun", "a/b", "/"), "inline")
    assert accepts(constraint, "x/proper_noun") and accepts(constraint, "x/a_b")
    assert not accepts(constraint, "x/proper noun") and not accepts(constraint, "x/")
    free = Constraint("pos", ("x",), True, (), "inline")
    assert accepts(free, "x/名词") and not accepts(free, "x/a b") and not accepts(free, "x/" + "n" * 25)


def test_a_sentence_of_a_thousand_tokens_has_a_grammar():
    tokens = tuple(f"token{i}" for i in range(1000))
    assert accepts(Constraint("pos", tokens, False, ("N", "V")), words_reply(*tokens))
    assert accepts(Constraint("pos", tokens, True, ("N",), "inline"), "".join(tokens) + "/N")
    assert accepts(Constraint("entity", tokens, False, TYPES), entity_reply(" ".join(tokens[300:600])))


# --- random models -----------------------------------------------------------------------------------------------

@settings(deadline=None, max_examples=300)
@given(constraints(), st.integers(0, 2**32))
def test_whatever_a_model_writes_parses_and_is_in_the_sentence(constraint, seed):
    guidance, ids = vocabulary(), []
    assert write_on(guidance, matcher_of(guidance, lark_of(constraint)), ids, random.Random(seed))
    check(constraint, decode_bytes(guidance, ids).decode())


@pytest.mark.parametrize("make", [make for make in MAKES if make != "fast_byte_level"])
@settings(deadline=None, max_examples=25)
@given(constraint=constraints(), seed=st.integers(0, 2**32))
def test_the_same_holds_for_every_make_of_tokenizer(make, constraint, seed):
    guidance, ids, rng = vocabulary(make), [], random.Random(seed)
    closer = Closer(constraint, lambda text: len(guidance.tokenize_str(text)))
    if not write_on(guidance, matcher_of(guidance, lark_of(constraint)), ids, rng, steps=30):
        closer.push(decode_bytes(guidance, ids))
        most, matcher = len(ids) + closer.room(), matcher_of(guidance, closer.lark())
        assert matcher.consume_tokens(ids) and write_on(guidance, matcher, ids, rng, spelled=True)
        assert len(ids) < most
    check(constraint, decode_bytes(guidance, ids).decode())


# --- closing -----------------------------------------------------------------------------------------------------

@settings(deadline=None, max_examples=300)
@given(constraints(), st.integers(0, 60), st.integers(0, 2**32))
@example(Constraint("pos", ("a", "/", "N", "N", "x"), True, ("N", "NN"), "inline"), 3, 0)
def test_a_reply_closed_at_any_step_is_whole_and_fits_its_room(constraint, steps, seed):
    guidance, ids, rng = vocabulary(), [], random.Random(seed)
    closer = Closer(constraint, lambda text: len(guidance.tokenize_str(text)))
    matcher, pushed, before = matcher_of(guidance, lark_of(constraint)), 0, None
    assert closer.least == closer.room()
    for _ in range(steps):
        whole = write_on(guidance, matcher, ids, rng, steps=1)
        closer.push(decode_bytes(guidance, ids[pushed:]))
        pushed = len(ids)
        assert closer.room() <= closer.most
        assert before is None or len(ids) + closer.room() <= before + closer.margin
        before = len(ids) + closer.room()
        if whole:
            break
    room, written, matcher = closer.room(), len(ids), matcher_of(guidance, closer.lark())
    assert matcher.consume_tokens(ids), matcher.get_error()
    assert write_on(guidance, matcher, ids, rng, spelled=rng.random() < 0.7)
    assert len(ids) + 1 - written <= room
    check(constraint, decode_bytes(guidance, ids).decode())


@pytest.mark.parametrize("constraint", [
    Constraint("entity", ("New", "York", '"\\', "北京", "x\ty", "😀"), False, ("人名", "人物", "LOC")),
    Constraint("entity", ("New", "York", '"\\', "北京", "x\ty", "😀"), False),
    Constraint("pos", ("我", '"', "\\", "😀", " ", "北京"), True, ("名词", "名字")),
    Constraint("pos", ("我", "/", "N", "😀", " ", "北京", "/"), True, ("N", "NN"), "inline"),
    Constraint("pos", ("I", "New York", "\x00", "é"), False),
    Constraint("pos", ("I", "New York", "\x00", "é"), False, (), "inline"),
    Constraint("pos", (" ",), False),
])
@pytest.mark.parametrize("seed", range(4))
def test_a_reply_can_be_closed_behind_every_byte(constraint, seed):
    guidance, ids, rng = vocabulary("slow_byte_level"), [], random.Random(seed)
    write_on(guidance, matcher_of(guidance, lark_of(constraint)), ids, rng)
    closer = Closer(constraint, lambda text: len(text.encode()))
    for size in range(len(ids) + 1):
        closer.push(decode_bytes(guidance, ids[size - 1:size] if size else []))
        closed, matcher = ids[:size], matcher_of(guidance, closer.lark())
        assert matcher.consume_tokens(closed) and write_on(guidance, matcher, closed, rng)
        assert len(closed) - size < closer.room()
        check(constraint, decode_bytes(guidance, closed).decode())


def closings(constraint, begun, *replies):
    closer = Closer(constraint, len)
    closer.push(begun.encode())
    return [accepts(constraint, reply, closer.lark()) for reply in replies]


def test_closing_ends_a_span_where_it_can_end_next():
    constraint = Constraint("entity", ("New", "York", "Newark", "City"), False, TYPES)
    begun = '[{"entity": "New'
    assert closings(constraint, begun, entity_reply("New"), entity_reply("Newark"), entity_reply("New York")) == [
        True, True, False]
    assert closings(constraint, begun + " ", entity_reply("New York"), entity_reply("New York Newark")) == [True, False]
    assert closings(constraint, entity_reply("New")[:-1], entity_reply("New"), entity_reply("New", "City")) == [True, False]


def test_closing_breaks_no_more_than_it_must():
    dense = Constraint("pos", tuple("我爱北京"), True, ("N", "V"))
    assert closings(dense, words_reply("我")[:-2], words_reply("我", "爱北京"), words_reply("我", "爱", "北京")) == [True, False]
    apart = Constraint("pos", ("我", " ", "爱", "你"), True, ("N", "V"))
    assert closings(apart, '[{"word": "', words_reply("我", "爱你"), words_reply("我", "爱", "你")) == [True, False]


# --- servers -----------------------------------------------------------------------------------------------------

def test_the_json_schema_holds_the_items_in_an_object_that_the_parser_reads():
    schema = json_schema_of(Constraint("entity", ("x",), True, ("PER", " ", "LOC", "PER")))
    item = schema["properties"]["items"]["items"]
    assert schema["type"] == "object" and schema["required"] == ["items"]
    assert item["required"] == ["entity", "type"] and item["properties"]["type"]["enum"] == ["PER", "LOC"]
    reply = json.dumps({"items": [{"entity": "x", "type": "PER"}]})
    assert parse_reply(reply, "entity").items == [{"entity": "x", "type": "PER"}]
    assert "enum" not in json_schema_of(Constraint("pos", ("x",), True))["properties"]["items"]["items"]["properties"]["pos"]
    assert json_schema_of(Constraint("pos", ("x",), True, ("N",), "inline")) is None
