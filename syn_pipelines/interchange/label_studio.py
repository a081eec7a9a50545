"""Label Studio: tasks.json (Import), and label_config.xml (Settings, Labeling Interface, Code).

All spans are predictions: what comes back as an annotation was made by a person. Offsets count code points, as its page
does since 2022 (it converts from JavaScript's own counting); a file of an older version needs --offsets=utf16.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

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
from syn_pipelines.interchange.json_files import rows_of, write_list
from syn_pipelines.interchange.material import TRAIN, Item, Material
from syn_pipelines.utils.jsonl import Problems
from syn_pipelines.utils.records import short

CONTROL, OBJECT = "label", "text"  # names in the labelling interface


def write(folder: Folder, material: Material, format: str) -> dict[str, Counter[str]]:
    """Tasks and labelling interface."""
    with folder.file("label_config.xml") as file:
        file.write(config(material.labels).encode("utf-8"))
    with folder.file("tasks.json") as file:
        write_list(file, (task(item, material) for item in material.items(TRAIN)))
    return {}


def config(labels: list[str]) -> str:
    """The labelling interface as XML."""
    lines = [f"    <Label value={quoteattr(label)} background={quoteattr(colour(label))}/>" for label in labels]
    return "\n".join(["<View>", f'  <Labels name="{CONTROL}" toName="{OBJECT}" showInline="true">', *lines, "  </Labels>",
                      f'  <Text name="{OBJECT}" value="$text" granularity="symbol"/>', "</View>", ""])


def colour(label: str) -> str:
    """A colour that is always that of this label, dark enough for white letters."""
    return "#" + "".join(f"{64 + byte % 128:02x}" for byte in hashlib.sha256(label.encode()).digest()[:3])


def task(item: Item, material: Material) -> dict[str, Any]:
    """A task with its spans as one prediction. ``record_id``, for in JSON-MIN the tool puts its own number in place of ``id``."""
    layout = material.layout(item)
    result = []
    for number, (start, end, label) in enumerate(item.spans):
        at, to = layout.outside(start, end)
        result.append({"id": f"s{number}", "from_name": CONTROL, "to_name": OBJECT, "type": "labels",
                       "value": {"start": at, "end": to, "text": layout.shown(at, to), "labels": [label]}})
    return {"data": {"text": layout.text, "id": item.id, "record_id": item.id, **item.carried()},
            "predictions": [{"model_version": f"{material.kind}_{material.size}", "result": result}]}


def read(path: Path, problems: Problems) -> Iterator[Found]:
    """Tasks of an export as JSON or JSON-MIN; tasks that nobody annotated come without spans, as not done."""
    for line, row in rows_of(path, problems):
        try:
            yield _found(line, row)
        except ValueError as err:
            problems.add(line, str(err))


def _found(line: int, row: Mapping[str, Any]) -> Found:
    data = row.get("data")
    marks: list[Mark] = []
    status = NOT_DONE
    if isinstance(data, Mapping):
        if annotation := _last_annotation(row.get("annotations")):
            marks, status = _marks(annotation.get("result")), DONE
    else:  # JSON-MIN: the data and the regions of one annotation, side by side
        data, regions = row, row.get(CONTROL)
        if other := next((key for key, value in row.items() if key != CONTROL and _holds_labels(value)), ""):
            raise ValueError(f"the regions stand under {short(other)}. Name the control of the labelling interface {CONTROL!r}, as it "
                             "was exported, or export as JSON.")
        if isinstance(regions, list):
            marks, status = [mark for region in regions for mark in _region(region)], DONE
        elif "annotation_id" in row:
            status = DONE  # with nothing marked the key is left out
    text = data.get("text")
    if not isinstance(text, str):
        raise ValueError(f"'data' must hold the text of the task as 'text', got {short(text)}.")
    return Found(line, identity_of(data.get("record_id"), data.get("id"), row.get("id"), line), marks, text, tokens_of(data.get("tokens")),
                 spans_of(data.get("exported")), status, data.get("synthetic") is True, identity_of(data.get("source_id")))


def _last_annotation(annotations: Any) -> Mapping[str, Any] | None:
    """Of several people's annotations the one that was changed last; skipped tasks have none."""
    if annotations is None:
        return None
    if not isinstance(annotations, list) or not all(isinstance(a, Mapping) for a in annotations):
        raise ValueError("'annotations' must be a list of objects. Export the project as JSON or JSON-MIN.")
    kept = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    kept.sort(key=lambda annotation: str(annotation.get("updated_at") or annotation.get("created_at") or ""))
    return kept[-1] if kept else None


def _marks(result: Any) -> list[Mark]:
    if not isinstance(result, list) or not all(isinstance(region, Mapping) for region in result):
        raise ValueError("the 'result' of an annotation must be a list of objects.")
    marks = [region for region in result if region.get("type") == "labels"]
    # Choices and text areas about a region repeat its bounds and its id.
    ids = {region.get("id") for region in marks}
    for region in result:
        value = region.get("value")
        if region.get("type") != "labels" and region.get("id") not in ids and isinstance(value, Mapping) and {"start", "end"} <= value.keys():
            raise ValueError(f"a region of type {short(region.get('type'))} marks a part of the text; only those of <Labels> on "
                             "<Text> can be read.")
    return [mark for region in marks for mark in _region(region.get("value"))]


def _holds_labels(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(v, Mapping) and {"start", "end", "labels"} <= v.keys() for v in value)


def _region(value: Any) -> list[Mark]:
    """A region may carry several labels."""
    labels = value.get("labels") if isinstance(value, Mapping) else None
    if not isinstance(labels, list) or not labels:
        raise ValueError(f"a region needs start, end and labels, got {short(value)}.")
    surface = value.get("text")
    return [Mark(value.get("start"), value.get("end"), label, surface if isinstance(surface, str) else None) for label in labels]
