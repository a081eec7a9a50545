"""Readers of annotated files: columns, the Weibo format, and JSON with character offsets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from syn_pipelines.text.tokens import tokenize_around
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.fusion import as_entity
from syn_pipelines.utils.jsonl import Problems, read_json, read_lines, read_objects, read_whole
from syn_pipelines.utils.labels import OUTSIDE, name_problem
from syn_pipelines.utils.packing import plain_path
from syn_pipelines.utils.records import Record, short
from syn_pipelines.utils.tags import scheme_of, spans_of_tags, split_tag

FORMATS = ("columns", "weibo", "json")
ADVICE = "Correct these lines, or name the format with --format."

# A character and its place in its word, "费1" or "82" (the character 8 at place 2). ASCII digits only: full-width and
# circled digits are characters of the text. Some characters are two code points (a broken emoji as two U+FFFD).
_WEIBO_TOKEN = re.compile(r"(.+?)([0-9]+)", re.ASCII | re.DOTALL)
# No row of columns begins so: an object, or a list of objects, with the first key.
_JSON_START = re.compile(r'\s*(\{|\[\s*\{)\s*"')
_DENSE_LETTERS = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
_SURFACE_KEYS, _LABEL_KEYS = ("name", "text", "surface", "mention"), ("type", "label", "entity", "tag", "entity_type")
_START_KEYS, _END_KEYS = ("start", "start_offset", "begin"), ("end", "end_offset", "stop")


@dataclass
class Source:
    """A file read: sentences in file order (no ids), and the (line, what was repaired) pairs of its tags.

    bare: its tags are labels without B- or I- before them.
    """

    path: Path
    sentences: list[Record] = field(default_factory=list)
    repairs: list[tuple[int, str]] = field(default_factory=list)
    bare: bool = False


def read_source(path: Path, format: str, *, dense_lang: str = "auto") -> Source:
    """Read an annotated file.

    Args:
        format: "auto" looks at the name and the first lines; else one of ``FORMATS``.
        dense_lang: for running text (json): "1" one token a character, "0" words, "auto" by script.
    Raises:
        UserError: all problems of the file (first 20), or no sentence in it.
    """
    chosen = _guess(path) if format == "auto" else format
    source = Source(path)
    if chosen == "json":
        source.sentences = list(_read_json(path, dense_lang))
    else:
        _read_columns(source, weibo=chosen == "weibo")
    if not source.sentences:
        raise UserError(f"{path}: holds no sentence. Check the file and --format.")
    return source


def _guess(path: Path) -> str:
    if _suffix(path) in (".json", ".jsonl", ".ndjson") or _JSON_START.match(_first_line(path)):
        return "json"
    tokens = [columns[0] for _, columns in _column_lines(path, Problems(path, ADVICE)) if len(columns) > 1]
    if tokens and tokens[0].endswith("0") and all(_WEIBO_TOKEN.fullmatch(token) for token in tokens):
        return "weibo"
    return "columns"


def _column_lines(path: Path, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """(line, columns) of every line; an empty list where a sentence ends."""
    last = 0
    for number, line in read_lines(path, problems):
        if number > last + 1:
            yield number - 1, []  # blank lines between
        last = number
        if line.startswith("-DOCSTART-"):
            yield number, []
        else:
            # Tabs part columns where there are any, so that a blank may be a token; else runs of ASCII blanks do.
            # What stands behind the last column is dropped; a first column may be white space.
            line = line[:1] + line[1:].rstrip(" \t")
            yield number, line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))


def _read_columns(source: Source, *, weibo: bool) -> None:
    problems = Problems(source.path, ADVICE)
    rows: list[list[tuple[int, str, str]]] = [[]]  # by sentence: line, token, tag
    for number, columns in _column_lines(source.path, problems):
        token, tag = (columns[0], columns[-1]) if len(columns) > 1 else ("", "")
        if not columns:
            rows.append([])
        elif not token or not tag:
            problems.add(number, f"needs a token and a tag, got {short(columns)}; blanks or tabs part the columns.")
        elif weibo and not (match := _WEIBO_TOKEN.fullmatch(token)):
            problems.add(number, f"needs a character and its position digit, got {short(token)}.")
        elif (parts := split_tag(tag)) and parts[1] == OUTSIDE:
            problems.add(number, f"the tag {short(tag)} has the label 'O', which means no entity.")
        elif problem := _label_problem(tag):
            problems.add(number, f"the tag {short(tag)} {problem}.")
        else:
            rows[-1].append((number, match[1] if weibo else token, tag))
    problems.raise_if_any()
    rows = [row for row in rows if row]
    scheme = scheme_of([tag for _, _, tag in row] for row in rows)
    source.bare = scheme == "bare"
    for row in rows:
        tokens = [token for _, token, _ in row]
        spans, repairs = spans_of_tags([tag for _, _, tag in row], scheme)
        source.repairs += [(row[i][0], text) for i, text in repairs]
        source.sentences.append(_record(tokens, [(s, e) for s, e, _ in spans], [label for _, _, label in spans]))


def _read_json(path: Path, dense_lang: str) -> Iterator[Record]:
    """Rows of a JSON list, of an object that holds one, or of JSON lines, as sentences."""
    problems = Problems(path, "Correct these entries.")
    rows = list(_json_rows(path, problems))
    texts = [row["text"] for _, row in rows if isinstance(row.get("text"), str)]
    dense = _is_dense(texts) if dense_lang == "auto" else dense_lang == "1"
    for number, row in rows:
        try:
            yield _sentence(row, dense)
        except ValueError as err:
            problems.add(number, f"{err}.")
    problems.raise_if_any()


def _json_rows(path: Path, problems: Problems) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line where it begins, row)."""
    if _is_row(_first_line(path)) or _suffix(path) in (".jsonl", ".ndjson"):
        yield from read_objects(path, problems)
        return
    content = read_json(path)
    if not isinstance(content, (list, dict)):
        raise UserError(f"{path}: is neither a list of sentences nor JSON lines. Check the file and --format.")
    text = read_whole(path).decode("utf-8-sig")
    line = begin = 0
    for number, (at, row) in enumerate(_list_entries(text), 1):
        line, begin = line + text.count("\n", begin, at), at
        if isinstance(row, dict):
            yield line + 1, row
        else:
            problems.add(line + 1, f"entry {number} of the list is a {type(row).__name__}, not an object.")


