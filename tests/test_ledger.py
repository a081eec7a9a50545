"""The ledger: a run that nobody touched adds up whatever became of it; whatever is changed in a file is found."""

from __future__ import annotations

import dataclasses
import importlib
import json
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from child import run_child
from fault_server import Fault, FaultServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pipeline import HARD_TOKENS, quick_writes, read_rows, run_step, write_rows, write_run  # noqa: F401 (a fixture)
from scripted import write_data_set
from workspace import make_workspace

from syn_pipelines import s1_predict_data as s1
from syn_pipelines import s2_continous_generation as s2
from syn_pipelines import s3_predict_syn_data as s3
from syn_pipelines import s4_split_data as s4
from syn_pipelines import s5_merge_data as s5
from syn_pipelines import s6_combine_syn_fusion_label as s6
from syn_pipelines import s8_process_label_and_combine as s8
from syn_pipelines.tools import ledger
from syn_pipelines.utils.decisions import GOLD, REVIEW, DecisionLog, text_hash
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import file_hash, write_jsonl
from syn_pipelines.utils.manifest import Publisher
from syn_pipelines.utils.paths import SIZES, RunPaths, manifest_path

ASKING = [(s1, {"mode": "entity"}), (s1, {"mode": "pos"}), (s2, {}), (s3, {"mode": "entity"}), (s3, {"mode": "pos"})]
MERGING = [(s4, {}), (s5, {}), (s6, {})]


@dataclasses.dataclass
class Run:
    """A run in a folder of its own."""

    file_dir: Path
    name: str = "toy"
    save: str = "GLM4"

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.file_dir, self.name, self.save)

    @property
    def flags(self) -> dict[str, str]:
        return {"file_dir": str(self.file_dir), "file_name": self.name, "save_type_name": self.save}

    def step(self, module: Any, **flags: Any) -> None:
        module.main(cmd_args=False, **self.flags, **flags)

    def ask(self, **flags: Any) -> None:
        """Steps 1 to 3."""
        for module, mode in ASKING:
            self.step(module, **mode, **{"backend": "offline", **flags})

    def merge(self) -> None:
        """Steps 4 to 6."""
        for module, flags in MERGING:
            self.step(module, **flags)

    def label(self) -> None:
        """Step 7 without a model: the first two tokens of every other synthetic sentence are an entity."""
        label = self.paths.labels.read_text(encoding="utf-8").split()[1]
        for size in SIZES:
            source, output = self.paths.sized(size, "train_{n}_synthetic"), self.paths.sized(size, "train_{n}_synthetic_target")
            rows = [{**row, "entities": [{"start": 0, "end": 2, "entity": label, "text": row["text"][:2]}] if n % 2 else []}
                    for n, row in enumerate(read_rows(source))]
            _, digest = write_jsonl(output, rows)
            publisher = Publisher(self.paths, "s7_pred_syn_data", {}, [source], "python syn_pipelines/s7_pred_syn_data.py")
            publisher.publish(output, digest, {"sentences": len(rows), "entities": sum(len(r["entities"]) for r in rows)})

    def train(self) -> None:
        """The manifest of a training of size 250, beside a file that stands for its weights."""
        source, weights = self.paths.sized(250, "train_{n}_fusion"), self.paths.ner("fusion", 250) / "model.safetensors"
        weights.parent.mkdir(parents=True)
        weights.write_bytes(b"weights")
        publisher = Publisher(self.paths, "train_ner", {"train": "fusion", "size": 250}, [source, self.paths.split("dev")],
                              "python syn_pipelines/train_ner.py --size=250")
        publisher.publish(weights, file_hash(weights) or "", {
            "sentences": len(read_rows(source)), "dev_sentences": len(read_rows(self.paths.split("dev"))), "steps": 2})

    def look(self, **flags: Any) -> Any:
        return ledger.main(cmd_args=False, **self.flags, **flags)

    def copy(self, folder: Path) -> Run:
        shutil.copytree(self.file_dir, folder / "data")
        return dataclasses.replace(self, file_dir=folder / "data")


def new_run(folder: Path, sample: str = "sample_zh", train: int = 24) -> Run:
    return Run(make_workspace(folder, data_set=sample, name="toy", train=train, held_out=4) / "data" / "few_shot")


def whole_run(folder: Path, sample: str, train: int = 24) -> Run:
    run = new_run(folder, sample, train)
    run.ask()
    run.merge()
    run.train()
    run.label()
    run.step(s8)
    return run


