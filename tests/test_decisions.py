"""Decisions of reviewers: the files they are in, what counts of them, and what they do to the entities of a sentence."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pipeline import HARD_TOKENS, quick_writes, read_rows, tokens_of_any_kind  # noqa: F401 (a fixture)

from syn_pipelines.utils.decisions import (
    GOLD,
    KINDS,
    REVIEW,
    Decision,
    DecisionLog,
    Review,
    Tally,
    applied,
    decision_of,
    effective,
    history,
    text_hash,
)
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.fusion import as_entity
from syn_pipelines.utils.reviews import Reviews, accounts_of

TOKENS = list("我在北京大学读书")
TARGETS, EXTENSION = ("PER", "LOC"), ("PERSON", "LOCATION", "a/b", "<script>")
PATH = Path(REVIEW)

quick = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
spans_in = st.tuples(st.integers(0, 7), st.integers(1, 8)).filter(lambda s: s[0] < s[1])


def labelled(labels: tuple[str, ...]) -> st.SearchStrategy[tuple[int, int, str]]:
    return st.tuples(spans_in, st.sampled_from(labels)).map(lambda s: (*s[0], s[1]))


def entities_of(labels: tuple[str, ...]) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(labelled(labels), max_size=5).map(lambda found: [as_entity(TOKENS, s[:2], s[2]) for s in found])


@st.composite
def decisions_of(draw: Any, labels: tuple[str, ...] = (*TARGETS, *EXTENSION), texts: tuple[str, ...] = ("",)) -> list[Decision]:
    """Decisions that count, each about another span, as ``effective`` gives them."""
    result = []
    keys = draw(st.lists(st.tuples(labelled(labels), st.sampled_from(texts)), max_size=8, unique=True))
    for line, (span, text) in enumerate(keys, 1):
        what = draw(st.sampled_from(("accept", "reject", "relabel", "resize", "add")))
        to = draw(labelled(labels)) if what in ("relabel", "resize") else None
        added = what in ("accept", "relabel", "resize") and draw(st.booleans())
        result.append(Decision("1", text or text_hash(TOKENS), what, "extension", span, to, 1.0, line, added))
    return result


def after(entities: list[dict[str, Any]], decisions: list[Decision], tally: Tally | None = None) -> list[dict[str, Any]]:
    return applied(TOKENS, entities, decisions, targets=TARGETS, tally=tally or Tally(), path=PATH)


def row(decision: str, span: tuple[int, int, str] | None = (2, 4, "PERSON"), to: tuple[int, int, str] | None = None,
        **more: Any) -> dict[str, Any]:
    place = {} if span is None else {"kind": "extension", **dict(zip(("start", "end", "label"), span))}
    target = {} if to is None else {"to": dict(zip(("start", "end", "label"), to))}
    return {"id": "1", "text_sha256": text_hash(TOKENS), **place, "decision": decision, **target, "time": 1.5, **more}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with DecisionLog(path) as log:
        log.append_all(rows)
    return path


# --- what they do to a sentence -------------------------------------------------------------------------------------

@given(entities=entities_of((*TARGETS, *EXTENSION)), decisions=decisions_of(texts=("", "0" * 64)))
def test_every_decision_is_applied_or_has_no_effect_for_a_reason(entities, decisions):
    tally = Tally()
    after(entities, decisions, tally)
    assert tally.total == len(decisions)
    assert tally.without_effect["text_changed"] == sum(d.text_sha256 != text_hash(TOKENS) for d in decisions)


@given(entities=entities_of((*TARGETS, *EXTENSION)), decisions=decisions_of())
def test_what_is_put_into_a_sentence_is_there_once_and_what_nobody_changed_stays_as_it_is(entities, decisions):
    result = after(entities, decisions)
    touched = {span for d in decisions for span in (d.span, d.places)}
    untouched = [e for e in entities if (e["start"], e["end"], e["entity"]) not in touched]
    kept = [e for e in result if any(e is other for other in entities)]
    assert [e for e in kept if (e["start"], e["end"], e["entity"]) not in touched] == sorted(
        untouched, key=lambda e: e["entity"] not in TARGETS) if result != entities else kept == entities
    new = [(e["start"], e["end"], e["entity"]) for e in result if not any(e is other for other in entities)]
    assert len(new) == len(set(new)) and set(new) <= {d.places for d in decisions}
    assert not set(new) & {(e["start"], e["end"], e["entity"]) for e in entities}
    assert all(e["text"] == TOKENS[e["start"]:e["end"]] for e in result)


@given(entities=entities_of((*TARGETS, *EXTENSION)), decisions=decisions_of())
def test_applying_decisions_twice_is_applying_them_once(entities, decisions):
    keys = {d.span for d in decisions}
    assume(not any(d.to in keys for d in decisions))  # else the second time would move what the first has put there
    once = after(entities, decisions)
    assert after(once, decisions) == once


@given(entities=entities_of((*TARGETS, *EXTENSION)), decisions=decisions_of(), seed=st.randoms())
def test_the_order_of_decisions_about_unrelated_spans_does_not_matter(entities, decisions, seed):
    touched = [span for d in decisions for span in {d.span, d.places} - {None}]
    assume(len(touched) == len(set(touched)))
    tally, other = Tally(), Tally()
    result = after(entities, decisions, tally)
    seed.shuffle(decisions)
    assert after(entities, decisions, other) == result and other == tally


@given(entities=entities_of((*TARGETS, *EXTENSION)), decisions=decisions_of())
def test_target_labels_stand_first_and_what_is_new_behind_what_was_there_in_its_order(entities, decisions):
    entities = sorted(entities, key=lambda e: e["entity"] not in TARGETS)
    result = after(entities, decisions)
    kinds = [(e["entity"] not in TARGETS, not any(e is other for other in entities)) for e in result]
    assert kinds == sorted(kinds)
    new = [(e["entity"] not in TARGETS, e["start"], e["end"], e["entity"]) for e, (_, is_new) in zip(result, kinds) if is_new]
    assert new == sorted(new)


def both_files(review: list[Decision], gold: list[Decision]) -> dict[str, Review]:
    return {REVIEW: Review(PATH, {"1": review}), GOLD: Review(Path(GOLD), {"1": gold})}


@given(gold=entities_of(TARGETS), entities=entities_of(EXTENSION), review=decisions_of(), corrections=decisions_of(labels=TARGETS))
def test_gold_labels_are_untouched_without_the_flag_and_by_a_review_with_it(gold, entities, review, corrections):
    sentence = {"id": "1", "text": TOKENS}
    reviews = Reviews(both_files(review, corrections), frozenset(TARGETS), synthetic=False, apply_gold=False)
    result = reviews.entities(sentence, [*gold, *entities])
    assert all(a is b for a, b in zip(result[:len(gold)], gold, strict=True))
    assert not any(e["entity"] in TARGETS for e in result[len(gold):])
    asked = Reviews(both_files(review, []), frozenset(TARGETS), synthetic=False, apply_gold=True)
    assert asked.entities(sentence, [*gold, *entities]) == result
    accounts = accounts_of([reviews])
    assert sum(account.total for account in accounts) == len(review) + len(corrections)
    assert reviews.tallies[GOLD].without_effect.total() == len(corrections)


@given(gold=entities_of(TARGETS), entities=entities_of(EXTENSION), corrections=decisions_of(labels=TARGETS))
def test_corrections_of_gold_labels_leave_extension_labels_alone(gold, entities, corrections):
    reviews = Reviews(both_files([], corrections), frozenset(TARGETS), synthetic=False, apply_gold=True)
    result = reviews.entities({"id": "1", "text": TOKENS}, [*gold, *entities])
    assert [e for e in result if e["entity"] not in TARGETS] == entities
    assert reviews.extension.total() == 0
    assert [e for e in result if e["entity"] in TARGETS] == after(gold, corrections)


def test_a_synthetic_sentence_has_no_gold_to_correct():
    reviews = Reviews(both_files([], [Decision("1", text_hash(TOKENS), "reject", "gold", (0, 1, "PER"))]), frozenset(TARGETS),
                      synthetic=True, apply_gold=True)
    entity = as_entity(TOKENS, (0, 1), "PER")
    assert reviews.entities({"id": "1", "text": TOKENS}, [entity]) == [entity]
    assert reviews.tallies[GOLD].without_effect == {"synthetic_sentence": 1}


def test_rejecting_an_extension_span_leaves_the_gold_span_of_the_same_place():
    gold, extension = as_entity(TOKENS, (2, 4), "LOC"), as_entity(TOKENS, (2, 4), "LOCATION")
    decision = decision_of(row("reject", (2, 4, "LOCATION")), ("extension",))
    assert after([gold, extension], [decision]) == [gold]


@pytest.mark.parametrize(("decision", "count"), [
    (row("accept", (2, 4, "PERSON")), {"accepted": 1}), (row("accept", (2, 3, "PERSON")), {"span_not_there": 1}),
    (row("reject", (2, 4, "PERSON")), {"rejected": 1}), (row("reject", (2, 4, "LOCATION")), {"span_not_there": 1}),
    (row("relabel", to=(2, 4, "LOCATION")), {"relabelled": 1}), (row("relabel", to=(0, 1, "PERSON")), {"relabelled": 1}),
    (row("resize", to=(2, 6, "PERSON")), {"resized": 1}), (row("resize", (5, 6, "PERSON"), (5, 7, "PERSON")), {"span_not_there": 1}),
    (row("add", (2, 3, "PERSON")), {"added": 1}), (row("add", (2, 4, "PERSON")), {"there_already": 1}),
    (row("add", (2, 3, "PERSON"), text_sha256=text_hash(["x"])), {"text_changed": 1}),
])
def test_each_decision_is_counted_by_what_became_of_it(decision, count):
    tally = Tally()
    found = [as_entity(TOKENS, (2, 4), "PERSON"), as_entity(TOKENS, (0, 1), "PERSON")]
    result = after(found, [decision_of(decision, ("extension",))], tally)
    assert {**tally.applied, **tally.without_effect} == count
    assert len({(e["start"], e["end"], e["entity"]) for e in result}) == len(result)


def test_a_span_beyond_the_sentence_is_refused_with_file_and_line():
    for decision in (row("add", (6, 9, "PERSON")), row("resize", (2, 4, "PERSON"), (2, 99, "PERSON"))):
        with pytest.raises(UserError, match=r"review.jsonl:7: .*sentence '1' has 8 tokens"):
            after([as_entity(TOKENS, (2, 4), "PERSON")], [decision_of(decision, ("extension",), 7)])


def test_a_sentence_of_another_text_may_have_fewer_tokens_than_the_decision_speaks_of():
    tally = Tally()
    after([], [replace(decision_of(row("add", (6, 99, "X")), ("extension",)), text_sha256="0" * 64)], tally)
    assert tally.without_effect == {"text_changed": 1}


# --- the file -------------------------------------------------------------------------------------------------------

ids = st.sampled_from(['1', '17-s2', 'quo"te', "名 字", "<script>", "👩\u200d👧", "\u202eabc", "\u2028", "a\\n"])
some_span = st.tuples(st.integers(0, 3), st.integers(4, 9), st.sampled_from(["PER", "a/b", "<b>", "名", "\u2028"]))


@st.composite
def lines(draw: Any) -> dict[str, Any]:
    what = draw(st.sampled_from(("accept", "reject", "relabel", "resize", "add", "undo", "done")))
    span = None if what == "done" else draw(some_span)
    return row(what, span, draw(some_span) if what in ("relabel", "resize") else None, id=draw(ids))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / REVIEW


@quick
@given(rows=st.lists(lines(), max_size=8))
def test_what_is_appended_is_read_again(path, rows):
    path.unlink(missing_ok=True)
    write(path, rows)
    assert [d.row() for d in history(path)] == read_rows(path) == rows
    assert [d.line for d in history(path)] == list(range(1, len(rows) + 1))


@quick
@given(rows=st.lists(lines().filter(lambda r: r["decision"] != "undo"), max_size=8), more=st.lists(lines(), max_size=5))
def test_taking_back_all_that_was_decided_since_gives_what_counted_before(path, rows, more):
    path.unlink(missing_ok=True)
    before = effective(write(path, rows))
    later = [r for r in more if r["decision"] != "undo"]
    write(path, later)
    write(path, [{k: v for k, v in r.items() if k != "to"} | {"decision": "undo"} for r in reversed(later)])
    assert effective(path) == before


@quick
@given(rows=st.lists(lines(), min_size=1, max_size=4), cut=st.integers(1, 400))
def test_a_line_torn_anywhere_is_passed_over_and_cut_before_the_next_one(path, rows, cut):
    path.unlink(missing_ok=True)
    write(path, rows)
    data = path.read_bytes()[:-min(cut, path.stat().st_size)]
    path.write_bytes(data)
    whole = [json.loads(line) for line in data.split(b"\n") if line.endswith(b"}") and _is_json(line)]
    assert [d.row() for d in history(path)] == whole
    write(path, [row("accept")])
    assert read_rows(path) == [*whole, row("accept")]


def _is_json(line: bytes) -> bool:
    try:
        return bool(json.loads(line))
    except ValueError:
        return False


def test_of_several_decisions_about_a_span_the_last_counts(path):
    write(path, [row("accept"), row("reject"), row("relabel", to=(2, 4, "X"))])
    assert [d.decision for d in effective(path).decisions["1"]] == ["relabel"]
    write(path, [row("undo")])
    assert [d.decision for d in effective(path).decisions["1"]] == ["reject"]
    write(path, [row("undo"), row("undo"), row("undo")])
    assert effective(path).decisions == {} and len(effective(path)) == 0
    write(path, [row("accept", id="2")])
    assert list(effective(path).decisions) == ["2"]


def test_an_added_span_that_is_changed_later_is_there_as_it_was_changed(path):
    for change, wanted in ((row("resize", to=(2, 6, "PERSON")), [(2, 6)]), (row("accept"), [(2, 4)]), (row("reject"), [])):
        path.unlink(missing_ok=True)
        write(path, [row("add"), change])
        assert [(e["start"], e["end"]) for e in after([], effective(path).decisions["1"])] == wanted


def test_a_change_of_what_was_changed_before_acts_on_the_changed_span(path):
    write(path, [row("relabel", to=(2, 4, "LOCATION")), row("resize", (2, 4, "LOCATION"), (2, 6, "LOCATION"))])
    result = after([as_entity(TOKENS, (2, 4), "PERSON")], effective(path).decisions["1"])
    assert result == [as_entity(TOKENS, (2, 6), "LOCATION")]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_span_that_is_put_where_another_was_rejected_stays(order):
    spans = [{"start": 2, "end": 4, "entity": label, "text": TOKENS[2:4]} for label in ("PERSON", "LOCATION")]
    rows = [row("reject", (2, 4, "PERSON")), row("relabel", (2, 4, "LOCATION"), (2, 4, "PERSON"))]
    decided = [decision_of(rows[i], KINDS[REVIEW], line=n) for n, i in enumerate(order, 1)]
    assert [e["entity"] for e in after(spans, decided)] == ["PERSON"]


def test_sentences_seen_through_are_known_until_that_is_taken_back(path):
    write(path, [row("done", None), row("done", None, id="2")])
    assert effective(path).seen == {("1", text_hash(TOKENS)), ("2", text_hash(TOKENS))}
    write(path, [row("undo", None)])
    assert effective(path).seen == {("2", text_hash(TOKENS))} and effective(path).decisions == {}


BROKEN = {
    "no JSON": (b"{", "is not valid JSON in UTF-8"), "a list": (b"[]", "holds a list, not an object"), "bytes": (b"\xff", "is not UTF-8"),
    "no id": ({"id": 3}, "'id' must be the id"), "no hash": ({"text_sha256": "abc"}, "'text_sha256' must be 64 digits"),
    "unknown": ({"decision": "acept"}, "did you mean 'accept'"), "a number": ({"decision": 1}, "is none of accept"),
    "kind": ({"kind": "gold"}, "kind 'gold' is not extension or target"), "no offset": ({"start": "2"}, "must be whole numbers"),
    "a truth": ({"start": True}, "must be whole numbers"), "empty": ({"end": 2}, "'end' must be above 'start'"),
    "backwards": ({"start": 5}, "'end' must be above"), "below 0": ({"start": -1}, "'end' must be above"),
    "O": ({"label": "O"}, "'label' must be a label"), "no label": ({"label": ""}, "'label' must be a label"),
    "time": ({"time": "now"}, "'time' must be a number"), "no to": ({"decision": "resize"}, "needs 'to'"),
    "odd to": ({"decision": "resize", "to": 3}, "'to' must be an object"), "to of accept": ({"to": {"start": 1}}, "takes no 'to'"),
    "wrong to": ({"decision": "resize", "to": {"start": 3, "end": 3, "label": "X"}}, "'to.end' must be above"),
    "done": ({"decision": "done"}, "takes no start, end or label"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_line_that_is_wrong_is_an_error_with_file_and_line(path, name):
    change, problem = BROKEN[name]
    line = change if isinstance(change, bytes) else json.dumps({**row("accept"), **change}).encode()
    write(path, [row("accept")])
    with path.open("ab") as file:
        file.write(line + b"\n" + json.dumps(row("accept")).encode() + b"\n")
    with pytest.raises(UserError, match=f"{path}:2: .*{problem}"):
        effective(path)


def test_gold_corrections_are_about_gold_and_nothing_else(tmp_path):
    gold = tmp_path / GOLD
    write(gold, [row("accept", kind="gold")])
    assert len(effective(gold)) == 1
    with pytest.raises(UserError, match="kind 'extension' is not gold"):
        write(gold, [row("accept")])
    assert len(read_rows(gold)) == 1


@pytest.mark.parametrize("bad", [{"end": 1}, {"id": "\ud800"}, {"label": "\udfff"}, {"time": float("nan")}, {"decision": "?"}])
def test_what_is_no_decision_is_not_written(path, bad):
    with DecisionLog(path) as log, pytest.raises(UserError):
        log.append_all([row("accept"), {**row("accept"), **bad}])
    assert path.read_bytes() == b""


def test_a_whole_last_line_without_its_end_is_not_lost(path):
    write(path, [row("accept")])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(history(path)) == 1
    write(path, [row("reject")])
    assert [d.decision for d in history(path)] == ["accept", "reject"]


def test_each_decision_is_on_disk_before_the_next_one(path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    with DecisionLog(path) as log:
        synced.clear()
        for n in range(3):
            log.append(row("accept", id=str(n)))
            assert synced[-1] == path.stat().st_size and len(synced) == n + 1
            assert len(history(path)) == n + 1


def test_a_disk_that_is_full_leaves_no_half_line(path, monkeypatch):
    with DecisionLog(path) as log:
        log.append(row("accept"))
        before = path.read_bytes()

        def full(handle: int) -> None:
            raise OSError(28, "No space left on device")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            log.append(row("reject"))
    assert path.read_bytes() == before


def test_no_file_is_no_decision_and_a_folder_is_an_error(tmp_path):
    assert effective(tmp_path / REVIEW) == Review(tmp_path / REVIEW)
    (tmp_path / REVIEW).mkdir()
    with pytest.raises((UserError, OSError)):
        effective(tmp_path / REVIEW)


@given(tokens_of_any_kind, tokens_of_any_kind)
def test_the_hash_of_a_text_knows_where_its_tokens_end(tokens, others):
    assert (text_hash(tokens) == text_hash(others)) is (tokens == others)
    assert text_hash(["".join(tokens)]) != text_hash(tokens) or len(tokens) == 1


def test_the_hash_of_a_text_stays_what_it_is():
    assert text_hash(["北", "京"]) == "affed6913d1e6aaec24382fa630dd7a5b46c9d6f1e9006281a4bd903fb59addf"
    assert len({text_hash([token]) for token in HARD_TOKENS}) == len(HARD_TOKENS)
