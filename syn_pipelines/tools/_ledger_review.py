"""Decisions of people in the ledger: which of them a merged file was made with, and what became of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from syn_pipelines.tools._ledger_book import Book
from syn_pipelines.tools._ledger_case import Case
from syn_pipelines.tools._ledger_files import DataFile
from syn_pipelines.utils.decisions import GOLD, NO_SENTENCE, Review, effective, history, text_hash
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import file_hash
from syn_pipelines.utils.records import Record
from syn_pipelines.utils.reviews import WHAT, Reviews, accounts_of

TAKEN_BACK, OTHER_TEXT, COUNTS = "taken back or replaced", "about another text", "counts"


@dataclass
class Decided:
    """What people decided about the sentences of one merged file.

    reviews: the decisions that it was made with. unsure: ids of sentences with decisions that may have come later; all of
    them where ``all_unsure``. corrected: of sentences whose gold labels people (may) have changed, how many of these are gone.
    """

    reviews: Reviews
    unsure: set[str] = field(default_factory=set)
    all_unsure: bool = False
    corrected: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, case: Case, file: DataFile, synthetic: bool) -> Decided:
        """Read both files; lines that are wrong are findings."""
        gold = file.settings.get("apply_gold_review") is True
        result = cls(Reviews({}, frozenset(case.targets), synthetic, gold))
        inputs = file.manifest.get("inputs", {})
        for name in WHAT:
            path = case.paths.run / name
            if not os.path.lexists(path):
                continue
            try:
                digest = file_hash(path)
                review, known = _effective(path, digest), bool(file.manifest) and digest == inputs.get(name)
            except (UserError, OSError) as err:
                case.book.problem(path, "broken", str(err), mend=f"correct or remove the line, then: {file.mend}")
                result.all_unsure = True
                continue
            if known:
                result.reviews.files[name] = review
            elif name != GOLD or gold or not file.is_as_published:  # else they have no effect in any case
                result.unsure.update(review.decisions)  # made before the last ones came, which is said; or newer than its manifest
            if name == GOLD and not (known and file.is_as_published) and (gold or not file.is_as_published):
                result.corrected.update(dict.fromkeys(review.decisions, 0))
        return result

    def is_unsure(self, identity: str) -> bool:
        """Whether the entities of a sentence cannot be compared."""
        return self.all_unsure or identity in self.unsure

    def entities(self, file: DataFile, sentence: Record, gold: int, merged: Sequence[Record]) -> list[Record]:
        """The entities of a sentence with everything decided about it. gold: how many of ``merged`` are gold."""
        try:
            result = self.reviews.entities(sentence, merged)
        except UserError as err:
            file.book.problem(file.path, "decision", str(err), mend=f"correct or remove the line, then: {file.mend}")
            self.unsure.add(sentence["id"])
            return list(merged)
        if self.reviews.apply_gold and gold_decisions(self.reviews.files).get(sentence["id"]):
            self.corrected[sentence["id"]] = sum(entity not in result for entity in merged[:gold])
        return result


@lru_cache(maxsize=4)  # six merged files are made with the same two
def _effective(path: Path, _sha256: str | None) -> Review:
    return effective(path)


def gold_decisions(files: Mapping[str, Review]) -> Mapping[str, Any]:
    """By sentence id what was decided about gold labels."""
    return files[GOLD].decisions if GOLD in files else {}


def account_of_decisions(book: Book, halves: Sequence[Decided], *, whole: bool) -> None:
    """Every decision was applied, or has no effect for a reason. whole: both halves, as far as they exist, are there."""
    for account in accounts_of([half.reviews for half in halves], NO_SENTENCE if whole else "not_in_this_half"):
        book.account("s5 1000", account.what, account.parts, account.reasons)


def decisions_about(case: Case, sentence: Record) -> list[dict[str, Any]]:
    """Each line of a review about a sentence: file, line, what it says, and whether it counts."""
    result, digest = [], text_hash(sentence["text"])
    for name in WHAT:
        path = case.paths.run / name
        lines = [decision for decision in history(path) if decision.id == sentence["id"]]
        counting = {decision.line for decision in effective(path).decisions.get(sentence["id"], ())} if lines else set()
        for decision in lines:
            is_last = decision.line in counting or (decision.decision == "done")
            state = OTHER_TEXT if decision.text_sha256 != digest else COUNTS if is_last else TAKEN_BACK
            result.append({"file": str(path), "line": decision.line, **decision.row(), "state": state})
    return result