@pytest.fixture(scope="module", params=["sample_zh", "sample_en"])
def either(request, tmp_path_factory) -> Run:
    return whole_run(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    return whole_run(tmp_path_factory.mktemp("whole"), "sample_zh", train=12)


def assert_balanced(run: Run) -> Any:
    result = run.look()
    assert result.balanced, str(result)
    return result


def lines_of(result: Any, step: str) -> dict[str, dict[str, Any]]:
    """The accounts of a step by what they count."""
    return {line["what"]: line for line in result.as_dict()["steps"] if line["step"] == step}


# --- what was not touched adds up ----------------------------------------------------------------------------------

def test_a_whole_run_is_balanced_and_every_line_adds_up(either):
    content = assert_balanced(either).as_dict()
    assert content["balanced"] is True and content["problems"] == [] and content["notes"] == []
    assert {line["step"].split()[0] for line in content["steps"]} == {"data", "s1", "s2", "s3", "s4", "s5", "train", "s7", "s8"}
    assert all(sum(line["parts"].values()) == line["total"] for line in content["steps"])
    assert json.loads(json.dumps(content)) == content


def test_the_numbers_of_one_step_go_on_in_the_next(either):
    result = assert_balanced(either)
    rows = read_rows(either.paths.train)
    gold = sum(len(row["entities"]) for row in rows)
    assert lines_of(result, "s1 entity")["sentences"]["total"] == len(rows)
    items = lines_of(result, "s1 pos")["things listed in the replies"]["parts"]["items of ok replies"]
    assert lines_of(result, "s5 1000")["pos items of original sentences"]["total"] == items > 0
    entities = lines_of(result, "s5 1000")["entities in train_1000_fusion.jsonl"]["parts"]
    assert entities["gold"] == gold == lines_of(result, "s8 1000")["gold entities"]["parts"]["unchanged"]
    spans = lines_of(result, "s5 1000")["spans of the placed items, original"]["parts"]["extension spans"]
    assert spans == entities["extension spans"] == lines_of(result, "s5 1000")["spans counted in label_fusion.json"]["total"]
    published = lines_of(result, "s2")["pieces of the explanations"]["parts"]["published"]
    assert published == lines_of(result, "s3 entity")["sentences"]["total"]
    assert lines_of(result, "s8 1000")["sentences"]["parts"] == {"synthetic": published, "original": len(rows)}


def test_what_a_run_has_not_come_to_is_not_there_yet_and_no_imbalance(tmp_path):
    run = new_run(tmp_path, train=8)
    run.step(s1, mode="entity", backend="offline")
    assert "s1 pos" in "".join(assert_balanced(run).as_dict()["notes"])
    for module, flags in ASKING[1:]:
        run.step(module, **flags, backend="offline")
        assert_balanced(run)
    for module, flags in MERGING:
        run.step(module, **flags)
        result = assert_balanced(run)
    assert "s7: " in str(result) and "s7_pred_syn_data.py" in str(result) and "not there yet" in str(result)
    run.label()
    assert "s8: " in str(assert_balanced(run))
    run.step(s8)
    assert assert_balanced(run).as_dict()["notes"] == []


def test_what_was_not_asked_yet_is_told_and_no_imbalance(tmp_path):
    run = new_run(tmp_path)
    run.ask(limit=5)
    run.merge()
    result = assert_balanced(run)
    assert lines_of(result, "s1 entity")["sentences"]["parts"]["not asked yet"] == 24 - 5
    assert lines_of(result, "s2")["explanations"]["parts"]["not asked yet"] > 0
    run.ask()
    run.merge()
    assert lines_of(assert_balanced(run), "s1 entity")["sentences"]["parts"]["not asked yet"] == 0


def test_a_file_made_before_its_input_grew_is_named_with_the_command_that_renews_it(tmp_path):
    run = new_run(tmp_path, train=8)
    run.ask(limit=3)
    run.merge()
    run.step(s1, mode="entity", backend="offline")
    result = run.look()
    assert not result.balanced
    found = {problem.file: problem for problem in result.book.problems if "out of date" in problem.problem}
    assert "s4_split_data.py" in found[str(run.paths.sized(250, "entity_train_{n}"))].mend


@pytest.mark.parametrize(("step", "flags"), ASKING)
def test_a_step_killed_in_the_middle_is_no_imbalance(tmp_path, step, flags):
    run = new_run(tmp_path)
    for module, mode in ASKING[:ASKING.index((step, flags))]:
        run.step(module, **mode, backend="offline")
    output = {s1: f"{flags.get('mode')}_train_1000", s2: "train_1000_synthetic", s3: f"{flags.get('mode')}_train_1000_synthetic"}
    journal = run.paths.journals / f"{output[step]}.jsonl"
    run.step(step, **flags, backend="offline")
    lines = journal.read_bytes().split(b"\n")
    for path in run.paths.run.glob(f"{output[step]}.*"):
        path.unlink()
    journal.write_bytes(b"\n".join(lines[:4]) + b"\n" + lines[4][:9])  # what a kill leaves: whole lines and a torn one
    notes = " ".join(assert_balanced(run).as_dict()["notes"])
    assert "not there yet" in notes and f"{journal}:5" in notes
    run.step(step, **flags, backend="offline")
    assert_balanced(run)


def test_a_kill_between_a_file_and_its_manifest_is_no_imbalance(tmp_path):
    run = new_run(tmp_path, train=8)
    run.ask(limit=3)
    manifest = manifest_path(run.paths.annotation("entity", False))
    before = manifest.read_bytes()
    run.step(s1, mode="entity", backend="offline")
    manifest.write_bytes(before)
    assert "newer than its manifest" in str(assert_balanced(run))
    manifest.unlink()
    assert "without a manifest" in str(assert_balanced(run))


def test_a_kill_in_step_8_between_a_merged_file_and_its_manifest_is_no_imbalance(tmp_path):
    run = new_run(tmp_path, train=8)
    run.ask()
    run.merge()
    run.label()
    before = {path: path.read_bytes() for path in run.paths.run.rglob("*") if path.is_file()}
    run.step(s8)
    merged = [run.paths.sized(size, "train_{n}_synthetic_fusion") for size in (250, 500)]
    for path in [path for path in run.paths.run.rglob("*") if path.is_file()]:
        if path in (*merged, manifest_path(merged[0])):
            assert path.read_bytes() != before.get(path)
        elif path in before:
            path.write_bytes(before[path])
        else:
            path.unlink()
    assert "newer than its manifest" in str(assert_balanced(run))


def test_a_process_killed_for_real_leaves_a_run_that_is_balanced(tmp_path):
    run = new_run(tmp_path, "sample_en", train=80)
    journal = run.paths.journals / "entity_train_1000.jsonl"
    command = [sys.executable, "-m", "syn_pipelines.s1_predict_data", "--backend=offline",
               *(f"--{name}={value}" for name, value in run.flags.items())]
    process = subprocess.Popen(command, cwd=Path(ledger.__file__).parents[2], stderr=subprocess.DEVNULL)
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 5):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert_balanced(run)
    run.step(s1, mode="entity", backend="offline")
    assert lines_of(assert_balanced(run), "s1 entity")["sentences"]["parts"]["ok"] == 80


