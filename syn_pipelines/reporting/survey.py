"""One pass over the sentences of a half: labels, coverage, lengths, agreement with gold, and the samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from syn_pipelines.reporting.sampling import Lots, draw
from syn_pipelines.utils.compact import IdMap
from syn_pipelines.utils.records import Record

KINDS = ("target", "entity", "pos")  # of a label: of labels.txt, or an extension label of one of the two maps
ALIKE_SAMPLE = 2000  # sentences that are compared with each other; all pairs of them take seconds at worst
LONGEST_COMPARED = 512  # tokens of such a sentence


def kind_of(targets: Collection[str], pos: Collection[str]) -> Callable[[str], str]:
    """label -> "target", "pos" or "entity"."""
    kinds = {**dict.fromkeys(pos, "pos"), **dict.fromkeys(targets, "target")}
    return lambda label: kinds.get(label, "entity")


@dataclass
class Survey:
    """What the sentences of one half hold.

    kind: of a label. shown, compared: sizes of the two samples. keep: ids whose sentences are wanted.
    labels: spans by label. characters_of: characters under a label. covered: characters under a label of each kind, and
    under "any". lengths: sentences by tokens. duplicates: sentences whose text an earlier one has.
    agreement: by (target label, extension label, "exact" or "partial"): pairs of spans. found: by (target label, "exact",
    "partial" or "none"): target spans by the best entity label that stands on them.
    """

    kind: Callable[[str], str]
    seed: int = 0
    shown: int = 0
    compared: int = ALIKE_SAMPLE
    keep: Collection[str] = ()
    sentences: int = 0
    with_targets: int = 0
    tokens: int = 0
    characters: int = 0
    duplicates: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    characters_of: Counter[str] = field(default_factory=Counter)
    covered: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    agreement: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    kept: dict[str, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rows, self._texts = Lots(self.shown), Lots(self.compared)
        self._seen = IdMap(narrow=True)

    def read(self, rows: Iterable[Record]) -> Survey:
        """Count all rows; itself."""
        for row in rows:
            self.add(row)
        return self

    def add(self, row: Record) -> None:
        """Count one sentence."""
        tokens, lot = row["text"], draw(self.seed, row["id"])
        self.sentences += 1
        self.tokens += len(tokens)
        self.lengths[len(tokens)] += 1
        self._note_duplicate(tokens)
        self._cover(tokens, row["entities"])
        self._compare(row["entities"])
        self._rows.offer(lot, row)
        self._texts.offer(lot, (row["id"], row.get("source_id"), tokens[:LONGEST_COMPARED]))
        if row["id"] in self.keep:
            self.kept[row["id"]] = row

    @property
    def sample(self) -> list[Record]:
        """The sentences to show."""
        return self._rows.items()

    @property
    def texts(self) -> list[tuple[str, Any, list[str]]]:
        """(id, source id or None, tokens) of the sentences to compare."""
        return self._texts.items()

    def of_kind(self, kind: str) -> int:
        """Spans with labels of a kind."""
        return sum(count for label, count in self.labels.items() if self.kind(label) == kind)

    def _note_duplicate(self, tokens: list[str]) -> None:
        text = "\0".join(tokens)
        self.duplicates += text in self._seen
        self._seen[text] = 0

    def _cover(self, tokens: list[str], entities: list[Mapping[str, Any]]) -> None:
        """Count spans, and each character once for each label, each kind and at all, however spans nest."""
        ends = [0, *accumulate(map(len, tokens))]  # in characters
        self.characters += ends[-1]
        reached: dict[str, int] = {}
        by_label: dict[str, int] = {}
        for start, end, label in sorted((e["start"], e["end"], e["entity"]) for e in entities):
            self.labels[label] += 1
            new = max(start, by_label.get(label, 0))
            if new < end:
                self.characters_of[label] += ends[end] - ends[new]
                by_label[label] = end
            for group in (self.kind(label), "any"):
                new = max(start, reached.get(group, 0))
                if new < end:
                    self.covered[group] += ends[end] - ends[new]
                    reached[group] = end

    def _compare(self, entities: list[Mapping[str, Any]]) -> None:
        """Which extension label stands on which target label."""
        spans = [(e["start"], e["end"], e["entity"], self.kind(e["entity"])) for e in entities]
        targets = [span for span in spans if span[3] == "target"]
        self.with_targets += bool(targets)
        for start, end, label, _ in targets:
            best = "none"
            for first, last, other, kind in spans:
                if kind == "target" or last <= start or end <= first:
                    continue
                how = "exact" if (first, last) == (start, end) else "partial"
                self.agreement[label, other, how] += 1
                if kind == "entity" and best != "exact":
                    best = how
            self.found[label, best] += 1


def quantile(lengths: Mapping[int, int], share: float) -> int | None:
    """The smallest length that at least this share of the sentences do not exceed; None without sentences."""
    wanted, seen = share * sum(lengths.values()), 0
    for length in sorted(lengths):
        seen += lengths[length]
        if seen >= wanted:
            return length
    return None
