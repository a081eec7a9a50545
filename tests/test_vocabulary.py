"""Every make of tokenizer can be held to a grammar, byte for byte, and its special tokens are never text."""

from __future__ import annotations

import pytest

pytest.importorskip("llguidance")
pytest.importorskip("transformers")

from tiny_models import SENTENCES
from tiny_tokenizers import MAKES, SPECIALS, ends_of, fast_unigram, slow_unknown

from syn_pipelines.utils.llm.grammar import literal
from syn_pipelines.utils.llm.vocabulary import UnsupportedTokenizer, decode_bytes, guidance_tokenizer

WIDTH = 600  # of the scores: more than any of the vocabularies
TEXTS = (*SENTENCES, " a blank before", "two  blanks ,and . marks", "</s><|user|> <unk> <s>[gMASK]", "a\ttab\r\n", "😀é\ufffd",
         "\u2581 low line", "\u3000", "\x00\x7f", "\n", "<0x41>",
         "e\u0301 \uff21\ufb01", "N" * 300)

_made: dict[str, tuple] = {}


@pytest.fixture(params=MAKES)
def made(request):
    if request.param not in _made:
        tokenizer = MAKES[request.param]()
        _made[request.param] = tokenizer, guidance_tokenizer(tokenizer, WIDTH, ends_of(tokenizer))
    return _made[request.param]


def forced(guidance, text):
    """The tokens that a grammar of this text alone forces, the last ones chosen as the mask allows."""
    import numpy as np
    from llguidance import LLMatcher

    matcher = LLMatcher(guidance, LLMatcher.grammar_from_lark(f"start: {literal(text)}"))
    tokens = []
    while not matcher.is_stopped():
        more = matcher.compute_ff_tokens()
        if not more:
            bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
            more = [int(np.flatnonzero(bits)[-1])]
        assert matcher.consume_tokens(more), matcher.get_error()
        tokens += more
    return tokens


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_becomes_ordinary_tokens_and_comes_back_byte_for_byte(made, text):
    _, guidance = made
    ids = guidance.tokenize_str(text)
    assert not any(guidance.is_special_token(i) for i in ids)
    assert decode_bytes(guidance, ids) == text.encode()


@pytest.mark.parametrize("text", TEXTS)
def test_forced_tokens_spell_the_text_and_none_of_them_is_special(made, text):
    _, guidance = made
    ids = forced(guidance, text)
    assert decode_bytes(guidance, ids) == text.encode()
    assert {i for i in ids if guidance.is_special_token(i)} <= set(guidance.eos_tokens)
    assert not any(guidance.is_special_token(i) for i in ids[:-1])


def test_every_token_has_the_bytes_that_the_tokenizer_gives_it(made):
    """A letter before the text keeps blanks in place that some tokenizers drop or add in front."""
    tokenizer, guidance = made
    for text in SENTENCES:
        own = tokenizer.encode("x" + text, add_special_tokens=False)
        assert decode_bytes(guidance, own).decode().lstrip(" ") == "x" + text


def test_an_ordinary_text_takes_the_tokenizers_own_tokens(made):
    tokenizer, guidance = made
    for text in SENTENCES:
        own = tokenizer.encode("\n" + text, add_special_tokens=False)
        ours = guidance.tokenize_str("\n" + text)
        assert ours == own or ours == own[1:]  # behind the blank that sentencepiece puts first


def test_special_tokens_holes_and_ids_beyond_the_vocabulary_are_no_text(made):
    tokenizer, guidance = made
    special = {tokenizer.convert_tokens_to_ids(name) for name in SPECIALS} | {WIDTH - 1}
    assert all(guidance.is_special_token(i) for i in special)
    assert decode_bytes(guidance, sorted(special)) == b""
    assert guidance.vocab_size == WIDTH
    assert set(guidance.eos_tokens) == set(ends_of(tokenizer))


def test_any_of_the_end_tokens_ends_a_reply(made):
    from llguidance import LLMatcher

    tokenizer, guidance = made
    for end in ends_of(tokenizer):
        matcher = LLMatcher(guidance, LLMatcher.grammar_from_lark('start: "a" | "ab"'))
        assert matcher.consume_tokens(guidance.tokenize_str("a"))
        assert matcher.validate_tokens([end]) == 1


def test_an_end_token_beyond_the_vocabulary_does_no_harm(made):
    tokenizer, _ = made
    guidance = guidance_tokenizer(tokenizer, WIDTH, [WIDTH - 1, WIDTH + 5, *ends_of(tokenizer)])
    assert set(ends_of(tokenizer)) <= set(guidance.eos_tokens)


@pytest.mark.parametrize("make", MAKES)
def test_tokens_added_behind_those_of_the_model_are_never_written(make):
    tokenizer = MAKES[make]()
    width = len(tokenizer)
    tokenizer.add_tokens(["New York", "ORG"])
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    if not tokenizer.is_fast:  # their ids come behind a hole
        width = min(i for i in tokenizer.added_tokens_decoder if i >= width)
    guidance = guidance_tokenizer(tokenizer, width, ends_of(tokenizer))
    ids = forced(guidance, "New York <pad> ORG")
    assert max(ids) < width and decode_bytes(guidance, ids) == b"New York <pad> ORG"


def test_the_tokenizer_itself_is_left_as_it_was(made):
    tokenizer, _ = made
    assert tokenizer.encode("</s>", add_special_tokens=False)[-1] == tokenizer.convert_tokens_to_ids("</s>")


@pytest.mark.parametrize(("make", "reason"), [(fast_unigram, "cannot write every text"),
                                              (slow_unknown, "bytes of the tokens of Slow are not known")])
def test_a_tokenizer_that_cannot_be_held_to_a_grammar_says_why(make, reason):
    tokenizer = make()
    with pytest.raises(UnsupportedTokenizer, match=reason):
        guidance_tokenizer(tokenizer, WIDTH, ends_of(tokenizer))


def test_a_model_without_end_token_cannot_be_held_to_a_grammar(made):
    with pytest.raises(UnsupportedTokenizer, match="no end token"):
        guidance_tokenizer(made[0], WIDTH, [])
