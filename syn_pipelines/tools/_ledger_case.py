"""What the ledger's checks share: the data set as it is, and the files of a run by what they are."""

from __future__ import annotations

import hashlib
import json
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from syn_pipelines.tools._ledger_book import Book
from syn_pipelines.tools._ledger_files import DataFile, Order, annotation_problem, sentence_problem, synthetic_problem
from syn_pipelines.tools._ledger_journal import Journal
from syn_pipelines.utils.compact import IdMap
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.labels import read_target_labels
from syn_pipelines.utils.language import Language, language_of
from syn_pipelines.utils.paths import MODES, SIZES, RunPaths
from syn_pipelines.utils.records import Record
from syn_pipelines.utils.stored_replies import journal_path

FINAL = "s8_process_label_and_combine"
NOBODY = (1 << 32) - 1
_MOST_ENTITIES = (1 << 24) - 1  # more do not fit on a line
# What step 4 cuts, "{n}" being the size.
PARTS = ("train_{n}", *(f"{mode}_train_{{n}}" for mode in MODES), "train_{n}_synthetic",
         *(f"{mode}_train_{{n}}_synthetic" for mode in MODES))


@dataclass
class Made:
    """The ids of the synthetic sentences, in 25 bytes each.

    places: of those that differ, counted from 0. owners: by that place, the place of the training sentence that it was made
    from, ``NOBODY`` where there is none. rows: of the file. clash: one of the ids is that of a training sentence.
    """

    places: IdMap = field(default_factory=IdMap)
    owners: array[int] = field(default_factory=lambda: array("I"))
    rows: int = 0
    clash: bool = False


