"""A small run with hostile sentences for the tests of export and import, and what the tools make of an export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from pipeline import HARD_TOKENS, write_rows

from syn_pipelines.utils.fusion import as_entity

TARGETS = ["PER", "LOC/GPE", "ORG.NAM"]
EXTENSION = ["PERSON", "NOUN", "<b>&amp;\"'"]
SENTENCES = [
    (["我", "👩\u200d👩\u200d👧", "在", "北", "京", "大", "学", "😀"],
     [(3, 7, "ORG.NAM"), (3, 5, "LOC/GPE"), (3, 7, "NOUN"), (3, 7, "PERSON"), (2, 4, "NOUN"), (7, 8, "NOUN")]),
    (["e\u0301", "\r\n", "  ", "a  b", "\u2028", "𠮷", "<script>alert(1)</script>", "|", "\u202e"],
     [(0, 1, "PER"), (1, 3, "NOUN"), (3, 4, "PER"), (5, 7, "ORG.NAM"), (6, 7, "NOUN")]),
    (["-DOCSTART-", "O", "\ufeff", "\x00"], []),
    (["哈", "哈"], [(0, 1, "PER"), (1, 2, "PER"), (0, 2, "PERSON"), (0, 2, "PERSON")]),
]


def record(number: int, tokens: list[str], spans: list[tuple[int, int, str]], **more: Any) -> dict[str, Any]:
    """A row of a run: targets first, as step 5 puts them."""
    ordered = sorted(spans, key=lambda span: span[2] not in TARGETS)
    return {"id": f"{number} #", "text": tokens, "entities": [as_entity(tokens, (s, e), label) for s, e, label in ordered], **more}


def write_run(file_dir: Path, sentences: list[tuple[list[str], list[tuple[int, int, str]]]] = SENTENCES, *, name: str = "demo",
              synthetic: int = 1) -> Path:
    """A data set and a run whose final training set holds these sentences, the last of them synthetic."""
    folder, run = file_dir / name, file_dir / name / "try"
    rows = [record(n, *sentence) for n, sentence in enumerate(sentences)]
    for row in rows[len(rows) - synthetic:]:
        row.update(synthetic=True, source_id="0 #")
    gold = [{**row, "entities": [e for e in row["entities"] if e["entity"] in TARGETS]} for row in rows if not row.get("synthetic")]
    write_rows(folder / "train_1000.jsonl", gold or [record(0, ["a"], [])])
    (folder / "labels.txt").write_text("\n".join(["O", *TARGETS]) + "\n", encoding="utf-8")
    write_rows(run / "1000" / "train_1000_syn_fusion.jsonl", rows)
    labels = {label: {"idx": n, "count": -1, "is_target": label not in EXTENSION} for n, label in enumerate(["O", *TARGETS, *EXTENSION])}
    (run / "label_syn_fusion.json").write_text(json.dumps(labels), encoding="utf-8")
    return run


@st.composite
def sentences(draw: st.DrawFn) -> list[tuple[list[str], list[tuple[int, int, str]]]]:
    """One to three sentences of hostile tokens with spans that nest, cross and repeat."""
    result = []
    for _ in range(draw(st.integers(1, 3))):
        token = st.one_of(st.sampled_from(HARD_TOKENS), st.text(min_size=1, max_size=3))
        tokens = draw(st.lists(token, min_size=1, max_size=7))
        edge = st.integers(0, len(tokens) - 1)
        span = st.builds(lambda a, b, label: (min(a, b), max(a, b) + 1, label), edge, edge, st.sampled_from(TARGETS + EXTENSION))
        result.append((tokens, draw(st.lists(span, max_size=6))))
    return result


def spans_of(row: dict[str, Any]) -> list[tuple[int, int, str]]:
    """The spans of a record, each once."""
    return sorted({(e["start"], e["end"], e["entity"]) for e in row["entities"]})


def dump(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def annotated_tasks(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Label Studio's JSON after somebody has submitted every prediction as it is."""
    return [{"id": number, "data": task["data"], "predictions": [],
             "annotations": [{"id": number, "was_cancelled": False, "updated_at": "2024-01-01T00:00:00Z",
                              "result": task["predictions"][0]["result"]}]} for number, task in enumerate(tasks, 1)]
