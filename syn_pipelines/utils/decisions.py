"""What people decided about spans: the files that a review appends to, and how their decisions change a sentence.

review.jsonl of a run holds decisions about extension labels and about predicted target labels, gold_corrections.jsonl those
about gold labels. One JSON object a line:

    {"id": "17", "text_sha256": "9f...", "kind": "extension", "start": 2, "end": 4, "label": "PERSON",
     "decision": "relabel", "to": {"start": 2, "end": 4, "label": "LOCATION"}, "time": 1764000000.0}

kind: extension or target (review.jsonl), gold (gold_corrections.jsonl). decision: accept, reject, add; relabel and resize
(with ``to``: where and what the span is instead); undo, which takes back what was decided last about the same span; done,
which says that the sentence was seen through. ``done``, and ``undo`` of it, have no kind and no span. Spans are half-open
token offsets. A span is named by what it was before anybody changed it, an added one by what was added.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError, did_you_mean
from syn_pipelines.utils.fusion import LabelledSpan, as_entity
from syn_pipelines.utils.jsonl import (
    MAX_LINE,
    Problems,
    lines_of,
    naming,
    open_input,
    open_own,
    parsed,
    sync_folder,
    to_line,
)
from syn_pipelines.utils.records import Record, short

REVIEW, GOLD = "review.jsonl", "gold_corrections.jsonl"  # in the run folder
KINDS = {REVIEW: ("extension", "target"), GOLD: ("gold",)}
APPLIED = {"accept": "accepted", "reject": "rejected", "relabel": "relabelled", "resize": "resized", "add": "added"}
DECISIONS = (*APPLIED, "undo", "done")
TAKING = ("reject", "relabel", "resize")  # these take their span away
# Why a decision has no effect.
TEXT_CHANGED, NO_SPAN, THERE_ALREADY = "text_changed", "span_not_there", "there_already"
GOLD_LABEL, NO_GOLD, NOT_ASKED_FOR = "gold_label", "synthetic_sentence", "needs_apply_gold_review"
NO_SENTENCE = "sentence_not_there"

_HASH = re.compile("[0-9a-f]{64}")
_ADVICE = "Correct the line, or remove it to take that decision back."


def text_hash(tokens: Sequence[str]) -> str:
    """What a decision knows the text of its sentence by: sha256 of the list of tokens, so that their borders count."""
    text = json.dumps(list(tokens), ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Decision:
    """One line. span: (start, end, label), None for ``done``. to: what a relabelled or resized span is instead.

    line: from 1. added: an earlier line about the same span has added it (of effective decisions only).
    """

    id: str
    text_sha256: str
    decision: str
    kind: str = ""
    span: LabelledSpan | None = None
    to: LabelledSpan | None = None
    time: float = 0.0
    line: int = 0
    added: bool = False

    @property
    def key(self) -> tuple[str, str, LabelledSpan | None]:
        """What it is about."""
        return self.id, self.text_sha256, self.span

    @property
    def places(self) -> LabelledSpan | None:
        """The span that it puts into the sentence, if any."""
        if self.to is not None:
            return self.to
        return self.span if self.decision == "add" or self.added else None

    def row(self) -> dict[str, Any]:
        """The object of its line."""
        place = {} if self.span is None else {"kind": self.kind, **_object(self.span)}
        to = {} if self.to is None else {"to": _object(self.to)}
        return {"id": self.id, "text_sha256": self.text_sha256, **place, "decision": self.decision, **to, "time": self.time}


def _object(span: LabelledSpan) -> dict[str, Any]:
    return dict(zip(("start", "end", "label"), span))


def decision_of(row: Mapping[str, Any], kinds: Collection[str], line: int = 0) -> Decision:
    """The decision that a JSON object holds. ValueError says what is wrong with it. Keys of its own may come along."""
    identity, digest, what = row.get("id"), row.get("text_sha256"), row.get("decision")
    kind, to, when = row.get("kind"), row.get("to"), row.get("time", 0.0)
    if not isinstance(identity, str) or not identity:
        raise ValueError(f"'id' must be the id of a sentence, got {short(identity)}.")
    if not isinstance(digest, str) or not _HASH.fullmatch(digest):
        raise ValueError(f"'text_sha256' must be 64 digits from 0 to f, got {short(digest)}.")
    if what not in DECISIONS:
        raise ValueError(f"decision {short(what)} is none of {', '.join(DECISIONS)}{did_you_mean(what, DECISIONS)}.")
    if isinstance(when, bool) or not isinstance(when, (int, float)) or not math.isfinite(when):
        raise ValueError(f"'time' must be a number (Unix time), got {short(when)}.")
    if (to is not None) != (what in ("relabel", "resize")):
        raise ValueError(f"{what} needs 'to' with start, end and label." if to is None else f"{what} takes no 'to'.")
    if what == "done" or (what == "undo" and all(row.get(name) is None for name in ("start", "end", "label"))):
        if any(row.get(name) is not None for name in ("start", "end", "label")):
            raise ValueError("done is about a whole sentence and takes no start, end or label.")
        return Decision(identity, digest, what, time=float(when), line=line)
    if kind not in kinds:
        raise ValueError(f"kind {short(kind)} is not {' or '.join(kinds)}, as it must be in this file.")
    return Decision(identity, digest, what, kind, _span(row, ""), None if to is None else _span(to, "to."), float(when), line)


def _span(value: Any, where: str) -> LabelledSpan:
    if not isinstance(value, dict):
        raise ValueError(f"'to' must be an object with start, end and label, got {short(value)}.")
    start, end, label = value.get("start"), value.get("end"), value.get("label")
    if type(start) is not int or type(end) is not int:
        raise ValueError(f"'{where}start' and '{where}end' must be whole numbers, got {short(start)} and {short(end)}.")
    if not 0 <= start < end:
        raise ValueError(f"the span from token {start} to {end} is none: '{where}end' must be above '{where}start'.")
    if not isinstance(label, str) or not label or label == "O":
        raise ValueError(f"'{where}label' must be a label, got {short(label)}.")
    return start, end, label


# --- the files ---------------------------------------------------------------------------------------------------


def history(path: Path) -> list[Decision]:
    """Every line of a file in its order, ``undo`` and ``done`` too. [] where there is no such file.

    A last line that a kill has torn is passed over.
    Raises:
        UserError: names every line that is wrong (the first 20).
    """
    problems, result = Problems(path, _ADVICE), []
    kinds = KINDS[GOLD if path.name == GOLD else REVIEW]
    if not os.path.lexists(path):
        return []
    with open_input(path, packed=False) as file:
        for number, raw in lines_of(file):
            if not raw.strip():
                continue
            try:
                result.append(decision_of(_parsed(raw, number), kinds, number))
            except (UnicodeDecodeError, json.JSONDecodeError) as err:
                if raw.endswith(b"\n") or len(raw) == MAX_LINE:  # else a kill has torn it
                    problems.add(number, f"is not valid JSON in UTF-8 ({err.msg} at column {err.colno})."
                                 if isinstance(err, json.JSONDecodeError) else f"is not UTF-8 (byte 0x{raw[err.start]:02x}).")
            except ValueError as err:
                problems.add(number, str(err))
    problems.raise_if_any()
    return result


def _parsed(raw: bytes, number: int) -> dict[str, Any]:
    value = parsed(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"holds a {type(value).__name__}, not an object.")
    return value


@dataclass(frozen=True)
class Review:
    """What counts of a file. decisions: by sentence id, in the order of their lines, whatever text they are about.

    seen: (id, text_sha256) of the sentences marked with ``done``.
    """

    path: Path
    decisions: dict[str, list[Decision]] = field(default_factory=dict)
    seen: frozenset[tuple[str, str]] = frozenset()

    def __len__(self) -> int:
        return sum(map(len, self.decisions.values()))


def effective(path: Path) -> Review:
    """The decisions of a file that count: of several about one span the last, but for those taken back. UserError as ``history``."""
    stacks: dict[tuple[str, str, LabelledSpan | None], list[Decision]] = {}
    for decision in history(path):
        stack = stacks.setdefault(decision.key, [])
        if decision.decision != "undo":
            stack.append(decision)
        elif stack:
            stack.pop()
    result: dict[str, list[Decision]] = {}
    for last in sorted((_last(stack) for stack in stacks.values() if stack), key=lambda d: d.line):
        if last.span is not None:
            result.setdefault(last.id, []).append(last)
    seen = frozenset((identity, digest) for (identity, digest, span), stack in stacks.items() if span is None and stack)
    return Review(path, result, seen)


def _last(stack: Sequence[Decision]) -> Decision:
    """The decision that counts; it keeps what was added before, unless it rejects that."""
    last = stack[-1]
    added = last.decision in ("accept", "relabel", "resize") and any(d.decision == "add" for d in stack)
    return replace(last, added=True) if added else last


class DecisionLog:
    """A file that decisions are appended to; they are on disk before ``append`` returns. Hold a lock while one is open.

    Lines that others wrote are not looked at, but for the end of the file: a line that a kill has torn is cut.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file. UserError, or OSError, where that fails."""
        self.path, self._kinds = path, KINDS[GOLD if path.name == GOLD else REVIEW]
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with naming(path):
            self._file = open_own(path)
        if is_new:
            sync_folder(path.parent)
        self._mend_end()

    def _mend_end(self) -> None:
        size = self._file.seek(0, os.SEEK_END)
        at = max(0, size - MAX_LINE)
        self._file.seek(at)
        tail = self._file.read()
        torn = tail[tail.rfind(b"\n") + 1:]
        if not torn.strip():
            return
        try:
            _parsed(torn, 1)
        except ValueError:
            self._file.truncate(size - len(torn))
        else:  # whole but for its end: somebody's editor
            self._write(b"\n")

    def append(self, row: Mapping[str, Any]) -> Decision:
        """Add one decision, as ``append_all``."""
        return self.append_all([row])[0]

    def append_all(self, rows: Sequence[Mapping[str, Any]]) -> list[Decision]:
        """Add decisions (``time`` is now where a row has none) in one piece, and wait for the disk.

        Raises:
            UserError: one of them is none; nothing is written. OSError: they are not on disk.
        """
        decisions, lines = [], []
        for row in rows:
            try:
                decisions.append(decision_of({"time": time.time(), **row}, self._kinds))
                lines.append(to_line({**row, **decisions[-1].row()}))
                _parsed(lines[-1], 1)  # what could not be read again, such as half of a surrogate pair
            except ValueError as err:
                raise UserError(f"{self.path}: a decision was not taken down: {err}") from None
        self._write(b"".join(lines))
        return decisions

    def _write(self, data: bytes) -> None:
        # Past the buffer: after a failed write it would keep what did not fit, and bring it out with a later decision.
        with naming(self.path):
            handle = self._file.fileno()
            start = os.lseek(handle, 0, os.SEEK_END)
            try:
                while data:
                    data = data[os.write(handle, data):]
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, start)  # a full disk must not leave half a line that the next one goes on with
                raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> DecisionLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


# --- what they do to a sentence ------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of decisions: all = applied (by what was done) + without effect (by reason)."""

    applied: Counter[str] = field(default_factory=Counter)
    without_effect: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.applied.total() + self.without_effect.total()


