"""Prompt files and their placeholders."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.inventories import load_inventory
from syn_pipelines.utils.prompts import PROMPT_DIR, TASKS, Prompt, load_prompt
from syn_pipelines.utils.replies import parse_reply

LANGUAGES = ("zh", "en", "ja", "ko")
ALL = [(task, lang) for task in TASKS for lang in LANGUAGES]
LABELLING = [pair for pair in ALL if pair[0] != "explain"]
EXAMPLE_FORM = re.compile(
    r"(?:句子|Sentence|文|문장)(?:：|: )(?P<sentence>.+)\n"
    r"(?:输出|Answer|出力|출력)(?:：|: )(?P<answer>.+)",
)
EXAMPLE = re.compile(f"^{EXAMPLE_FORM.pattern}$", re.MULTILINE)


@pytest.mark.parametrize(("task", "lang"), ALL)
def test_every_shipped_prompt_puts_the_sentence_last_and_keeps_it_verbatim(task: str, lang: str):
    prompt = load_prompt(task, lang)
    sentence = 'tab\t "quotes" {{entities}} \\1 \\g<0> 北京 😀'
    before, after = prompt.render(sentence, "E", labels="L").split(sentence)
    assert prompt.name == f"{task}.{lang}.v{2 if task in ('entity', 'pos') else 1}"
    assert prompt.sha256 == hashlib.sha256(prompt.text.encode()).hexdigest()
    assert len(before) > 200 and len(after) < 16
    assert "{{" not in before + after


@pytest.mark.parametrize("lang", LANGUAGES)
def test_explain_prompt_shows_the_entities_one_a_line(lang: str):
    rendered = load_prompt("explain", lang).render("S", "A: first\nB: second")
    assert "\nA: first\nB: second\n" in rendered


def example_of(task: str, lang: str) -> tuple[str, list[dict[str, str]]]:
    """The sentence of the example in a prompt, and the items of its answer."""
    match = EXAMPLE.search(load_prompt(task, lang).text)
    inline = task == "pos_inline"
    parsed = parse_reply(match["answer"], "pos" if inline else task, reply_format="inline" if inline else "json")
    assert parsed.status == "ok"
    return match["sentence"], parsed.items


@pytest.mark.parametrize(("task", "lang"), LABELLING)
def test_the_example_in_a_prompt_is_a_valid_answer_about_its_own_sentence(task: str, lang: str):
    sentence, items = example_of(task, lang)
    if task == "entity":
        assert all(set(item) == {"entity", "type"} and item["entity"] in sentence for item in items)
    else:
        assert all(set(item) == {"word", "pos"} for item in items)
        assert "".join(item["word"] for item in items) == sentence.replace(" ", "")


@pytest.mark.parametrize(("task", "lang"), [pair for pair in LABELLING if pair[0] != "pos_inline"])
def test_json_in_a_prompt_is_written_as_json_dumps_writes_it(task: str, lang: str):
    answer = EXAMPLE.search(load_prompt(task, lang).text)["answer"]
    assert json.dumps(json.loads(answer), ensure_ascii=False) == answer


@pytest.mark.parametrize(("task", "lang"), LABELLING)
def test_the_names_in_an_example_are_among_the_names_the_prompt_offers(task: str, lang: str):
    _, items = example_of(task, lang)
    assert {item.get("type") or item.get("pos") for item in items} <= set(load_inventory(task, lang).labels)


@pytest.mark.parametrize(("task", "lang"), LABELLING)
def test_demonstrations_stand_between_the_shared_instruction_and_the_sentence_in_the_form_of_the_example(task, lang):
    prompt = load_prompt(task, lang)
    shots = [("{{labels}} \\1 S1", "A1"), ("S2", "A2")]
    plain, shown = prompt.render("SENT", labels="L"), prompt.render("SENT", labels="L", shots=shots)
    shared, _, question = plain.rpartition("\n\n")
    assert shown.startswith(shared + "\n\n") and shown.endswith("\n\n" + question)
    middle = shown[len(shared) + 2:-len(question) - 2].split("\n\n")
    found = [EXAMPLE_FORM.fullmatch(text) for text in middle]
    assert [(match["sentence"], match["answer"]) for match in found] == shots


def test_the_text_before_the_first_sentence_is_the_same_for_all_sentences():
    prompt = load_prompt("entity", "zh")
    one, other = (prompt.render(text, labels="L", shots=[("S", "[]")]) for text in ("甲", "乙"))
    assert one.rpartition("甲")[0] == other.rpartition("乙")[0] and "S" in one


@pytest.mark.parametrize("task", TASKS)
def test_english_and_korean_prompts_hold_no_chinese_characters(task: str):
    for lang in ("en", "ko"):
        listed = load_inventory(task, lang).listed(open_labels=True)[1] if task != "explain" else ""
        assert not re.search(r"[\u4e00-\u9fff]", load_prompt(task, lang).text + listed)


def test_the_highest_version_wins_as_a_number(tmp_path: Path):
    for version in (2, 9, 10):
        (tmp_path / f"entity.xx.v{version}.txt").write_text(f"{version} {{{{labels}}}} {{{{sentence}}}}\n", encoding="utf-8")
    (tmp_path / "entity.xx.v11.txt.bak").write_text("not a prompt", encoding="utf-8")
    prompt = load_prompt("entity", "xx", folder=tmp_path)
    assert (prompt.name, prompt.text) == ("entity.xx.v10", "10 {{labels}} {{sentence}}")


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("entity", "{{labels}}\nno place for it\n", r"entity\.xx\.v1\.txt:2: \{\{sentence\}\} is missing"),
        ("pos_inline", "a\n{{sentence}}\n", r"pos_inline\.xx\.v1\.txt:2: \{\{labels\}\} is missing"),
        ("entity", "{{labels}}\n{{sentence}}\n\nAnswer:", r"entity\.xx\.v1\.txt:2: .*last paragraph"),
        ("explain", "a\n{{sentence}}\n", r"explain\.xx\.v1\.txt:2: \{\{entities\}\} is missing"),
        ("pos", "{{sentence}}\n{{sentense}}", r"pos\.xx\.v1\.txt:2: unknown placeholder \{\{sentense\}\}"),
        ("pos", "{{sentence}}\n\n{{sentence}}", r"pos\.xx\.v1\.txt:3: .*second time"),
        ("pos", "{{sentence}} {{entities}}", r"unknown placeholder \{\{entities\}\}"),
    ],
)
def test_wrong_placeholders_are_reported_with_their_line(tmp_path: Path, task: str, text: str, message: str):
    (tmp_path / f"{task}.xx.v1.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_prompt(task, "xx", folder=tmp_path)


def test_a_missing_language_names_those_that_exist():
    with pytest.raises(UserError, match=r"entity\.fr\.v1\.txt.*'fr'.*en, ja, ko, zh"):
        load_prompt("entity", "fr")


def test_a_missing_task_names_the_tasks():
    with pytest.raises(UserError, match=r"'summary'.*entity, pos, pos_inline, explain"):
        load_prompt("summary", "zh")


def test_a_prompt_in_another_encoding_is_named(tmp_path: Path):
    (tmp_path / "pos.xx.v1.txt").write_bytes("句子 {{sentence}}".encode("gbk"))
    with pytest.raises(UserError, match=r"pos\.xx\.v1\.txt:1: not UTF-8"):
        load_prompt("pos", "xx", folder=tmp_path)


def test_there_is_one_prompt_file_for_each_task_and_language():
    assert sorted(path.name for path in PROMPT_DIR.iterdir()) == sorted(f"{load_prompt(t, x).name}.txt" for t, x in ALL)


@given(st.text(), st.text())
def test_rendering_inserts_both_values_once_and_as_they_are(sentence: str, entities: str):
    prompt = Prompt("explain.xx.v1", "a {{entities}} b {{sentence}} c", "")
    assert prompt.render(sentence, entities) == f"a {entities} b {sentence} c"
