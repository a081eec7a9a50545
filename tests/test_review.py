"""The review without its page: which sentences, what is doubtful, what an action decides, what the figures say."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pipeline import NAME, ROOT, SHARED_DATA, quick_writes, read_rows, tokens_of_any_kind, write_rows  # noqa: F401
from review_run import HARD, hard_run, lines

from syn_pipelines import review, s4_split_data, s5_merge_data
from syn_pipelines.reviewing.doubts import doubts_of
from syn_pipelines.reviewing.estimates import wilson
from syn_pipelines.reviewing.session import Refused
from syn_pipelines.utils.decisions import effective
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.options import load_options
from syn_pipelines.utils.paths import RunPaths


@contextmanager
def session_of(run, **flags):
    opts = load_options(review.Options, False, {"file_dir": str(run.parents[1]), "file_name": run.parent.name, "dense_lang": "1", **flags})
    with review.opened(opts, RunPaths.of(opts)) as session:
        yield session


@pytest.fixture
def run(tmp_path):
    return hard_run(tmp_path)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    """A run that no test changes."""
    return hard_run(tmp_path_factory.mktemp("fixed"))


def at(session, identity):
    return next(i for i, (_, other) in enumerate(session.queue) if other == identity)


def act(session, identity, do, span=None, **to):
    action = {"do": do}
    if span:
        action["span"] = dict(zip(("start", "end", "label"), span))
    if to:
        action["to"] = to
    return session.act(at(session, identity), action)


def shown(session, identity):
    """(start, end, label) -> (decision, what the span is now)"""
    return {(s["start"], s["end"], s["label"]): (s["decision"], tuple(s["now"].values())) for s in session.view(at(session, identity))["spans"]}


# --- the queue ----------------------------------------------------------------------------------------------------

def test_a_random_queue_is_the_same_for_a_seed_and_another_for_another(fixed):
    def queue(**flags):
        with session_of(fixed, **flags) as session:
            return session.queue
    assert queue(n=8) == queue(n=8) and queue(n=8, seed=1) != queue(n=8)
    assert len({queue(n=1, seed=seed)[0] for seed in range(30)}) > 8
    assert queue(n=20)[:8] == queue(n=8)  # a larger sample goes on from the smaller one


def test_the_sample_has_the_size_that_was_asked_for(fixed):
    total = len(read_rows(fixed / "1000" / "train_1000.jsonl")) + len(read_rows(fixed / "1000" / "train_1000_synthetic.jsonl"))
    for flags, size in (({"ratio": 0.25}, round(total / 4)), ({"ratio": 0}, 1), ({"ratio": 1}, total), ({"n": 3}, 3),
                        ({"n": 10**6}, total), ({"n": 2, "ratio": 0.9}, 2)):
        with session_of(fixed, **flags) as session:
            assert (len(session.queue), len(set(session.queue)), session.pool) == (size, size, total)


def test_every_sentence_is_drawn_equally_often(tmp_path):
    run = hard_run(tmp_path, synthetic=False)
    with session_of(run, n=1) as session:
        from syn_pipelines.reviewing.queue import draw
        drawn = Counter(place for seed in range(400) for place in
                        draw(session.corpus, n=4, ratio=0, order="random", seed=seed, wanted=None)[0])
    expected = 400 * 4 / 16
    chi = sum((drawn[place] - expected) ** 2 / expected for place in drawn)
    assert len(drawn) == 16 and chi < 40  # 15 degrees of freedom: beyond 40 once in two thousand


def test_the_most_doubtful_come_first(fixed):
    with session_of(fixed, order="doubt", n=1000) as session:
        weights = [sum(d.weight for d in session.corpus.read(place).doubts) for place in session.queue]
    assert weights == sorted(weights, reverse=True) and weights[0] > 0
    with session_of(fixed, order="doubt", n=1000, labels="target") as other:
        assert set(other.queue) <= set(session.queue)


@pytest.mark.parametrize("labels, wanted", [("PER", {"PER"}), ("target", {"PER", "LOC"}), (" LOCATION , PERSON ", {"LOCATION", "PERSON"})])
def test_labels_narrow_the_spans_and_the_sentences(fixed, labels, wanted):
    with session_of(fixed, labels=labels, n=1000) as session:
        views = [session.view(i) for i in range(len(session.queue))]
        assert views and all(view["spans"] for view in views)
        seen = {span["label"] for view in views for span in view["spans"]}
        assert wanted <= seen and (labels == "target" or seen == wanted)


def test_labels_that_no_sentence_has_are_told(fixed):
    with pytest.raises(UserError, match="no sentence"), session_of(fixed, labels="ORDINAL_NUMBER"):
        pass


def test_the_spans_are_those_that_step_5_merges(run):
    s5_merge_data.main(cmd_args=False, file_dir=str(run.parents[1]), file_name=NAME, dense_lang="1")
    merged = {row["id"]: {(e["start"], e["end"], e["entity"]) for e in row["entities"]} for kind in ("fusion", "synthetic_fusion")
              for row in read_rows(run / "1000" / f"train_1000_{kind}.jsonl")}
    with session_of(run, n=1000) as session:
        assert {identity: {span.key for span in session.corpus.read((half, identity)).spans} for half, identity in session.queue} == merged


def test_prefix_and_label_maps_of_the_merge_are_found_again(run, tmp_path):
    own = tmp_path / "own.json"
    content = json.loads(review.s5.KNOWLEDGE.joinpath("entity_label.json").read_text(encoding="utf-8"))
    own.write_text(json.dumps({**content, "TOWN": ["地名"], "LOCATION": [n for n in content["LOCATION"] if n != "地名"]}), encoding="utf-8")
    s5_merge_data.main(cmd_args=False, file_dir=str(run.parents[1]), file_name=NAME, dense_lang="1", label_prefix="X_", entity_label=str(own))
    with session_of(run, n=1000) as session:
        assert (2, 4, "X_TOWN") in shown(session, "13")


def test_a_run_without_synthetic_sentences_or_annotations_can_be_reviewed(tmp_path):
    run = hard_run(tmp_path, synthetic=False)
    for path in (run / "1000").glob("*_train_1000.jsonl"):
        path.unlink()
    with session_of(run, n=1000) as session:
        assert len(session.queue) == 16
        assert {s["kind"] for i in range(16) for s in session.view(i)["spans"]} == {"gold"}
        assert not any(session.view(i)["doubts"] for i in range(16))  # nobody disagrees who was not asked


def test_ids_that_are_not_the_first_key_are_found(run):
    path = run / "1000" / "train_1000.jsonl"
    write_rows(path, [{"text": row["text"], "entities": row["entities"], "id": row["id"]} for row in read_rows(path)])
    with session_of(run, n=1000) as session:
        assert shown(session, "13")


def test_data_that_were_made_anew_meanwhile_do_not_mix(run):
    with session_of(run, n=1000) as session:
        before = session.view(at(session, "13"))
        path = run / "1000" / "train_1000.jsonl"
        rows = read_rows(path)
        path.unlink()  # as a step does: another file takes its place
        write_rows(path, [{**row, "text": ["x"], "entities": []} for row in rows])
        assert session.view(at(session, "13")) == before
    with pytest.raises(UserError, match="another version"), session_of(run, n=1000) as session:
        session.view(at(session, "13"))


# --- doubts ------------------------------------------------------------------------------------------------------

def entity(start, end, label, **more):
    return {"start": start, "end": end, "entity": label, **more}


@pytest.mark.parametrize("entities, items, expected", [
    ([entity(2, 4, "LOC")], [{"entity": "北京"}], []),
    ([entity(2, 4, "LOC")], [], [(2, 4, "names no entity there")]),
    ([entity(2, 4, "LOC")], [{"entity": "北京大学"}], [(2, 4, "other edges")]),
    ([entity(2, 4, "LOC")], None, []),
    ([entity(2, 4, "LOC"), entity(2, 4, "LOC")], [], [(2, 4, "names no entity there")]),
    ([], [{"entity": "北京"}], []),
    ([], [{"entity": "北 京"}], [(2, 4, "loose comparison")]),
    ([entity(2, 4, "LOC", score=0.6)], [{"entity": "北京"}], [(2, 4, "confidence of 60%")]),
    ([entity(2, 4, "LOC", score=True)], [{"entity": "北京"}], []),
    ([], [{"entity": "南京"}, {"entity": ""}], []),
])
def test_doubts_name_the_disagreement_and_where(entities, items, expected):
    found = doubts_of(list("我在北京大学"), entities, items, synthetic=False, dense=True)
    assert [(d.start, d.end) for d in found] == [e[:2] for e in expected]
    assert all(words in d.text and d.weight > 0 for d, (_, _, words) in zip(found, expected))


@given(tokens=tokens_of_any_kind, data=st.data())
def test_doubts_lie_in_the_sentence(tokens, data):
    pieces = [data.draw(st.sampled_from(tokens)) for _ in range(3)]
    start = data.draw(st.integers(0, len(tokens) - 1))
    entities = [entity(start, data.draw(st.integers(start + 1, len(tokens))), "X")]
    for found in doubts_of(tokens, entities, [{"entity": p} for p in pieces], synthetic=True, dense=data.draw(st.booleans())):
        assert 0 <= found.start < found.end <= len(tokens) and found.weight > 0 and found.text


# --- estimates -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("right, total, low, high", [  # published values of the score interval
    (0, 10, 0.0, 0.2775), (1, 10, 0.0179, 0.4042), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605), (0, 0, 0.0, 1.0)])
def test_wilson_gives_the_known_intervals(right, total, low, high):
    found = wilson(right, total)
    assert found == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


@given(total=st.integers(1, 10**6), data=st.data())
def test_wilson_holds_the_share_and_mirrors(total, data):
    right = data.draw(st.integers(0, total))
    low, high = wilson(right, total)
    assert 0 <= low <= right / total <= high <= 1
    assert (1 - high, 1 - low) == (pytest.approx(wilson(total - right, total)[0], abs=1e-9), pytest.approx(wilson(total - right, total)[1], abs=1e-9))
    assert math.isclose(low, wilson(2 * right, 2 * total)[0], abs_tol=1) and wilson(2 * right, 2 * total)[0] >= low - 1e-12


def test_only_finished_sentences_count_and_added_spans_are_missed_ones(run):
    with session_of(run, n=1000) as session:
        act(session, "13", "reject", (2, 6, "ORGANIZATION"))
        act(session, "13", "relabel", (2, 4, "LOCATION"), label="FACILITY")
        act(session, "13", "add", (0, 1, "PERSON"))
        assert session.estimate() == []
        act(session, "13", "finish")
        rows = {(r["kind"], r["label"]): (r["right"], r["total"], r["added"]) for r in session.estimate()}
        assert rows == {("gold", "LOC"): (2, 2, 0), ("extension", "ORGANIZATION"): (0, 1, 0), ("extension", "LOCATION"): (0, 1, 0),
                        ("extension", "PERSON"): (0, 0, 1)}
        act(session, "13", "undo")
        assert session.estimate() == []


def test_sentences_passed_over_are_counted(fixed, run):
    with session_of(run, n=1000) as session:
        session.act(3, {"do": "finish"})
        session.act(1, {"do": "finish"})
        assert (session.progress()["skipped"], session.progress()["finished"][:5]) == (2, "01010")


# --- what actions decide ---------------------------------------------------------------------------------------------

def test_relabel_and_resize_add_up_and_coming_back_is_accepting(run):
    with session_of(run, n=1000) as session:
        span = (2, 4, "LOCATION")
        act(session, "13", "relabel", span, label="FACILITY")
        act(session, "13", "resize", span, start=1, end=3)
        assert shown(session, "13")[span] == ("resize", (1, 3, "FACILITY"))
        act(session, "13", "relabel", span, label="LOCATION")
        assert shown(session, "13")[span] == ("resize", (1, 3, "LOCATION"))
        act(session, "13", "resize", span, start=2, end=4)
        assert shown(session, "13")[span] == ("accept", span)
    assert [row["decision"] for row in lines(run)] == ["relabel", "resize", "resize", "accept"]


def test_an_added_span_can_be_changed_taken_out_and_brought_back(run):
    with session_of(run, n=1000) as session:
        span = (0, 1, "PERSON")
        act(session, "13", "add", span)
        act(session, "13", "resize", span, end=2)
        assert shown(session, "13")[span] == ("resize", (0, 2, "PERSON"))
        act(session, "13", "reject", span)
        assert span not in shown(session, "13")
        act(session, "13", "undo")
        assert shown(session, "13")[span] == ("resize", (0, 2, "PERSON"))
        act(session, "13", "undo")
        act(session, "13", "undo")
        assert span not in shown(session, "13")
        with pytest.raises(Refused, match="nothing to undo"):
            act(session, "13", "undo")


def test_undo_takes_back_all_of_a_finish_and_then_what_came_before_it(run):
    with session_of(run, n=1000) as session:
        before = shown(session, "13")
        act(session, "13", "reject", (2, 4, "LOCATION"))
        between = shown(session, "13")
        act(session, "13", "finish")
        assert all(decision for decision, _ in shown(session, "13").values())
        other = next(identity for _, identity in session.queue if identity != "13")
        answer = act(session, other, "undo")  # nothing was decided about the other, so the last of all is taken back
        assert answer["view"]["id"] == "13" and shown(session, "13") == between
        act(session, "13", "undo")
        assert shown(session, "13") == before
    assert not effective(run / "review.jsonl").decisions and not effective(run / "gold_corrections.jsonl").decisions


def test_undo_leaves_what_was_decided_about_a_text_that_is_no_more(run):
    with session_of(run, n=1000) as session:
        act(session, "13", "reject", (2, 4, "LOCATION"))
    rows = lines(run)
    write_rows(run / "review.jsonl", [{**row, "text_sha256": "0" * 64} for row in rows])
    with session_of(run, n=1000) as session, pytest.raises(Refused, match="nothing to undo"):
        act(session, "13", "undo")


def test_undo_reaches_no_sentence_outside_the_queue(run):
    with session_of(run, n=1000) as session:
        act(session, "13", "reject", (2, 4, "LOCATION"))
    for seed in range(50):
        with session_of(run, n=1, seed=seed) as session:
            if session.queue[0][1] != "13":
                with pytest.raises(Refused, match="nothing to undo"):
                    session.act(0, {"do": "undo"})
                break
    assert len(lines(run)) == 1


@pytest.mark.parametrize("do, span, to, words", [
    ("relabel", (2, 4, "LOC"), {"label": "LOCATION"}, "no label"),  # gold stays gold
    ("relabel", (2, 4, "LOCATION"), {"label": "LOC"}, "no label"),  # and a guess does not turn into gold
    ("relabel", (2, 4, "LOCATION"), {"label": "nothing such"}, "no label"),
    ("relabel", (2, 4, "LOCATION"), {"label": "PERSON", "start": 0}, "label or of the place"),
    ("relabel", (2, 4, "LOCATION"), {}, "needs what"),
    ("resize", (2, 4, "LOCATION"), {"end": 7}, "within the sentence"),
    ("resize", (2, 4, "LOCATION"), {"start": 4}, "at least one token"),
    ("resize", (2, 4, "LOC"), {"end": 6}, "already"),  # there is another LOC
    ("add", (2, 4, "LOC"), {}, "already"),
    ("accept", (0, 1, "LOC"), {}, "not there any more"),
])
def test_what_makes_no_sense_is_refused_and_nothing_is_written(run, do, span, to, words):
    with session_of(run, n=1000) as session, pytest.raises(Refused, match=words):
        act(session, "13", do, span, **to)
    assert not lines(run) and not lines(run, "gold_corrections.jsonl")


def test_a_rejected_span_is_not_added_again_but_accepted(run):
    with session_of(run, n=1000) as session:
        act(session, "13", "reject", (2, 4, "LOC"))
        with pytest.raises(Refused, match="accept it instead"):
            act(session, "13", "add", (2, 4, "LOC"))
        act(session, "13", "resize", (2, 6, "LOC"), end=4)  # but another may take its place


def test_in_synthetic_sentences_any_label_may_be_given(run):
    with session_of(run, n=1000) as session:
        identity = next(i for half, i in session.queue if half and any(k[2] == "PERSON" for k in shown(session, i)))
        span = next(key for key in shown(session, identity) if key[2] == "PERSON")
        free = (0, len(session.view(at(session, identity))["tokens"]))
        act(session, identity, "resize", span, start=free[0], end=free[1])
        act(session, identity, "relabel", span, label="PER")
        assert shown(session, identity)[span] == ("resize", (*free, "PER"))
        act(session, identity, "add", (*free, "LOC"))
    assert [row["kind"] for row in lines(run)] == ["extension", "extension", "target"]


def test_the_order_of_lines_counts_and_not_their_times(run):
    with session_of(run, n=1000) as session:
        act(session, "13", "reject", (2, 4, "LOCATION"))
        act(session, "13", "accept", (2, 4, "LOCATION"))
    rows = lines(run)
    write_rows(run / "review.jsonl", [{**rows[0], "time": 2e9}, {**rows[1], "time": 1e9}])
    with session_of(run, n=1000) as session:
        assert shown(session, "13")[2, 4, "LOCATION"][0] == "accept"
        act(session, "13", "undo")
        assert shown(session, "13")[2, 4, "LOCATION"][0] == "reject"
        assert effective(run / "review.jsonl").decisions["13"][-1].decision == "reject"


def test_a_decision_about_another_text_with_the_same_id_is_not_shown(run):
    with session_of(run, n=1000) as session:
        act(session, "13", "reject", (2, 4, "LOCATION"))
    row, = lines(run)
    write_rows(run / "review.jsonl", [{**row, "text_sha256": "0" * 64}])
    with session_of(run, n=1000) as session:
        assert shown(session, "13")[2, 4, "LOCATION"][0] == ""


def test_a_broken_line_stops_the_review_with_its_number(run):
    with session_of(run, n=1000) as session:
        act(session, "13", "reject", (2, 4, "LOCATION"))
    whole = (run / "review.jsonl").read_bytes()
    (run / "review.jsonl").write_bytes(b"{broken}\n" + whole)
    with pytest.raises(UserError, match=r"review\.jsonl:1"), session_of(run, n=1000):
        pass
    assert (run / "review.jsonl").read_bytes() == b"{broken}\n" + whole


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**9))
def test_whatever_is_done_the_page_the_file_and_the_merge_agree(tmp_path_factory, seed):
    rng = random.Random(seed)
    run = hard_run(tmp_path_factory.mktemp("any"))
    with session_of(run, n=1000) as session:
        labels = [label["name"] for label in session.overview()["labels"]]
        for _ in range(25):
            index = rng.choice([at(session, "13"), at(session, "14"), at(session, "15"), 0])
            view = session.view(index)
            n = len(view["tokens"])
            start = rng.randrange(n)
            place = {"start": start, "end": rng.randint(start + 1, n), "label": rng.choice(labels)}
            span = rng.choice(view["spans"]) if view["spans"] else place
            do = rng.choice(["accept", "reject", "relabel", "resize", "add", "undo", "finish"])
            action = {"do": do, "span": place if do == "add" else {k: span[k] for k in ("start", "end", "label")},
                      "to": {"label": place["label"]} if do == "relabel" else {k: place[k] for k in ("start", "end")}}
            try:
                session.act(index, action)
            except Refused:
                pass
        expected = {identity: {tuple(s["now"].values()) for s in session.view(i)["spans"] if s["decision"] != "reject"}
                    for i, (_, identity) in enumerate(session.queue)}
        state = [session.view(i) for i in range(len(session.queue))]
    with session_of(run, n=1000) as again:
        assert [again.view(i) for i in range(len(again.queue))] == state
    s5_merge_data.main(cmd_args=False, file_dir=str(run.parents[1]), file_name=NAME, dense_lang="1", apply_gold_review=True)
    merged = {row["id"]: {(e["start"], e["end"], e["entity"]) for e in row["entities"]} for kind in ("fusion", "synthetic_fusion")
              for row in read_rows(run / "1000" / f"train_1000_{kind}.jsonl")}
    assert merged == expected


def test_importing_the_review_loads_no_web_package():
    program = "import sys, syn_pipelines.review, syn_pipelines.reviewing.server; print(*{'starlette', 'uvicorn', 'torch', 'anyio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout.strip() == ""


def test_real_sentences_are_shown_as_they_are(tmp_path):
    source = SHARED_DATA / "weibo"
    files = sorted(source.rglob("*train*")) if source.is_dir() else []
    if not files:
        pytest.skip(f"there is no Weibo NER in {source}")
    from syn_pipelines import s0_prepare_data
    s0_prepare_data.main(cmd_args=False, file_dir=str(tmp_path), file_name="weibo", train=str(files[0]))
    rows = read_rows(tmp_path / "weibo" / "train_1000.jsonl")[:50]
    run = tmp_path / "weibo" / "GLM4"
    write_rows(tmp_path / "weibo" / "train_1000.jsonl", rows)
    write_rows(run / "entity_train_1000.jsonl", [{"id": str(i), "text": row["text"], "reply": "", "status": "ok", "reason": "", "items": []}
                                                for i, row in enumerate(rows, 1)])
    s4_split_data.main(cmd_args=False, file_dir=str(tmp_path), file_name="weibo")
    with session_of(run, n=1000) as session:
        for i, (_, identity) in enumerate(session.queue):
            row, view = rows[int(identity) - 1], session.view(i)
            assert view["tokens"] == row["text"]
            assert {(s["start"], s["end"], s["label"]) for s in view["spans"]} == {(e["start"], e["end"], e["entity"]) for e in row["entities"]}


def test_hard_sentences_reach_the_page_token_by_token(fixed):
    with session_of(fixed, n=1000) as session:
        for i, (tokens, _, _) in enumerate(HARD):
            view = json.loads(json.dumps(session.view(at(session, str(13 + i)))))
            assert view["tokens"] == tokens
