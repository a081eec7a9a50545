"""What is exported: the sentences of a run, read as often as a format needs, one at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from syn_pipelines.interchange.offsets import Layout, beyond_bmp
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.fusion import LabelledSpan
from syn_pipelines.utils.labels import read_target_labels
from syn_pipelines.utils.language import Language, language_of
from syn_pipelines.utils.options import TextOptions
from syn_pipelines.utils.paths import SIZES, RunPaths
from syn_pipelines.utils.records import Record, read_sentences, read_train, short

TRAIN, DEV, TEST = "train", "dev", "test"
MADE_BY = {"gold": "s4_split_data", "fusion": "s5_merge_data", "syn_fusion": "s8_process_label_and_combine"}
LABELS = ("target", "extension", "all")


@dataclass(frozen=True)
class Item:
    """A sentence to export. spans: half-open token offsets, those of the chosen labels in the order of the record, each
    once. source_id: of a synthetic sentence, the one that it was written from."""

    id: str
    tokens: list[str]
    spans: list[LabelledSpan]
    synthetic: bool = False
    source_id: str = ""

    def carried(self) -> dict[str, Any]:
        """What travels with the text through a tool, so that the way back needs nothing else."""
        return {"tokens": self.tokens, "exported": [list(span) for span in self.spans], "synthetic": self.synthetic,
                "source_id": self.source_id}


@dataclass
class Census:
    """Counts over one split. spans: by label, of all labels; not_chosen: those that --labels leaves out."""

    sentences: int = 0
    synthetic: int = 0
    tokens: int = 0
    with_spans: int = 0
    spans: Counter[str] = field(default_factory=Counter)
    of_synthetic: Counter[str] = field(default_factory=Counter)
    total: int = 0
    chosen: int = 0
    not_chosen: int = 0
    repeated: int = 0
    beyond_bmp: int = 0  # sentences where code points and UTF-16 code units differ
    line_ends: int = 0  # sentences with a line feed or carriage return in a token


@dataclass(frozen=True)
class Material:
    """files: by split, those that are there. chosen: which labels. unit: what the offsets count."""

    name: str
    files: dict[str, Path]
    targets: tuple[str, ...]
    language: Language
    chosen: str
    unit: str
    kind: str
    size: int
    census: dict[str, Census] = field(default_factory=dict)

    @classmethod
    def of(cls, opts: TextOptions, paths: RunPaths, *, train: str, size: int, labels: str, unit: str,
           held_out: bool) -> Material:
        """Find the files, and count in a first pass. held_out: dev and test too.

        Raises:
            UserError: a file is missing or broken.
        """
        source, missing = train_file(paths, train, size)
        files = {TRAIN: source}
        files |= {name: paths.split(name) for name in (DEV, TEST) if held_out and paths.split(name).is_file()}
        targets = tuple(read_target_labels(paths.labels))
        if not source.is_file():
            raise UserError(f"{source}: does not exist. {missing}")
        language = language_of(opts, (s["text"] for s in read_train(paths, again=True)))
        name = f"{paths.file_name}/{paths.save_type_name}".removesuffix("/.")  # of a data set without a run
        material = cls(name, files, targets, language, labels, unit, train, size)
        for split in files:
            material.census[split] = material._counted(split)
        return material

    @property
    def joiner(self) -> str:
        return "" if self.language.dense else " "

    @property
    def extension(self) -> list[str]:
        """The extension labels that occur, by name."""
        return sorted({label for census in self.census.values() for label in census.spans} - set(self.targets))

    @property
    def labels(self) -> list[str]:
        """The labels that may be given: the chosen targets in the order of labels.txt, then the extension labels."""
        return [*(self.targets if self.chosen != "extension" else ()), *(self.extension if self.chosen != "target" else ())]

    def layout(self, item: Item) -> Layout:
        """Text and offsets of a sentence."""
        return Layout(item.tokens, self.joiner, self.unit)

    def items(self, split: str) -> Iterator[Item]:
        """The sentences of a split in file order."""
        for row in self._rows(split):
            yield self._item(row)

    def _rows(self, split: str) -> Iterator[Record]:
        return read_sentences(self.files[split], may_be_empty=True, again=True)

    def _item(self, row: Record) -> Item:
        spans = [(e["start"], e["end"], e["entity"]) for e in row["entities"] if self._is_chosen(e["entity"])]
        return Item(row["id"], row["text"], list(dict.fromkeys(spans)), row.get("synthetic") is True,
                    str(row.get("source_id") or ""))

    def _is_chosen(self, label: str) -> bool:
        return is_chosen(label, self.targets, self.chosen)

    def _counted(self, split: str) -> Census:
        census = Census()
        for row in self._rows(split):
            item = self._item(row)
            if problem := _problem(item):
                raise UserError(f"{self.files[split]}: sentence {short(item.id)}: {problem}")
            labels = [entity["entity"] for entity in row["entities"]]
            chosen = sum(map(self._is_chosen, labels))
            text = self.joiner.join(item.tokens)
            census.sentences += 1
            census.synthetic += item.synthetic
            census.tokens += len(item.tokens)
            census.with_spans += bool(item.spans)
            census.spans.update(labels)
            census.of_synthetic.update(labels if item.synthetic else ())
            census.total += len(labels)
            census.chosen += len(item.spans)
            census.not_chosen += len(labels) - chosen
            census.repeated += chosen - len(item.spans)
            census.beyond_bmp += beyond_bmp(text)
            census.line_ends += "\n" in text or "\r" in text
        return census


def is_chosen(label: str, targets: Collection[str], chosen: str) -> bool:
    """Whether a label is one of those asked for. chosen: one of ``LABELS``."""
    return chosen == "all" or (label in targets) == (chosen == "target")


def train_file(paths: RunPaths, train: str, size: int) -> tuple[Path, str]:
    """The training file of that name, and what makes it where it is missing."""
    file = paths.sized(size, "train_{n}" if train == "gold" else f"train_{{n}}_{train}")
    if train == "gold" and size == 1000 and not file.is_file():
        return paths.train, paths.missing_train  # the full size is the whole file, cut or not
    return file, paths.missing(MADE_BY[train])


def _problem(item: Item) -> str:
    for name, value in (("id", item.id), ("source_id", item.source_id)):
        if not value.isprintable():
            return f"its {name} holds a line end or another control character, which other tools do not keep. Rename it."
    return ""


def known_size(size: int) -> str:
    """Check of an option: one of the sizes that there are."""
    return "" if size in SIZES else f"is none of {', '.join(map(str, SIZES))}"
