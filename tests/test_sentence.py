"""Sentences that show themselves: spans as boxes within boxes, everything escaped, the same on a terminal."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workspace import make_workspace

import syn_pipelines
from syn_pipelines import Sentence, UserError, eval_ner
from syn_pipelines.eval_ner import Comparison, Evaluation
from syn_pipelines.ner.breakdown import Groups, Known
from syn_pipelines.run_all import Options, Report
from syn_pipelines.tools.ablation import Ablation
from syn_pipelines.utils.display import DEEPEST, Mark, colour_wheel, marked
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.sentence import Look
from syn_pipelines.utils.summary import Account, Summary
from syn_pipelines.utils.visible import visible

HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&amp;", "👩‍👩‍👧", "e\u0301", "\u202eabc", "a\r\nb", "  ", "'"]


class Page(HTMLParser):
    """Text that is seen, without names of labels; tags that are there; whether all that opens is closed."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.open: list[tuple[str, str]] = []
        self.seen = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        self.open.append((tag, given.get("class", "")))
        assert not any(name.startswith("on") for name in given)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if not any(kind in ("name", "said", "mute", "which", "head") or tag == "style" for tag, kind in self.open):
            self.seen += data


def mark_lists(tokens: int):
    edges = st.tuples(st.integers(0, tokens - 1), st.integers(1, tokens)).map(lambda e: (min(e), max(e)) if e[0] != e[1] else (e[0], e[0] + 1))
    return st.lists(st.builds(lambda e, label, kind: Mark(*e, label, kind), edges, st.sampled_from(["PER", "a<b", "地点"]),
                              st.sampled_from(["target", "entity", "pos"])), max_size=12)


@given(st.lists(st.sampled_from(["北", "京", "word", *HOSTILE]), min_size=1, max_size=10).flatmap(
    lambda tokens: st.tuples(st.just(tokens), mark_lists(len(tokens)))), st.sampled_from(["", " "]))
def test_the_text_is_seen_whole_and_every_span_once_whatever_crosses_whatever(drawn, joiner):
    tokens, marks = drawn
    page = Page(marked(tokens, marks, joiner=joiner, hue=colour_wheel()))
    assert not page.open and set(page.tags) <= {"span", "bdi"}
    if "(+" not in page.seen:  # no box is nested deeper than boxes go
        assert page.seen == visible(joiner.join(tokens)) and page.tags.count("bdi") == len(marks)


def test_crossing_spans_are_drawn_in_two_pieces_and_named_once():
    page = marked(list("abcdef"), [Mark(0, 4, "X"), Mark(2, 6, "Y")], joiner="", hue=colour_wheel())
    assert page.count("more-right") == page.count("more-left") == 1
    assert page.count('class="name">Y<') == page.count('class="name">X<') == 1


def test_nesting_beyond_what_can_be_seen_is_counted():
    marks = [Mark(0, 3, f"L{n:02}") for n in range(40)]
    page = marked(["a", "b", "c"], marks, joiner=" ", hue=colour_wheel())
    assert page.count('class="span') == DEEPEST + 1 and f"(+{40 - DEEPEST - 1})" in page


def test_an_endless_sentence_is_cut_and_says_so():
    row = {"text": ["字"] * 5000, "entities": [{"start": n, "end": n + 1, "entity": "X"} for n in range(0, 1000)]}
    page = Sentence(row).html()
    assert "4,000 tokens more" in page and "400 spans more" in page and len(page) < 200_000


@pytest.mark.parametrize("text", HOSTILE)
def test_what_stands_in_a_sentence_is_shown_and_does_nothing(text):
    row = {"id": text, "text": ["a", text], "entities": [{"start": 1, "end": 2, "entity": f"L{text}"}], "source_id": text,
           "predicted": [{"start": 0, "end": 2, "entity": text}]}
    for page in (Sentence(row).html(), syn_pipelines.Sentences([Sentence(row)], text).html()):
        parsed = Page(page)
        assert set(parsed.tags) <= {"style", "div", "p", "span", "bdi", "code"} and "\u202e" not in page
        assert "<script" not in page and "<img" not in page
    assert html.escape(f"L{text}".replace("\u202e", "\\u202e").replace("\r", "\\u000d")) in page


def test_target_labels_extension_labels_and_parts_of_speech_look_different_and_pos_only_when_asked_for():
    row = {"text": ["I", "saw", "Rome"], "entities": [{"start": 2, "end": 3, "entity": "GPE"}, {"start": 2, "end": 3, "entity": "LOCATION"},
                                                      {"start": 1, "end": 2, "entity": "VERB"}]}
    sentence = Sentence(row, Look(targets=("GPE",), pos={"VERB"}))
    assert re.findall(r'class="span (\w+)', sentence.html()) == ["target", "entity"]
    assert re.findall(r'class="span (\w+)', sentence.html(pos=True)) == ["pos", "target", "entity"]
    assert "show(pos=True)" in sentence.html() and "show(pos=True)" not in sentence.html(pos=True)
    assert sentence == row and json.loads(json.dumps(sentence)) == row


