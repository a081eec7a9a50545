"""A backend that cannot lie: it answers from a script, fails on an unknown request, and keeps what it was asked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from syn_pipelines.utils.llm import Reply, Request

# Five English sentences: two alike, two without entities.
TOY = [
    ("Alice visited Paris .", [(0, 1, "PER"), (2, 3, "LOC")]),
    ("Nothing happened here today .", []),
    ("Bob works for Acme in London .", [(0, 1, "PER"), (3, 4, "ORG"), (5, 6, "LOC")]),
    ("Alice visited Paris .", [(0, 1, "PER"), (2, 3, "LOC")]),
    ("The weather was fine again .", []),
]

# Replies to them by request id: annotations; first and second explanations; annotations with some of no use.
NONE_FOUND = "[]"
FINE = {"1": '[{"entity": "Alice", "type": "PERSON"}]', "2": NONE_FOUND, "3": '[{"entity": "Acme", "type": "Firma "}]',
        "4": NONE_FOUND, "5": NONE_FOUND}
WRITTEN = {
    "1#1": "Alice is a teacher from Lyon. Paris was her first stop of the year.",
    "3#1": "Acme sells tools to farmers. Bob keeps their books in order.",
    "4#1": "Paris is where Alice studied once. She still has many friends in that city.",
}
MORE = {
    "1#2": "Her friends call Alice a traveller. They met her near the old station.",
    "3#2": "London is a long ride from home for Bob.",
    "4#2": "Alice took the night train to get there.",
}
BAD = {**FINE, "2": "I cannot do that.", "3": Reply("3", "", "error", error="timeout: 30 s"),
       "4": Reply("4", "", "too_long", error="900 of 512 tokens")}


class ScriptedBackend:
    """Answers by request id; a list holds the answers of the first, second, ... time of asking.

    fail_after: raises RuntimeError once so many replies were given. backwards: replies in reverse order, after reading
    all requests.
    """

    name = "scripted"

    def __init__(self, answers: Mapping[str, str | Reply | list], *, model: str = "answers-1",
                 fail_after: int | None = None, backwards: bool = False) -> None:
        self.answers, self.model, self.fail_after, self.backwards = answers, model, fail_after, backwards
        self.asked: list[Request] = []
        self.checked = 0

    @property
    def asked_ids(self) -> list[str]:
        return [request.id for request in self.asked]

    def check(self) -> None:
        self.checked += 1

    def count_tokens(self, text: str) -> int:
        return len(text)

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        for request in reversed(list(requests)) if self.backwards else requests:
            if self.fail_after is not None and len(self.asked) >= self.fail_after:
                raise RuntimeError("scripted failure")
            answer = self.answers[request.id]
            if isinstance(answer, list):
                answer = answer[min(self.asked_ids.count(request.id), len(answer) - 1)]
            self.asked.append(request)
            yield answer if isinstance(answer, Reply) else Reply(request.id, answer)


def write_data_set(folder: Path, sentences: Iterable[tuple] = TOY, name: str = "toy") -> Path:
    """A data set of (text, [(start, end, label)], id or nothing) in ``folder``; returns its own folder."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "labels.txt").write_text("O\nPER\nLOC\nORG\n", encoding="utf-8")
    rows = []
    for text, spans, *identity in sentences:
        tokens = text.split(" ")
        entities = [{"start": s, "end": e, "entity": label, "text": tokens[s:e]} for s, e, label in spans]
        rows.append({**({"id": identity[0]} if identity else {}), "text": tokens, "entities": entities})
    write_rows(folder / name / "train_1000.jsonl", rows)
    return folder / name


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def call(step, folder, **flags):
    return step.main(cmd_args=False, file_dir=str(folder.parent), file_name=folder.name, save_type_name="run", **flags)


def rows_of(folder, name="entity_train_1000"):
    return read_rows(folder / "run" / f"{name}.jsonl")


def manifest_of(folder, name="entity_train_1000"):
    return json.loads((folder / "run" / f"{name}.manifest.json").read_text(encoding="utf-8"))


def journal_of(folder, name="entity_train_1000"):
    return folder / "run" / ".journal" / f"{name}.jsonl"


def asked_lines(folder, name="entity_train_1000"):
    return [row["id"] for row in read_rows(journal_of(folder, name))[1:]]
