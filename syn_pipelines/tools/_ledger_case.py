"""What the ledger's checks share: the data set as it is, and the files of a run by what they are."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from syn_pipelines.tools._ledger_book import Book, DataFile, Journal, annotation_problem, sentence_problem
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.labels import read_target_labels
from syn_pipelines.utils.language import Language, language_of
from syn_pipelines.utils.paths import MODES, SIZES, RunPaths
from syn_pipelines.utils.records import Record
from syn_pipelines.utils.stored_replies import journal_path

FINAL = "s8_process_label_and_combine"
# What step 4 cuts, "{n}" being the size.
PARTS = ("train_{n}", *(f"{mode}_train_{{n}}" for mode in MODES), "train_{n}_synthetic",
         *(f"{mode}_train_{{n}}_synthetic" for mode in MODES))


class Case:
    """A data set and one of its runs, with the book that the findings go into.

    places: the place of each training sentence by id. asked: ids of those with entities. gold: by id the number of gold
    entities, and a digest of the text and of these entities. stale: files made from something that has changed since, with
    what to say of them and the command that renews them. items: what steps 1 and 3 published, by mode and ``synthetic``.
    corrected: by size, of original sentences whose gold labels people changed, how many of these are gone.
    """

    def __init__(self, opts: Any, paths: RunPaths, book: Book) -> None:
        """Read the training sentences once. UserError when there are none, or labels.txt is broken."""
        self.opts, self.paths, self.book = opts, paths, book
        self.places: dict[str, int] = {}
        self.asked: set[str] = set()
        self.gold: dict[str, tuple[int, bytes]] = {}
        self.entities: Counter[str] = Counter()
        self.first_lines: dict[str, int] = {}  # where each gold label stands first
        self.stale: dict[Path, tuple[str, str]] = {}
        self.corrected: dict[int, dict[str, int]] = {}
        self.items: dict[tuple[str, bool], int] = {}
        self._files: dict[Path, DataFile] = {}
        self.targets = tuple(read_target_labels(paths.labels)) if paths.labels.is_file() else ()
        if not paths.train.is_file():
            raise UserError(f"{paths.train}: does not exist. {paths.missing_train}")
        self._lines: dict[str, int] = {}
        for line, sentence in self._training_rows():
            identity = sentence["id"]
            if identity in self._lines:
                self.train.problem("order", f"id {identity!r} stands in line {self._lines[identity]} already.", line)
                continue
            self._lines[identity] = line
            self.places[identity] = len(self.places)
            self.gold[identity] = (len(sentence["entities"]), digest_of(sentence))
            for entity in sentence["entities"]:
                self.entities[entity["entity"]] += 1
                self.first_lines.setdefault(entity["entity"], line)
            if sentence["entities"]:
                self.asked.add(identity)
        if not self.places:
            found = f"{book.problems[0]} " if book.problems else f"{paths.train}: "
            raise UserError(f"{found}holds no sentence that can be used. {paths.missing_train}")

    def _training_rows(self) -> Iterator[tuple[int, Record]]:
        for line, row in self.train.rows():
            yield line, {"id": str(row.get("id", line)), **{k: v for k, v in row.items() if k != "id"}}

    def sentences(self) -> Iterator[Record]:
        """The training sentences, each with its id first, as the steps read them."""
        return (row for line, row in self._training_rows() if self._lines.get(row["id"]) == line)

    def line_of(self, identity: str) -> int:
        """Line of a training sentence."""
        return self._lines[identity]

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

    def journal_of(self, file: DataFile) -> Journal:
        """The stored replies behind a file of steps 1 to 3; close it."""
        journal = Journal(self.book, journal_path(self.paths, file.path), file.mend)
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


def synthetic_problem(row: Record) -> str:
    """The check of a row of synthetic sentences."""
    if text := sentence_problem(row):
        return text
    if not isinstance(row.get("source_id"), str) or row.get("synthetic") is not True:
        return "has no 'source_id', or 'synthetic' is not true."
    return ""


def digest_of(row: Record, entities: int | None = None) -> bytes:
    """Of a sentence's text and of its first ``entities`` entities, all by default."""
    content = [row["text"], row["entities"][:entities]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()[:16]
