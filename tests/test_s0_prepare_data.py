"""Step 0: files of every supported kind become a data set; what is wrong in them is named by file and line."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syn_pipelines.s0_prepare_data import choose, cut_off, main
from syn_pipelines.text.readers import read_source
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.jsonl import write_jsonl
from syn_pipelines.utils.labels import read_target_labels
from syn_pipelines.utils.manifest import Publisher, read_manifest
from syn_pipelines.utils.paths import RunPaths, manifest_path
from syn_pipelines.utils.records import read_sentences, read_train

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data"
WEIBO = {name: REAL / "weibo" / f"weiboNER_2nd_conll.{name}" for name in ("train", "dev", "test")}
WIKIGOLD = REAL / "wikigold" / "wikigold.conll.txt"
JAPANESE = REAL / "ner_wikipedia_ja" / "ner.json"
TEN = "".join(f"w{n} B-PER\nsaid O\n\n" for n in range(10))


def real(path: Path) -> Path:
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder to work in; data sets go to ``sets``."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(name: str, content: str | bytes) -> str:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return name


def prepare(content: str | bytes | None = None, name: str = "in.txt", **flags):
    """Run step 0 in this process on ``content`` as training file; nothing is cut off unless flags say so."""
    if content is not None:
        flags["train"] = put(name, content)
    return main(cmd_args=False, **{"file_dir": "sets", "file_name": "d", "dev_share": 0, "test_share": 0, **flags})


def call(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run step 0 as a person would."""
    return subprocess.run([sys.executable, str(ROOT / "syn_pipelines" / "s0_prepare_data.py"), *arguments], cwd=cwd,
                          capture_output=True, text=True, encoding="utf-8", timeout=60)


def rows(split: str = "train_1000", name: str = "d") -> list[dict]:
    path = Path("sets", name, f"{split}.jsonl")
    return list(read_sentences(path)) if path.is_file() else []


def entities(split: str = "train_1000") -> list[list[tuple]]:
    return [[(e["start"], e["end"], e["entity"]) for e in row["entities"]] for row in rows(split)]


def files(folder: str | Path = "sets/d") -> dict[str, bytes]:
    """Everything a data set holds but the log, which has times in it."""
    return {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.is_file() and p.name != "run.log.jsonl"}


def message(*arguments, **flags) -> str:
    with pytest.raises(UserError) as error:
        prepare(*arguments, **flags)
    return str(error.value)


# --- real data -----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def weibo(tmp_path_factory):
    """(finished process, folder of the data set) of the real script on the Weibo files."""
    home = tmp_path_factory.mktemp("weibo")
    flags = [f"--{name}={real(path)}" for name, path in WEIBO.items()]
    return call(f"--file_dir={home}", "--file_name=weibo", *flags, cwd=home), home / "weibo"


def test_weibo_gives_the_published_numbers(weibo):
    done, folder = weibo
    assert done.returncode == 0, done.stderr
    found = {name: list(read_sentences(folder / f"{file}.jsonl"))
             for name, file in (("train", "train_1000"), ("dev", "dev"), ("test", "test"))}
    assert {k: len(v) for k, v in found.items()} == {"train": 1350, "dev": 270, "test": 270}
    assert {k: sum(len(r["entities"]) for r in v) for k, v in found.items()} == {"train": 1895, "dev": 389, "test": 418}
    assert {k: sum(len(r["text"]) for r in v) for k, v in found.items()} == {"train": 73778, "dev": 14509, "test": 14842}
    by_label = Counter(e["entity"] for r in found["train"] for e in r["entities"])
    assert by_label["PER.NAM"] == 578 and by_label["PER.NOM"] == 772 and by_label["GPE.NOM"] == 8
    assert read_target_labels(folder / "labels.txt") == sorted(by_label)


