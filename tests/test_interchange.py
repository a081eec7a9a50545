"""Offsets, flat tags, differences and JSON lists: the parts of export and import that touch no run."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline import tokens_of_any_kind

from syn_pipelines.interchange.compare import Change, changes
from syn_pipelines.interchange.flat import flattened, tags_of
from syn_pipelines.interchange.found import Checker, Found, Mark, same_surface
from syn_pipelines.interchange.json_files import rows_of, write_list
from syn_pipelines.interchange.offsets import CODE_POINTS, UNITS, UTF16, Layout, index, length
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import Problems
from syn_pipelines.utils.tags import spans_of_tags

LABELS = ["PER", "LOC", "NOUN"]
spans_of_ten = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from(LABELS)).map(
    lambda span: (min(span[:2]), max(span[:2]) + 1, span[2])), max_size=12)


@given(tokens_of_any_kind, st.sampled_from(["", " "]), st.sampled_from(UNITS), st.data())
def test_every_token_span_comes_back_from_its_offsets(tokens, joiner, unit, data):
    start = data.draw(st.integers(0, len(tokens) - 1))
    end = data.draw(st.integers(start + 1, len(tokens)))
    layout = Layout(tokens, joiner, unit)
    at, to = layout.outside(start, end)
    assert layout.inside(at, to) == (start, end)
    assert layout.shown(at, to) == joiner.join(tokens[start:end])


@given(tokens_of_any_kind)
def test_utf16_offsets_are_those_of_the_encoded_text(tokens):
    layout = Layout(tokens, " ", UTF16)
    units = layout.text.encode("utf-16-le")
    for i, token in enumerate(tokens):
        at, to = layout.outside(i, i + 1)
        assert units[2 * at:2 * to].decode("utf-16-le") == token
    assert length(layout.text, UTF16) == len(units) // 2


def test_an_offset_within_a_surrogate_pair_is_no_place():
    assert index("a😀b", 2, UTF16) is None
    assert [index("a😀b", n, UTF16) for n in (0, 1, 3, 4, 5)] == [0, 1, 2, 3, None]


def test_a_selection_that_takes_a_blank_along_means_the_words():
    layout = Layout(["New", "York", "is"], " ")
    assert layout.inside(0, 9) == layout.inside(0, 8) == (0, 2)
    assert layout.inside(3, 8) == (1, 2)
    assert layout.inside(3, 4) is None  # the blank alone
    assert layout.inside(0, 6) is None  # within a word


@given(spans_of_ten)
def test_flat_spans_do_not_overlap_and_add_up_with_those_left_out(spans):
    left_out = Counter()
    kept = flattened(spans, {"PER", "LOC"}, left_out)
    assert len(kept) + left_out.total() == len(spans)
    assert all(a[1] <= b[0] for a, b in zip(kept, kept[1:]))
    assert not {span for span in kept} - set(spans)


@given(spans_of_ten, st.sampled_from(["bio", "bioes"]))
def test_tags_of_flat_spans_are_read_back_by_the_readers_of_columns(spans, scheme):
    kept = flattened(spans, set(LABELS), Counter())
    tags = tags_of(10, kept, scheme)
    found, repairs = spans_of_tags(tags, {"bio": "open", "bioes": "closed"}[scheme])
    assert sorted(found) == kept and not repairs


def test_a_target_label_wins_over_a_longer_extension_label_and_the_outermost_over_the_inner_one():
    left_out = Counter()
    spans = [(0, 5, "NOUN"), (1, 3, "PER"), (1, 2, "LOC"), (1, 3, "NOUN"), (2, 4, "NOUN"), (4, 5, "NOUN")]
    assert flattened(spans, {"PER", "LOC"}, left_out) == [(1, 3, "PER"), (4, 5, "NOUN")]
    assert left_out == {"around another": 1, "inside another": 1, "on the same tokens": 1, "crossing another": 1}


@pytest.mark.parametrize(("before", "after", "expected"), [
    ([(0, 2, "A")], [(0, 2, "A")], [Change("accept", (0, 2, "A"))]),
    ([(0, 2, "A")], [], [Change("reject", (0, 2, "A"))]),
    ([], [(0, 2, "A")], [Change("add", (0, 2, "A"))]),
    ([(0, 2, "A")], [(0, 2, "B")], [Change("relabel", (0, 2, "A"), (0, 2, "B"))]),
    ([(0, 2, "A")], [(1, 3, "A")], [Change("resize", (0, 2, "A"), (1, 3, "A"))]),
    ([(0, 2, "A")], [(2, 3, "A")], [Change("reject", (0, 2, "A")), Change("add", (2, 3, "A"))]),
    ([(0, 2, "A")], [(1, 3, "B")], [Change("reject", (0, 2, "A")), Change("add", (1, 3, "B"))]),
    ([(0, 2, "A"), (0, 2, "B")], [(0, 2, "B"), (0, 2, "C")],
     [Change("accept", (0, 2, "B")), Change("relabel", (0, 2, "A"), (0, 2, "C"))]),
    ([(0, 4, "A"), (5, 6, "A")], [(1, 4, "A"), (3, 6, "A")],
     [Change("resize", (0, 4, "A"), (1, 4, "A")), Change("resize", (5, 6, "A"), (3, 6, "A"))]),
])  # fmt: skip
def test_differences_are_told_as_a_person_made_them(before, after, expected):
    assert changes(before, after) == expected


@given(spans_of_ten, spans_of_ten)
def test_changes_turn_the_spans_that_went_out_into_those_that_came_back(before, after):
    spans = set(before)
    for change in changes(before, after):
        if change.decision in ("reject", "relabel", "resize"):
            spans.remove(change.span)
        if change.decision != "reject":
            spans.add(change.to or change.span)
    assert spans == set(after)


def test_a_label_that_goes_to_another_file_is_a_reject_and_an_add():
    found = changes([(0, 1, "NOUN")], [(0, 1, "PER")], lambda a, b: a == b)
    assert [change.decision for change in found] == ["reject", "add"]


@pytest.mark.parametrize(("said", "here"), [("a\\nb", "a\nb"), ("a b", "a  b"), ("ab", "a\u3000b"), ("a\\n\\nb", "a\r\nb")])
def test_blanks_may_be_shown_otherwise_by_a_page(said, here):
    assert same_surface(said, here)


@pytest.mark.parametrize(("said", "here"), [("é", "e\u0301"), ("a", "A"), ("哈", "哈哈"), ("", "a")])
def test_other_characters_may_not(said, here):
    assert not same_surface(said, here)


@settings(max_examples=40)
@given(st.lists(st.dictionaries(st.text(max_size=4), st.recursive(st.text(max_size=8) | st.integers(), lambda inner: st.lists(inner, max_size=3)),
                                max_size=3), max_size=4), st.booleans(), st.sampled_from([None, 0, 2]))
def test_a_json_list_is_read_row_by_row_however_it_is_laid_out(tmp_path_factory, rows, ascii_only, indent):
    path = tmp_path_factory.mktemp("list") / "rows.json"
    if indent is None:
        with path.open("wb") as file:
            write_list(file, rows, ascii_only=ascii_only)
    else:
        path.write_text(json.dumps(rows, ensure_ascii=ascii_only, indent=indent), encoding="utf-8", newline="")
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == rows
    problems = Problems(path, "")
    found = list(rows_of(path, problems))
    assert [row for _, row in found] == rows
    assert not problems.found
    lines = text.split("\n")
    assert all(lines[line - 1].lstrip().startswith(("{", "[{")) for line, _ in found)


def test_texts_longer_than_a_block_are_read_whole(tmp_path):
    rows = [{"a": "x,{[" * 40_000 + '\\"'}, {"b": 1}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert [row for _, row in rows_of(path, Problems(path, ""))] == rows


@pytest.mark.parametrize("text", ['[{"a": 1}', '[{"a": 1}] x', '[{"a": "b}]'])
def test_a_json_list_that_is_cut_off_is_an_error(tmp_path, text):
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="rows.json:1: the JSON list does not end"):
        list(rows_of(path, Problems(path, "")))


def test_the_line_of_a_broken_entry_is_named(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[\n {"a": 1},\n {"a": nul},\n [1],\n {"a": NaN}\n]', encoding="utf-8")
    problems = Problems(path, "")
    assert [line for line, _ in rows_of(path, problems)] == [2]
    assert [text.split(": ")[0].rsplit(":", 1)[1] for text in problems.found] == ["3", "4", "5"]


@pytest.mark.parametrize(("mark", "expected"), [
    (Mark(1, 3, "PER"), r"the span 1 to 3 \(PER\), which is '😀b'.*it would in UTF-16 code units: use --offsets=utf16"),
    (Mark(0, 1, "PER", "x"), r"should be 'x', but the text there is 'a'"),
    (Mark(0, 9, "PER"), "does not begin and end with a token"),
    (Mark("0", 1, "PER"), "whole numbers"),
    (Mark(0, 1, "O"), "needs a label"),
    (Mark(0, 1, "a\nb"), "line end"),
])  # fmt: skip
def test_a_mark_that_does_not_fit_is_told_with_what_stands_there(mark, expected):
    with pytest.raises(ValueError, match=expected):
        Checker("", CODE_POINTS).checked(Found(1, "1", [mark], "a😀bc", ["a", "😀", "bc"]))


def test_the_first_character_that_differs_is_named():
    with pytest.raises(ValueError, match=r"from character 1 on: expected '\\r\\nb', found '\\nb'"):
        Checker("", CODE_POINTS).checked(Found(1, "1", [], "a\nb", ["a", "\r\n", "b"]))


@pytest.mark.parametrize("dense", [True, False])
def test_a_text_that_comes_without_tokens_is_cut_around_its_spans(dense):
    text = "New Yorkers 😀 in Paris" if not dense else "我在北京😀"
    marks = [Mark(4, 8, "LOC", "York")] if not dense else [Mark(2, 4, "LOC", "北京")]
    row = Checker("" if dense else " ", CODE_POINTS).checked(Found(1, "1", marks, text))
    (start, end, _), = row.spans
    assert "".join(row.tokens[start:end]) == marks[0].surface
    assert "".join("".join(row.tokens).split()) == "".join(text.split())
