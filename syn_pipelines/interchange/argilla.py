"""Argilla 2: a folder for ``rg.Dataset.from_disk``; or settings and records apart, with ``rg.Settings.from_json`` and
``dataset.records.from_json``.

The spans are suggestions; a submitted response was made by a person. Offsets count code points, as its server checks them;
its page counts UTF-16 code units, so in sentences with characters beyond U+FFFF it shows suggestions shifted, and what is
drawn there counts otherwise than what was sent.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from syn_pipelines.interchange.folder import Folder
from syn_pipelines.interchange.found import (
    DONE,
    NOT_DONE,
    Found,
    Mark,
    identity_of,
    spans_of,
    tokens_of,
)
from syn_pipelines.interchange.json_files import rows_of, write_list, write_value
from syn_pipelines.interchange.material import TRAIN, Item, Material
from syn_pipelines.utils.jsonl import Problems
from syn_pipelines.utils.packing import form_there
from syn_pipelines.utils.records import short

FIELD, QUESTION = "text", "spans"
MIN_VISIBLE = 3  # of the labels, says its model


def write(folder: Folder, material: Material, format: str) -> dict[str, Counter[str]]:
    """Data set, settings and records, as ``Dataset.to_disk`` lays them out."""
    name = "".join(char if char.isascii() and char.isalnum() else "_" for char in material.name)
    with folder.file(".argilla/dataset.json") as file:
        write_value(file, {"name": name, "status": "draft"})
    with folder.file(".argilla/settings.json") as file:
        write_value(file, settings(material.labels))
    with folder.file("records.json") as file:
        write_list(file, (record(item, material) for item in material.items(TRAIN)), ascii_only=True)
    return {}


def settings(labels: list[str]) -> dict[str, Any]:
    """One text, one question about its spans, which may nest; ``synthetic`` to filter by."""
    return {
        "guidelines": None, "allow_extra_metadata": True, "distribution": {"strategy": "overlap", "min_submitted": 1},
        "mapping": None, "vectors": [],
        "fields": [{"name": FIELD, "title": "Sentence", "required": True, "settings": {"type": "text", "use_markdown": False}}],
        "questions": [{"name": QUESTION, "title": "Entities", "required": True, "settings": {
            "type": "span", "field": FIELD, "allow_overlapping": True,
            "visible_options": len(labels) if len(labels) >= MIN_VISIBLE else None,
            "options": [{"value": label, "text": label} for label in labels]}}],
        "metadata": [{"name": "synthetic", "title": "synthetic", "visible_for_annotators": True,
                      "settings": {"type": "terms", "visible_for_annotators": True, "values": ["true", "false"]}}],
    }


def record(item: Item, material: Material) -> dict[str, Any]:
    """A record with its spans as a suggestion. Metadata hold plain texts only, so lists are written as JSON."""
    layout = material.layout(item)
    value = [dict(zip(("start", "end", "label"), (*layout.outside(start, end), label))) for start, end, label in item.spans]
    carried = item.carried()
    return {"id": item.id, "fields": {FIELD: layout.text},
            "metadata": {"synthetic": "true" if item.synthetic else "false", "source_id": item.source_id,
                         **{key: json.dumps(carried[key], ensure_ascii=False) for key in ("tokens", "exported")}},
            "suggestions": {QUESTION: {"value": value, "score": None, "agent": f"{material.kind}_{material.size}"}},
            "responses": {}, "vectors": {}, "status": "pending", "_server_id": None}


def read(path: Path, problems: Problems) -> Iterator[Found]:
    """Records as ``dataset.records.to_json`` or ``Dataset.to_disk`` write them (then: the folder, or its records.json)."""
    for line, row in rows_of(form_there(path / "records.json") if path.is_dir() else path, problems):
        try:
            yield _found(line, row)
        except ValueError as err:
            problems.add(line, str(err))


def _found(line: int, row: Mapping[str, Any]) -> Found:
    fields, metadata, responses = (row.get(key) or {} for key in ("fields", "metadata", "responses"))
    if not all(isinstance(part, Mapping) for part in (fields, metadata, responses)):
        raise ValueError("'fields', 'metadata' and 'responses' must be objects.")
    text, given = fields.get(FIELD), responses.get(QUESTION) or []
    if not isinstance(text, str):
        raise ValueError(f"'fields' must hold the text as {FIELD!r}, got {short(text)}.")
    if responses and QUESTION not in responses:
        raise ValueError(f"its responses are to {short(next(iter(responses)))}, not to {QUESTION!r}. Name the question as it was exported.")
    if not isinstance(given, list) or not all(isinstance(response, Mapping) for response in given):
        raise ValueError(f"the responses to {QUESTION!r} must be a list of objects.")
    given = [response for response in given if response.get("status", "submitted") == "submitted"]
    is_done = bool(given) and row.get("status") in (None, "completed")
    return Found(line, identity_of(row.get("id"), line), _marks(given[-1].get("value")) if is_done else [], text,
                 tokens_of(_loaded(metadata.get("tokens"))), spans_of(_loaded(metadata.get("exported"))),
                 DONE if is_done else NOT_DONE, metadata.get("synthetic") in ("true", True),
                 identity_of(metadata.get("source_id")))


def _loaded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError(f"the metadata of the record are not as they were exported: {short(value)}.") from None


def _marks(value: Any) -> list[Mark]:
    if not isinstance(value, list) or not all(isinstance(span, Mapping) for span in value):
        raise ValueError(f"a response must be a list of spans, got {short(value)}.")
    return [Mark(span.get("start"), span.get("end"), span.get("label")) for span in value]