def test_weibo_characters_lose_their_position_and_nothing_else(weibo):
    tokens = Counter(t for r in read_sentences(weibo[1] / "train_1000.jsonl") for t in r["text"])
    for split in ("dev", "test"):
        tokens.update(t for r in read_sentences(weibo[1] / f"{split}.jsonl") for t in r["text"])
    assert tokens["\ufffd\ufffd"] == 44 and tokens["\ufffd"] == 84 and tokens["\ufe0f"] == 5
    assert tokens["8"] and {token for token in tokens if len(token) > 1} == {"\ufffd\ufffd"}


def test_weibo_tags_that_continue_nothing_are_repaired_and_reported(weibo):
    repaired = [line for line in weibo[0].stderr.splitlines() if "tags repaired" in line]
    assert len(repaired) == 2 and ".train: 10 tags repaired" in repaired[0] and ".test: 4 tags repaired" in repaired[1]
    assert "line 1266: I-PER.NOM" in repaired[0]


def test_weibo_sentences_shared_between_splits_are_counted(weibo):
    assert "42 of 270 dev sentences stand in train too" in weibo[0].stderr
    assert "40 of 270 test sentences stand in train too" in weibo[0].stderr
    assert "8 of 270 test sentences stand in dev too" in weibo[0].stderr


def test_a_thousand_weibo_sentences_hold_every_entity(home):
    prepare(train=str(real(WEIBO["train"])), size=1000)
    assert len(rows()) == 1000 and sum(map(len, entities())) == 1895 and sum(map(bool, entities())) == 738


def test_wikigold_gives_all_its_entities(home):
    prepare(train=str(real(WIKIGOLD)), dev_share=0.1, test_share=0.1)
    splits = [rows(name) for name in ("train_1000", "dev", "test")]
    assert sum(map(len, splits)) == 1696
    found = Counter(e["entity"] for split in splits for row in split for e in row["entities"])
    assert found == {"LOC": 1014, "MISC": 712, "ORG": 898, "PER": 934}
    assert not any("-DOCSTART-" in row["text"] for split in splits for row in split)


def test_the_japanese_set_keeps_every_name(home):
    prepare(train=str(real(JAPANESE)), dev_share=0.1, test_share=0.1)
    found = [row for name in ("train_1000", "dev", "test") for row in rows(name)]
    assert len(found) == 5343 and sum(len(row["entities"]) for row in found) == 13185
    names = {row["text"]: Counter(e["name"] for e in row["entities"]) for row in json.loads(JAPANESE.read_text(encoding="utf-8"))}
    for row in found:
        assert Counter("".join(e["text"]) for e in row["entities"]) == names["".join(row["text"])]


# --- columns -------------------------------------------------------------------------------------------------------

SCHEMES = {"BIO": "BBII", "BIOES": "SBIE", "BMES": "SBME", "BILOU": "UBIL", "IO": "IIII"}  # alone, first, middle, last
TOKEN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\t\ufeff"), min_size=1, max_size=3).filter(str.strip)


@st.composite
def annotated(draw, gap: int):
    """(tokens, spans): flat spans with at least ``gap`` tokens between two."""
    spans, at = [], draw(st.integers(0, 1))
    for _ in range(draw(st.integers(0, 3))):
        end = at + draw(st.integers(1, 4))
        spans.append((at, end, draw(st.sampled_from(["PER", "LOC", "人名", "B-x"]))))
        at = end + draw(st.integers(gap, 2))
    length = max(1, at + draw(st.integers(0, 1)))
    return draw(st.lists(TOKEN, min_size=length, max_size=length)), spans


