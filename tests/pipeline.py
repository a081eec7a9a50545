"""A small run with annotations written by hand, and the real scripts as commands on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"  # real data sets, where the machine has them
NAME = "demo"

# What has moved offsets in other programs: characters that grow or vanish when folded, tokens of blanks or of several
# code points, line ends that are no line ends, broken bytes, emoji put together, marks without a letter.
HARD_TOKENS = ["a", "b", "A", "ab", "İ", "i", "ß", "SS", "é", "e\u0301", "\u0301", "\u0323", "ﬁ", "ｆｉ", "Å", "각", "ᄀ",
               "\ufffd", "\ufffd\ufffd", "👩\u200d👩\u200d👧", "👩", "\u200d", "\ufe0f", " ", "\u3000", "\u2028", "\x85",
               "\t", "a b", " a", "b ", "“", '"', "「", "｢", "'", "`", "\u1fef", "´", "½", "…", "\\", "\\n", "北", "京", "北京",
               "𝐀", "Σ", "ς", "\x00", "{", "]", "null"]
tokens_of_any_kind = st.lists(st.one_of(st.sampled_from(HARD_TOKENS), st.text(min_size=1, max_size=3)), min_size=1,
                              max_size=9)

TEXTS = ("张三在北京工作", "李四去了上海", "今天天气很好", "王五和张三在上海", "北京北京你好", "我爱吃苹果", "小明住在广州", "广州下雨了",
         "赵六来自成都", "周末想去成都玩", "哈哈哈太好了", "小红在杭州上学")
NAMES = {"张三": "PER", "李四": "PER", "王五": "PER", "小明": "PER", "赵六": "PER", "小红": "PER",
         "北京": "LOC", "上海": "LOC", "广州": "LOC", "成都": "LOC", "杭州": "LOC"}


@pytest.fixture(autouse=True)
def quick_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the modules that import it: files need not survive a power cut, which takes two thirds of a step's time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def sentence(text: str, **more: Any) -> dict[str, Any]:
    """A record whose names are its entities, each at its first place."""
    entities = [{"start": text.index(name), "end": text.index(name) + len(name), "entity": label, "text": list(name)}
                for name, label in NAMES.items() if name in text]
    return {**more, "text": list(text), "entities": sorted(entities, key=lambda e: e["start"])}


def annotation(row: dict[str, Any], mode: str, *, status: str = "ok", items: list[dict[str, str]] | None = None) -> dict[str, Any]:
    """What a model is made to have said about a sentence: the names, or every character as a word."""
    text = "".join(row["text"])
    if items is None:
        items = ([{"entity": name, "type": "人名" if label == "PER" else "地名"} for name, label in NAMES.items() if name in text]
                 if mode == "entity" else [{"word": char, "pos": "n"} for char in text])
    if status in ("rejected", "failed"):
        items = []
    return {"id": row["id"], "text": row["text"], "reply": "", "items": items, "status": status, "reason": ""}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def manifest(path: Path) -> dict[str, Any]:
    return read_json(path.with_name(path.stem + ".manifest.json"))


def mark_incomplete(path: Path) -> None:
    """The manifest of a file that a step made of a part of its input (--limit)."""
    path.with_name(path.stem + ".manifest.json").write_text(json.dumps(
        {"step": "s1_predict_data", "file": path.name, "complete": False, "inputs": {}}), encoding="utf-8")


def write_dataset(file_dir: Path, *, name: str = NAME, ids: list[str] | None = None, held_out: bool = False) -> list[dict[str, Any]]:
    """labels.txt and train_1000.jsonl of the twelve sentences (and the same as dev and test); returns them with ids."""
    folder = file_dir / name
    rows = [sentence(text, **({"id": ids[i]} if ids else {})) for i, text in enumerate(TEXTS)]
    write_rows(folder / "train_1000.jsonl", rows)
    for split in ("dev", "test") if held_out else ():
        write_rows(folder / f"{split}.jsonl", rows[:3])
    (folder / "labels.txt").write_text("O\nPER\nLOC\n", encoding="utf-8")
    return [{**row, "id": ids[i] if ids else str(i + 1)} for i, row in enumerate(rows)]


def synthetic_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two synthetic sentences for every sentence with entities, as step 2 writes them (without entities)."""
    return [{"id": f"{row['id']}-s{k}", "text": [*row["text"], *("。又" if k else "。")], "entities": [], "synthetic": True,
             "source_id": row["id"]} for row in rows if row["entities"] for k in (0, 1)]


def write_run(file_dir: Path, *, modes: tuple[str, ...] = ("entity", "pos"), synthetic: bool = True, name: str = NAME,
              ids: list[str] | None = None, held_out: bool = False) -> Path:
    """A data set and what steps 1 to 3 make of it. Returns the run folder."""
    rows = write_dataset(file_dir, name=name, ids=ids, held_out=held_out)
    run = file_dir / name / "GLM4"
    run.mkdir(exist_ok=True)
    made = synthetic_of(rows)
    if synthetic:
        write_rows(run / "train_1000_synthetic.jsonl", made)
    for mode in modes:
        write_rows(run / f"{mode}_train_1000.jsonl", [annotation(row, mode) for row in rows])
        if synthetic:
            write_rows(run / f"{mode}_train_1000_synthetic.jsonl", [annotation(row, mode) for row in made])
    return run


def write_targets(run: Path) -> None:
    """What step 7 writes, made by hand: the synthetic sentences of every size with the entities that a name list finds."""
    for size in (250, 500, 1000):
        rows = read_rows(run / str(size) / f"train_{size}_synthetic.jsonl")
        write_rows(run / str(size) / f"train_{size}_synthetic_target.jsonl",
                   [{**row, "entities": sentence("".join(row["text"]))["entities"]} for row in rows])


def run_step(script: str, **flags: Any) -> subprocess.CompletedProcess[str]:
    """Run a script as a command; ``tools.x`` names a module. A cwd flag sets the working directory."""
    cwd = flags.pop("cwd", ROOT)
    what = ["-m", f"syn_pipelines.{script}"] if "." in script else [str(ROOT / "syn_pipelines" / f"{script}.py")]
    flags = {"file_name": NAME, **flags}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *what, *(f"--{k}={v}" for k, v in flags.items())], cwd=cwd, env=environment,
                          capture_output=True, text=True, timeout=600)


def all_bytes(run: Path) -> dict[str, bytes]:
    """Every file of a run that must not depend on when or how often it was made, manifests included."""
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*"))
            if p.is_file() and not p.name.endswith(".log.jsonl") and ".journal" not in p.parts}
