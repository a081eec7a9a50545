"""Runs of all steps for tests of the ledger, and changes of their files."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import read_rows
from workspace import make_workspace

from syn_pipelines import s1_predict_data as s1
from syn_pipelines import s2_continous_generation as s2
from syn_pipelines import s3_predict_syn_data as s3
from syn_pipelines import s4_split_data as s4
from syn_pipelines import s5_merge_data as s5
from syn_pipelines import s6_combine_syn_fusion_label as s6
from syn_pipelines import s8_process_label_and_combine as s8
from syn_pipelines.tools import ledger
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


def assert_balanced(run: Run) -> Any:
    result = run.look()
    assert result.balanced, str(result)
    return result


def lines_of(result: Any, step: str) -> dict[str, dict[str, Any]]:
    """The accounts of a step by what they count."""
    return {line["what"]: line for line in result.as_dict()["steps"] if line["step"] == step}


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


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def change_lines(path: Path, change: Callable[[list[bytes]], None]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    path.write_bytes(b"".join(lines))


# --- what can be done to a file of rows -------------------------------------------------------------------------------

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


def found_in(run: Run, name: str) -> str:
    """What the ledger says of a changed run; it names the file."""
    result = run.look()
    assert not result.balanced, f"not found: {name}"
    said = [str(problem) for problem in result.book.problems]
    assert any(Path(name).stem.removesuffix(".manifest") in text for text in said), said
    assert all(p.mend for p in result.book.problems if Path(p.file) != run.paths.train), said
    return "\n".join(said)