def column_text(sentences, scheme: str, end: str = "\n") -> str:
    single, first, middle, last = SCHEMES[scheme]
    lines = []
    for tokens, spans in sentences:
        tags = ["O"] * len(tokens)
        for start, stop, label in spans:
            for i in range(start, stop):
                letter = single if stop - start == 1 else first if i == start else last if i == stop - 1 else middle
                tags[i] = f"{letter}-{label}"
        lines += [f"{token}\t{tag}" for token, tag in zip(tokens, tags)] + [""]
    return end.join(lines) + end


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_sentences_and_spans_come_back_from_columns_of_every_scheme(tmp_path_factory, scheme, data):
    sentences = data.draw(st.lists(annotated(gap=scheme == "IO"), min_size=1, max_size=4))
    path = tmp_path_factory.mktemp("columns") / "in.conll"
    path.write_bytes(column_text(sentences, scheme, data.draw(st.sampled_from(["\n", "\r\n"]))).encode())
    source = read_source(path, "columns")
    assert [(s["text"], [(e["start"], e["end"], e["entity"]) for e in s["entities"]]) for s in source.sentences] == sentences
    assert all(e["text"] == s["text"][e["start"]:e["end"]] for s in source.sentences for e in s["entities"])
    if scheme == "IO" or any(spans for _, spans in sentences):
        assert source.repairs == [] or scheme == "BIO"  # a BIO file of touching entities alone reads as IO


@pytest.mark.parametrize("content, tokens", [
    ("a NN x B-PER\nb VB y O\n", [["a", "b"]]),  # first and last of several columns
    ("-DOCSTART- -X- O O\n\na B-PER\n-DOCSTART- O\nb O\n", [["a"], ["b"]]),
    ("\n\n\na B-PER\n\n  \n\nb O", [["a"], ["b"]]),
    ("a\u2028b\tB-PER\n\x85\tO\nc\rd\tO\n", [["a\u2028b", "\x85", "c\rd"]]),
    (" \tB-PER\n\u3000\tO\na b\tO\n", [[" ", "\u3000", "a b"]]),
    ("\ufeffa B-PER\r\nb O\r\n", [["a", "b"]]),
    ("a B-PER \nb O\t\n", [["a", "b"]]),  # what stands behind the last column is nothing
    ("a   B-PER\nb O\n", [["a", "b"]]),
    ("A1 B-PER\nB2 O\n", [["A1", "B2"]]),  # digits that do not begin at 0 are no positions
])
def test_columns_are_read_as_they_are_written(home, content, tokens):
    prepare(content)
    assert [row["text"] for row in rows()] == tokens


def test_weibo_positions_are_recognised_and_can_be_forced_or_denied(home):
    content = "张0 B-PER\n82 O\n110 O\n\ufffd\ufffd0 O\n①0 O\n"
    prepare(content)
    assert rows()[0]["text"] == ["张", "8", "1", "\ufffd\ufffd", "①"]
    prepare(content, format="columns")
    assert rows()[0]["text"] == ["张0", "82", "110", "\ufffd\ufffd0", "①0"]
    assert "in.txt:1: needs a character and its position digit, got 'Anna'" in message("Anna B-PER\n", format="weibo")


@pytest.mark.parametrize("content, spans, count", [
    ("a I-X\nb O\n\nc B-X\nd O\n", [[(0, 1, "X")], [(0, 1, "X")]], 1),
    ("a B-X\nb I-Y\n", [[(0, 1, "X"), (1, 2, "Y")]], 1),
    ("a B-X\nb O\n\nc E-X\n", [[(0, 1, "X")], [(0, 1, "X")]], 2),
    ("a B-X\nb Q-X\n", [[(0, 1, "X")]], 1),
    ("a I-X\nb I-Y\n\nc I-X\nd B-X\n", [[(0, 1, "X"), (1, 2, "Y")], [(0, 1, "X"), (1, 2, "X")]], 0),  # first CoNLL scheme
])
def test_invalid_tags_are_repaired_with_a_warning_that_counts_them(home, content, spans, count):
    summary = prepare(content)
    assert entities() == spans
    assert [w for w in summary.warnings if "repaired" in w] == summary.warnings and len(summary.warnings) == bool(count)
    assert not count or f"{count} tags repaired" in summary.warnings[0]


def test_invalid_tags_can_stop_the_step_instead(home):
    text = message("a B-X\n\n" + "a I-X\nb O\n\n" * 30, invalid_tags="error")
    lines = text.splitlines()
    assert len(lines) == 21 and lines[0].startswith("in.txt:3: I-X continues nothing") and "--invalid_tags=repair" in text
    assert not Path("sets", "d").exists()


