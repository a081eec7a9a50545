"""Files of predicted entities: one line a sentence, ``{"id", "text", "entities", "predicted"}``, gold beside predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from syn_pipelines.ner.data import Entity
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.fusion import as_entity
from syn_pipelines.utils.jsonl import Problems, read_objects, write_jsonl
from syn_pipelines.utils.records import Record, problems_of_entities, read_sentences, short


def spans_of(entities: Sequence[dict[str, Any]]) -> list[Entity]:
    """Entity records as (start, end, label)."""
    return [(e["start"], e["end"], e["entity"]) for e in entities]


def save_predictions(path: Path, rows: Sequence[Record], predicted: Sequence[Sequence[Entity]]) -> int:
    """Write the file, complete or not at all. Returns its number of sentences."""
    return write_jsonl(path, _lines(rows, predicted))[0]


def _lines(rows: Sequence[Record], predicted: Sequence[Sequence[Entity]]) -> Iterator[Record]:
    for row, spans in zip(rows, predicted):
        yield {"id": row["id"], "text": row["text"], "entities": row["entities"],
               "predicted": [as_entity(row["text"], (start, end), label) for start, end, label in spans]}


def refuse_foreign(path: Path) -> None:
    """UserError where predictions would take the place of anything else, such as the test set itself."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is a folder or a device. Give --save_predictions the name of a file.")
    if path.exists():
        _, first = next(read_objects(path, Problems(path, "Give --save_predictions another name.")), (0, {}))
        if "predicted" not in first:
            raise UserError(f"{path}: exists and holds no predictions. Give --save_predictions another name.")


def read_predictions(path: Path, rows: Sequence[Record], source: Path, advice: str) -> list[list[Entity]]:
    """The predicted entities of each of ``rows``, in their order; the gold entities of the file are not looked at.

    Args:
        source: the file that ``rows`` come from, for messages. advice: how to make the predictions.
    Raises:
        UserError: not such a file, or made on other sentences.
    """
    found: dict[str, Record] = {}
    for row in read_sentences(path, missing=advice, advice=advice):
        problems = problems_of_entities(row.get("predicted"), row["text"], key="predicted")
        if problems:
            raise UserError(f"{path}: sentence {short(row['id'])}, predicted: {problems[0]} {advice}")
        found[row["id"]] = row
    absent = sum(row["id"] not in found or found[row["id"]]["text"] != row["text"] for row in rows)
    if absent or len(found) != len(rows):
        raise UserError(f"{path}: its {len(found):,} sentences are not the {len(rows):,} of {source} as it is now "
                        f"({absent:,} of these are missing). {advice}")
    return [spans_of(found[row["id"]]["predicted"]) for row in rows]
