"""The decisions of a run in memory, as the page needs them: what counts of each span, and what to take back next."""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from syn_pipelines.utils.decisions import GOLD, REVIEW, Decision, DecisionLog, history
from syn_pipelines.utils.fusion import LabelledSpan

Text = tuple[str, str]  # (id, text_sha256): a sentence as a decision knows it
About = tuple[bool, LabelledSpan | None]  # (whether it is gold, the span; None: the sentence was seen through)
SEEN: About = (False, None)


class Store:
    """review.jsonl and gold_corrections.jsonl of a run. Hold the lock of the review while one is open.

    Decisions made together (a batch) carry the same time and are taken back together. made: what was decided since this
    object was made, by decision.
    """

    def __init__(self, run: Path) -> None:
        """Read both files, where they exist. UserError for lines that are wrong."""
        self._paths = {True: run / GOLD, False: run / REVIEW}
        self._logs: dict[Path, DecisionLog] = {}
        self._stacks: dict[Text, dict[About, list[Decision]]] = {}
        self._live: list[Decision] = []  # in the order in which they were made, without what was taken back
        self.made: Counter[str] = Counter()
        self._last = 0.0
        # The order of lines decides, not their times: these only tell how the two files go together.
        found = [list(_at_times(history(path))) for path in self._paths.values()]
        for _, decision in heapq.merge(*found, key=itemgetter(0)):
            self._note(decision)

    @property
    def files(self) -> list[Path]:
        """Those of the two files that exist."""
        return [path for path in self._paths.values() if path.exists()]

    @property
    def latest(self) -> Text | None:
        """The sentence that was decided on last."""
        return (self._live[-1].id, self._live[-1].text_sha256) if self._live else None

    @property
    def ids(self) -> set[str]:
        """Ids of the sentences that anything was decided about."""
        return {identity for identity, _ in self._stacks}

    def of(self, text: Text) -> dict[About, Decision]:
        """The decisions that count."""
        return {about: stack[-1] for about, stack in self._stacks.get(text, {}).items() if stack}

    def was_added(self, text: Text, about: About) -> bool:
        """Whether a person has added this span."""
        return any(d.decision == "add" for d in self._stacks.get(text, {}).get(about, ()))

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add decisions as one batch; they are on disk when this returns.

        Raises:
            UserError: a row is no decision. OSError: they are not on disk.
        """
        self._last = max(round(time.time(), 6), math.nextafter(self._last, math.inf))
        for is_gold, batch in groupby(sorted(rows, key=_is_gold), key=_is_gold):
            for decision in self._log(self._paths[is_gold]).append_all([{**row, "time": self._last} for row in batch]):
                self._note(decision)
                self.made[decision.decision] += 1

    def take_back(self, texts: Callable[[Text], bool]) -> list[Decision]:
        """Undo the last batch about one of these texts. Returns it, the last decision first; [] when there is none."""
        last = next((d for d in reversed(self._live) if texts((d.id, d.text_sha256))), None)
        batch = [d for d in reversed(self._live) if last and d.time == last.time
                 and (d.id, d.text_sha256) == (last.id, last.text_sha256)] if last else []
        self.append([{**{k: v for k, v in d.row().items() if k != "to"}, "decision": "undo"} for d in batch])
        return batch

    def close(self) -> None:
        """Close the files."""
        for log in self._logs.values():
            log.close()

    def _log(self, path: Path) -> DecisionLog:
        if path not in self._logs:  # a review in which nothing is decided leaves no file behind
            self._logs[path] = DecisionLog(path)
        return self._logs[path]

    def _note(self, decision: Decision) -> None:
        self._last = max(self._last, decision.time)
        stack = self._stacks.setdefault((decision.id, decision.text_sha256), {}).setdefault((decision.kind == "gold", decision.span), [])
        if decision.decision != "undo":
            stack.append(decision)
            self._live.append(decision)
        elif stack:
            taken = stack.pop()
            at = next(i for i in range(len(self._live) - 1, -1, -1) if self._live[i] is taken)
            del self._live[at]


def _at_times(decisions: Iterable[Decision]) -> Iterator[tuple[float, Decision]]:
    """Each with a time that is not before that of the one before: clocks are set back, and people write lines, too."""
    latest = 0.0
    for decision in decisions:
        latest = max(latest, decision.time)
        yield latest, decision


def _is_gold(row: Mapping[str, Any]) -> bool:
    return row.get("kind") == "gold"