def test_replies_that_are_stored_but_not_published_are_told_and_no_imbalance(tmp_path):
    run = new_run(tmp_path, train=8)
    run.ask(limit=3)
    before = {path: path.read_bytes() for path in run.paths.run.glob("*.*") if path.is_file() and "log" not in path.name}
    run.ask()
    for path, content in before.items():  # the replies came, then a kill
        path.write_bytes(content)
    result = assert_balanced(run)
    assert lines_of(result, "s1 entity")["sentences"]["parts"]["answered, not published yet"] == 5
    assert lines_of(result, "s2")["pieces of the explanations"]["parts"]["kept, not published yet"] > 0
    assert "newer than" in str(result)


def test_a_run_without_journals_and_manifests_is_compared_with_its_own_rows(tmp_path):
    folder = write_run(tmp_path)
    run = Run(tmp_path, "demo")
    for module, flags in MERGING:
        run.step(module, **flags)
    for name in ("entity_train_1000", "pos_train_1000_synthetic"):  # what a person wrote has no reply
        rows = read_rows(folder / f"{name}.jsonl")
        write_rows(folder / f"{name}.jsonl", [{**row, "reply": json.dumps(row["items"], ensure_ascii=False)} for row in rows])
    content = run.look().as_dict()
    assert any("no replies are stored" in note for note in content["notes"])
    assert not any("from nowhere" in problem["problem"] for problem in content["problems"])


def test_two_runs_of_a_data_set_do_not_disturb_each_other(tmp_path):
    first = new_run(tmp_path, train=8)
    second = dataclasses.replace(first, save="other")
    first.ask()
    second.ask(limit=2)
    first.merge()
    assert_balanced(first)
    second.merge()
    assert_balanced(second)
    rows = read_rows(second.paths.annotation("pos", False))
    write_rows(second.paths.annotation("pos", False), rows[1:])
    assert_balanced(first)
    assert not second.look().balanced


def test_several_samples_of_a_sentence_add_up_and_so_do_fewer_than_were_asked_for(tmp_path):
    run = new_run(tmp_path, "sample_en", train=10)
    run.step(s2, backend="offline", num_samples=2)
    asked = lines_of(assert_balanced(run), "s2")
    assert asked["explanations"]["total"] == 2 * asked["sentences"]["parts"]["with entities"] > 0
    run.step(s2, backend="offline", num_samples=1)
    again = lines_of(assert_balanced(run), "s2")
    assert again["stored replies"]["parts"]["no longer asked about"] == again["explanations"]["total"]


def test_odd_tokens_and_ids_are_no_imbalance(tmp_path):
    ids = ['quo"te', "a#1", "b-s7", "名 字", "\\u0041", "x' y", "<b>", "👩\u200d👧"]
    rows = [{"id": name, "text": [*HARD_TOKENS[n * 5:n * 5 + 6], "went", "home", "again"], "entities":
             [{"start": 0, "end": 2, "entity": "PER", "text": HARD_TOKENS[n * 5:n * 5 + 2]}]} for n, name in enumerate(ids)]
    folder = write_data_set(tmp_path)
    write_rows(folder / "train_1000.jsonl", rows)
    run = Run(tmp_path)
    run.ask(dense_lang="0", lang="en")
    run.merge()
    assert_balanced(run)
    for name in ids:
        assert run.look(id=name).as_dict()["questions"][0]["prompt"], name


def test_data_without_entities_and_a_single_sentence_add_up(tmp_path):
    for name, sentences in (("empty", [("Nothing happened here today .", []), ("The sun is up .", [])]),
                            ("single", [("Alice visited Paris .", [(0, 1, "PER"), (2, 3, "LOC")])])):
        write_data_set(tmp_path, sentences, name)
        run = Run(tmp_path, name)
        run.ask()
        run.merge()
        run.label()
        run.step(s8)
        assert_balanced(run)


def test_a_merge_with_its_own_label_map_and_prefix_is_compared_with_that_map(tmp_path):
    own = tmp_path / "map.json"
    own.write_text(json.dumps({"THING": ["person", "PERSON"], "OTHER": []}), encoding="utf-8")
    write_data_set(tmp_path)
    run = Run(tmp_path)
    run.ask()
    run.step(s4)
    run.step(s5, label_prefix="X_", entity_label=str(own))
    assert_balanced(run)
    assert "X_THING" in str(run.look(id="1"))
    own.unlink()
    result = run.look()
    assert not result.balanced and "map.json has changed" in str(result) and "not there any more" in str(result)


ODD = ['[{"entity": "Paris", "type": "city"}, {"entity": "Paris", "type": "city"}]', '```json\n[{"name": "Ann", "label": "PERSON"},]\n```',
       "I cannot do that.", '[{"entity": "Atlantis", "type": "city"}, {"entity": "nn we", "type": "person"}]', "[]",
       '[{"entity": "Rome", "type": "Stadt "}, {"entity": 7}, {"entity": "Ann", "type": "per', '{"city": ["Oslo"]}', "<think>hm"]