def applied(tokens: Sequence[str], entities: Sequence[Record], decisions: Sequence[Decision], *, targets: Collection[str],
            tally: Tally, path: Path, refuse: Callable[[Decision], str] = lambda decision: "") -> list[Record]:
    """The entities of a sentence after what was decided about them.

    What was there and is taken away goes first; then decisions act in their order, each on what those before have left.
    Entities that nobody changed stay the objects they are, in their order; spans put there by a decision follow behind them,
    sorted, those with a target label behind the targets, the others at the end. A span that is there already is not doubled.

    Args:
        entities: those with target labels, then those with extension labels. targets: the target labels.
        tally: is added to. path: of the decisions, for messages.
        refuse: why a decision may not act here, "" where it may.
    Raises:
        UserError: a decision puts a span beyond the sentence.
    """
    if not decisions:
        return list(entities)
    digest = text_hash(tokens)
    before = {_span_of(entity) for entity in entities}
    acting = []
    for decision in decisions:
        reason = TEXT_CHANGED if decision.text_sha256 != digest else refuse(decision)
        if reason:
            tally.without_effect[reason] += 1
            continue
        if (new := decision.places) and new[1] > len(tokens):
            raise UserError(f"{path}:{decision.line}: {decision.decision} puts a span at tokens {new[0]} to {new[1]}, but "
                            f"sentence {short(decision.id)} has {len(tokens)} tokens. {_ADVICE}")
        acting.append(decision)
    # First what goes, then what comes: a span that one decision puts where another takes one away must stay.
    spans = before - {decision.span for decision in acting if decision.decision in TAKING}
    for decision in acting:
        _place(spans, before, decision, tally)
    if spans == before:
        return list(entities)
    kept = [entity for entity in entities if _span_of(entity) in spans]
    new = [as_entity(tokens, (start, end), label) for start, end, label in sorted(spans - before)]
    return [entity for wanted in (True, False) for part in (kept, new) for entity in part
            if (entity["entity"] in targets) is wanted]


def _span_of(entity: Record) -> LabelledSpan:
    return entity["start"], entity["end"], entity["entity"]


def _place(spans: set[LabelledSpan], before: Collection[LabelledSpan], decision: Decision, tally: Tally) -> None:
    """Put what a decision puts, and count it. before: the spans as they were, of which those taken away are gone already."""
    what, old, new = decision.decision, decision.span, decision.places
    is_there = old in before or old in spans and not decision.added
    if decision.added and not is_there:
        what = "add"
    if what == "add" and new in spans:
        tally.without_effect[THERE_ALREADY] += 1
    elif what != "add" and not is_there:
        tally.without_effect[NO_SPAN] += 1
    else:
        tally.applied[APPLIED[what]] += 1
        if what in TAKING and old not in before:  # one that a decision before this has put
            spans.discard(old)
        if new is not None and what != "accept":
            spans.add(new)