def test_tags_without_letters_are_labels(home):
    summary = prepare("Anna person-actor\nin O\nNew location\nYork location\n")
    assert entities() == [[(0, 1, "person-actor"), (2, 4, "location")]]
    assert "every tag but O is taken as a label" in summary.warnings[0]


@pytest.mark.parametrize("content, line, words", [
    ("a B-X\nb\n", 2, "needs a token and a tag, got ['b']"), ("a B-X\n\tO\n", 2, "needs a token and a tag"),
    ("a B-X\nb\tB-X Y\n", 2, "'B-X Y' has a blank in it"), ("a\tB-X\x07\n", 1, "control character"),
    (b"a B-X\n\xff O\n", 2, "not UTF-8"),
])
def test_bad_columns_are_named_with_their_line(home, content, line, words):
    text = message(content)
    assert text.startswith(f"in.txt:{line}: ") and words in text and not Path("sets").exists()


def test_all_bad_lines_are_listed_first_twenty(home):
    assert [line.split(": ")[0] for line in message("x\ny O\n\nz\n").splitlines()] == ["in.txt:1", "in.txt:4"]
    assert len(message("x\n" * 40).splitlines()) == 21


# --- JSON ----------------------------------------------------------------------------------------------------------

LOC = {"start": 5, "end": 8, "label": "LOC"}


@pytest.mark.parametrize("row", [
    {"text": "I am in Ulm.", "entities": [{"start": 8, "end": 11, "label": "LOC"}]},
    {"text": "I am in Ulm.", "entities": [{"span": [8, 11], "type": "LOC", "name": "Ulm"}]},
    {"text": "I am in Ulm.", "label": [[8, 11, "LOC"]]},
    {"text": "I am in Ulm.", "labels": [{"start_offset": 8, "end_offset": 11, "label": "LOC"}], "id": 3},
    {"text": ["I", "am", "in", "Ulm", "."], "entities": [{"start": 3, "end": 4, "entity": "LOC", "text": ["Ulm"]}], "label": []},
])
@pytest.mark.parametrize("write", [
    lambda row: json.dumps(row) + "\n", lambda row: json.dumps([row]), lambda row: json.dumps([row], indent=2),
    lambda row: json.dumps({"version": {"a": [1]}, "data": [row]}), lambda row: "\ufeff" + json.dumps({"data": [row]}, indent=1),
], ids=["lines", "list", "pretty list", "object", "pretty object"])
def test_json_of_the_usual_shapes_is_read(home, row, write):
    prepare(write(row), name="in.json")
    assert rows()[0]["text"] == ["I", "am", "in", "Ulm", "."] and entities() == [[(3, 4, "LOC")]]


@pytest.mark.parametrize("shape", ["{}\n", "[{}]", '{{"data": [{}]}}', " [ {}\n]"])
def test_json_is_recognised_whatever_the_name(home, shape):
    prepare(shape.format(json.dumps({"text": "in Ulm", "entities": [[3, 6, "LOC"]]})), name="in.txt")
    assert entities() == [[(1, 2, "LOC")]]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_json_entity_keeps_its_surface(tmp_path_factory, data):
    text = data.draw(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("ab .-'北京東京かな"), min_size=1, max_size=20))
    dense = data.draw(st.sampled_from(["0", "1"]))
    spans = data.draw(st.lists(st.tuples(st.integers(0, len(text) - 1), st.integers(1, len(text))).filter(
        lambda s: s[0] < s[1] and text[s[0]:s[1]].strip()), max_size=4))
    path = tmp_path_factory.mktemp("json") / "in.json"
    path.write_text(json.dumps([{"text": text, "entities": [[*span, "X"] for span in spans]}]), encoding="utf-8")
    if not text.strip() and dense == "0":
        return
    sentence = read_source(path, "json", dense_lang=dense).sentences[0]
    blank = {"1": "", "0": " "}[dense]

    def squeezed(value: str) -> str:
        return value if dense == "1" else "".join(value.split())

    assert squeezed("".join(sentence["text"])) == squeezed(text)
    assert sorted(squeezed(blank.join(e["text"])) for e in sentence["entities"]) == sorted(squeezed(text[s:e]) for s, e in spans)