def test_predicted_entities_stand_below_gold_ones_with_what_differs_said_in_words():
    row = {"text": ["A", "B", "C"], "entities": [{"start": 0, "end": 1, "entity": "X"}, {"start": 1, "end": 2, "entity": "X"}],
           "predicted": [{"start": 0, "end": 1, "entity": "X"}, {"start": 1, "end": 3, "entity": "X", "score": 0.75}]}
    page = Sentence(row).html()
    assert page.count(">missed<") == page.count(">not gold<") == 1 and "probability 0.75" in page
    assert repr(Sentence(row)).split("\n")[1:] == [
        "  gold  X  [0, 1)  A", "  gold  X  [1, 2)  B  missed", "  predicted  X  [0, 1)  A", "  predicted  X  [1, 3)  BC  not gold"]


@pytest.mark.parametrize("row, told", [
    ({}, "'text' must be a list"), ({"text": "abc", "entities": []}, "'text' must be a list"),
    ({"text": ["a"], "entities": [{"start": 0, "end": 2, "entity": "X"}]}, "1 tokens"),
    ({"text": ["a"], "predicted": 3}, "'predicted' must be a list"),
])
def test_what_is_no_row_is_refused_in_one_line(row, told):
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        Sentence(row)
    assert "\n" not in str(caught.value)


def test_load_finds_what_step_files_hold_and_read_any_file(tmp_path):
    folder = make_workspace(tmp_path / "p", data_set="sample_en", name="d", train=8, held_out=3) / "data" / "few_shot"
    train = syn_pipelines.load("d", file_dir=folder)
    assert len(train) == 8 and [row["id"] for row in train[:2]] == ["1", "2"] and isinstance(train[:2], syn_pipelines.Sentences)
    assert len(syn_pipelines.load("d", file_dir=folder, split="dev", limit=2)) == 2
    assert syn_pipelines.read(folder / "d" / "train_1000.jsonl") == train
    assert " ".join(train[0]["text"]) in repr(train[0]) and "the first 5" in train.html()
    with pytest.raises(UserError, match="s5_merge_data.py"):
        syn_pipelines.load("d", "try", file_dir=folder)
    for wrong in ({"train": "fusoin"}, {"size": 100}, {"split": "tets"}):
        with pytest.raises(UserError, match="is none of"):
            syn_pipelines.load("d", "try", file_dir=folder, **wrong)


def test_a_broken_line_is_named_and_a_file_with_annotations_alone_is_shown(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": ["a"]}\n{"text": [], "entities": []}\n')
    with pytest.raises(UserError, match=r"x\.jsonl:2: 'text'"):
        syn_pipelines.read(path)
    path.write_text('{"id": 7, "text": ["a", "b"], "items": []}\n')
    assert ">7<" in syn_pipelines.read(path).html()
    path.write_text("")
    assert len(syn_pipelines.read(path)) == 0 and "0 sentences" in syn_pipelines.read(path).html()


def test_outside_of_a_notebook_show_prints_text(tmp_path):
    program = ("from syn_pipelines import Sentence\n"
               "Sentence({'text': ['\\x1b[2J', 'x'], 'entities': [{'start': 1, 'end': 2, 'entity': 'L'}]}).show()")
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.split("\n")[1] == "  L  [1, 2)  x" and "\x1b" not in said


def test_summaries_show_account_notes_files_and_warnings_as_text():
    summary = Summary("<b>step", [Account("rows <i>", 3, {"kept": 2, "lost": 1}, {"<script>": 1})],
                      {f"out/{n}<u>.jsonl": 1200 for n in range(5)}, ["<script>w</script>"], ["<em>note"])
    page = summary._repr_html_()
    assert not {"script", "b", "i", "u", "em"} & set(Page(page).tags)
    assert "2 kept + 1 lost (1 &lt;script&gt;)" in page and "&lt;em&gt;note" in page and "5 files" in page
    assert "(1,200 rows)" in page and html.escape("<script>w</script>") in page


def test_evaluations_and_comparisons_show_their_scores_as_tables():
    gold, found = [[(0, 1, "A<b>"), (1, 2, "B")]], [[(0, 1, "A<b>")]]
    groups = Groups([["x", "y"]], ("A<b>", "B"), Known.of([]))
    opts, first = eval_ner.Options(resamples=100), Evaluation("eval_ner", split="test", model="<m>")
    eval_ner._take(opts, first, groups, groups.counts(gold, found))
    page = first._repr_html_()
    assert "66.7 [" in page and "A&lt;b&gt;" in page and "<m>" not in page and not {"b", "m"} & set(Page(page).tags)
    second = Comparison("eval_ner", split="dev", a=["<a>"], b=["b"])
    eval_ner._weigh(opts, second, groups, gold, [[found], [gold]])
    assert "+33.3 [" in second._repr_html_() and "&lt;a&gt;" in second._repr_html_()
    assert "eval_ner" in Evaluation("eval_ner")._repr_html_()


def test_an_ablation_that_only_planned_says_so():
    assert "3 trainings to do" in Ablation(to_do=3)._repr_markdown_()


def test_a_whole_run_shows_itself_too(tmp_path):
    page = Report(Options(), RunPaths(tmp_path, "<script>", "try"), "offline")._repr_html_()
    assert "&lt;script&gt;, run try" in page and "script" not in Page(page).tags
