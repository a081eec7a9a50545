"""JSON of other programs: lists written row by row, and read row by row with the line where each begins."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import MAX_LINE, Problems, open_input, parsed, read_objects

# What begins or ends something: a text, a bracket, a comma. Texts are passed over whole.
_PART = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],]', re.DOTALL)
_BLOCK = 1 << 16  # characters read at once


def write_list(file: BinaryIO, rows: Iterable[Mapping[str, Any]], *, ascii_only: bool = False) -> None:
    """A JSON list with one row a line."""
    separator = b"[\n"
    for row in rows:
        file.write(separator + json.dumps(row, ensure_ascii=ascii_only).encode("utf-8"))
        separator = b",\n"
    file.write(b"[]\n" if separator == b"[\n" else b"\n]\n")


def write_value(file: BinaryIO, value: Any) -> None:
    """One JSON value, indented, in ASCII: some readers open files in the encoding of the machine."""
    file.write(json.dumps(value, indent=2).encode("ascii") + b"\n")


def rows_of(path: Path, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line where it begins, object) of every row of a JSON list, or of JSON lines. One row is in memory at a time.

    Raises:
        UserError: the file cannot be read or is neither. Broken rows go to ``problems``.
    """
    with open_input(path) as file:
        head = file.read(_BLOCK).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head[:1] != b"[":
        yield from read_objects(path, problems)
        return
    for line, text in _entries(path):
        try:
            value = parsed(text)
        except json.JSONDecodeError as err:
            problems.add(line + text.count("\n", 0, err.pos), f"is not valid JSON ({err.msg}).")
            continue
        if isinstance(value, dict):
            yield line, value
        else:
            problems.add(line, f"holds a {type(value).__name__}, not an object.")


def _entries(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of the entries of a JSON list, cut at the commas of its own level."""
    depth, line, kept, at = 0, 1, "", 0  # kept: from where the entry begins; at: where to go on looking
    for block in _blocks(path):
        kept += block
        if len(kept) > MAX_LINE:
            raise UserError(f"{path}:{line}: has more than {MAX_LINE >> 20} MiB in one entry. Check that it is the right file.")
        while match := _PART.search(kept, at):
            quote = kept.find('"', at, match.start())
            if quote >= 0:  # a text that goes on in the next block
                break
            part, at = match[0], match.end()
            depth += part in "{[" and len(part) == 1
            depth -= part in "}]" and len(part) == 1
            if (depth == 1 and part in "[,") or depth == 0:
                entry = kept[:match.start()]
                if entry.strip() not in ("", "\ufeff"):
                    yield line + len(entry[:len(entry) - len(entry.lstrip())].split("\n")) - 1, entry.strip()
                line += kept.count("\n", 0, at)
                kept, at = kept[at:], 0
    if depth or kept.strip():
        raise UserError(f"{path}:{line}: the JSON list does not end here as it should. Export the file again.")


def _blocks(path: Path) -> Iterator[str]:
    with open_input(path) as raw:
        import io

        with io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            try:
                while block := file.read(_BLOCK):
                    yield block
            except UnicodeDecodeError as err:
                raise UserError(f"{path}: is not UTF-8 (byte 0x{err.object[err.start]:02x}). Save it as UTF-8.") from None