@pytest.mark.parametrize("row, words", [
    ({"entities": []}, "'text' must be a text or a list of tokens, got None"),
    ({"text": "", "entities": []}, "got ''"), ({"text": "   ", "entities": []}, "no token"),
    ({"text": ["a", ""], "entities": []}, "empty token"), ({"text": "in Ulm", "entities": {"LOC": []}}, "must be a list"),
    ({"text": "in Ulm", "entities": [LOC]}, "from 5 to 8 but the text has 6"),
    ({"text": "in Ulm", "entities": [[3, 3, "LOC"]]}, "from 3 to 3"), ({"text": "in Ulm", "entities": [[3, 6]]}, "entity 1"),
    ({"text": "in Ulm", "entities": [["3", 6, "LOC"]]}, "a start, an end and a label"),
    ({"text": "in Ulm", "entities": [[3, 6, ""]]}, "a start, an end and a label"),
    ({"text": "in Ulm", "entities": [[3, 6, "O"]]}, "no entity"),
    ({"text": "in Ulm", "entities": [[3, 6, "A B"]]}, "'A B' has a blank in it"),
    ({"text": "in Ulm", "entities": [{"start": 3, "end": 6, "type": "LOC", "name": "Bonn"}]}, "'Bonn' but its offsets give 'Ulm'"),
    ({"text": "in  Ulm", "entities": [[2, 4, "LOC"]]}, "covers white space only"),
    ([], "is a list, not an object"),
])
def test_bad_json_entries_are_named_with_the_line_where_they_begin(home, row, words):
    good = {"text": "in Ulm", "entities": [[3, 6, "LOC"]]}
    text = message(json.dumps([good, row], indent=1), name="in.json")
    line = json.dumps([good], indent=1).count("\n") + 1
    assert text.startswith(f"in.json:{line}: ") and words in text and "\n" not in text
    if isinstance(row, dict):
        text = message(json.dumps(good) + "\n" + json.dumps(row) + "\n", name="in.jsonl")
        assert text.startswith("in.jsonl:2: ") and words in text


@pytest.mark.parametrize("content, name, words", [
    ("{", "in.jsonl", "in.jsonl:1: is not valid JSON"), ("{", "in.json", "in.json:1: is not valid JSON"),
    ('[{"text": "a",\n}]', "in.json", "in.json:2: is not valid JSON"), ("5", "in.json", "neither a list"),
    (r'[{"text": "a\ud800"}]', "in.json", "surrogate"), (r'{"text": "a\ud800"}', "in.jsonl", "surrogate"),
    ("[" * 99_999, "in.json", "nested too deeply"), (b"\xff", "in.json", "UTF-8"), ("", "in.json", "in.json"),
    ('[{"text": "a"}]xx', "in.txt", "in.txt:1: is not valid JSON"), ('{"text": "a"},\n{"text": "b"}', "in.txt", "in.txt:1: is not valid JSON"),
    ("[]", "in.json", "holds no sentence"), ("{}", "in.json", "holds no sentence"), ("\n", "in.jsonl", "holds no sentence"),
    ("", "in.txt", "holds no sentence"), ("a O\nb O\n", "in.txt", "no training sentence has an entity"),
])
def test_files_that_cannot_be_used_are_one_clear_line(home, content, name, words):
    text = message(content, name=name)
    assert words in text and "\n" not in text and not Path("sets", "d", "train_1000.jsonl").exists()


# --- splits --------------------------------------------------------------------------------------------------------

