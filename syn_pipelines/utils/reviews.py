"""The decisions of people at work: what review.jsonl and gold_corrections.jsonl of a run do to the merged sentences.

Gold labels change with --apply_gold_review only; without it the decisions about them are counted, and nothing else.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from syn_pipelines.utils.decisions import (
    GOLD,
    GOLD_LABEL,
    NO_GOLD,
    NO_SENTENCE,
    NOT_ASKED_FOR,
    REVIEW,
    Decision,
    Review,
    Tally,
    applied,
    effective,
)
from syn_pipelines.utils.errors import did_you_mean
from syn_pipelines.utils.jsonl import Problems
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.records import Record, short
from syn_pipelines.utils.summary import Account, with_reasons

WHAT = {REVIEW: "decisions of reviewers", GOLD: "decisions about gold labels"}
COUNTED_AS = {REVIEW: "review", GOLD: "gold_review"}  # in manifests


def review_files(paths: RunPaths) -> list[Path]:
    """Those of the two files that are there."""
    return [paths.run / name for name in WHAT if os.path.lexists(paths.run / name)]


@dataclass
class Reviews:
    """Both files at work on the sentences of one merged file.

    files: by name, those that are there. synthetic: which half. tallies: of the decisions about the sentences that came
    by. met: ids of those with decisions. extension: by extension label, how many spans more it has than before.
    """

    files: dict[str, Review]
    targets: frozenset[str]
    synthetic: bool
    apply_gold: bool
    tallies: dict[str, Tally] = field(default_factory=lambda: {name: Tally() for name in WHAT})
    met: set[str] = field(default_factory=set)
    extension: Counter[str] = field(default_factory=Counter)

    @classmethod
    def load(cls, paths: RunPaths, targets: Collection[str], *, synthetic: bool, apply_gold: bool) -> Reviews:
        """Read what is there. UserError for lines that are wrong."""
        return cls({path.name: effective(path) for path in review_files(paths)}, frozenset(targets), synthetic, apply_gold)

    def refuse_unknown(self, extension: Collection[str]) -> None:
        """UserError where a decision puts a label that is none of the run's. extension: the extension labels."""
        for name, review in self.files.items():
            if name == GOLD and not self.apply_gold:
                continue
            known = self.targets if name == GOLD else self.targets.union(extension)
            kind = "no target label" if name == GOLD else "neither a target label nor an extension label"
            problems = Problems(review.path, "Correct the label (extension labels have the prefix of --label_prefix), or remove "
                                             "the line.")
            for decision in _in_order(review):
                if (new := decision.places) and new[2] not in known:
                    problems.add(decision.line, f"{short(new[2])} is {kind}{did_you_mean(new[2], known)}.")
            problems.raise_if_any()

    def afresh(self) -> Reviews:
        """The same with nothing counted yet."""
        return replace(self, tallies={name: Tally() for name in WHAT}, met=set(), extension=Counter())

    def counted(self) -> dict[str, Any]:
        """What was counted, as JSON values."""
        return {"tallies": {name: [tally.applied, tally.without_effect] for name, tally in self.tallies.items()},
                "met": sorted(self.met), "extension": self.extension}

    def add(self, other: Mapping[str, Any]) -> None:
        """Add what was counted elsewhere, as ``counted`` gives it."""
        for name, (done, without_effect) in other["tallies"].items():
            self.tallies[name].applied.update(done)
            self.tallies[name].without_effect.update(without_effect)
        self.met.update(other["met"])
        self.extension.update(other["extension"])

    def has_decided(self, identity: str) -> bool:
        """Whether there is any decision about the sentence with this id."""
        return any(identity in review.decisions for review in self.files.values())

    def entities(self, sentence: Record, entities: Sequence[Record]) -> list[Record]:
        """The entities of a sentence (targets first) as they are after all that was decided about it."""
        result = list(entities)
        for name, review in self.files.items():
            if decisions := review.decisions.get(sentence["id"]):
                self.met.add(sentence["id"])
                result = applied(sentence["text"], result, decisions, targets=self.targets, tally=self.tallies[name],
                                 path=review.path, refuse=self._refuse_gold if name == GOLD else self._refuse)
        if result != entities:
            self.extension.update(self._extension_labels(result))
            self.extension.subtract(self._extension_labels(entities))
        return result

    def _extension_labels(self, entities: Sequence[Record]) -> list[str]:
        return [entity["entity"] for entity in entities if entity["entity"] not in self.targets]

    def _refuse(self, decision: Decision) -> str:
        """The target labels of an original sentence are gold, which this file has no say in."""
        labels = {span[2] for span in (decision.span, decision.to) if span}
        return GOLD_LABEL if not self.synthetic and labels & self.targets else ""

    def _refuse_gold(self, decision: Decision) -> str:
        if self.synthetic:
            return NO_GOLD
        return "" if self.apply_gold else NOT_ASKED_FOR

    def counts(self) -> dict[str, Any]:
        """For the manifest; {} without a review."""
        return {COUNTED_AS[name]: {"applied": with_reasons(self.tallies[name].applied),
                                   "without_effect": with_reasons(self.tallies[name].without_effect)} for name in self.files}


def _in_order(review: Review) -> list[Decision]:
    return sorted((d for found in review.decisions.values() for d in found), key=lambda d: d.line)


def accounts_of(halves: Sequence[Reviews], elsewhere: str = NO_SENTENCE) -> list[Account]:
    """What became of every decision, file by file, after these halves were merged.

    elsewhere: why a decision about none of their sentences has no effect.
    """
    met = set().union(*(half.met for half in halves))
    result = []
    for name, review in halves[-1].files.items() if halves else ():
        parts, reasons = Counter(), Counter()
        for half in halves:
            parts.update(half.tallies[name].applied)
            reasons.update(half.tallies[name].without_effect)
        reasons[elsewhere] += sum(len(found) for identity, found in review.decisions.items() if identity not in met)
        total = parts.total() + reasons.total()
        if total:
            result.append(Account(WHAT[name], total, {**with_reasons(parts), "without effect": reasons.total()},
                                  with_reasons(reasons)))
    return result
