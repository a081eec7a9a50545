"""The sentences of a run with every span on them, as they were before anybody reviewed them.

The spans are made again from the files of step 4 and, for synthetic sentences, of step 7, as step 5 makes them: the merged
files already have the decisions in them. Nothing but the places of the queue's rows is kept in memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from syn_pipelines import s5_merge_data as s5
from syn_pipelines.reviewing.doubts import Doubt, doubts_of
from syn_pipelines.utils.decisions import text_hash
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.fusion import ITEM_KEYS, FusionStats, columns, extension_spans
from syn_pipelines.utils.jsonl import lines_of, open_input, parsed
from syn_pipelines.utils.labels import Labels
from syn_pipelines.utils.merging import Joined
from syn_pipelines.utils.packing import in_any_order
from syn_pipelines.utils.paths import MODES, RunPaths
from syn_pipelines.utils.records import Record, problems_of_entities, read_sentences, short

GOLD, TARGET, EXTENSION = "gold", "target", "extension"
Place = tuple[bool, str]  # (synthetic, id)
Key = tuple[int, int, str]  # (start, end, label) of a span, half-open token offsets

_ID = re.compile(rb'\s*\{\s*"id"\s*:\s*("(?:[^"\\]|\\.)*"|-?[0-9]+)\s*[,}]')  # the first key of every file that a step wrote


@dataclass(frozen=True, slots=True)
class Span:
    """One label on the tokens [start, end). kind: "gold", "target" (predicted) or "extension"."""

    start: int
    end: int
    label: str
    kind: str

    @property
    def key(self) -> Key:
        return self.start, self.end, self.label


@dataclass(frozen=True)
class Sentence:
    """A sentence with its spans, each once: gold or target ones first."""

    id: str
    tokens: list[str]
    synthetic: bool
    source_id: str | None
    spans: tuple[Span, ...]
    doubts: tuple[Doubt, ...]

    @cached_property
    def text_sha256(self) -> str:
        return text_hash(self.tokens)


class Corpus:
    """Both halves of a run at one size. ``locate`` what is to be read, then ``read`` it."""

    def __init__(self, paths: RunPaths, size: int, labels: Labels, dense: bool) -> None:
        """Raises UserError: step 4 has not run."""
        self.paths, self.size, self.labels, self.dense = paths, size, labels, dense
        self._canonical = {mode: labels.canonical(mode) for mode in MODES}
        self.files = {False: self._half("")}
        if not os.path.lexists(self.files[False]["sentence"]):
            raise UserError(f"{self.files[False]['sentence']}: does not exist. {paths.missing('s4_split_data')}")
        if os.path.lexists(paths.sized(size, "train_{n}_synthetic")):
            self.files[True] = self._half("_synthetic")
        self._open: dict[Path, BinaryIO] = {}
        self._offsets: dict[tuple[bool, str], dict[str, int]] = {}

    def _half(self, tail: str) -> dict[str, Path]:
        files = {"sentence": self.paths.sized(self.size, f"train_{{n}}{tail}"),
                 **{mode: self.paths.sized(self.size, f"{mode}_train_{{n}}{tail}") for mode in MODES}}
        target = s5.current_targets(self.paths, self.size) if tail else None
        return {name: path for name, path in (*files.items(), ("target", target)) if path and os.path.lexists(path)
                or name == "sentence"}

    def places(self) -> Iterator[Place]:
        """Every sentence, the original ones first; only the ids are read."""
        for synthetic, files in self.files.items():
            yield from ((synthetic, identity) for identity, _ in self._ids(files["sentence"]))

    def _ids(self, path: Path) -> Iterator[tuple[str, int]]:
        """(id, offset of its line) of every row. Parses a row only where its id is not its first key."""
        if path not in self._open:
            self._open[path] = in_any_order(open_input(path))  # kept: a step that runs meanwhile puts another file in its place
        file, offset = self._open[path], 0
        file.seek(0)
        for number, line in lines_of(file):
            if line.strip():
                yield _id_of(line, number, path), offset
            offset += len(line)

    def sentences(self, *, spans: bool = True) -> Iterator[Sentence]:
        """All of them, one pass over all files. spans: False leaves those of the LLM out, which take most of the time."""
        advice = self.paths.missing("s4_split_data")
        for synthetic, files in self.files.items():
            joined = {name: Joined(path, advice) for name, path in files.items() if name in ("entity", "target") or
                      spans and name == "pos"}
            for row in read_sentences(files["sentence"], may_be_empty=True, again=True, advice=advice):
                others = {name: found for name, rows in joined.items() if (found := rows.of(row))}
                yield self._sentence(synthetic, row, others, spans=spans)

    def locate(self, places: Collection[Place]) -> None:
        """Find the rows of these sentences, of their annotations, and of the sentences they were written from."""
        for synthetic in sorted(self.files, reverse=True):
            wanted = {identity for half, identity in places if half == synthetic}
            sources = set()
            if not synthetic:
                sources = {str(row["source_id"]) for half, identity in places if half
                           and "source_id" in (row := self._row(True, "sentence", identity) or {})}
            for name, path in self.files[synthetic].items():
                keep = wanted | sources if name == "sentence" else wanted
                self._offsets[synthetic, name] = {i: at for i, at in self._ids(path) if i in keep} if keep else {}

    def read(self, place: Place) -> Sentence:
        """A located sentence. UserError when its row, or one of its annotations, cannot be used."""
        synthetic, identity = place
        row = self._row(synthetic, "sentence", identity)
        problem = "is not there" if row is None else _problem_of(row)
        others = {name: found for name in self.files[synthetic] if name != "sentence"
                  and (found := self._row(synthetic, name, identity))}
        if not problem and any(other.get("text") != row["text"] for other in others.values()):
            problem = "has annotations that were made from another version of the data"
        if row is None or problem:
            raise UserError(f"{self.files[synthetic]['sentence']}: sentence {short(identity)} {problem}. "
                            f"{self.paths.missing('s4_split_data')}")
        return self._sentence(synthetic, {**row, "id": identity}, others)

    def tokens_of(self, identity: str) -> list[str] | None:
        """The tokens of an original sentence that a located one was written from."""
        row = self._row(False, "sentence", identity)
        return row["text"] if row and not _problem_of(row) else None

    def close(self) -> None:
        """Close all files."""
        for file in self._open.values():
            file.close()

    def _row(self, synthetic: bool, name: str, identity: str) -> Record | None:
        offset = self._offsets.get((synthetic, name), {}).get(identity)
        if offset is None:
            return None
        file = self._open[self.files[synthetic][name]]
        file.seek(offset)
        try:
            row = parsed(file.readline().decode("utf-8-sig"))
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{self.files[synthetic][name]}: the row of sentence {short(identity)} is broken. "
                            f"{self.paths.missing('s4_split_data')}")
        return row

    def _sentence(self, synthetic: bool, row: Record, others: Mapping[str, Record], *, spans: bool = True) -> Sentence:
        tokens = row["text"]
        entities = others["target"]["entities"] if "target" in others else row["entities"]
        if problems := problems_of_entities(entities, tokens):
            raise UserError(f"{self.files[synthetic].get('target')}: sentence {short(row['id'])}: {problems[0]} "
                            f"{self.paths.missing('s7_pred_syn_data')}")
        items = {mode: _items(others.get(mode), mode) for mode in MODES}
        said = [columns(items[mode], mode) for mode in ("entity", "pos")]
        found = extension_spans(tokens, *said, entity_label=self._canonical["entity"], pos_label=self._canonical["pos"],
                                dense=self.dense, stats=FusionStats()) if spans else []
        own = [Span(e["start"], e["end"], e["entity"], TARGET if synthetic else GOLD) for e in entities]
        every = tuple(dict.fromkeys([*own, *(Span(*span, EXTENSION) for span in found)]))
        doubts = doubts_of(tokens, entities, items["entity"] if "entity" in others else None, synthetic=synthetic, dense=self.dense)
        source = str(row["source_id"]) if synthetic and "source_id" in row else None
        return Sentence(row["id"], tokens, synthetic, source, every, tuple(doubts))


def _id_of(line: bytes, number: int, path: Path) -> str:
    try:
        match = _ID.match(line)
        value = parsed(match[1].decode("utf-8")) if match else parsed(line.decode("utf-8-sig")).get("id", number)
        return str(value)
    except (ValueError, AttributeError):
        raise UserError(f"{path}:{number}: is not a sentence of a run. Make the file again with step 4.") from None


def _problem_of(row: Record) -> str:
    tokens = row.get("text")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) and token for token in tokens):
        return "has no list of tokens"
    problems = problems_of_entities(row.get("entities"), tokens)
    return f"is broken ({problems[0]})" if problems else ""


def _items(row: Record | None, mode: str) -> list[dict[str, Any]]:
    """The items of an annotation, those that are none left out: step 5 is the one to complain."""
    items = row.get("items") if row else None
    return [item for item in items if isinstance(item, dict) and all(isinstance(item.get(key), str) for key in ITEM_KEYS[mode])
            ] if isinstance(items, list) else []
