"""What the questions say: the names they offer, demonstrations, descriptions of labels, room for the reply."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import FINE, NONE_FOUND, TOY, WRITTEN, call, manifest_of, read_rows, write_data_set, write_rows

import syn_pipelines.s1_predict_data as s1
import syn_pipelines.s2_continous_generation as s2
import syn_pipelines.s3_predict_syn_data as s3
from syn_pipelines import UserError
from syn_pipelines.utils import questions
from syn_pipelines.utils.demonstrations import MAX_TOKENS, WITHOUT_EACH, demonstrations
from syn_pipelines.utils.inventories import INVENTORY_DIR, LABEL_DIR, TargetName, load_inventory, load_target_names
from syn_pipelines.utils.labels import AliasMap, fold, read_target_labels
from syn_pipelines.utils.language import Language
from syn_pipelines.utils.llm import Constraint
from syn_pipelines.utils.options import PROJECT_ROOT
from syn_pipelines.utils.questions import Room
from syn_pipelines.utils.subsets import nested_subsets

LANGUAGES = ("zh", "en", "ja", "ko")
MAPS = {kind: AliasMap.load(PROJECT_ROOT / "data" / "fusion_knowledge" / f"{kind}_label.json", fallback=fallback)
        for kind, fallback in (("entity", "OTHER"), ("pos", "WORD"))}
EN = Language(False, "en")

# --- inventories -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("kind", ["entity", "pos", "pos_inline"])
def test_every_name_that_a_prompt_offers_is_known_to_the_label_maps(kind, lang):
    labels = load_inventory(kind, lang).labels
    assert len(labels) > 15
    assert [label for label in labels if MAPS[kind.partition("_")[0]].lookup(label) is None] == []


@pytest.mark.parametrize("lang", LANGUAGES)
def test_both_reply_formats_tell_the_same_parts_of_speech_apart(lang):
    json_form, inline = ({MAPS["pos"].lookup(label) for label in load_inventory(kind, lang).labels}
                         for kind in ("pos", "pos_inline"))
    assert json_form - {"WORD"} == inline - {"UNCLASSIFIED"}  # "other" and X


def test_inline_tags_are_listed_with_what_they_mean():
    assert "NOUN 名词、PROPN 专有名词、" in load_inventory("pos_inline", "zh").listed(open_labels=False)[1]


def test_own_names_are_invited_with_open_labels_only():
    inventory = load_inventory("entity", "en")
    (closed_labels, closed), (open_labels, opened) = (inventory.listed(open_labels=value) for value in (False, True))
    assert closed_labels == open_labels == inventory.labels
    assert "of your own" in opened and "of your own" not in closed and "no other" in closed


GOOD = {"separator": ", ", "closed": "No other.", "open": "Or your own.", "entity": ["person", "place"], "pos": ["noun"],
        "pos_inline": {"NOUN": "noun"}}


def inventory_of(folder, **changed):
    content = {key: value for key, value in {**GOOD, **changed}.items() if value is not None}
    (folder / "xx.yaml").write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return load_inventory("entity", "xx", folder=folder)


@pytest.mark.parametrize("changed, words", [
    ({"entity": None}, ["'entity' must be a list"]), ({"entity": []}, ["xx.yaml:4: 'entity' must be a list"]),
    ({"entity": "person"}, ["'entity' must be a list"]), ({"pos_inline": ["NOUN"]}, ["'pos_inline' must be tags"]),
    ({"entity": ["a", "b", "a"]}, ["'a' and 'a', one name twice"]), ({"entity": ["a b", "A_B"]}, ["'A_B' and 'a b'"]),
    ({"entity": [""]}, ["'', which is empty"]), ({"entity": ["a\tb"]}, ["control character"]),
    ({"entity": [" a"]}, ["blanks around it"]), ({"entity": ['say "a"']}, ["a quote"]), ({"entity": ["a\\b"]}, ["backslash"]),
    ({"entity": ["“a”"]}, ["a quote"]), ({"entity": ["a, b"]}, ["the separator ','"]), ({"entity": [["a"]]}, ["no text"]),
    ({"entity": [{"a": "b"}]}, ["no text"]), ({"pos_inline": {"A/B": "x"}}, ["blank or a slash"]),
    ({"pos_inline": {"A B": "x"}}, ["blank or a slash"]), ({"pos_inline": {"NOUN": ["x"]}}, ["'NOUN'", "no text"]),
    ({"closed": None}, ["'closed' must be one line"]), ({"open": "a\nb"}, ["'open' must be one line"]),
    ({"separator": ""}, ["'separator' must be one line"]), ({"entities": ["x"]}, ["xx.yaml:11: 'entities'", "mean 'entity'"])])
def test_a_wrong_inventory_is_reported_with_file_line_and_key(tmp_path, changed, words):
    with pytest.raises(UserError) as caught:
        inventory_of(tmp_path, **changed)
    assert all(word in str(caught.value) for word in ["xx.yaml:", "Correct it there", *words]), caught.value


def test_all_problems_of_an_inventory_are_reported_at_once(tmp_path):
    with pytest.raises(UserError) as caught:
        inventory_of(tmp_path, entity=['"', "a", "A"], open=None)
    assert str(caught.value).count("\n") == 2


def test_names_that_yaml_takes_for_other_things_stay_names(tmp_path):
    inventory_of(tmp_path)
    path = tmp_path / "xx.yaml"
    path.write_text(path.read_text().replace("- person", "- no\n- 010\n- 2024-11-21"), encoding="utf-8")
    assert load_inventory("entity", "xx", folder=tmp_path).labels == ("no", "010", "2024-11-21", "place")


def test_a_language_without_an_inventory_names_those_that_have_one():
    with pytest.raises(UserError, match=r"fr\.yaml.*en, ja, ko, zh"):
        load_inventory("entity", "fr")


# --- names of target labels ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", sorted(LABEL_DIR.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_name_of_a_target_label_is_known_to_the_label_map(path):
    names = load_target_names(path.stem, None)
    assert names and all(MAPS["entity"].lookup(target.name) for target in names.values())
    labels = PROJECT_ROOT / "data" / "few_shot" / path.stem / "labels.txt"
    if labels.is_file():
        assert set(names) == set(read_target_labels(labels))


@pytest.mark.parametrize("text, words", [
    ("PER: {name: person\n", ["toy.yaml:2", "not valid YAML"]), ("- PER\n", ["toy.yaml", "not keys and values"]),
    ("PER: person\n", ["'PER' has neither"]), ("PER: {nam: x}\n", ["'nam'"]), ("PER: {name: ''}\n", ["empty"]),
    ("PER: {name: [x]}\n", ["no text"]), ("PER: {name: 'a \"b\"'}\n", ["quote"]), ("PER:\n", ["'PER' has neither"]),
    ("PER: {description: \"a\\nb\"}\n", ["description that has a line end"]),
    ("PER: {name: a}\nPER: {name: b}\n", ["toy.yaml:2", "twice"]), ("PER: !!python/name:os.system x\n", ["toy.yaml:1"])])
def test_a_wrong_file_of_label_names_is_reported_with_line_or_key(tmp_path, text, words):
    (tmp_path / "toy.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_target_names("toy", ["PER", "LOC"], folder=tmp_path)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_name_for_a_label_that_the_data_set_lacks_is_left_out_with_a_warning(tmp_path, caplog):
    (tmp_path / "toy.yaml").write_text("PER: {name: person}\nPERS: {name: x}\n", encoding="utf-8")
    assert list(load_target_names("toy", ["PER", "LOC"], folder=tmp_path)) == ["PER"]
    assert "toy.yaml:2: 'PERS' is not in labels.txt of toy (did you mean 'PER'?), left out" in caplog.text


@pytest.mark.parametrize("dataset", ["other", "../toy", "sub/toy", "x" * 300, "toy\n"])
def test_a_data_set_without_a_file_has_no_names_and_no_name_leaves_the_folder(tmp_path, dataset):
    (tmp_path / "sub").mkdir()
    for path in (tmp_path / "toy.yaml", tmp_path / "sub" / "toy.yaml"):
        path.write_text("PER: {name: person}\n")
    assert load_target_names(dataset, None, folder=tmp_path / "sub" if dataset == "../toy" else tmp_path) == {}


@pytest.fixture
def named(tmp_path, monkeypatch):
    """named(text): the toy data set gets this file of label names."""
    folder = tmp_path / "names"
    folder.mkdir()
    load = questions.load_target_names
    monkeypatch.setattr(questions, "load_target_names", lambda *args: load(*args, folder=folder))
    return lambda text: (folder / "toy.yaml").write_text(text, encoding="utf-8")


def test_explanations_are_asked_for_with_the_names_and_descriptions_of_labels(folder, use, named):
    named("PER: {name: person, description: who does something}\nLOC: {name: place}\nORG: {description: a firm}\n")
    backend = use(WRITTEN)
    call(s2, folder)
    content = {request.id: request.messages[0]["content"] for request in backend.asked}["3#1"]
    assert "\nBob (person: who does something)\nAcme (ORG: a firm)\nLondon (place)\n" in content
    assert backend.asked[0].constraint is None


def test_without_a_file_explanations_name_the_labels_as_they_are(folder, use):
    backend = use(WRITTEN)
    call(s2, folder)
    assert "\nBob (PER)\nAcme (ORG)\nLondon (LOC)\n" in backend.asked[1].messages[0]["content"]


def test_other_descriptions_refuse_to_go_on_with_the_replies_of_before(folder, use, named):
    use(WRITTEN)
    call(s2, folder)
    named("PER: {name: person}\n")
    with pytest.raises(UserError, match=r"label_names none -> "):
        call(s2, folder)


# --- demonstrations --------------------------------------------------------------------------------------------------

def gold(n, *, every=3, text="Mr N{} lives here ."):
    """n sentences with ids a0, a1, ..., every third one without entities."""
    def row(k):
        tokens = text.format(k).split(" ")
        entities = [] if k % every == 0 else [{"start": 1, "end": 2, "entity": "PER", "text": tokens[1:2]}]
        return {"id": f"a{k}", "text": tokens, "entities": entities}
    return [row(k) for k in range(n)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(0, 4), st.integers(0, 20), st.randoms(use_true_random=False))
def test_demonstrations_come_from_the_smallest_subset_and_depend_on_ids_and_seed_alone(n, seed, number, random):
    rows = gold(n)
    shuffled = random.sample(rows, n)
    try:
        chosen = demonstrations(rows, number, EN, {}, seed=seed)
    except UserError:
        assert number > 0.25 * n
        return
    assert demonstrations(shuffled, number, EN, {}, seed=seed) == chosen
    subset = nested_subsets([row["id"] for row in rows], [0.25], seed=seed)[0.25]
    assert {shot.id for shot in chosen.ordered} <= subset
    for row in rows:
        shown = chosen.about(row["id"], " ".join(row["text"]))
        assert " ".join(row["text"]) not in [text for text, _ in shown]
        assert len(shown) == min(number, len(chosen.ordered) - (row["id"] in {shot.id for shot in chosen.ordered}))


def test_all_sentences_are_shown_the_same_ones_but_for_those_that_are_among_them():
    rows = gold(200)
    chosen = demonstrations(rows, 5, EN, {}, seed=1)
    usual = [(shot.text, shot.answer) for shot in chosen.ordered[:5]]
    others = {row["id"]: shown for row in rows if (shown := chosen.about(row["id"], " ".join(row["text"]))) != usual}
    assert set(others) == {shot.id for shot in chosen.ordered[:5]}
    next_one = (chosen.ordered[5].text, chosen.ordered[5].answer)
    assert all(len(shown) == 5 and shown[-1] == next_one for shown in others.values())
    assert demonstrations(rows, 2, EN, {}, seed=1).ordered == chosen.ordered  # the first ones stay


def test_a_sentence_with_the_text_of_a_demonstration_is_not_shown_it():
    rows = gold(80)
    shot = demonstrations(rows, 3, EN, {}, seed=1).ordered[0]
    twin = {"id": "twin", "text": shot.text.upper().split(), "entities": []}
    chosen = demonstrations([*rows, twin], 3, EN, {}, seed=1)
    assert shot.text in [text for text, _ in chosen.about("other", "Other words .")]
    assert shot.text not in [text for text, _ in chosen.about("twin", " ".join(twin["text"]))]
    assert len({other.text.casefold() for other in chosen.ordered}) == len(chosen.ordered)


def test_most_demonstrations_have_entities_and_every_fourth_has_none():
    chosen = demonstrations(gold(400), 8, EN, {}, seed=3)
    assert [not shot.names for shot in chosen.ordered[:8]] == [False, False, False, True] * 2
    assert WITHOUT_EACH == 4 and all(shot.answer == "[]" for shot in chosen.ordered if not shot.names)


def test_gold_without_empty_sentences_and_gold_without_entities_give_demonstrations_too():
    for every in (10 ** 6, 1):
        assert len(demonstrations(gold(80, every=every)[1:], 8, EN, {}, seed=3).ordered) >= 8


def test_an_answer_is_written_as_json_dumps_writes_it_outer_entities_first_and_none_twice():
    text = 'The "New York" Times and The "New York" Times'.split()
    spans = [(2, 3, "LOC"), (0, 4, "ORG"), (5, 9, "ORG"), (0, 4, "PER")]
    row = {"id": "1", "text": text, "entities": [{"start": s, "end": e, "entity": label} for s, e, label in spans]}
    shot = demonstrations([row], 1, EN, {"ORG": TargetName("media outlet")}, seed=1).ordered[0]
    surface = 'The "New York" Times'
    assert shot.answer == json.dumps([{"entity": surface, "type": "media outlet"}, {"entity": surface, "type": "PER"},
                                      {"entity": 'York"', "type": "LOC"}], ensure_ascii=False)
    assert shot.names == ("media outlet", "PER", "LOC")


def test_what_no_answer_could_say_and_very_long_sentences_are_no_demonstrations():
    blank = {"id": "1", "text": ["a", " ", "b"], "entities": [{"start": 1, "end": 3, "entity": "PER"}]}
    long = {"id": "2", "text": ["a"] * (MAX_TOKENS + 1), "entities": []}
    white = {"id": "3", "text": [" ", "\u3000"], "entities": []}
    for row in (blank, long, white):
        with pytest.raises(UserError, match=r"--shots=1: .*25%.* 0 different sentences.*--shots=0 or fewer"):
            demonstrations([row], 1, EN, {}, seed=1)


@pytest.fixture
def many(tmp_path, use):
    """A data set of 40 sentences, and a backend that finds nothing in them."""
    rows = gold(40)
    folder = write_data_set(tmp_path, [])
    write_rows(folder / "train_1000.jsonl", rows)
    return folder, rows, use({row["id"]: NONE_FOUND for row in rows})


def test_step_1_shows_gold_sentences_and_offers_their_types(many, named):
    folder, rows, backend = many
    named("PER: {name: somebody}\n")
    call(s1, folder, shots=3)
    shots = demonstrations(rows, 3, EN, {"PER": TargetName("somebody")}, seed=42)
    for request in backend.asked:
        content = request.messages[0]["content"]
        own = " ".join(next(row["text"] for row in rows if row["id"] == request.id))
        assert content.count(own) == 1 and content.endswith(f"Sentence: {own}\nAnswer:")
        for text, answer in shots.about(request.id, own):
            assert f"\n\nSentence: {text}\nAnswer: {answer}\n\n" in content
        assert "other, somebody\n" in content and request.constraint.labels[-2:] == ("other", "somebody")


def test_other_demonstrations_refuse_to_go_on_with_the_replies_of_before(many, use):
    folder, rows, _ = many
    call(s1, folder, shots=2)
    again = use({row["id"]: NONE_FOUND for row in rows})
    assert call(s1, folder, shots=2).up_to_date and not again.asked
    with pytest.raises(UserError, match=r"shots 2 \w+ -> 3 "):
        call(s1, folder, shots=3)


def test_more_demonstrations_than_the_smallest_subset_holds_are_refused(many):
    folder, _, backend = many
    with pytest.raises(UserError, match=r"--shots=11: .*holds 10 different sentences.*--shots=10 or fewer"):
        call(s1, folder, shots=11)
    assert not backend.asked
    call(s1, folder, shots=10)
    assert len(backend.asked) == 40


def test_step_3_takes_its_demonstrations_from_the_gold_sentences(many, use):
    folder, rows, _ = many
    made = [{"id": "a1-s1", "text": ["New", "words", "."], "entities": [], "synthetic": True, "source_id": "a1"}]
    (folder / "run").mkdir()
    write_rows(folder / "run" / "train_1000_synthetic.jsonl", made)
    backend = use({"a1-s1": NONE_FOUND})
    call(s3, folder, shots=2)
    for text, answer in demonstrations(rows, 2, EN, {}, seed=42).about("a1-s1", "New words ."):
        assert f"Sentence: {text}\nAnswer: {answer}\n\n" in backend.asked[0].messages[0]["content"]


def test_demonstrations_do_nothing_in_pos_mode_and_a_note_says_so(many):
    folder, _, backend = many
    summary = call(s1, folder, mode="pos", shots=99)
    assert any("--shots" in note and "no effect" in note for note in summary.notes)
    assert backend.asked[0].messages[0]["content"].count("Sentence: ") == 2
    assert manifest_of(folder, "pos_train_1000")["fingerprint"]["shots"] == "0"


# --- requests --------------------------------------------------------------------------------------------------------

def test_requests_hold_the_reply_to_the_sentence_and_the_names_offered(folder, use):
    backend = use(FINE)
    call(s1, folder)
    labels = load_inventory("entity", "en").labels
    assert backend.asked[0].constraint == Constraint("entity", tuple(TOY[0][0].split()), False, labels, "json")


@pytest.mark.parametrize("flags, constraint", [
    ({"constraint": "none"}, None),
    ({"open_labels": True}, Constraint("pos", ("我", "去"), True, (), "json")),
    ({"reply_format": "inline"}, Constraint("pos", ("我", "去"), True, load_inventory("pos_inline", "zh").labels, "inline")),
    ({"open_labels": True, "reply_format": "inline"}, Constraint("pos", ("我", "去"), True, (), "inline"))])
def test_flags_shape_the_constraint_and_the_prompt(tmp_path, use, flags, constraint):
    folder = write_data_set(tmp_path, [("我 去", [])])
    backend = use({"1": "我/PRON 去/VERB"})
    call(s1, folder, mode="pos", lang="zh", dense_lang="1", **flags)
    (request,) = backend.asked
    content = request.messages[0]["content"]
    assert request.constraint == constraint
    assert ("自拟" in content) == ("open_labels" in flags) and ("PUNCT 标点" in content) == ("reply_format" in flags)


def test_inline_replies_become_the_same_items(folder, use):
    use(dict.fromkeys("12345", "Alice/PROPN New York/PROPN 1/2/NUM ./PUNCT"))
    call(s1, folder, mode="pos", reply_format="inline")
    row = read_rows(folder / "run" / "pos_train_1000.jsonl")[0]
    assert [(item["word"], item["pos"]) for item in row["items"]] == [
        ("Alice", "PROPN"), ("New York", "PROPN"), ("1/2", "NUM"), (".", "PUNCT")]
    assert row["status"] == "ok" and manifest_of(folder, "pos_train_1000")["fingerprint"]["reply_format"] == "inline"


def test_stored_inline_replies_are_read_as_such_without_the_flag_of_then(folder, use):
    use({**dict.fromkeys("1234", "Alice/PROPN ./PUNCT"), "5": "no"})
    call(s1, folder, mode="pos", reply_format="inline")
    before = (folder / "run" / "pos_train_1000.jsonl").read_bytes()
    call(s1, folder, mode="pos", reparse=True)
    assert (folder / "run" / "pos_train_1000.jsonl").read_bytes() == before


def test_inline_replies_do_nothing_in_entity_mode_and_a_note_says_so(folder, use):
    backend = use(FINE)
    summary = call(s1, folder, reply_format="inline")
    assert any("--reply_format" in note for note in summary.notes) and backend.asked[0].constraint.reply_format == "json"
    assert manifest_of(folder)["fingerprint"]["reply_format"] == "json"


@pytest.mark.parametrize("mode, flags, said", [
    ("entity", {"constraint": "none"}, "constraint grammar -> none"),
    ("entity", {"open_labels": True}, "labels closed .* -> open "),
    ("pos", {"reply_format": "inline"}, "reply_format json -> inline"),
    ("pos", {"open_labels": True}, "labels closed .* -> open ")])
def test_what_shapes_replies_is_part_of_the_fingerprint(folder, use, mode, flags, said):
    use(FINE)
    call(s1, folder, mode=mode)
    with pytest.raises(UserError, match=said):
        call(s1, folder, mode=mode, **flags)


def test_another_inventory_refuses_to_go_on_with_the_replies_of_before(folder, use, monkeypatch, tmp_path):
    use(FINE)
    call(s1, folder)
    text = (INVENTORY_DIR / "en.yaml").read_text(encoding="utf-8")
    (tmp_path / "en.yaml").write_text(text.replace("job title", "profession"), encoding="utf-8")
    load = questions.load_inventory
    monkeypatch.setattr(questions, "load_inventory", lambda *args: load(*args, folder=tmp_path))
    with pytest.raises(UserError, match=r"labels closed \w+ -> closed "):
        call(s1, folder)


@pytest.mark.parametrize("flags", [{"scheduler": "generate"}, {"concurrency": 3}, {"base_url": "http://localhost:1/v1"},
                                   {"trust_remote_code": True}])
def test_how_a_model_is_reached_is_no_part_of_the_fingerprint(folder, use, flags):
    use(FINE)
    call(s1, folder)
    backend = use({})
    assert call(s1, folder, **flags).up_to_date and not backend.asked


# --- room for the reply ----------------------------------------------------------------------------------------------

TEXTS = st.lists(st.text(st.sampled_from('aé北"\\/\n\u3000 😀'), min_size=1, max_size=3), min_size=1, max_size=30)


@settings(max_examples=80, deadline=None)
@given(TEXTS, st.booleans(), st.sampled_from(["json", "inline"]))
def test_every_token_as_a_word_of_its_own_fits_even_when_a_token_is_a_byte(tokens, dense, reply_format):
    labels = load_inventory("pos", "ko").labels
    wording = questions.Wording("pos", Language(dense, "ko"), None, reply_format, labels, "", False, True, None)
    room = wording._room(tokens, Language(dense, "ko").join(tokens))
    longest = max(labels, key=lambda label: len(label.encode()))
    words = [token.strip() for token in tokens if token.strip()]
    reply = (" ".join(f"{word}/{longest}" for word in words) if reply_format == "inline" else
             json.dumps([{"word": word, "pos": longest} for word in words], ensure_ascii=False))
    assert room.tokens(lambda text: len(text.encode())) > len(reply.encode())


def test_room_counts_what_is_the_same_for_all_sentences_by_its_longest_name():
    room = Room('a"b', 2.0, 10, 3, ("x", "xyz"))
    assert room.tokens(len) == 10 + 2 * 4 + 3 * 3
    assert Room("ab", 1.5, 10).tokens(len) == 13


def test_the_model_is_asked_once_for_the_length_of_what_is_the_same_in_all_requests(folder, use, monkeypatch):
    backend = use(FINE)
    counted = []
    monkeypatch.setattr(backend, "count_tokens", lambda text: counted.append(text) or len(text))
    call(s1, folder)
    items = [text for text in counted if re.match(r'\{"entity": ""', text)]
    assert len(items) == len(set(items)) == len(load_inventory("entity", "en").labels)


def test_names_differ_after_folding_too():
    for lang in LANGUAGES:
        labels = load_inventory("entity", lang).labels
        assert len({fold(label) for label in labels}) == len(labels)