def test_failed_and_rejected_replies_add_up_and_asking_again_does_too(tmp_path):
    pytest.importorskip("openai", reason="needs the package openai (see requirements.txt)")
    places = "Paris Rome Oslo Bern Lima Cairo".split()
    write_data_set(tmp_path, [(f"Ann went to {place} on day {n} .", [(0, 1, "PER"), (3, 4, "LOC")] if n % 4 else [])
                              for n, place in enumerate(places * 3)])
    run = Run(tmp_path)

    def answer(body: Any) -> str:
        text = body["messages"][-1]["content"]
        draw = random.Random(text)
        if "went to" in text and draw.random() < 0.4:
            return "Ann came home late that day. Nobody saw her in the town again. " * draw.randint(1, 2)
        return draw.choice(ODD)

    def faults(number: int, body: Any) -> Fault | None:
        return Fault(400, "no") if number % 7 == 3 else None

    with FaultServer(answer=answer, faults=faults) as server:
        flags = {"backend": "openai", "base_url": server.url, "model_from_pretrained": "tiny", "constraint": "none"}
        for module, mode in ASKING:
            run.step(module, **mode, **{k: v for k, v in flags.items() if module is not s2 or k != "constraint"})
        run.merge()
        result = assert_balanced(run)
        parts = lines_of(result, "s1 entity")["sentences"]
        assert parts["parts"]["rejected"] and parts["parts"]["failed"] and parts["parts"]["repaired"] and parts["reasons"]
        assert lines_of(result, "s5 1000")["entity items of original sentences"]["parts"]["not placed"]
        server.faults = lambda number, body: None
        run.step(s1, mode="entity", **flags, retry_failed=True)
        run.step(s2, **{k: v for k, v in flags.items() if k != "constraint"}, retry_failed=True)
        for module, mode in ASKING[3:]:
            run.step(module, **mode, **flags)
        run.merge()
        result = assert_balanced(run)
    assert lines_of(result, "s1 entity")["sentences"]["parts"]["failed"] == 0
    assert lines_of(result, "s1 entity")["stored replies"]["parts"]["replaced by a later one"] > 0


# --- whatever is changed is found ----------------------------------------------------------------------------------

Change = Callable[[list[dict[str, Any]], random.Random], None]


def _row(rows: list[dict[str, Any]], draw: random.Random, key: str = "") -> dict[str, Any]:
    return draw.choice([row for row in rows if not key or row.get(key)])


def delete_row(rows: list[dict[str, Any]], draw: random.Random) -> None:
    del rows[draw.randrange(len(rows))]


def duplicate_row(rows: list[dict[str, Any]], draw: random.Random) -> None:
    at = draw.randrange(len(rows))
    rows.insert(draw.choice([at, len(rows)]), rows[at])


def swap_rows(rows: list[dict[str, Any]], draw: random.Random) -> None:
    at = draw.randrange(len(rows) - 1)
    rows[at], rows[at + 1] = rows[at + 1], rows[at]


def rename_row(rows: list[dict[str, Any]], draw: random.Random) -> None:
    row = _row(rows, draw)
    row["id"] = draw.choice(["9999", "1-s999", ""])


def change_text(rows: list[dict[str, Any]], draw: random.Random) -> None:
    row = _row(rows, draw)
    at = draw.randrange(len(row["text"]))
    row["text"][at] = "X" if row["text"][at] != "X" else "Y"


def change_offset(rows: list[dict[str, Any]], draw: random.Random) -> None:
    row = _row(rows, draw, "entities")
    entity = draw.choice(row["entities"])
    entity["start"], entity["end"] = (0, 1) if (entity["start"], entity["end"]) != (0, 1) else (1, 2)
    entity["text"] = row["text"][entity["start"]:entity["end"]]


def change_label(rows: list[dict[str, Any]], draw: random.Random) -> None:
    entity = draw.choice(_row(rows, draw, "entities")["entities"])
    entity["entity"] = "LOC.NAM" if entity["entity"] != "LOC.NAM" else "PER.NAM"


def drop_entity(rows: list[dict[str, Any]], draw: random.Random) -> None:
    entities = _row(rows, draw, "entities")["entities"]
    del entities[draw.randrange(len(entities))]


def add_entity(rows: list[dict[str, Any]], draw: random.Random) -> None:
    row = _row(rows, draw)
    row["entities"].append({"start": 0, "end": len(row["text"]), "entity": "PER.NAM", "text": row["text"]})


def drop_item(rows: list[dict[str, Any]], draw: random.Random) -> None:
    items = _row(rows, draw, "items")["items"]
    del items[draw.randrange(len(items))]


def change_item(rows: list[dict[str, Any]], draw: random.Random) -> None:
    item = draw.choice(_row(rows, draw, "items")["items"])
    item[draw.choice(sorted(item))] = "X"


def change_status(rows: list[dict[str, Any]], draw: random.Random) -> None:
    row = _row(rows, draw)
    row["status"] = "repaired" if row["status"] == "ok" else "ok"


def change_reply(rows: list[dict[str, Any]], draw: random.Random) -> None:
    _row(rows, draw)["reply"] += " "


def change_source(rows: list[dict[str, Any]], draw: random.Random) -> None:
    row = _row(rows, draw, "source_id")
    row["source_id"] = next(other["source_id"] for other in rows if other["source_id"] != row["source_id"])


ROWS = [delete_row, duplicate_row, swap_rows, rename_row, change_text]
ENTITIES = [*ROWS, change_offset, change_label, drop_entity, add_entity]
ITEMS = [*ROWS, drop_item, change_item, change_status, change_reply]
SYNTHETIC = [*ROWS, change_source]


def changes_of(name: str) -> list[Change]:
    """What can be done to a file of rows."""
    if Path(name).name.startswith(("entity_", "pos_")):
        return ITEMS
    return [*SYNTHETIC, add_entity] if name.endswith("_synthetic.jsonl") else ENTITIES


FILES = ["../train_1000.jsonl", "entity_train_1000.jsonl", "pos_train_1000.jsonl", "train_1000_synthetic.jsonl",
         "entity_train_1000_synthetic.jsonl", "pos_train_1000_synthetic.jsonl",
         *(f"{n}/{name.format(n=n)}.jsonl" for n in SIZES for name in (
             "train_{n}", "entity_train_{n}", "pos_train_{n}", "train_{n}_synthetic", "entity_train_{n}_synthetic",
             "pos_train_{n}_synthetic", "train_{n}_fusion", "train_{n}_synthetic_fusion", "train_{n}_synthetic_target",
             "train_{n}_syn_fusion"))]


def test_the_list_of_files_is_that_of_a_whole_run(whole):
    run = whole.paths.run
    found = {str(path.relative_to(run)) for path in run.rglob("*.jsonl") if ".journal" not in path.parts}
    assert found - {"run.log.jsonl"} == set(FILES) - {"../train_1000.jsonl"}


