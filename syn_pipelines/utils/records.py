"""Sentence records: ``{"id", "text": [token], "entities": [{"start", "end", "entity", "text"}], ...}``, read and checked."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import Problems, read_objects
from syn_pipelines.utils.labels import read_target_labels
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.tags import spans_of_tags

Record = dict[str, Any]
log = logging.getLogger(__name__)


def read_train(paths: RunPaths, *, again: bool = False) -> Iterator[Record]:
    """The training sentences; entities are checked against labels.txt where there is one.

    again: a later pass over a file already checked, which need not repeat its warnings.
    """
    targets = read_target_labels(paths.labels) if paths.labels.is_file() else None
    return read_sentences(paths.train, targets=targets, missing=paths.missing_train, again=again)


def read_sentences(path: Path, *, targets: Collection[str] | None = None, missing: str = "",
                   may_be_empty: bool = False, again: bool = False) -> Iterator[Record]:
    """Sentences of a data file in file order, each with an ``id`` (its own, or its line number from 1).

    Args:
        targets: the labels that entities may carry; None: any.
        missing: advice when the file does not exist.
        may_be_empty: a file without any sentence is fine. again: say nothing of tags that disagree.
    Yields:
        Records with ``id`` first; other keys of the file come along unchanged.
    Raises:
        UserError: after the last line, all problems found (first 20). Publish nothing before the iterator ends well.
    """
    problems = Problems(path, "Correct these lines.")
    lines_of: dict[str, int] = {}
    for line, row in read_objects(path, problems, missing):
        found = _problems_of(row, targets)
        identity = _identity(row, line)
        if identity is None:
            found.append(f"id {row['id']!r} is neither a text nor a whole number.")
        elif identity in lines_of:
            found.append(f"id {identity!r} stands in line {lines_of[identity]} already; ids must be unique.")
        else:
            lines_of[identity] = line
        for text in found:
            problems.add(line, text)
        if found:
            continue
        if not again:
            _warn_of_other_tags(path, line, row)
        yield {"id": identity, **{k: v for k, v in row.items() if k != "id"}}
    problems.raise_if_any()
    if not lines_of and not may_be_empty:
        raise UserError(f"{path}: holds no sentence. {missing or 'Give it at least one line.'}")


def _identity(row: Record, line: int) -> str | None:
    value = row.get("id", line)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "" or not _is_utf8(str(value)):
        return None
    return str(value)


def _problems_of(row: Record, targets: Collection[str] | None) -> list[str]:
    """What is wrong with one record, one text a problem."""
    tokens, entities = row.get("text"), row.get("entities")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(t, str) and t for t in tokens):
        return [f"'text' must be a list of at least one token, none of them empty, got {_short(tokens)}."]
    if not all(map(_is_utf8, tokens)):
        return ["'text' holds half of a surrogate pair, which cannot be stored as UTF-8."]
    if not isinstance(entities, list):
        return [f"'entities' must be a list, got {_short(entities)}."]
    return [p for n, e in enumerate(entities, 1) if (p := _problem_of_entity(n, e, tokens, targets))]


def _problem_of_entity(number: int, entity: Any, tokens: list[str], targets: Collection[str] | None) -> str:
    if not isinstance(entity, dict):
        return f"entity {number} is {_short(entity)}, not an object."
    start, end, label = entity.get("start"), entity.get("end"), entity.get("entity")
    if type(start) is not int or type(end) is not int:
        return f"entity {number} needs whole numbers as 'start' and 'end', got {_short(start)} and {_short(end)}."
    if not 0 <= start < end <= len(tokens):
        return f"entity {number} goes from token {start} to {end} but the text has {len(tokens)} tokens."
    if not isinstance(label, str) or not label or not _is_utf8(label):
        return f"entity {number} needs a label as 'entity', got {_short(label)}."
    if label == "O":
        return f"entity {number} has the label 'O', which means no entity."
    if targets is not None and label not in targets:
        return f"entity {number} has the label {label!r}, which is not in labels.txt."
    if "text" in entity and entity["text"] != tokens[start:end]:
        return f"entity {number} has the text {_short(entity['text'])} but its tokens are {_short(tokens[start:end])}."
    return ""


def _warn_of_other_tags(path: Path, line: int, row: Record) -> None:
    """``label`` and ``entities`` may disagree; the entities win and the line is named."""
    if "label" not in row:
        return
    spans = {(e["start"], e["end"], e["entity"]) for e in row["entities"]}
    tags = row["label"]
    if not isinstance(tags, list) or len(tags) != len(row["text"]) or not all(isinstance(t, str) for t in tags):
        log.warning("%s:%d: 'label' is not one tag a token; the entities are used.", path, line)
        return
    tagged = {span for span in spans_of_tags(tags)[0]}
    # Tags cannot express nesting: then it is enough that every tagged span is an entity.
    if not (tagged <= spans if _is_nested(spans) else tagged == spans):
        log.warning("%s:%d: 'label' and 'entities' disagree; the entities are used.", path, line)


def _is_nested(spans: Collection[tuple[int, int, str]]) -> bool:
    ordered = sorted(spans)
    return any(second[0] < first[1] for first, second in zip(ordered, ordered[1:]))


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _short(value: Any) -> str:
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