class Case:
    """A data set and one of its runs, with the book that the findings go into. In memory are 29 bytes a training sentence.

    places: the place of each training sentence by id. asked: how many of them have entities. gold_entities: all of theirs.
    stale: files made from something that has changed since, with what to say of them and the command that renews them.
    items: what steps 1 and 3 published, by mode and ``synthetic``. corrected: by size, of original sentences whose gold labels
    people changed, how many of these are gone.
    """

    def __init__(self, opts: Any, paths: RunPaths, book: Book) -> None:
        """Read the training sentences once. UserError when there are none, or labels.txt is broken."""
        self.opts, self.paths, self.book = opts, paths, book
        self.places = IdMap()
        self.asked = self.gold_entities = 0
        self._gold = array("Q")  # by place: 40 bits of a digest of the text and of the gold entities, and their number
        self.entities: Counter[str] = Counter()
        self.first_lines: dict[str, int] = {}  # where each gold label stands first
        self.stale: dict[Path, tuple[str, str]] = {}
        self.corrected: dict[int, dict[str, int]] = {}
        self.items: dict[tuple[str, bool], int] = {}
        self._files: dict[Path, DataFile] = {}
        self.targets = tuple(read_target_labels(paths.labels)) if paths.labels.is_file() else ()
        if not paths.train.is_file():
            raise UserError(f"{paths.train}: does not exist. {paths.missing_train}")
        self._steps: list[array[int]] = [array("I"), array("I")]  # where the number of lines passed over changes: place, line
        for line, sentence in self._training_rows():
            if sentence["id"] in self.places:
                self.train.problem("order", f"id {sentence['id']!r} stands in line {self.line_of(sentence['id'])} already.", line)
            else:
                self._take_in(line, sentence)
        if not self._gold:
            found = f"{book.problems[0]} " if book.problems else f"{paths.train}: "
            raise UserError(f"{found}holds no sentence that can be used. {paths.missing_train}")

    def _take_in(self, line: int, sentence: Record) -> None:
        place, entities = len(self._gold), sentence["entities"]
        places, lines = self._steps
        if not places or line - lines[-1] != place - places[-1]:
            places.append(place)
            lines.append(line)
        self.places[sentence["id"]] = place
        self._gold.append(_gold_print(sentence, len(entities)))
        for entity in entities:
            self.entities[entity["entity"]] += 1
            self.first_lines.setdefault(entity["entity"], line)
        self.asked += bool(entities)
        self.gold_entities += len(entities)

    def __len__(self) -> int:
        """How many training sentences there are."""
        return len(self._gold)

    def _training_rows(self) -> Iterator[tuple[int, Record]]:
        for line, row in self.train.rows():
            yield line, {"id": str(row.get("id", line)), **{k: v for k, v in row.items() if k != "id"}}

    def sentences(self) -> Iterator[Record]:
        """The training sentences, each with its id first, as the steps read them."""
        place = 0
        for _, row in self._training_rows():
            if self.places.get(row["id"]) == place:  # else it stands there for the second time
                place += 1
                yield row

    def line_of(self, identity: str) -> int:
        """Line of a training sentence."""
        places, lines = self._steps
        place = self.places.get(identity)
        step = bisect_right(places, place) - 1
        return lines[step] + place - places[step]

    def gold_of(self, identity: str) -> int | None:
        """How many gold entities a training sentence has, None for an id of none."""
        place = self.places.get(identity)
        return None if place is None else self._gold[place] & _MOST_ENTITIES

    def has_gold(self, row: Record) -> bool:
        """Whether a row of a training sentence still has its text, and its gold entities before all others."""
        found = self._gold[self.places.get(row["id"])]
        return _gold_print(row, found & _MOST_ENTITIES) == found

    @property
    def order(self) -> Order:
        """The places of the training sentences."""
        return Order(lambda: (row["id"] for row in self.sentences()), distinct=True, places=self.places)

    @cached_property
    def made(self) -> Made:
        """The synthetic sentences."""
        made = Made()
        for row in self.synthetic.records():
            made.rows += 1
            owner = self.places.get(row["source_id"])
            place = made.places.get(row["id"])
            if place is None:
                place = made.places[row["id"]] = len(made.owners)
                made.owners.append(NOBODY)
                made.clash = made.clash or row["id"] in self.places
            made.owners[place] = NOBODY if owner is None else owner
        return made

    def order_of(self, source: DataFile) -> Order:
        """The places of the rows of a file."""
        if source is self.train:
            return self.order
        known = self.made.places if source is self.synthetic and self.made.rows == len(self.made.owners) else None
        return Order(lambda: (row["id"] for row in source.records()), distinct=known is not None or source.distinct, places=known)

    @cached_property
    def language(self) -> Language:
        """Of the data set, as the flags or the tokens say."""
        return language_of(self.opts, (sentence["text"] for sentence in self.sentences()))

    def language_in(self, settings: dict[str, Any]) -> Language:
        """The language that a file was made with."""
        dense, lang = settings.get("dense"), settings.get("lang")
        return Language(dense if isinstance(dense, bool) else self.language.dense,
                        lang if isinstance(lang, str) else self.language.lang)

    def file(self, path: Path, mend: str, check: Callable[[Record], str]) -> DataFile:
        """A data file; the same object each time."""
        if path not in self._files:
            self._files[path] = DataFile(self.book, path, mend, check)
        return self._files[path]

    @property
    def train(self) -> DataFile:
        """train_1000.jsonl of the data set."""
        return self.file(self.paths.train, "", _training_problem)

    @property
    def synthetic(self) -> DataFile:
        """The synthetic sentences of step 2."""
        return self.file(self.paths.synthetic, self.paths.command("s2_continous_generation"), synthetic_problem)

    def annotation(self, mode: str, synthetic: bool) -> DataFile:
        """The annotations of step 1 or 3."""
        step = "s3_predict_syn_data" if synthetic else "s1_predict_data"
        return self.file(self.paths.annotation(mode, synthetic), self.paths.command(step, mode=mode),
                         annotation_problem(mode))

    def part(self, size: int, name: str) -> DataFile:
        """A file of step 4."""
        check = annotation_problem(name.split("_")[0]) if name.startswith(("entity", "pos")) else (
            synthetic_problem if name.endswith("synthetic") else sentence_problem)
        return self.file(self.paths.sized(size, name), self.paths.command("s4_split_data"), check)

    def merged(self, size: int, synthetic: bool) -> DataFile:
        """A file of step 5, which step 8 writes too."""
        kind = "synthetic_fusion" if synthetic else "fusion"
        return self.file(self.paths.sized(size, f"train_{{n}}_{kind}"),
                         self.paths.command("s5_merge_data", is_syn=int(synthetic)), sentence_problem)

    def target(self, size: int) -> DataFile:
        """The synthetic sentences with the target labels of step 7."""
        return self.file(self.paths.sized(size, "train_{n}_synthetic_target"), self.paths.command("s7_pred_syn_data"),
                         synthetic_problem)

    def final(self, size: int) -> DataFile:
        """The training set of step 8."""
        return self.file(self.paths.sized(size, "train_{n}_syn_fusion"),
                         self.paths.command(FINAL), sentence_problem)

    def data_files(self) -> list[DataFile]:
        """Every file of rows that the steps 1 to 8 make, whether it exists or not."""
        found = [self.synthetic, *(self.annotation(mode, synthetic) for synthetic in (False, True) for mode in MODES)]
        for size in SIZES:
            found += [*(self.part(size, name) for name in PARTS), self.merged(size, False), self.merged(size, True),
                      self.target(size), self.final(size)]
        return found

    def journal_of(self, file: DataFile, known: IdMap | None = None) -> Journal:
        """The stored replies behind a file of steps 1 to 3; close it. known: see ``Journal``."""
        journal = Journal(self.book, journal_path(self.paths, file.path), file.mend, known)
        if not journal.exists and file.exists:
            self._say_that_replies_are_gone(journal, file)
        return journal

    def _say_that_replies_are_gone(self, journal: Journal, file: DataFile) -> None:
        if any(self.paths.journals.glob("*.jsonl")):  # a copy of a run without its hidden folder lacks all of them
            self.book.problem(journal.path, "gone", f"the replies behind {file.path.name} are gone.", mend=file.mend)
        else:
            self.book.note(f"{self.paths.journals}: no replies are stored here, so rows are compared with the replies in "
                           "them, and the synthetic sentences with none.")

    def not_there_yet(self, step: str, file: DataFile) -> None:
        """Note that a step has not made a file."""
        self.book.note(f"{step}: {file.path} is not there yet. Make it with: {file.mend}")

    def sizes_of(self, files: dict[int, DataFile], step: str) -> list[int]:
        """The sizes whose file exists; one note about the others."""
        absent = [size for size in SIZES if not files[size].exists]
        if absent:
            name = files[absent[0]].path
            more = f" (and {', '.join(map(str, absent[1:]))})" if len(absent) > 1 else ""
            self.book.note(f"{step}: {name}{more} is not there yet. Make it with: {files[absent[0]].mend}")
        return [size for size in SIZES if size not in absent]


def _training_problem(row: Record) -> str:
    identity = row.get("id", 1)
    if isinstance(identity, int) and not isinstance(identity, bool):
        row = {**row, "id": str(identity)}
    return sentence_problem(row)


def _gold_print(row: Record, entities: int) -> int:
    """Of a text and its first ``entities`` entities: 40 bits of a digest, 24 of their number."""
    return int.from_bytes(digest_of(row, entities)[:5], "big") << 24 | entities


def digest_of(row: Record, entities: int | None = None) -> bytes:
    """Of a sentence's text and of its first ``entities`` entities, all by default."""
    content = [row["text"], row["entities"][:entities]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()[:16]