def seal(run: Run, path: Path) -> None:
    """Make every checksum agree with a changed file, as somebody would who hides a change."""
    old = None
    if manifest_path(path).is_file():
        content = json.loads(manifest_path(path).read_text(encoding="utf-8"))
        old, content["sha256"] = content["sha256"], file_hash(path)
        manifest_path(path).write_text(json.dumps(content), encoding="utf-8")
    for other in run.paths.dataset.rglob("*.manifest.json"):
        content = json.loads(other.read_text(encoding="utf-8"))
        for name, sha256 in content["inputs"].items():
            if sha256 == old or (run.paths.run / name).resolve() == path.resolve():
                content["inputs"][name] = file_hash(path)
        other.write_text(json.dumps(content), encoding="utf-8")


def found_in(run: Run, name: str) -> str:
    """What the ledger says of a changed run; it names the file."""
    result = run.look()
    assert not result.balanced, f"not found: {name}"
    said = [str(problem) for problem in result.book.problems]
    assert any(Path(name).stem.removesuffix(".manifest") in text for text in said), said
    assert all(p.mend for p in result.book.problems if Path(p.file) != run.paths.train), said
    return "\n".join(said)


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(("500/", "1000/")) or "syn_fusion" in name])
def test_any_change_of_any_file_is_found_even_when_all_checksums_agree(whole, tmp_path_factory, name):
    run = whole.copy(tmp_path_factory.mktemp("changed"))
    path = (run.paths.run / name).resolve()
    original, draw = path.read_bytes(), random.Random(name)
    manifests = {p: p.read_bytes() for p in run.paths.dataset.rglob("*.manifest.json")}
    for change in changes_of(name):
        rows = [json.loads(line) for line in original.splitlines()]
        change(rows, draw)
        write_rows(path, rows)
        assert path.read_bytes() != original, change.__name__
        seal(run, path)
        found_in(run, name if name != "../train_1000.jsonl" else "train_")
        path.write_bytes(original)
        for manifest, content in manifests.items():
            manifest.write_bytes(content)
    assert_balanced(run)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES[1:]), pick=st.integers(0, 8), seed=st.integers(0, 2**32), sealed=st.booleans())
def test_any_change_at_any_place_is_found(whole, tmp_path_factory, name, pick, seed, sealed):
    run = whole.copy(tmp_path_factory.mktemp("drawn"))
    path, changes = run.paths.run / name, changes_of(name)
    rows = read_rows(path)
    changes[pick % len(changes)](rows, random.Random(seed))
    write_rows(path, rows)
    if sealed:
        seal(run, path)
    found_in(run, name)
    shutil.rmtree(run.file_dir)


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def test_every_manifest_is_held_to_its_file(whole, tmp_path):
    run = whole.copy(tmp_path)
    for path in sorted(run.paths.run.rglob("*.manifest.json")):
        if path.parent.name in ("500", "1000"):  # of the kinds that the smallest size has, too
            continue
        before, content = path.read_bytes(), json.loads(path.read_text(encoding="utf-8"))
        numbers = [name for name, value in content["counts"].items() if isinstance(value, int) and name != "steps"]
        for name in numbers:
            edit(path, lambda c, name=name: c["counts"].update({name: c["counts"][name] + 1}))
            assert name in found_in(run, path.name)
            path.write_bytes(before)
        for change in (lambda c: c.update(complete=not c["complete"]), lambda c: c.update(sha256="0" * 64),
                       lambda c: c["inputs"].update({next(iter(c["inputs"])): "0" * 64})):
            edit(path, change)
            found_in(run, path.name)
            path.write_bytes(before)
        path.write_bytes(before[:40])
        found_in(run, path.name)
        path.unlink()
        if "model" not in path.name and path.name != "label_syn_fusion.manifest.json":  # others were made from its file
            found_in(run, path.name)
        path.write_bytes(before)
    assert_balanced(run)


@pytest.mark.parametrize("kind", ["fusion", "synthetic_fusion", "syn_fusion"])
def test_label_files_are_held_to_the_spans_in_the_data(whole, tmp_path, kind):
    run = whole.copy(tmp_path)
    path = run.paths.label_file(kind)
    before = path.read_bytes()
    last = list(json.loads(before))[-1]
    for change in (lambda c: c[last].update(count=c[last]["count"] + 1), lambda c: c.pop(last),
                   lambda c: c[last].update(is_target=True), lambda c: c.update(NEW={"idx": len(c), "count": 1, "is_target": False}),
                   lambda c: c["O"].update(idx=5)):
        edit(path, change)
        seal(run, path)
        assert f"{path}" in found_in(run, path.name)
        path.write_bytes(before)
        seal(run, path)


@pytest.mark.parametrize("name", [*FILES[1:6], "250/train_250.jsonl", "500/pos_train_500_synthetic.jsonl", "250/train_250_fusion.jsonl",
                                  "1000/train_1000_synthetic_fusion.jsonl", "500/train_500_syn_fusion.jsonl", "label_fusion.json",
                                  "label_syn_fusion.json", "250/train_250_fusion.manifest.json", "entity_train_1000.manifest.json",
                                  ".journal/entity_train_1000.jsonl"])
def test_the_commands_it_names_mend_what_was_changed(whole, tmp_path, name):
    run = whole.copy(tmp_path)
    path, before = run.paths.run / name, (run.paths.run / name).read_bytes()
    if path.suffix == ".jsonl":
        change_lines(path, lambda lines: lines.pop(2))
    else:
        edit(path, lambda content: content.get("counts", content).popitem())
    result = run.look()
    assert not result.balanced
    for _ in range(4):
        if result.balanced:
            break
        words = shlex.split(result.book.problems[0].mend)
        script = importlib.import_module(f"syn_pipelines.{Path(words[1]).stem}")
        script.main([word for word in words[2:] if not word.startswith("--file_dir")] + [f"--file_dir={run.file_dir}"])
        result = run.look()
    assert result.balanced, str(result)
    assert path.suffix != ".jsonl" or ".journal" in name or path.read_bytes() == before


