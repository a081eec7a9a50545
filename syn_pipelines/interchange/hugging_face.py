"""Hugging Face: a folder that ``datasets.load_dataset(folder)`` reads as it is, and that can be uploaded as it is.

    README.md                      the card; its head names the files and the features
    data/train.jsonl (dev, test)   a line a sentence

JSON lines and not Parquet: they can be written one by one, read by eye, and need no library here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from syn_pipelines.interchange.flat import flattened, tags_of
from syn_pipelines.interchange.folder import Folder
from syn_pipelines.interchange.found import Found, Mark, identity_of, spans_of, tokens_of
from syn_pipelines.interchange.json_files import rows_of
from syn_pipelines.interchange.material import Item, Material
from syn_pipelines.utils.jsonl import Problems, to_line
from syn_pipelines.utils.packing import form_there
from syn_pipelines.utils.records import short

SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def write(folder: Folder, material: Material, format: str) -> dict[str, Counter[str]]:
    """All splits; the card is the caller's. Returns the spans that ``ner_tags`` cannot hold, by split and reason."""
    numbers = {tag: n for n, tag in enumerate(tag_names(material))}
    left_out: dict[str, Counter[str]] = {}
    for split in material.files:
        left_out[split] = Counter()
        with folder.file(f"data/{SPLITS[split]}.jsonl") as file:
            for item in material.items(split):
                file.write(to_line(row_of(item, material, numbers, left_out[split])))
    return left_out


def tag_names(material: Material) -> list[str]:
    """The names of ``ner_tags`` by number."""
    return ["O", *(f"{letter}-{label}" for label in material.labels for letter in "BI")]


def row_of(item: Item, material: Material, numbers: Mapping[str, int], left_out: Counter[str]) -> dict[str, Any]:
    """A line: all spans in ``entities``, one label a token in ``ner_tags``."""
    layout = material.layout(item)
    entities = []
    for start, end, label in item.spans:
        at, to = layout.outside(start, end)
        kind = "target" if label in material.targets else "extension"
        entities.append({"start": start, "end": end, "label": label, "kind": kind, "start_char": at, "end_char": to,
                         "text": layout.shown(at, to)})
    flat = flattened(item.spans, material.targets, left_out)
    return {"id": item.id, "text": layout.text, "tokens": item.tokens, "entities": entities,
            "ner_tags": [numbers[tag] for tag in tags_of(len(item.tokens), flat, "bio")],
            "synthetic": item.synthetic, "source_id": item.source_id}


def features(material: Material) -> list[dict[str, Any]]:
    """The columns, as the head of a card names them."""
    names = {str(number): name for number, name in enumerate(tag_names(material))}
    entity = {"start": "int32", "end": "int32", "label": "string", "kind": "string", "start_char": "int32", "end_char": "int32",
              "text": "string"}
    return [
        {"name": "id", "dtype": "string"}, {"name": "text", "dtype": "string"}, {"name": "tokens", "sequence": "string"},
        {"name": "entities", "list": [{"name": name, "dtype": kind} for name, kind in entity.items()]},
        {"name": "ner_tags", "sequence": {"class_label": {"names": names}}},
        {"name": "synthetic", "dtype": "bool"}, {"name": "source_id", "dtype": "string"},
    ]


def read(path: Path, problems: Problems) -> Iterator[Found]:
    """Lines of a data file, or of the training file of a folder; the text of every entity is checked."""
    file = form_there(path / "data" / f"{SPLITS['train']}.jsonl") if path.is_dir() else path
    for line, row in rows_of(file, problems):
        try:
            yield _found(line, row)
        except ValueError as err:
            problems.add(line, str(err))


def _found(line: int, row: Mapping[str, Any]) -> Found:
    text, tokens, entities = row.get("text"), tokens_of(row.get("tokens")), row.get("entities")
    if not isinstance(entities, list) or not all(isinstance(entity, Mapping) for entity in entities):
        raise ValueError(f"'entities' must be a list of objects, got {short(entities)}.")
    if not isinstance(text, str):
        raise ValueError(f"'text' must be a text, got {short(text)}.")
    marks = [Mark(e.get("start_char"), e.get("end_char"), e.get("label"), e["text"] if isinstance(e.get("text"), str) else None)
             for e in entities]
    return Found(line, identity_of(row.get("id"), line), marks, text, tokens, spans_of(row.get("exported")),
                 synthetic=row.get("synthetic") is True, source_id=identity_of(row.get("source_id")))