SENTENCES = st.lists(st.builds(lambda t, e: {"text": [t], "entities": [{}] * e}, st.sampled_from("abcdefghij"), st.integers(0, 1)), max_size=30)


@given(SENTENCES, st.integers(), st.floats(0, 0.5), st.floats(0, 0.4))
def test_equal_sentences_stay_on_one_side_and_none_is_lost(sentences, seed, dev, test):
    parts = cut_off(sentences, {"dev": dev, "test": test}, seed=seed)
    texts = {name: {s["text"][0] for s in part} for name, part in parts.items()}
    assert sum(map(len, texts.values())) == len(set().union(*texts.values()))
    assert sorted(id(s) for part in parts.values() for s in part) == sorted(map(id, sentences))
    distinct = len({s["text"][0] for s in sentences})
    assert (len(texts["dev"]), len(texts["test"])) == (round(dev * distinct), round(test * distinct))
    position = {id(s): i for i, s in enumerate(sentences)}
    assert all([position[id(s)] for s in part] == sorted(position[id(s)] for s in part) for part in parts.values())


@given(SENTENCES, st.integers(), st.randoms(use_true_random=False))
def test_the_side_of_a_sentence_does_not_depend_on_the_order_of_the_file(sentences, seed, random):
    def side(part) -> set[str]:
        return {s["text"][0] for s in cut_off(part, {"dev": 0.3}, seed=seed)["dev"]}

    assert side(sentences) == side(random.sample(sentences, len(sentences)))


@given(SENTENCES, st.integers(0, 35), st.integers())
def test_size_takes_sentences_with_entities_first(sentences, size, seed):
    chosen = choose(sentences, size, seed=seed)
    with_entities = sum(bool(s["entities"]) for s in sentences)
    assert len(chosen) == min(size, len(sentences))
    assert sum(bool(s["entities"]) for s in chosen) == min(size, with_entities)
    assert {id(s) for s in chosen} <= {id(s) for s in choose(sentences, size + 1, seed=seed)}


def test_a_set_without_dev_and_test_is_split_by_seed(home):
    prepare(TEN, dev_share=0.2, test_share=0.1)
    assert [len(rows(name)) for name in ("train_1000", "dev", "test")] == [7, 2, 1]
    first = files()
    prepare(TEN, dev_share=0.2, test_share=0.1)
    assert files() == first
    prepare(TEN, dev_share=0.2, test_share=0.1, seed=7)
    assert files() != first and [len(rows(name)) for name in ("train_1000", "dev", "test")] == [7, 2, 1]


def test_a_given_dev_file_is_used_and_test_is_cut_off(home):
    summary = prepare(TEN, dev=put("dev.txt", "x B-ORG\n"), test_share=0.2)
    assert [len(rows(name)) for name in ("train_1000", "dev", "test")] == [8, 1, 2]
    assert summary.accounts[0].total == 10 and summary.accounts[0].parts["cut off for test"] == 2
    assert read_target_labels(Path("sets/d/labels.txt")) == ["ORG", "PER"]


def test_a_file_too_small_to_split_says_so(home):
    summary = prepare("a B-X\n", dev_share=0.1, test_share=0.1)
    assert len(rows()) == 1 and not rows("dev") and sum("too few sentences" in w for w in summary.warnings) == 2


def test_shared_sentences_are_warned_of_and_dropped_from_train_on_request(home):
    dev, test = put("dev.txt", "w1 B-PER\nsaid O\n"), put("test.txt", "w2 B-PER\nsaid O\n\nw1 O\nsaid O\n")
    summary = prepare(TEN, dev=dev, test=test)
    assert len(rows()) == 10
    assert [w.split(":")[0] for w in summary.warnings] == ["1 of 1 dev sentences stand in train too",
                                                           "2 of 2 test sentences stand in train too",
                                                           "1 of 2 test sentences stand in dev too"]
    assert "--drop_leaks" in summary.warnings[0]
    summary = prepare(TEN, dev=dev, test=test, drop_leaks=True)
    assert [row["text"][0] for row in rows()] == [f"w{n}" for n in range(10) if n not in (1, 2)]
    assert summary.accounts[0].parts["shared with dev or test"] == 2
    assert summary.warnings[0].endswith("taken out of train.") and "--drop_leaks" not in " ".join(summary.warnings)
    assert len(rows("dev")) == 1 and len(rows("test")) == 2


