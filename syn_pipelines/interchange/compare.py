"""What people changed: the spans that were sent out against those that came back, as decisions of reviewers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syn_pipelines.utils.decisions import GOLD, KINDS, REVIEW, Decision, decision_of, effective
from syn_pipelines.utils.fusion import LabelledSpan
from syn_pipelines.utils.jsonl import lines_of, open_input, parsed
from syn_pipelines.utils.packing import in_any_order
from syn_pipelines.utils.records import Record, read_sentences


@dataclass(frozen=True)
class Change:
    """decision: accept, reject, add, relabel or resize (the last two with ``to``)."""

    decision: str
    span: LabelledSpan
    to: LabelledSpan | None = None


def changes(before: Iterable[LabelledSpan], after: Iterable[LabelledSpan],
            together: Callable[[str, str], bool] = lambda a, b: True) -> list[Change]:
    """How spans became others, each span at most once: kept ones are accepted; a span with the same tokens and another
    label was relabelled; one with the same label that shares tokens was resized, the one that shares most; what then
    remains was rejected or added.

    together: whether a span may go from one label to the other in one decision.
    """
    before, after = set(before), set(after)
    result = [Change("accept", span) for span in sorted(before & after)]
    removed, added = sorted(before - after), sorted(after - before)
    for decision, fits in (("relabel", _same_tokens), ("resize", _same_label)):
        pairs = sorted((-_shared(old, new), old, new) for old in removed for new in added
                       if fits(old, new) and together(old[2], new[2]))
        for _, old, new in pairs:
            if old in removed and new in added:
                result.append(Change(decision, old, new))
                removed.remove(old)
                added.remove(new)
    return result + [Change("reject", span) for span in removed] + [Change("add", span) for span in added]


def _same_tokens(old: LabelledSpan, new: LabelledSpan) -> bool:
    return old[:2] == new[:2]


def _same_label(old: LabelledSpan, new: LabelledSpan) -> bool:
    return old[2] == new[2] and _shared(old, new) > 0


def _shared(old: LabelledSpan, new: LabelledSpan) -> int:
    return min(old[1], new[1]) - max(old[0], new[0])


class RunSentences:
    """The sentences of a file by id: where each begins is in memory, the sentences stay on disk."""

    def __init__(self, path: Path, missing: str) -> None:
        """UserError where the file is missing or broken."""
        self.path = path
        for _ in read_sentences(path, missing=missing, may_be_empty=True, again=True):
            pass  # its format
        self._file, self._places, at = in_any_order(open_input(path)), {}, 0
        for number, line in lines_of(self._file):
            if line.strip():
                self._places[self._row(line, number)["id"]] = at, number
            at += len(line)

    @staticmethod
    def _row(line: bytes, number: int) -> Record:
        row = parsed(line.decode("utf-8-sig"))
        return {**row, "id": str(row.get("id", number))}

    def get(self, identity: str) -> Record | None:
        """The sentence with that id."""
        if identity not in self._places:
            return None
        at, number = self._places[identity]
        self._file.seek(at)
        return self._row(self._file.readline(), number)

    def __enter__(self) -> RunSentences:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def kind_of(label: str, targets: Iterable[str], synthetic: bool) -> str:
    """gold, target (the guess of an NER model) or extension."""
    if label not in targets:
        return "extension"
    return "target" if synthetic else "gold"


def file_of(kind: str) -> str:
    """The file that decisions about such spans go to."""
    return GOLD if kind in KINDS[GOLD] else REVIEW


class Decided:
    """The decisions that count already, so that the same file brought in twice changes nothing."""

    def __init__(self, run: Path) -> None:
        """UserError where a file is broken."""
        self._reviews = {name: effective(run / name) for name in KINDS}
        self._known = {(name, d.key, d.decision, d.to) for name, review in self._reviews.items()
                       for found in review.decisions.values() for d in found if not _is_overtaken(d, found)}

    def has(self, name: str, row: Mapping[str, Any]) -> bool:
        """Whether this decision counts already."""
        decision = decision_of({"time": 0, **row}, KINDS[name])
        if decision.decision == "done":
            return (decision.id, decision.text_sha256) in self._reviews[name].seen
        return (name, decision.key, decision.decision, decision.to) in self._known


def _is_overtaken(decision: Decision, others: Iterable[Decision]) -> bool:
    """Whether a later decision is about the span that this one has put."""
    return any(other.line > decision.line and other.key == (*decision.key[:2], decision.to) for other in others)