def change_lines(path: Path, change: Callable[[list[bytes]], None]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize("name", ["entity_train_1000", "pos_train_1000", "train_1000_synthetic", "entity_train_1000_synthetic",
                                  "pos_train_1000_synthetic"])
def test_journals_are_held_to_what_was_published(whole, tmp_path, name):
    run = whole.copy(tmp_path)
    path = run.paths.journals / f"{name}.jsonl"
    before = path.read_bytes()

    def other(line: bytes, **new: str) -> bytes:
        return json.dumps({**json.loads(line), **new}, ensure_ascii=False).encode() + b"\n"

    last = json.loads(before.splitlines()[-1])["id"]
    changes: dict[str, Callable[[list[bytes]], Any]] = {
        "dropped": lambda lines: lines.pop(3),
        "another reply": lambda lines: lines.__setitem__(3, other(lines[3], text="[]")),
        "cut": lambda lines: lines.__setitem__(3, lines[3][:30] + b"\n"),
        "no object": lambda lines: lines.__setitem__(3, b"[]\n"),
        "swapped": lambda lines: lines.__setitem__(3, other(lines[3], id=last)),
        "nowhere": lambda lines: lines.append(other(lines[3], id="no such sentence")),
        "subject": lambda lines: lines.__setitem__(3, other(lines[3], sentence="0" * 16)),
        "settings": lambda lines: lines.__setitem__(0, lines[0].replace(b"offline-v1", b"offline-v2")),
    }
    for how, change in changes.items():
        change_lines(path, change)
        text = found_in(run, name)
        assert f"{path}:4" in text or how not in ("cut", "no object", "subject"), text
        assert "is about another sentence" in text or how != "subject", text
        path.write_bytes(before)
    path.unlink()
    assert str(path) in found_in(run, name)
    path.write_bytes(before)
    assert_balanced(run)


def test_rows_exchanged_between_two_sizes_are_found_in_both(whole, tmp_path):
    run = whole.copy(tmp_path)
    small, large = (run.paths.sized(size, "train_{n}_fusion") for size in (250, 500))
    rows, more = read_rows(small), read_rows(large)
    outside = next(row for row in more if row["id"] not in {r["id"] for r in rows})
    rows[0] = outside
    write_rows(small, rows)
    seal(run, small)
    text = found_in(run, small.name)
    assert "comes from nowhere" in text and "is missing" in text


@pytest.mark.parametrize("name", ["train_{n}_fusion", "train_{n}_synthetic_fusion", "train_{n}_syn_fusion", "pos_train_{n}"])
def test_a_row_put_behind_the_last_one_is_found_where_it_stands(whole, tmp_path, name):
    run = whole.copy(tmp_path)
    path = run.paths.sized(500, name)
    rows = read_rows(path)
    write_rows(path, [*rows, rows[0]])
    assert f"{path}:{len(rows) + 1}: id" in found_in(run, path.name)


def renamed(key: str) -> Callable[[dict[str, Any]], None]:
    """Another file in one place of present.json."""
    def change(content: dict[str, Any]) -> None:
        entry = next(iter(content.values()))
        entry[key] = entry[key].replace("toy", "another")
    return change


@pytest.mark.parametrize(("name", "change"), [
    *(("present.json", renamed(key)) for key in ("train", "labels", "dev", "test")),
    ("present.json", lambda content: content.update(another=next(iter(content.values())))),
    ("present.json", lambda content: content.popitem()),
    ("unmapped_labels.json", lambda content: content["gold"].append({"mode": "pos"})),
])
def test_the_other_files_are_held_to_the_run(whole, tmp_path, name, change):
    run = whole.copy(tmp_path)
    path = run.paths.run / name
    before = path.read_bytes()
    edit(path, change)
    found_in(run, name)
    for text in (b"{", b"[]"):
        path.write_bytes(text)
        found_in(run, name)
    path.write_bytes(before)
    assert_balanced(run)


def test_a_file_that_was_taken_away_is_found(whole, tmp_path):
    for name in ("entity_train_1000.jsonl", "500/train_500.jsonl", "250/train_250_fusion.jsonl", "label_fusion.json",
                 "1000/train_1000_syn_fusion.jsonl", "train_1000_synthetic.jsonl"):
        run = whole.copy(tmp_path / Path(name).stem)
        (run.paths.run / name).unlink()
        found_in(run, name)
        shutil.rmtree(run.file_dir)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"[]\n" * 30, b'{"id": "1"}\n', b'{"id": 1, "text": "x", "items": 3}\n',
                                     b'{"id": ["1"], "text": [], "entities": {}}\n', b"[" * 2000 + b"\n", b""])
def test_files_of_garbage_are_findings_and_never_a_traceback(whole, tmp_path, content):
    for name in (*FILES[1:6], "250/train_250.jsonl", "250/entity_train_250.jsonl", "250/train_250_synthetic_fusion.jsonl",
                 "1000/train_1000_syn_fusion.jsonl", "label_fusion.json", ".journal/entity_train_1000.jsonl",
                 ".journal/train_1000_synthetic.jsonl", "250/train_250.manifest.json"):
        run = whole.copy(tmp_path / "garbage")
        (run.paths.run / name).write_bytes(content)
        assert not run.look().balanced, name
        shutil.rmtree(run.file_dir)


# --- one sentence ---------------------------------------------------------------------------------------------------