def test_nothing_left_to_train_on_is_an_error(home):
    assert "no training sentence is left" in message("a B-X\n", dev=put("dev.txt", "a B-X\n"), drop_leaks=True)
    assert "no training sentence is left" in message(TEN, size=0)


def test_dropping_leaks_comes_before_the_choice_by_size(home):
    prepare(TEN, dev=put("dev.txt", "w1 B-PER\nsaid O\n"), drop_leaks=True, size=9)
    assert len(rows()) == 9


# --- files ---------------------------------------------------------------------------------------------------------

def test_the_data_set_can_be_read_by_the_steps(home):
    prepare(TEN)
    paths = RunPaths(Path("sets"), "d", "GLM4")
    assert len(list(read_train(paths))) == 10
    manifest = read_manifest(paths.train)
    assert manifest["counts"] == {"sentences": 10, "entities": 10} and manifest["complete"] is True
    assert "s0_prepare_data.py" in manifest["command"] and not {"time", "seconds"} & set(manifest)


def test_running_twice_gives_equal_bytes(home):
    prepare(TEN, dev_share=0.2)
    first = files()
    prepare(TEN, dev_share=0.2)
    assert files() == first and not any(name.endswith(".part") for name in first)


def test_a_data_set_of_another_origin_is_not_replaced(home):
    prepare(TEN)
    manifest_path(Path("sets/d/train_1000.jsonl")).unlink()
    before = files()
    text = message(TEN, size=5)
    assert "sets/d/train_1000.jsonl: exists and was not made by this step" in text and "--overwrite" in text
    assert files() == before
    prepare(TEN, size=5, overwrite=True)
    assert len(rows()) == 5


def test_what_this_step_left_without_a_manifest_when_it_was_killed_is_not_refused(home):
    prepare(TEN)
    whole = files()
    for gone in (["train_1000.manifest.json"], ["train_1000.manifest.json", "train_1000.jsonl"]):
        for name in gone:
            Path("sets/d", name).unlink()
        prepare(TEN)
        assert files() == whole


@pytest.mark.parametrize("name", ["dev.jsonl", "test.jsonl"])
def test_dev_and_test_files_of_another_origin_are_not_replaced_either(home, name):
    Path("sets/d").mkdir(parents=True)
    put(f"sets/d/{name}", '{"text": ["mine"], "entities": []}\n')
    assert name in message(TEN, dev_share=0.2, test_share=0.2) and b"mine" in Path("sets/d", name).read_bytes()


def test_corrections_by_hand_are_not_replaced(home):
    prepare(TEN)
    path = Path("sets/d/train_1000.jsonl")
    path.write_bytes(path.read_bytes().replace(b"PER", b"ORG"))
    assert "was changed after this step made it" in message(TEN) and b"ORG" in path.read_bytes()


def test_dev_and_test_of_an_earlier_run_do_not_stay_behind(home):
    prepare(TEN, dev_share=0.2)
    prepare(TEN)
    assert set(files()) == {"labels.txt", "train_1000.jsonl", "train_1000.manifest.json"}


def test_an_order_of_labels_chosen_by_a_person_stays(home):
    content = "a B-A\nb B-C\nc B-B\n"
    prepare(content)
    assert Path("sets/d/labels.txt").read_bytes() == b"O\nA\nB\nC\n"
    put("sets/d/labels.txt", "O\nC\nA\nB\n")
    prepare(content)
    assert Path("sets/d/labels.txt").read_bytes() == b"O\nC\nA\nB\n"
    prepare("a B-A\nb B-C\n")
    assert Path("sets/d/labels.txt").read_bytes() == b"O\nA\nC\n"


