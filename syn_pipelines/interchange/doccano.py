"""doccano: one JSON line a sentence, with [start, end, label] lists (import as JSONL, column Text: text, column Label: label).

Its page counts UTF-16 code units unless the project counts grapheme clusters, which no other program does: leave that off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from syn_pipelines.interchange.folder import Folder
from syn_pipelines.interchange.found import Found, Mark, identity_of, spans_of, tokens_of
from syn_pipelines.interchange.json_files import rows_of, write_value
from syn_pipelines.interchange.label_studio import colour
from syn_pipelines.interchange.material import TRAIN, Item, Material
from syn_pipelines.utils.jsonl import Problems, to_line
from syn_pipelines.utils.records import short

SHORTCUTS = "123456789"


def write(folder: Folder, material: Material, format: str) -> dict[str, Counter[str]]:
    """The sentences, and the labels as Labels, Import takes them."""
    with folder.file("labels.json") as file:
        keys = iter(SHORTCUTS)
        write_value(file, [{"text": label, "suffix_key": next(keys, None), "background_color": colour(label),
                            "text_color": "#ffffff"} for label in material.labels])
    with folder.file("train.jsonl") as file:
        for item in material.items(TRAIN):
            file.write(to_line(row_of(item, material)))
    return {}


def row_of(item: Item, material: Material) -> dict[str, Any]:
    """A line. Every line has the same keys, for doccano fills gaps with NaN; ``record_id``, as it has an ``id`` of its own."""
    layout = material.layout(item)
    spans = [[*layout.outside(start, end), label] for start, end, label in item.spans]
    return {"id": item.id, "text": layout.text, "label": spans, "record_id": item.id, **item.carried()}


def read(path: Path, problems: Problems) -> Iterator[Found]:
    """Lines as doccano writes them: spans as lists in ``label``, or as objects in ``entities`` where relations are on."""
    for line, row in rows_of(path, problems):
        try:
            text = row.get("text", row.get("data"))
            if not isinstance(text, str):
                raise ValueError(f"'text' must be the text of the sentence, got {short(text)}.")
            yield Found(line, identity_of(row.get("record_id"), row.get("id"), line), _marks(row), text,
                        tokens_of(row.get("tokens")), spans_of(row.get("exported")), synthetic=row.get("synthetic") is True,
                        source_id=identity_of(row.get("source_id")))
        except ValueError as err:
            problems.add(line, str(err))


def _marks(row: Mapping[str, Any]) -> list[Mark]:
    key = next((key for key in ("entities", "label", "labels") if isinstance(row.get(key), list)), None)
    if key is None:
        raise ValueError("needs the spans as a list, 'label' or 'entities'.")
    marks = []
    for entity in row[key]:
        if isinstance(entity, Mapping):
            marks.append(Mark(entity.get("start_offset"), entity.get("end_offset"), entity.get("label")))
        elif isinstance(entity, list) and len(entity) == 3:
            marks.append(Mark(*entity))
        else:
            raise ValueError(f"'{key}' must hold [start, end, label] lists or objects, got {short(entity)}.")
    return marks