def test_the_story_of_a_sentence_holds_prompt_reply_items_and_files(either):
    row = next({"id": str(n), **row} for n, row in enumerate(read_rows(either.paths.train), 1) if row["entities"])
    story = either.look(id=row["id"])
    content = story.as_dict()
    assert content["text"] == row["text"] and content["entities"] == row["entities"]
    for mode, question in zip(("entity", "pos"), content["questions"]):
        published = next(r for r in read_rows(either.paths.annotation(mode, False)) if r["id"] == row["id"])
        assert question["prompt"] and question["replies"][-1]["text"] == published["reply"]
        assert [{k: v for k, v in i.items() if k in ("entity", "type", "word", "pos")} for i in question["items"]] == published["items"]
    final = next(r for r in read_rows(either.paths.sized(1000, "train_{n}_syn_fusion")) if r["id"] == row["id"])
    assert content["final_entities"] == final["entities"]
    landed = [span for question in content["questions"] for item in question["items"] for span in item["spans"]]
    assert {json.dumps(e) for e in final["entities"][len(row["entities"]):]} == {json.dumps(span) for span in landed}
    for place in content["files"]:
        assert json.loads(Path(place["file"]).read_text(encoding="utf-8").split("\n")[place["line"] - 1])["id"] == row["id"]
    pieces = [piece["id"] for answer in content["explanations"] for piece in answer["pieces"] if piece["status"] == "kept"]
    assert pieces == [r["id"] for r in read_rows(either.paths.synthetic) if r["source_id"] == row["id"]]
    assert f"s1 entity  {row['id']}: ok" in str(story)


def test_the_story_of_a_synthetic_sentence_says_where_it_comes_from(whole):
    row = read_rows(whole.paths.synthetic)[-1]
    content = whole.look(id=row["id"]).as_dict()
    assert (content["kind"], content["source_id"], content["text"]) == ("synthetic", row["source_id"], row["text"])
    assert [question["step"] for question in content["questions"]] == ["s3 entity", "s3 pos"]
    assert any(piece["id"] == row["id"] and piece["status"] == "kept" for a in content["explanations"] for piece in a["pieces"])


def test_a_prompt_that_was_another_one_is_not_shown(whole, tmp_path):
    run = whole.copy(tmp_path)
    change_lines(run.paths.journals / "entity_train_1000.jsonl", lambda lines: lines.__setitem__(
        1, lines[1].replace(b'"asked": "', b'"asked": "0')))
    story = run.look(id="1")
    assert story.as_dict()["questions"][0]["prompt"] is None and "not stored" in str(story)


@pytest.mark.parametrize("identity", ["nobody", "99999", "1-s77", "../1", "\u202e"])
def test_an_unknown_id_is_bad_input_with_ids_that_are_near(whole, identity):
    with pytest.raises(UserError, match="no sentence has the id .*near"):
        whole.look(id=identity)


# --- the command ----------------------------------------------------------------------------------------------------

def test_the_command_tells_by_its_exit_code_and_prints_one_json_line(whole, tmp_path):
    run = whole.copy(tmp_path)
    flags = {**run.flags, "json": 1}
    result = run_step("tools.ledger", **flags)
    assert result.returncode == 0 and json.loads(result.stdout)["balanced"] is True
    path = run.paths.sized(500, "train_{n}_fusion")
    write_rows(path, read_rows(path)[1:])
    result = run_step("tools.ledger", **run.flags)
    assert result.returncode == 1 and str(path) in result.stdout and "mend: python syn_pipelines/" in result.stdout
    for wrong in ({"save_type_name": "none"}, {"file_name": "none"}, {"id": "none"}):
        result = run_step("tools.ledger", **{**run.flags, **wrong})
        assert result.returncode == 2 and result.stderr.startswith("error: ") and "Traceback" not in result.stderr


def test_looking_changes_nothing(whole):
    def state() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in whole.file_dir.rglob("*")}

    before = state()
    whole.look()
    whole.look(id="1")
    assert state() == before


# --- decisions of people ---------------------------------------------------------------------------------------------

def decide(run: Run, name: str, rows: list[dict[str, Any]]) -> None:
    """Append to review.jsonl or gold_corrections.jsonl: each row says where and what, of a merged row."""
    with DecisionLog(run.paths.run / name) as log:
        log.append_all([{"id": row["id"], "text_sha256": text_hash(row["text"]), "kind": "gold" if name == GOLD else "extension",
                         **more} for row, more in rows])


def about(entity: dict[str, Any], decision: str, **to: Any) -> dict[str, Any]:
    span = {"start": entity["start"], "end": entity["end"], "label": entity["entity"]}
    return {**span, "decision": decision, **({"to": {**span, **to}} if to else {})}


