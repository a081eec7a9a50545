"""One review: what the page shows of a sentence, what a person's action means as decisions, and how far the review is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from syn_pipelines.reviewing.corpus import EXTENSION, GOLD, TARGET, Corpus, Key, Place, Sentence, Span
from syn_pipelines.reviewing.estimates import wilson
from syn_pipelines.reviewing.queue import RANDOM, Wanted
from syn_pipelines.reviewing.store import SEEN, About, Store, Text
from syn_pipelines.utils.decisions import GOLD as GOLD_FILE
from syn_pipelines.utils.decisions import REVIEW as REVIEW_FILE
from syn_pipelines.utils.decisions import Decision
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.records import short

Json = dict[str, Any]
_CHANGES = ("relabel", "resize")


class Refused(ValueError):
    """An action that makes no sense here; the message is for the person at the page."""


@dataclass
class State:
    """A sentence and what counts about it now."""

    sentence: Sentence
    decided: dict[About, Decision]
    added: list[Span]
    shown: list[Span] = field(default_factory=list)  # the spans of the data that this review is about

    def decision(self, span: Span) -> Decision | None:
        """What counts about a span."""
        return self.decided.get(_about(span))

    @property
    def open(self) -> list[Span]:
        return [span for span in self.shown if not self.decision(span)]

    @property
    def finished(self) -> bool:
        """Every span is decided; of a sentence without any it must have been said that it was seen through."""
        return not self.open and (bool(self.shown) or SEEN in self.decided)

    def now(self, span: Span) -> Key | None:
        """Where the span is and what it is called after what was decided; None: it is rejected."""
        decision = self.decision(span)
        if decision is None:
            return span.key
        return None if decision.decision == "reject" else decision.to or span.key


class Session:
    """A queue under review. All methods are for one thread."""

    def __init__(self, corpus: Corpus, store: Store, queue: Sequence[Place], *, pool: int, order: str,
                 wanted: Wanted | None, labels_wanted: str = "") -> None:
        """pool: how many sentences the queue was drawn from. wanted: which spans are reviewed; None: all."""
        self.corpus, self.store, self.queue, self.pool, self.order = corpus, store, queue, pool, order
        self._wanted, self._labels_wanted = wanted, labels_wanted
        self.finished = [False] * len(queue)
        self._places = {identity: index for index, (_, identity) in enumerate(queue)}
        self._verdicts: dict[int, Counter[tuple[str, str, str]]] = {}
        begun = store.ids
        for index, (_, identity) in enumerate(queue):
            if identity in begun:
                self._tally(index, self._state(index))

    # --- what is shown ----------------------------------------------------------------------------------------------

    def overview(self) -> Json:
        """What the page needs to know once: the run, the labels, where to begin."""
        paths, labels = self.corpus.paths, self.corpus.labels
        names = [*(("target", name) for name in labels.targets), *(("entity", labels.prefix + n) for n in labels.entity.labels),
                 *(("pos", labels.prefix + n) for n in labels.pos.labels)]
        return {"data": paths.file_name, "run": paths.save_type_name, "size": self.corpus.size, "dense": self.corpus.dense,
                "order": self.order, "labels_wanted": self._labels_wanted, "pool": self.pool, "start": self.start(),
                "labels": [{"name": name, "group": group} for group, name in names], **self.progress()}

    def start(self) -> int:
        """Where to go on: behind the sentence that was decided on last, at the next one that is not finished."""
        latest = self.store.latest
        return self.next_open(self._places.get(latest[0], 0) if latest else 0)

    def next_open(self, index: int) -> int:
        """The first sentence that is not finished at or behind ``index``, else before it; ``index`` when all are."""
        around = [*range(index, len(self.queue)), *range(index)]
        return next((i for i in around if not self.finished[i]), index)

    def view(self, index: int) -> Json:
        """One sentence as the page shows it."""
        state = self._state(index)
        sentence = state.sentence
        source = self.corpus.tokens_of(sentence.source_id) if sentence.source_id else None
        return {"index": index, "id": sentence.id, "tokens": sentence.tokens, "text_sha256": sentence.text_sha256,
                "synthetic": sentence.synthetic, "source_id": sentence.source_id, "source": source,
                "spans": [self._span_view(state, span) for span in (*state.shown, *state.added)],
                "doubts": [{"start": d.start, "end": d.end, "text": d.text} for d in sentence.doubts],
                "seen": SEEN in state.decided, "finished": state.finished}

    def _span_view(self, state: State, span: Span) -> Json:
        decision = state.decision(span)
        now = state.now(span) or span.key
        what = "add" if decision and span in state.added and decision.decision == "accept" else decision and decision.decision
        return {"start": span.start, "end": span.end, "label": span.label, "kind": span.kind, "decision": what or "",
                "added": span in state.added, "now": {"start": now[0], "end": now[1], "label": now[2]},
                "allowed": sorted(self._groups(state.sentence, span.kind))}

    def progress(self) -> Json:
        """How far the review is, and what it says so far about the labels."""
        last = max((i for i, done in enumerate(self.finished) if done), default=-1)
        return {"total": len(self.queue), "finished": "".join("01"[done] for done in self.finished),
                "skipped": self.finished[:last + 1].count(False), "estimate": self.estimate()}

    def estimate(self) -> list[Json]:
        """For each label of the finished sentences how many of its spans are right as they were, with the interval."""
        counts: dict[tuple[str, str], Counter[str]] = {}
        for verdicts in self._verdicts.values():
            for (kind, label, verdict), n in verdicts.items():
                counts.setdefault((kind, label), Counter())[verdict] += n
        result = []
        for (kind, label), found in sorted(counts.items(), key=lambda r: ((GOLD, TARGET, EXTENSION).index(r[0][0]), r[0][1])):
            right, total = found["right"], found["right"] + found["wrong"]
            low, high = wilson(right, total)
            result.append({"kind": kind, "label": label, "right": right, "total": total, "low": low, "high": high,
                           "added": found["added"]})
        return result

    # --- what is done -----------------------------------------------------------------------------------------------

    def act(self, index: int, action: Mapping[str, Any]) -> Json:
        """Carry out an action of the page; it is on disk when this returns.

        Args:
            action: ``{"do": "accept" | "reject" | "relabel" | "resize" | "add" | "finish" | "undo", "span": {...},
                "to": {...}}``, spans as ``{"start", "end", "label"}``.
        Returns:
            {"view": of the sentence, "progress": ..., "said": what was done}.
        Raises:
            Refused: it makes no sense. OSError: it is not on disk.
        """
        state = self._state(index)
        if action.get("do") == "undo":
            index, said = self._undo(index, state)
        else:
            rows, said = self._rows(state, action)
            text = {"id": state.sentence.id, "text_sha256": state.sentence.text_sha256}
            self.store.append([{**text, **row} for row in rows])
        self._tally(index, self._state(index))
        return {"view": self.view(index), "progress": self.progress(), "said": said}

    def _undo(self, index: int, state: State) -> tuple[int, str]:
        """Take back the last batch about this sentence, or where it has none the last one about any of the queue."""
        here = (state.sentence.id, state.sentence.text_sha256)
        batch = self.store.take_back(here.__eq__) or self.store.take_back(self._is_in_queue)
        if not batch:
            raise Refused("There is nothing to undo.")
        return self._places[batch[0].id], f"taken back: {_named(batch)}"

    def _is_in_queue(self, text: Text) -> bool:
        """Whether a sentence of the queue has this text now."""
        index = self._places.get(text[0])
        return index is not None and self.corpus.read(self.queue[index]).text_sha256 == text[1]

    def _rows(self, state: State, action: Mapping[str, Any]) -> tuple[list[Json], str]:
        """The decisions that an action means, and what to say about them."""
        what = action.get("do")
        if what == "finish":
            return self._finish(state)
        if what == "add":
            span = self._new_span(state, action.get("span"))
            return [{"kind": span.kind, **_place(span.key), "decision": "add"}], f"added {span.label}"
        span = self._known_span(state, action.get("span"))
        row = {"kind": span.kind, **_place(span.key)}
        if what in _CHANGES:
            return self._change(state, span, row, action)
        if what not in ("accept", "reject"):
            raise Refused(f"There is no action {str(what)[:40]!r}.")
        return [{**row, "decision": what}], f"{what}ed {span.label}"

    def _finish(self, state: State) -> tuple[list[Json], str]:
        """Accept what is still open, and note that the sentence was seen through."""
        rows: list[Json] = [{"kind": span.kind, **_place(span.key), "decision": "accept"} for span in state.open]
        if SEEN not in state.decided:
            rows.append({"decision": "done"})
        return rows, f"finished, {len(state.open)} accepted"

    def _change(self, state: State, span: Span, row: Json, action: Mapping[str, Any]) -> tuple[list[Json], str]:
        now = state.now(span) or span.key
        to = action.get("to")
        if not isinstance(to, dict):
            raise Refused("A change needs what the span is to be.")
        new = _key({**_place(now), **to})
        if action["do"] == "relabel" and new[:2] != now[:2] or action["do"] == "resize" and new[2] != now[2]:
            raise Refused("A change is of the label or of the place.")
        self._check(state, new, span.kind)
        if new == span.key:
            return [{**row, "decision": "accept"}], f"accepted {span.label} as it was"
        if new in self._taken(state, but=span):
            raise Refused(f"There is a span {new[2]} on these tokens already.")
        # A span that only keeps its old label somewhere else is resized, whatever was changed last.
        what = "resize" if new[:2] != (span.start, span.end) else "relabel"
        return [{**row, "decision": what, "to": _place(new)}], f"{what}{'d' if what == 'resize' else 'led'} {span.label}"

    def _new_span(self, state: State, value: Any) -> Span:
        new = _key(value)
        kind = EXTENSION if new[2] not in self.corpus.labels.targets else TARGET if state.sentence.synthetic else GOLD
        self._check(state, new, kind)
        same = next((span for span in (*state.sentence.spans, *state.added) if span.key == new), None)
        if same and state.now(same) is None:
            raise Refused(f"This {new[2]} is there and rejected; accept it instead.")
        if same or new in self._taken(state):
            raise Refused(f"There is a span {new[2]} on these tokens already.")
        return Span(*new, kind)

    def _known_span(self, state: State, value: Any) -> Span:
        key = _key(value)
        for span in (*state.shown, *state.added):
            if span.key == key:
                return span
        raise Refused("That span is not there any more; another tab may have taken it away.")

    def _check(self, state: State, key: Key, kind: str) -> None:
        start, end, label = key
        if not 0 <= start < end <= len(state.sentence.tokens):
            raise Refused("A span covers at least one token and stays within the sentence.")
        groups = self._groups(state.sentence, kind)
        targets = self.corpus.labels.targets
        if not ("target" in groups and label in targets or "entity" in groups and label in self.corpus.labels.extension):
            raise Refused(f"{label[:60]!r} is no label for a span of this kind.")

    @staticmethod
    def _groups(sentence: Sentence, kind: str) -> set[str]:
        """Labels that a span may get. In an original sentence target labels are gold, and nothing turns into gold, or the
        other way round, by a change of name: that would hide in a file of its own only half of what happened."""
        if sentence.synthetic:
            return {"target", "entity", "pos"}
        return {"target"} if kind == GOLD else {"entity", "pos"}

    def _taken(self, state: State, but: Span | None = None) -> set[Key]:
        spans = (*state.sentence.spans, *state.added)
        return {now for span in spans if span != but and (now := state.now(span))}

    # --- the state --------------------------------------------------------------------------------------------------

    def _state(self, index: int) -> State:
        if not 0 <= index < len(self.queue):
            raise Refused("There is no such sentence in the queue.")
        sentence = self.corpus.read(self.queue[index])
        text = (sentence.id, sentence.text_sha256)
        decided = self.store.of(text)
        for decision in decided.values():
            if any(span and span[1] > len(sentence.tokens) for span in (decision.span, decision.to)):
                raise UserError(f"{GOLD_FILE if decision.kind == GOLD else REVIEW_FILE}: a decision about sentence {short(sentence.id)} "
                                "lies beyond its last token. Remove that line; this page writes none like it.")
        there = {_about(span) for span in sentence.spans}
        added = [Span(*about[1], decision.kind) for about, decision in decided.items() if about[1] and about not in there
                 and decision.decision != "reject" and self.store.was_added(text, about)]
        shown = [span for span in sentence.spans if self._wanted is None or self._wanted(span)]
        return State(sentence, decided, added, shown)

    def _tally(self, index: int, state: State) -> None:
        """Count a sentence anew. Only finished ones count: what people look at first in a sentence is no random choice."""
        self.finished[index] = state.finished
        self._verdicts.pop(index, None)
        if state.finished:
            self._verdicts[index] = Counter(
                (span.kind, span.label, "right" if state.decided[_about(span)].decision in ("accept", "add") else "wrong")
                for span in state.shown)
            for span in state.added:
                self._verdicts[index][span.kind, (state.now(span) or span.key)[2], "added"] += 1

    def is_estimate(self) -> bool:
        """Whether the figures speak for all sentences: only those of a random sample do."""
        return self.order == RANDOM


def _about(span: Span) -> About:
    return span.kind == GOLD, span.key


def _place(key: Key) -> Json:
    return {"start": key[0], "end": key[1], "label": key[2]}


def _key(value: Any) -> Key:
    if isinstance(value, dict):
        start, end, label = value.get("start"), value.get("end"), value.get("label")
        if type(start) is int and type(end) is int and isinstance(label, str):
            return start, end, label
    raise Refused("A span needs start, end and label.")


def _named(batch: Sequence[Decision]) -> str:
    """A batch in words, the first decision of it last."""
    first = batch[-1]
    more = f" and {len(batch) - 1} more" if len(batch) > 1 else ""
    return f"{first.decision} {first.span[2] if first.span else ''}".strip() + more
