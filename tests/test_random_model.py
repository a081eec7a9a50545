"""A model that knows nothing: whatever it says, each reply parses and all of it stands in the sentence.

The replies are read here by ``json.loads`` and plain string work, not by the project's own parser.
"""

from __future__ import annotations

import json
import shlex

import pytest

torch = pytest.importorskip("torch")

from pipeline import SHARED_DATA  # noqa: E402
from scripted import read_rows  # noqa: E402
from tiny_models import build_tiny_model  # noqa: E402
from workspace import ROOT, shell  # noqa: E402

SAMPLES = ROOT / "data" / "few_shot"
DATA = {  # name: (file for step 0, or None for a sample; sentences)
    "sample_zh": (None, 40), "sample_en": (None, 40),
    "weibo": (SHARED_DATA / "weibo" / "weiboNER_2nd_conll.train", 1000),
    "wikigold": (SHARED_DATA / "wikigold" / "wikigold.conll.txt", 500),
}
ASKED = {"entity": ("entity",), "pos": ("pos",), "pos inline": ("pos", "--reply_format=inline"),
         "entity warm": ("entity", "--temperature=1.0", "--open_labels")}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_tiny_model("qwen2", tmp_path_factory.mktemp("random") / "model", max_position_embeddings=8192)


def script(name: str, *flags: str):
    return shell(shlex.join(["python", f"syn_pipelines/{name}.py", *flags]), ROOT)


def spans(tokens: list[str], dense: bool) -> set[str]:
    """The text of every span of tokens."""
    join = "" if dense else " "
    return {join.join(tokens[i:j]) for i in range(len(tokens)) for j in range(i + 1, len(tokens) + 1)}


def check(reply: str, mode: str, inline: bool, tokens: list[str], dense: bool) -> None:
    """Fail unless the reply is whole and its items are in the sentence."""
    if inline:
        words = [piece.rpartition("/")[0] for piece in reply.split(" ")]
    else:
        items = json.loads(reply)
        words = [item["word" if mode == "pos" else "entity"] for item in items]
        assert all(set(item) == ({"word", "pos"} if mode == "pos" else {"entity", "type"}) for item in items)
        assert all(item["pos" if mode == "pos" else "type"] for item in items)
    if mode == "entity":
        assert set(words) <= spans(tokens, dense)
    elif dense:
        assert "".join(words) == "".join("".join(tokens).split())
    else:
        assert words == tokens


def data_set(name: str, folder, count: int):
    """A data folder with the first sentences of a data set."""
    source, *_ = DATA[name]
    if source is None:
        (folder / name).mkdir()
        lines = (SAMPLES / name / "train_1000.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / name / "train_1000.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    elif source.is_file():
        result = script("s0_prepare_data", f"--file_dir={folder}", f"--file_name={name}", f"--train={source}")
        assert result.returncode == 0, result.stderr
    else:
        pytest.skip(f"{source} is not there")
    return folder


def ask(name: str, what: str, count: int, folder, model) -> None:
    mode, *flags = ASKED[what]
    dense = "zh" in name or name == "weibo"
    data_set(name, folder, count)
    result = script("s1_predict_data", f"--file_dir={folder}", f"--file_name={name}", "--save_type_name=run",
                        f"--model_from_pretrained={model}", f"--mode={mode}", f"--limit={count}", "--batch_size=32",
                        *flags)
    assert result.returncode == 0, result.stderr
    rows = read_rows(folder / name / "run" / f"{mode}_train_1000.jsonl")
    assert len(rows) == count and {row["status"] for row in rows} == {"ok"}
    for row in rows:
        check(row["reply"], mode, "inline" in what, row["text"], dense)
    journal = read_rows(folder / name / "run" / ".journal" / f"{mode}_train_1000.jsonl")[1:]
    assert {(entry["decoded"], entry["finish_reason"]) for entry in journal} == {("grammar", "stop")}


@pytest.mark.parametrize("what", ASKED)
@pytest.mark.parametrize("name", [
    "sample_zh", "sample_en", *(pytest.param(name, marks=pytest.mark.slow) for name in ("weibo", "wikigold"))])
def test_every_reply_parses_and_all_of_it_is_in_the_sentence(name, what, tmp_path, model):
    ask(name, what, DATA[name][1], tmp_path, model)


def test_without_a_grammar_the_same_model_writes_nothing_of_use(tmp_path, model):
    data_set("sample_zh", tmp_path, 12)
    result = script("s1_predict_data", f"--file_dir={tmp_path}", "--file_name=sample_zh", "--save_type_name=run",
                        f"--model_from_pretrained={model}", "--constraint=none")
    assert result.returncode == 0, result.stderr
    rows = read_rows(tmp_path / "sample_zh" / "run" / "entity_train_1000.jsonl")
    assert len(rows) == 12 and not any(row["status"] == "ok" for row in rows)