def review(run: Run) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Decisions of every kind; the original, the synthetic and the corrected sentence they are about."""
    targets = set(run.paths.labels.read_text(encoding="utf-8").split())
    merged, synthetic = (read_rows(run.paths.sized(1000, f"train_{{n}}_{kind}fusion")) for kind in ("", "synthetic_"))
    original = next(r for r in merged if r["entities"] and sum(e["entity"] not in targets for e in r["entities"]) > 2)
    made = next(r for r in synthetic if r["entities"][0]["entity"] in targets)
    corrected = next(r for r in merged if r["entities"] and r["entities"][0]["entity"] in targets and r is not original)
    first, second, third = [e for e in original["entities"] if e["entity"] not in targets][:3]
    decide(run, REVIEW, [
        (original, about(first, "reject")), (original, about(second, "relabel", label="OTHER")), (original, about(third, "accept")),
        (original, {"start": 0, "end": 2, "label": "NAMED_EVENT", "decision": "add"}),
        (original, {"start": 0, "end": 1, "label": "OTHER", "decision": "add"}),
        (original, {"start": 0, "end": 1, "label": "OTHER", "decision": "undo"}),
        (made, about(made["entities"][0], "resize", end=made["entities"][0]["end"] + 1)), (original, {"decision": "done"}),
        ({**made, "text": ["x"]}, about(first, "reject")), (original, about(original["entities"][0], "reject"))])
    decide(run, GOLD, [(corrected, about(corrected["entities"][0], "reject"))])
    return original, made, corrected


@pytest.fixture(scope="module", params=[False, True], ids=["gold stays", "gold corrected"])
def reviewed(request, whole, tmp_path_factory) -> Run:
    run = whole.copy(tmp_path_factory.mktemp("reviewed"))
    review(run)
    run.step(s8, apply_gold_review=request.param)
    run.step(s4)  # nothing of it
    run.label()
    run.step(s8, apply_gold_review=request.param)
    shutil.rmtree(run.paths.run / "ner")  # trained on what was merged before
    return run


def test_a_reviewed_run_is_balanced_and_every_decision_is_accounted_for(reviewed):
    found = lines_of(assert_balanced(reviewed), "s5 1000")
    decisions, gold = found["decisions of reviewers"], found["decisions about gold labels"]
    assert decisions["total"] == 7 and decisions["parts"] == {"accepted": 1, "added": 1, "rejected": 1, "relabelled": 1, "resized": 1,
                                                              "without effect": 2}
    assert decisions["reasons"] == {"gold_label": 1, "text_changed": 1}
    made = json.loads(manifest_path(reviewed.paths.sized(1000, "train_{n}_fusion")).read_text(encoding="utf-8"))
    corrected = int(made["settings"].get("apply_gold_review", False))
    assert gold["total"] == 1 and gold["parts"].get("rejected", 0) == corrected
    assert found["gold entities"]["parts"].get("corrected by people", 0) == corrected
    final = lines_of(assert_balanced(reviewed), "s8 1000")["gold entities"]
    assert final["parts"].get("corrected by people", 0) == corrected and final["total"] == found["gold entities"]["total"]


@pytest.mark.parametrize("name", ["1000/train_1000_fusion.jsonl", "1000/train_1000_synthetic_fusion.jsonl",
                                  "1000/train_1000_syn_fusion.jsonl"])
def test_a_changed_entity_of_a_reviewed_sentence_is_found_even_when_all_checksums_agree(reviewed, tmp_path, name):
    run = reviewed.copy(tmp_path)
    path = run.paths.run / name
    before = path.read_bytes()
    manifests = {p: p.read_bytes() for p in run.paths.dataset.rglob("*.manifest.json")}
    decided = {json.loads(line)["id"] for file in (REVIEW, GOLD) for line in (run.paths.run / file).read_bytes().splitlines()}
    for change in (change_offset, change_label, drop_entity, add_entity):
        rows = read_rows(path)
        for row in [row for row in rows if row["id"] in decided and row["entities"]][:2]:
            change([row], random.Random(name))
        write_rows(path, rows)
        seal(run, path)
        found_in(run, name)
        path.write_bytes(before)
        for manifest, content in manifests.items():
            manifest.write_bytes(content)
    assert_balanced(run)


@pytest.mark.parametrize("name", [REVIEW, GOLD])
def test_a_review_that_was_changed_after_the_merge_is_found(reviewed, tmp_path, name):
    run = reviewed.copy(tmp_path)
    path = run.paths.run / name
    before = path.read_bytes()
    first = before[:before.index(b"\n") + 1]
    for content in (before + first, before.removeprefix(first), b"{\n" + before):
        path.write_bytes(content)
        text = str(run.look())
        assert "Not balanced" in text and "s5_merge_data.py" in text and f"{name} has changed" in text, text
        path.write_bytes(before)
    path.unlink()
    assert f"{name} has changed" in str(run.look())


def test_a_review_that_came_after_the_merge_makes_it_out_of_date_and_says_no_more_than_that(whole, tmp_path):
    run = whole.copy(tmp_path)
    review(run)
    problems = run.look().book.problems
    assert problems and all("is out of date: gold_corrections.jsonl, review.jsonl have changed" in p.problem
                            or "is out of date: review.jsonl, gold_corrections.jsonl have changed" in p.problem for p in problems
                            if "more like" not in p.problem), [str(p) for p in problems]


def test_counts_of_decisions_in_a_manifest_are_held_to_the_review(reviewed, tmp_path):
    run = reviewed.copy(tmp_path)
    path = manifest_path(run.paths.sized(1000, "train_{n}_fusion"))
    edit(path, lambda content: content["counts"]["review"]["applied"].update(rejected=9))
    assert "'counts' says review" in found_in(run, path.name)


@pytest.mark.parametrize("flag", [False, True])
def test_a_merge_killed_between_a_file_and_its_manifest_is_out_of_date_and_its_rows_are_not_blamed(whole, tmp_path, flag):
    run = whole.copy(tmp_path)
    review(run)
    killed = run_child("s5_merge_data", {**run.flags, "apply_gold_review": int(flag)},
                       before="at('open', 'train_1000_fusion.manifest.json.part', lambda: send(signal.SIGKILL))")
    assert killed.returncode == -signal.SIGKILL
    said = [p.problem for p in run.look().book.problems if p.file == str(run.paths.sized(1000, "train_{n}_fusion"))]
    assert said and all("out of date" in text or "another sha256" in text for text in said), said
    run.step(s5, apply_gold_review=flag)
    run.label()
    run.step(s8, apply_gold_review=flag)
    shutil.rmtree(run.paths.run / "ner")
    assert_balanced(run)


def test_the_story_of_a_sentence_holds_what_was_decided_about_it(reviewed):
    row = json.loads((reviewed.paths.run / REVIEW).read_bytes().splitlines()[0])
    story = reviewed.look(id=row["id"])
    found = [d for d in story.as_dict()["decisions"] if d["file"].endswith(REVIEW)]
    assert [d["decision"] for d in found] == ["reject", "relabel", "accept", "add", "add", "undo", "done", "reject"]
    assert [d["state"] for d in found] == ["counts"] * 4 + ["taken back or replaced"] * 2 + ["counts"] * 2
    assert f"reject {row['label']} {row['start']}-{row['end']}: counts" in str(story) and f"{REVIEW}:1" in str(story)
    assert reviewed.look(id=read_rows(reviewed.paths.sized(1000, "train_{n}_fusion"))[-1]["id"]).as_dict()["decisions"] == []
