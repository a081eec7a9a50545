"""Grounding: strings that a model wrote are found at their place in the tokens, and nowhere else."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pipeline import HARD_TOKENS, tokens_of_any_kind

from syn_pipelines.utils import spans as spans_module
from syn_pipelines.utils.spans import EMPTY, EXACT, FOLDED, NOT_IN_TEXT, NOT_ON_BOUNDARY, OUT_OF_ORDER, Grounder, fold

small_tokens = st.lists(st.sampled_from("aab "), min_size=1, max_size=7)


def join(tokens, dense):
    return ("" if dense else " ").join(tokens)


@st.composite
def tokens_and_span(draw):
    tokens = draw(tokens_of_any_kind)
    start = draw(st.integers(0, len(tokens) - 1))
    return tokens, (start, draw(st.integers(start + 1, len(tokens))))


# --- folding ------------------------------------------------------------------------------------------------------

@given(st.one_of(st.text(max_size=8), st.lists(st.sampled_from(HARD_TOKENS), max_size=5).map("".join)))
@example("a\u0301 \u0323")
def test_folding_twice_gives_the_same_as_folding_once(text):
    assert fold(fold(text)) == fold(text)


def test_folding_every_single_character_twice_changes_nothing_more():
    assert [c for c in map(chr, range(0x110000)) if fold.__wrapped__(f := fold.__wrapped__(c)) != f] == []


@pytest.mark.parametrize(("one", "other"), [
    ("Straße", "STRASSE"), ("ＡＢＣ", "abc"), ("New  York", "newyork"), ("“a”", '"a"'), ("｢a｣", "「a」"), ("it’s", "it`s"),
    ("café", "cafe\u0301"), ("İstanbul", "i\u0307stanbul"), ("ﬁn", "fin"), ("가", "\u1100\u1161"), ("Σ", "ς"),
])
def test_spellings_that_writers_vary_fold_to_the_same(one, other):
    assert fold(one) == fold(other)


@pytest.mark.parametrize(("one", "other"), [("e", "é"), ("北", "京"), ("1", "2"), ("a", "b"), ("-", "_")])
def test_different_characters_stay_different(one, other):
    assert fold(one) != fold(other)


# --- finding ------------------------------------------------------------------------------------------------------

@given(tokens_and_span(), st.booleans())
def test_every_span_of_tokens_is_found_again_exactly_as_written(case, dense):
    tokens, (start, end) = case
    found, how = Grounder(tokens, dense).find(join(tokens[start:end], dense))
    assert how == EXACT
    assert (start, end) in found


@given(tokens_and_span(), st.booleans(), st.sampled_from([str.upper, str.lower, str.swapcase, str.title,
                                                          lambda s: f" {s}\n", lambda s: unicodedata.normalize("NFC", s)]))
def test_every_span_found_slices_back_to_the_surface_exactly_or_folded(case, dense, change):
    tokens, (start, end) = case
    surface = change(join(tokens[start:end], dense))
    found, how = Grounder(tokens, dense).find(surface)
    assert (how in (EXACT, FOLDED)) == bool(found)
    assert found == sorted(set(found))
    for first, last in found:
        written = join(tokens[first:last], dense)
        if how == EXACT:
            assert written == surface
        else:
            assert written == surface.strip() or "".join(map(fold, tokens[first:last])) == fold(surface)


@given(tokens_of_any_kind, st.booleans(), st.text(alphabet="aAbB i\u0307北京 ", max_size=4))
def test_finding_gives_every_occurrence_on_token_boundaries_and_no_other(tokens, dense, surface):
    found, how = Grounder(tokens, dense).find(surface)
    places = [(i, j) for i in range(len(tokens)) for j in range(i + 1, len(tokens) + 1)]
    exact = [(i, j) for i, j in places if surface and join(tokens[i:j], dense) == surface]
    if exact:
        assert (found, how) == (exact, EXACT)
    elif not surface.strip():
        assert (found, how) == ([], EMPTY)
    else:
        stripped = [(i, j) for i, j in places if join(tokens[i:j], dense) == surface.strip()]
        folded = [(i, j) for i, j in places if "".join(map(fold, tokens[i:j])) == fold(surface)
                  and fold(tokens[i]) and fold(tokens[j - 1])]
        assert found == (stripped or folded)


@pytest.mark.parametrize(("tokens", "dense", "surface", "found", "how"), [
    ("I B M and IBM".split(), False, "IBM", [(4, 5)], EXACT),
    (list("北京北京北"), True, "北京北", [(0, 3), (2, 5)], EXACT),  # overlapping ones too
    (["a", "A", "a"], False, "a", [(0, 1), (2, 3)], EXACT),  # an exact one exists: the other case is not meant
    (["A", "A"], False, "a", [(0, 1), (1, 2)], FOLDED),
    (["art", "party"], False, "art", [(0, 1)], EXACT),
    (["party"], False, "art", [], NOT_ON_BOUNDARY),
    (["PARTY"], False, "art", [], NOT_ON_BOUNDARY),
    (["party"], False, "arts", [], NOT_IN_TEXT),
    (["a"], False, "", [], EMPTY),
    (["a"], False, " \t", [], EMPTY),
    (["a", "\u3000", "b"], True, "ab", [(0, 3)], FOLDED),
    ([" ", "a", " "], True, " a ", [(0, 3)], EXACT),
    ([" ", "a", " "], True, "\na\n", [(1, 2)], FOLDED),
    ([" ", "a", " "], False, "  a  ", [(0, 3)], EXACT),
    (["İ", "zmir"], True, "i\u0307zmir", [(0, 2)], FOLDED),
    (["İ", "ß", "x"], True, "X", [(2, 3)], FOLDED),  # what stands before it grows when folded
    (["\ufffd\ufffd", "x"], True, "x", [(1, 2)], EXACT),
    (["\ufffd\ufffd", "\ufffd"], True, "\ufffd", [(1, 2)], EXACT),
    (["👩\u200d👩\u200d👧", "好"], True, "👩", [], NOT_ON_BOUNDARY),
    (["e", "\u0301", "t"], True, "ét", [(0, 3)], FOLDED),
    (["New York", "City"], False, "New York City", [(0, 2)], EXACT),
    (["it", "'s"], False, "it’s", [(0, 2)], FOLDED),
    (["\u2028", "a"], True, "\u2028a", [(0, 2)], EXACT),
])
def test_where_a_string_is_found(tokens, dense, surface, found, how):
    assert Grounder(tokens, dense).find(surface) == (found, how)


# --- aligning -----------------------------------------------------------------------------------------------------

@st.composite
def segmentation(draw, tokens=tokens_of_any_kind):
    """Tokens and spans that cover them from the first to the last, some blank tokens left out."""
    tokens = draw(tokens)
    cuts = draw(st.sets(st.integers(1, len(tokens)))) | {len(tokens)}
    bounds = [0, *sorted(cuts)]
    spans = list(zip(bounds, bounds[1:]))
    return tokens, [s for s in spans if join(tokens[s[0]:s[1]], True).strip() or draw(st.booleans())]


def surfaces(tokens, spans, dense):
    return [join(tokens[start:end], dense) for start, end in spans]


@given(segmentation(), st.booleans())
def test_a_perfect_segmentation_places_every_word_at_its_own_position(case, dense):
    tokens, spans = case
    placed = Grounder(tokens, dense).align(surfaces(tokens, spans, dense))
    assert [span for span, _ in placed] == spans
    assert {how for _, how in placed} <= {EXACT}


@given(segmentation(small_tokens), st.booleans(), st.data())
def test_whatever_is_done_to_the_words_spans_rise_and_never_overlap(case, dense, data):
    tokens, spans = case
    words = surfaces(tokens, spans, dense)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(words)))
        kind = data.draw(st.sampled_from(["insert", "delete", "garble", "move"]))
        if kind == "insert":
            words.insert(at, data.draw(st.text(alphabet="abAB x", max_size=3)))
        elif at < len(words):
            word = words.pop(at)
            if kind == "garble":
                words.insert(at, word + "x")
            elif kind == "move":
                words.insert(data.draw(st.integers(0, len(words))), word)
    placed = Grounder(tokens, dense).align(words)
    assert len(placed) == len(words)
    chosen = [span for span, _ in placed if span]
    assert all(first[1] <= second[0] for first, second in zip(chosen, chosen[1:]))
    for word, (span, how) in zip(words, placed):
        assert (span is None) == (how not in (EXACT, FOLDED))
        if span:
            assert span in Grounder(tokens, dense).find(word)[0]


def best_score(tokens, words, dense):
    """(words, tokens, neighbours) of the best chain, by trying them all."""
    grounder = Grounder(tokens, dense)
    blank = [token.isspace() for token in tokens]

    def together(end, start):
        return end <= start and all(blank[end:start])

    best = (0, 0, 0)
    for spans in itertools.product(*[[None, *grounder.find(word)[0]] for word in words]):
        best = max(best, score_of(tokens, spans, together))
    return best


def score_of(tokens, spans, together):
    chosen = [s for s in spans if s]
    if any(a[1] > b[0] for a, b in zip(chosen, chosen[1:])):
        return (0, 0, 0)
    # A span that begins with a blank token has no neighbour before it.
    edges = [(0, 0), *spans, (len(tokens), len(tokens))]
    near = sum(1 for a, b in zip(edges, edges[1:]) if a and b and together(a[1], b[0])
               and (b[0] == len(tokens) or not tokens[b[0]].isspace()))
    return len(chosen), sum(e - s for s, e in chosen), near if chosen else 0


@given(st.lists(st.sampled_from("aab "), min_size=1, max_size=6), st.booleans(),
       st.lists(st.text(alphabet="aabA x", min_size=1, max_size=3), min_size=1, max_size=5))
def test_alignment_equals_the_best_chain_found_by_trying_all(tokens, dense, words):
    words = [*words, "zz"]  # a word that is not in the text takes the way of the chain
    placed = Grounder(tokens, dense).align(words)
    blank = [token.isspace() for token in tokens]
    mine = score_of(tokens, [span for span, _ in placed], lambda end, start: end <= start and all(blank[end:start]))
    assert mine == best_score(tokens, words, dense)


@st.composite
def different_words(draw):
    """A text of words without a common character, its words, and a bad word of the same characters or of others."""
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))
    characters = iter("abcdefghijklmnopqrstuvwxyz0123456789")
    words = ["".join(next(characters) for _ in range(length)) for length in lengths]
    return list("".join(words)), words


@given(different_words(), st.data(), st.sampled_from(["insert", "delete", "garble", "move", "repeat"]))
def test_one_bad_word_costs_no_other_word_its_position(case, data, kind):
    tokens, words = case
    right = dict(zip(words, Grounder(tokens, True).align(words)))
    at = data.draw(st.integers(0, len(words) - 1))
    changed = list(words)
    bad = changed[at]
    if kind == "insert":
        begin = data.draw(st.integers(0, len(tokens) - 1))
        bad = data.draw(st.sampled_from(["?", "".join(tokens[begin:begin + 3]), tokens[begin]]))
        changed.insert(at, bad)
    elif kind == "repeat":
        changed.insert(data.draw(st.integers(0, len(words))), bad)
    else:
        del changed[at]
        if kind == "garble":
            changed.insert(at, bad[::-1] + "?")
        elif kind == "move":
            changed.insert(data.draw(st.integers(0, len(changed))), bad)
    got = list(zip(changed, Grounder(tokens, True).align(changed)))
    if kind == "move" and abs(changed.index(bad) - at) == 1:
        return  # two neighbours changed places: either of them may be called the one in the wrong place
    for word in words:
        if kind == "insert" or word != bad:
            assert right[word] in [place for w, place in got if w == word], (changed, got)


@pytest.mark.parametrize(("text", "words", "placed"), [
    ("我在北京的北大", "我 在 北京 的 北大", [(0, 1), (1, 2), (2, 4), (4, 5), (5, 7)]),
    ("哈哈哈好", "哈 ? 哈 好", [(0, 1), None, (2, 3), (3, 4)]),  # which of equal words is meant: the neighbour tells
    ("哈哈哈", "? 哈 哈", [None, (1, 2), (2, 3)]),
    ("好哈哈哈", "好 哈 ? 哈", [(0, 1), (1, 2), None, (3, 4)]),
    ("的A的B的C", "的 A ? B 的 C", [(0, 1), (1, 2), None, (3, 4), (4, 5), (5, 6)]),
    ("甲乙丙丁戊己庚辛", "甲 乙 辛 丙丁戊己庚", [(0, 1), (1, 2), None, (2, 7)]),
    ("一二三四五六七八", "三四五六七八 一 二", [None, (0, 1), (1, 2)]),  # a long word in the wrong place
    ("甲乙丙丁戊", "甲乙 甲 乙丙丁戊", [None, (0, 1), (1, 5)]),  # a bad word right at the start
    ("A B A B", "A B A B", [(0, 1), (2, 3), (4, 5), (6, 7)]),  # blank tokens between
    ("好好好", "好 好 好 好 好", [(0, 1), (1, 2), (2, 3), None, None]),  # a model in a loop
    ("12日12日", "12 日 12 日", [(0, 2), (2, 3), (3, 5), (5, 6)]),
])
def test_words_stay_in_place_around_a_bad_one(text, words, placed):
    got = Grounder(list(text), True).align(words.split())
    assert [span for span, _ in got] == placed


def test_words_without_a_place_have_their_reason():
    got = Grounder(list("甲乙丙丁"), True).align(["丙", "甲", "x", "", "乙丙", "丁"])
    assert [how for _, how in got] == [OUT_OF_ORDER, EXACT, NOT_IN_TEXT, EMPTY, EXACT, EXACT]
    assert Grounder(["ab"], True).align(["a"]) == [(None, NOT_ON_BOUNDARY)]


def test_folded_words_are_placed_and_named():
    got = Grounder("He saw IBM .".split(), False).align(["he", "saw", "ibm", "."])
    assert got == [((0, 1), FOLDED), ((1, 2), EXACT), ((2, 3), FOLDED), ((3, 4), EXACT)]


@pytest.mark.parametrize("tokens", [["a"] * 500, ["a", "b"] * 250])
@pytest.mark.parametrize("broken", [False, True])
def test_the_same_word_five_hundred_times_is_looked_up_once(monkeypatch, tokens, broken):
    looked_up = []
    real = spans_module._View.find
    monkeypatch.setattr(spans_module._View, "find", lambda self, text: looked_up.append(text) or real(self, text))
    words = ["?", *tokens] if broken else tokens
    placed = Grounder(tokens, True).align(words)
    assert [span for span, _ in placed if span] == [(i, i + 1) for i in range(500)]
    assert len(looked_up) <= 6


def test_a_perfect_reply_needs_no_search_at_all(monkeypatch):
    monkeypatch.setattr(spans_module._View, "find", None)
    tokens = list("甲 乙 丙 丁" * 200)
    assert all(how == EXACT for _, how in Grounder(tokens, True).align("".join(tokens).split() ))