def test_broken_labels_are_made_anew(home):
    prepare(TEN)
    put("sets/d/labels.txt", "PER\n")
    prepare(TEN)
    assert Path("sets/d/labels.txt").read_bytes() == b"O\nPER\n"


def test_an_error_leaves_the_data_set_as_it_was(home):
    prepare(TEN)
    before = files()
    for content in ("broken\n", "a O\n", b"\xff\n"):
        message(content)
        assert files() == before


def test_runs_made_from_older_data_are_named(home):
    prepare(TEN)
    paths = RunPaths(Path("sets"), "d", "GLM4")
    publisher = Publisher(paths, "s4_split_data", {}, [paths.train], "python syn_pipelines/s4_split_data.py --file_name=d")
    path = paths.sized(250, "train_{n}")
    publisher.publish(path, write_jsonl(path, [])[1], {})
    assert prepare(TEN).warnings == []
    assert "Renew with: python syn_pipelines/s4_split_data.py" in prepare(TEN, size=5).warnings[-1]


def test_two_at_the_same_time_do_not_mix_their_files(home):
    prepare(TEN)
    with lock(RunPaths(Path("sets"), "d", ".").journals, "s0_prepare_data"):
        assert "right now" in message(TEN)


# --- calls ---------------------------------------------------------------------------------------------------------

def test_as_a_function_it_never_looks_at_the_command_line(home, monkeypatch, caplog):
    monkeypatch.setattr(sys, "argv", ["x", "--help"])
    with caplog.at_level(logging.INFO):
        summary = prepare(TEN)
    assert summary.step == "s0_prepare_data" and summary.outputs["sets/d/train_1000.jsonl"] == 10
    assert json.dumps(summary.as_dict()) and "10" in summary._repr_html_()


def test_what_the_system_refuses_is_a_user_error_too(home):
    put("sets", "a file where the folder of the data sets belongs")
    assert "Not a directory" in message(TEN) and Path("sets").is_file()


@pytest.mark.parametrize("flags, words", [
    ([], ["--train is needed"]), (["--train=in.txt"], ["--file_name", "''"]),
    (["--train=in.txt", "--file_name=../../etc"], ["--file_name", "'../../etc'"]),
    (["--train=none.txt", "--file_name=d"], ["none.txt: does not exist"]),
    (["--train=.", "--file_name=d"], ["cannot be read"]),
    (["--train=in.txt", "--file_name=d", "--format=xml"], ["--format", "'xml'", "auto, columns, weibo, json"]),
    (["--train=in.txt", "--file_name=d", "--dev_share=0.6"], ["--dev_share", "between 0 and 0.5"]),
    (["--train=in.txt", "--file_name=d", "--size=some"], ["--size", "'some'"]),
    (["--train=in.txt", "--file_name=d", "--tset=x"], ["'--tset'", "did you mean '--test'?"]),
    (["--train=bad.txt", "--file_name=d"], ["bad.txt:2: needs a token and a tag"]),
])
def test_a_mistake_ends_the_script_with_exit_2_and_one_line(home, flags, words):
    put("in.txt", TEN)
    put("bad.txt", "a B-X\nb\n")
    done = call("--file_dir=sets", *flags, cwd=home)
    assert (done.returncode, done.stdout) == (2, "") and all(word in done.stderr for word in words), done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and not Path("sets").exists()


def test_the_script_tells_what_it_read_and_wrote(home):
    put("in.txt", TEN)
    done = call("--file_dir=sets", "--file_name=d", "--train=in.txt", "--seed=3", "--drop_leaks", "--no-overwrite", cwd=home)
    assert done.returncode == 0
    assert "10 training sentences = 8 written + 1 cut off for dev + 1 cut off for test" in done.stderr
    assert "train: 8 sentences, 8 entities" in done.stderr and "4 files in sets/d" in done.stderr
    assert done.stderr.count("Traceback") == 0
