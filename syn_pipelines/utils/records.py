"""Sentence records: ``{"id", "text": [token], "entities": [{"start", "end", "entity", "text"}], ...}``, read and checked."""

from __future__ import annotations

import logging
import os
import re
import reprlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from syn_pipelines.utils.compact import IdMap
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import MAX_PROBLEMS, Problems, read_objects
from syn_pipelines.utils.labels import read_target_labels
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.tags import Span, spans_of_tags

Record = dict[str, Any]
STATUSES = ("ok", "repaired", "rejected", "failed")  # of an annotation
log = logging.getLogger(__name__)
_MADE = re.compile("-s[0-9]+$")  # how the id of a synthetic sentence ends
_REPR = reprlib.Repr()  # a value nested deeply, or of a million parts, is not spelled out
_REPR.maxlist = _REPR.maxdict = 20
_REPR.maxlong = 61


def read_train(paths: RunPaths, *, again: bool = False, ids: IdMap | None = None) -> Iterator[Record]:
    """The training sentences; entities are checked against labels.txt where there is one.

    again: a later pass over a file already checked, which need not repeat its warnings. ids: as for ``read_sentences``.
    """
    targets = read_target_labels(paths.labels) if os.path.lexists(paths.labels) else None
    ids, sources = IdMap() if ids is None else ids, IdMap()  # sources: of ids that look like those of synthetic sentences, numbered by line
    seems_made = False
    for number, sentence in enumerate(read_sentences(paths.train, targets=targets, missing=paths.missing_train, again=again, ids=ids)):
        identity = sentence["id"]
        if (source := _MADE.sub("", identity)) != identity:
            sources.setdefault(source, number)
            seems_made = seems_made or source in ids
        seems_made = seems_made or identity in sources
        yield sentence
    if seems_made:
        _refuse_made(paths.train)


def _refuse_made(path: Path) -> None:
    """UserError for an id that step 2 would give to a synthetic sentence."""
    ids = {sentence["id"] for sentence in read_sentences(path, again=True)}
    for identity in sorted(ids):
        if (source := _MADE.sub("", identity)) != identity and source in ids:
            raise UserError(f"{path}: id {short(identity)} is also that of a synthetic sentence made from "
                            f"{short(source)}. Give one of the two another id.")


def read_sentences(path: Path, *, targets: Collection[str] | None = None, missing: str = "",
                   may_be_empty: bool = False, again: bool = False, advice: str = "Correct these lines.",
                   ids: IdMap | None = None) -> Iterator[Record]:
    """Sentences of a data file in file order, each with an ``id`` (its own, or its line number from 1).

    Args:
        targets: the labels that entities may carry; None: any.
        missing: advice when the file does not exist. advice: what to do about lines that are wrong.
        may_be_empty: a file without any sentence is fine. again: say nothing of tags that disagree.
        ids: an empty map, to be filled with the line of each id.
    Yields:
        Records with ``id`` first; other keys of the file come along unchanged.
    Raises:
        UserError: after the last line, all problems found (first 20). Publish nothing before the iterator ends well.
    """
    problems = Problems(path, advice)
    lines_of = IdMap() if ids is None else ids
    disagreeing = 0
    for line, row in read_objects(path, problems, missing):
        found = problems_of_row(row, targets)
        identity = _identity(row, line)
        if identity is None:
            found.append(f"id {short(row['id'])} is neither a text nor a whole number.")
        elif (earlier := lines_of.setdefault(identity, line)) is not None:
            found.append(f"id {short(identity)} stands in line {earlier} already; ids must be unique.")
        for text in found:
            problems.add(line, text)
        if found:
            continue
        if not again and (text := _tags_disagree(row)):
            disagreeing += 1
            if disagreeing <= MAX_PROBLEMS:
                log.warning("%s:%d: %s; the entities are used.", path, line, text)
        yield row if next(iter(row)) == "id" and row["id"] is identity else {"id": identity, **{
            k: v for k, v in row.items() if k != "id"}}
    problems.raise_if_any()
    if disagreeing > MAX_PROBLEMS:
        log.warning("%s: %d more lines whose 'label' disagrees; the entities are used.", path, disagreeing - MAX_PROBLEMS)
    if not lines_of and not may_be_empty:
        raise UserError(f"{path}: holds no sentence. {missing or 'Give it at least one line.'}")


