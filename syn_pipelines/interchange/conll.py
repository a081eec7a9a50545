"""Columns: a token and its tag a line, a blank line after a sentence. conll: B I O; bioes: B I O E S.

    train.conll        token <tab> tag; tags cannot nest, so one label a token
    train.ids.jsonl    a line a sentence, in the same order: its id, its tokens as they are, and the spans that were written

White space within a token, which would break the columns, is written as U+2423; the second file keeps what it was.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from syn_pipelines.interchange.flat import flattened, tags_of
from syn_pipelines.interchange.folder import Folder
from syn_pipelines.interchange.found import Found, identity_of, marks_of, spans_of, tokens_of
from syn_pipelines.interchange.material import Material
from syn_pipelines.text.readers import read_source
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import Problems, read_lines, read_objects, to_line
from syn_pipelines.utils.packing import form_there, plain_path

SCHEMES = {"conll": "bio", "bioes": "bioes"}
BLANK = "\u2423"  # OPEN BOX, the picture of a blank
_ADVICE = "Correct these lines, or move the file with the ids away to read the columns alone."


def write(folder: Folder, material: Material, format: str) -> dict[str, Counter[str]]:
    """Both files of every split. Returns the spans left out by split and reason."""
    flat_labels(material.labels)
    left_out: dict[str, Counter[str]] = {}
    for split in material.files:
        left_out[split] = Counter()
        with folder.file(f"{split}.conll") as columns, folder.file(f"{split}.ids.jsonl") as ids:
            for item in material.items(split):
                spans = flattened(item.spans, material.targets, left_out[split])
                tags = tags_of(len(item.tokens), [(s, e, flat_label(label)) for s, e, label in spans], SCHEMES[format])
                columns.write("".join(f"{shown(token)}\t{tag}\n" for token, tag in zip(item.tokens, tags)).encode() + b"\n")
                ids.write(to_line({"id": item.id, **replace(item, spans=spans).carried()}))
    return left_out


def flat_label(label: str) -> str:
    """A label as a tag can hold it: many readers part columns at any blank."""
    return "_".join(label.split())


def flat_labels(labels: Iterable[str]) -> dict[str, str]:
    """Label by its form in a tag. UserError where two have the same."""
    result: dict[str, str] = {}
    for label in labels:
        other = result.setdefault(flat_label(label), label)
        if other != label:
            raise UserError(f"the labels {other!r} and {label!r} would be the same in a column file. Rename one, or choose "
                            "another --format.")
    return result


def shown(token: str) -> str:
    """A token as a column can hold it, whatever a reader takes for a blank or for the end of a line."""
    token = "".join(BLANK if char.isspace() or unicodedata.category(char) in ("Cc", "Zl", "Zp") or char == "\ufeff" else char
                    for char in token)
    return "_" + token[1:] if token.startswith("-DOCSTART-") else token


def read(path: Path, problems: Problems) -> Iterator[Found]:
    """The sentences of a column file, with their ids and tokens where the file with the ids lies beside it."""
    source = read_source(path, "columns")
    if source.bare:
        raise UserError(f"{path}: no tag begins with B- or I-. Check the file and --format.")
    for line, text in source.repairs:
        problems.add(line, f"{text.partition(' (repaired')[0]}.")
    rows, beside = iter(_ids(path)), _beside(path).name
    known = _beside(path).is_file()
    line = 0
    for number, (line, sentence) in enumerate(zip(_first_lines(path), source.sentences), 1):
        spans = [(e["start"], e["end"], e["entity"]) for e in sentence["entities"]]
        row = next(rows, None)
        if row is None and not known:
            yield Found(line, str(number), marks_of(spans), tokens=sentence["text"], in_tokens=True)
        elif row is None:
            problems.add(line, f"sentence {number} of the file has no line in {beside}.")
        elif [shown(token) for token in row.tokens or ()] != sentence["text"]:
            problems.add(line, f"sentence {number}: expected the tokens {' '.join(map(shown, row.tokens or ()))[:200]!r}, "
                                 f"found {' '.join(sentence['text'])[:200]!r}.")
        else:
            labels = flat_labels(label for _, _, label in row.exported or ())
            row.line, row.marks = line, marks_of((start, end, labels.get(label, label)) for start, end, label in spans)
            yield row
    if next(rows, None) is not None:
        problems.add(line, f"this is the last of {len(source.sentences)} sentences, {beside} has more.")


def _first_lines(path: Path) -> Iterator[int]:
    """The line where each sentence begins."""
    before = 0  # the last line of a sentence
    for number, text in read_lines(path, Problems(path, _ADVICE)):
        if text.startswith("-DOCSTART-"):
            continue
        if number != before + 1 or before == 0:
            yield number
        before = number


def _beside(path: Path) -> Path:
    """The file with the ids, in whatever form it is there."""
    plain = plain_path(path)
    return form_there(plain.with_name(f"{plain.stem}.ids.jsonl"))


def _ids(path: Path) -> Iterator[Found]:
    beside = _beside(path)
    if not beside.is_file():
        return
    broken = Problems(beside, _ADVICE)
    for line, row in read_objects(beside, broken):
        try:
            yield Found(line, identity_of(row.get("id"), line), (), tokens=tokens_of(row.get("tokens")),
                        exported=spans_of(row.get("exported")), synthetic=row.get("synthetic") is True,
                        source_id=identity_of(row.get("source_id")), in_tokens=True)
        except ValueError as err:
            broken.add(line, str(err))
    broken.raise_if_any()