def _list_entries(text: str) -> Iterator[tuple[int, Any]]:
    """(place, value) of every entry of a JSON list, or of the first list in a JSON object. ``text`` must be valid."""
    decode = json.JSONDecoder().raw_decode

    def skip(at: int) -> int:
        return re.compile(r"[ \t\r\n]*").match(text, at).end()  # type: ignore[union-attr]  # matches anything

    at = skip(0)
    while text[at] in "{,":  # an object: over its keys and values up to a list
        at = skip(at + 1)
        if text[at] == "}":
            return
        at = skip(skip(decode(text, at)[1]) + 1)
        if text[at] != "[":
            at = skip(decode(text, at)[1])
    while text[at] in "[,":
        at = skip(at + 1)
        if text[at] == "]":
            return
        value, end = decode(text, at)
        yield at, value
        at = skip(end)


def _suffix(path: Path) -> str:
    return plain_path(path).suffix.lower()


def _first_line(path: Path) -> str:
    return next((line for _, line in read_lines(path, Problems(path, ADVICE))), "")


def _is_row(line: str) -> bool:
    """Whether a line is a whole sentence by itself, not the start of one value over many lines or a list in an object."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "text" in value


def _is_dense(texts: Iterable[str]) -> bool:
    """Whether the texts are written without blanks between words: a fifth of their characters is Han or kana."""
    texts = list(texts)
    letters = sum(len(_DENSE_LETTERS.findall(text)) for text in texts)
    return letters > 0.2 * sum(map(len, texts))


def _sentence(row: Mapping[str, Any], dense: bool) -> Record:
    """A row with its text as a string and character offsets, or as tokens and token offsets. ValueError: what is wrong."""
    text = row.get("text")
    raw = _first(row, ("entities", "label", "labels", "spans", "annotations"), [])
    if not isinstance(text, (str, list)) or not text:
        raise ValueError(f"'text' must be a text or a list of tokens, got {short(text)}")
    if not isinstance(raw, list):
        raise ValueError(f"the entities must be a list, got {short(raw)}")
    entities = [_entity(number, entity, text) for number, entity in enumerate(raw, 1)]
    if isinstance(text, list):
        if not all(isinstance(token, str) and token for token in text):
            raise ValueError("'text' holds an empty token or one that is no text")
        return _record(text, [(start, end) for start, end, _ in entities], [label for _, _, label in entities])
    tokens, spans = tokenize_around(text, [(start, end) for start, end, _ in entities], dense)
    if not tokens:
        raise ValueError("'text' holds no token")
    for number, (start, end) in enumerate(spans, 1):
        if start == end:
            raise ValueError(f"entity {number} covers white space only")
    return _record(tokens, spans, [label for _, _, label in entities])


def _record(tokens: Sequence[str], spans: Iterable[tuple[int, int]], labels: Iterable[str]) -> Record:
    found = sorted(zip(spans, labels), key=lambda item: (item[0][0], -item[0][1], item[1]))
    return {"text": list(tokens), "entities": [as_entity(tokens, span, label) for span, label in found]}


def _entity(number: int, entity: Any, text: str | Sequence[str]) -> tuple[int, int, str]:
    """(start, end, label) of an entity in any of the usual spellings, checked against the text."""
    surface = None
    if isinstance(entity, (list, tuple)) and len(entity) == 3:
        start, end, label = entity
    elif isinstance(entity, dict):
        span = entity.get("span") or [_first(entity, _START_KEYS), _first(entity, _END_KEYS)]
        start, end = span if isinstance(span, list) and len(span) == 2 else (None, None)
        label, surface = _first(entity, _LABEL_KEYS), _first(entity, _SURFACE_KEYS)
    else:
        raise ValueError(f"entity {number} is {short(entity)}, not an object or [start, end, label]")
    if type(start) is not int or type(end) is not int or not isinstance(label, str) or not label:
        raise ValueError(f"entity {number} needs a start, an end and a label, got {short(entity)}")
    if problem := _label_problem(label):
        raise ValueError(f"entity {number}: the label {short(label)} {problem}")
    if label == "O":
        raise ValueError(f"entity {number} has the label 'O', which means no entity")
    if not 0 <= start < end <= len(text):
        raise ValueError(f"entity {number} goes from {start} to {end} but the text has {len(text)} units")
    if surface is not None and surface != text[start:end]:
        raise ValueError(f"entity {number} is {short(surface)} but its offsets give {short(text[start:end])}")
    return start, end, label


def _label_problem(label: str) -> str | None:
    """What keeps a tag or a label out of labels.txt, None when nothing does."""
    return name_problem(label) or ("has a blank in it, which labels.txt cannot hold" if len(label.split()) > 1 else None)


def _first(row: Mapping[str, Any], keys: Iterable[str], default: Any = None) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), default)