def _identity(row: Record, line: int) -> str | None:
    value = row.get("id", line)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        return None
    return value if type(value) is str else str(value)


def problems_of_row(row: Mapping[str, Any], targets: Collection[str] | None) -> list[str]:
    """What is wrong with one record, one text a problem."""
    tokens, entities = row.get("text"), row.get("entities")
    if not isinstance(tokens, list) or not tokens:
        return [f"'text' must be a list of at least one token, got {short(tokens)}."]
    if ({*map(type, tokens)} != {str} or "" in tokens) and (
            bad := [n for n, token in enumerate(tokens, 1) if not isinstance(token, str) or not token]):
        return [f"'text' must hold texts that are not empty, token {bad[0]} is {short(tokens[bad[0] - 1])}."]
    return problems_of_entities(entities, tokens, targets)


def problems_of_entities(entities: Any, tokens: list[str], targets: Collection[str] | None = None,
                         key: str = "entities") -> list[str]:
    """What is wrong with the entities of one sentence, one text a problem. key: what the record calls them."""
    if not isinstance(entities, list):
        return [f"'{key}' must be a list, got {short(entities)}."]
    return [p for n, e in enumerate(entities, 1) if (p := _problem_of_entity(n, e, tokens, targets))]


def _problem_of_entity(number: int, entity: Any, tokens: list[str], targets: Collection[str] | None) -> str:
    if not isinstance(entity, dict):
        return f"entity {number} is {short(entity)}, not an object."
    start, end, label = entity.get("start"), entity.get("end"), entity.get("entity")
    if type(start) is not int or type(end) is not int:
        return f"entity {number} needs whole numbers as 'start' and 'end', got {short(start)} and {short(end)}."
    if not 0 <= start < end <= len(tokens):
        return f"entity {number} goes from token {start} to {end} but the text has {len(tokens)} tokens."
    if not isinstance(label, str) or not label:
        return f"entity {number} needs a label as 'entity', got {short(label)}."
    if label == "O":
        return f"entity {number} has the label 'O', which means no entity."
    if targets is not None and label not in targets:
        return f"entity {number} has the label {short(label)}, which is not in labels.txt."
    if "text" in entity and entity["text"] != tokens[start:end]:
        return f"entity {number} has the text {short(entity['text'])} but its tokens are {short(tokens[start:end])}."
    return ""


def _tags_disagree(row: Record) -> str:
    """How ``label`` disagrees with ``entities``, "" when it does not or is absent."""
    if "label" not in row:
        return ""
    spans = {(e["start"], e["end"], e["entity"]) for e in row["entities"]}
    tags = row["label"]
    if not isinstance(tags, list) or len(tags) != len(row["text"]) or not all(isinstance(t, str) for t in tags):
        return "'label' is not one tag a token"
    tagged = set(spans_of_tags(tags)[0])
    # Tags cannot express nesting: an entity may be missing there when it shares tokens with a tagged one.
    agree = tagged <= spans and all(_overlaps(span, tagged) for span in spans - tagged)
    return "" if agree else "'label' and 'entities' disagree"


def _overlaps(span: Span, others: Iterable[Span]) -> bool:
    return any(span[0] < end and start < span[1] for start, end, _ in others)


def short(value: Any) -> str:
    """A value as it looks in a message: at most 60 characters, none of them invisible."""
    if isinstance(value, str):
        text = ascii(value[:61]) if not value.isprintable() else repr(value[:61])
    else:
        text = _REPR.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
