"""The decode loop: no pass of the model that no reply needs.

- Tokens that a row's grammar forces are appended without asking the model and fed together in the next pass.
- A finished row leaves at once, and the next waiting one takes its place; its prompt is fed in the same pass in which
  the others go on.
- The instruction that all prompts begin with is computed once.
- While a GPU computes a pass, the grammars work out what may come next.

What a row says depends on that row alone, up to float rounding: a tie between two tokens may fall otherwise in other
company (on a CPU in float32 the scores differ by some 1e-6).
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from syn_pipelines.utils.llm.checkpoints import first_line, quiet
from syn_pipelines.utils.llm.guide import Guide, GuideError, fill_masks, forbid
from syn_pipelines.utils.llm.slot_cache import Feed, SlotCache, run_pass
from syn_pipelines.utils.llm.transformers_loading import free_memory, is_out_of_memory
from syn_pipelines.utils.llm.transformers_sampling import Row, Written, choose_tokens

log = logging.getLogger(__name__)

# Tokens of new prompts fed in one pass, at most; a longer prompt takes several.
_PROMPT_TOKENS = 2048
# A shorter common beginning is not worth a pass of its own.
_LEAST_PREFIX = 16


@dataclass
class Meter:
    """What a run cost. passes: of the model; fed: tokens in them; seconds: of passes with the choice of tokens;
    mask_seconds: of these, for working out and applying grammars."""

    passes: int = 0
    fed: int = 0
    seconds: float = 0.0
    mask_seconds: float = 0.0


@dataclass
class Writer:
    """A reply being written.

    reply: its tokens so far. fed: how many tokens of prompt and reply are in the cache; pending: the others, for the
    next passes. shares: the prompt begins with the shared prefix. finish: why it ended; error: what went wrong.
    """

    row: Row
    guide: Guide | None = None
    reply: list[int] = field(default_factory=list)
    fed: int = 0
    pending: list[int] = field(default_factory=list)
    shares: bool = False
    finish: str = ""
    error: str = ""
    _numbers: random.Random | None = None
    _drawn: list[float] = field(default_factory=list)

    def start(self, prefix: Sequence[int]) -> None:
        """Feed everything from the beginning; the prefix is in the cache already."""
        tokens, size = [*self.row.prompt, *self.reply], len(prefix)
        self.shares = 0 < size < len(tokens) and tokens[:size] == prefix
        self.fed = size if self.shares else 0
        self.pending = tokens[self.fed:]

    def begin(self, guide_of: Callable[[Row], Guide | None]) -> None:
        """Make the grammar, and append what it forces before the first choice."""
        with self._failing():
            self.guide = guide_of(self.row)
            self._append(self.guide.begin() if self.guide else [])

    def watch_room(self) -> None:
        """Let the grammar see how much room is left; what it then forces is fed before the next choice."""
        with self._failing():
            if self.guide:
                self._append(self.guide.watch_room(self.row.limit - len(self.reply)))

    def take(self, token: int | None, ends: frozenset[int]) -> None:
        """Append a chosen token and all that it forces, and see whether the reply ends there. None: none was good."""
        with self._failing():
            if self.finish:
                return
            if token is None:
                raise GuideError("ArithmeticError: the model's scores are not numbers")
            if token in ends:
                self.finish = "stop"
            else:
                self._append([token, *(self.guide.take(token) if self.guide else ())])

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """A grammar that breaks down ends its own reply only."""
        try:
            yield
        except GuideError as exc:
            self.finish, self.error = exc.finish, str(exc)
        except Exception as exc:  # a sentence that no tokenizer takes, such as one with half a surrogate pair
            self.finish, self.error = "error", first_line(exc)

    def draw(self) -> float:
        """The random number of the reply's next token; it depends on the token's place alone, not on which tokens before
        were forced, nor on how often a pass that failed has asked for it."""
        if self._numbers is None:
            self._numbers = random.Random(self.row.request.seed)
        while len(self._drawn) <= len(self.reply):
            self._drawn.append(self._numbers.random())
        return self._drawn[len(self.reply)]

    def written(self) -> Written:
        """The finished reply."""
        return Written(self.row, self.reply, self.finish, self.error, held=self.guide is not None,
                       closed=self.guide is not None and self.guide.closed)

    def _append(self, tokens: Sequence[int]) -> None:
        self.reply += tokens
        self.pending += tokens
        if self.guide and self.guide.done and len(self.reply) <= self.row.limit:
            self.finish = "stop"
        elif len(self.reply) >= self.row.limit:
            del self.reply[self.row.limit:]
            self.finish = "length"


class DecodeLoop:
    """Writes replies in a fixed number of slots.

    Args:
        network: a causal language model for which ``slots_fit`` is true.
        slots: most replies under way. Halved when the memory does not suffice.
        ends: tokens that end a reply.
        guide_of: the grammar state of a row, or None. Called when the row is about to start.
    """

    def __init__(self, network: Any, *, slots: int, ends: Iterable[int], guide_of: Callable[[Row], Guide | None],
                 meter: Meter) -> None:
        self.slots = slots
        self._network, self._ends, self._guide_of, self._meter = network, frozenset(ends), guide_of, meter
        self._waiting: deque[Writer] = deque()
        self._suspects: deque[list[Writer]] = deque()
        self._live: list[Writer] = []  # the writer at i has slot i
        self._cache: SlotCache | None = None
        self._prefix: list[int] = []
        self._prefixed: set[int] = set()  # slots that hold the prefix

    def run(self, rows: Iterable[Row], *, prefix: Sequence[int] = ()) -> Iterator[Written]:
        """Write a reply to every row; they come as they end.

        rows: read ahead a little. prefix: tokens that most prompts begin with.
        """
        source = iter(rows)
        self._prefix = list(prefix) if len(prefix) >= _LEAST_PREFIX else []
        while True:
            yield from self._admit(source)
            if not self._live:
                return
            scores = self._guarded(self._launch)
            if scores is not None:
                self._prepare(source)  # while a GPU computes the scores
                self._guarded(self._choose, scores)
            yield from self._leave()

    # --- rows enter ---------------------------------------------------------------------------------------------

    def _admit(self, source: Iterator[Row]) -> Iterator[Written]:
        """Fill free slots. Rows of a pass that failed run in halves, before all others, until the one that fails is
        alone."""
        if self._suspects:
            if not self._live:
                group = self._suspects.popleft()
                self._live, rest = group[:self.slots], group[self.slots:]
                self._suspects.extendleft([rest] if rest else [])
            return
        room = _PROMPT_TOKENS - sum(len(writer.pending) for writer in self._live)
        while len(self._live) < self.slots and room > 0:
            self._prepare(source, 1)
            if not self._waiting:
                return
            writer = self._waiting.popleft()
            if writer.finish:  # before it began: a grammar that leaves no choice, or none that works
                yield writer.written()
                continue
            self._live.append(writer)
            room -= len(writer.pending)

    def _prepare(self, source: Iterator[Row], count: int = 0) -> None:
        """Make the grammars of the next rows, by default of an eighth of the slots."""
        while len(self._waiting) < (count or max(1, self.slots // 8)):
            row = next(source, None)
            if row is None:
                return
            writer = Writer(row)
            writer.start(self._prefix)
            writer.begin(self._guide_of)
            self._waiting.append(writer)

    # --- a pass -------------------------------------------------------------------------------------------------

    def _launch(self) -> Any:
        """One pass over what all rows have pending. Returns scores (rows, vocabulary); on a GPU they may be under way."""
        started = time.perf_counter()
        if self._cache is None:
            self._open_cache()
        self._place_prefix()
        feeds, room = [], _PROMPT_TOKENS
        for writer in self._live:
            size = max(1, min(len(writer.pending), room))
            feeds.append(Feed(writer.pending[:size], writer.fed))
            room -= size
        scores = self._run(feeds)
        for writer, feed in zip(self._live, feeds):
            writer.fed += len(feed.tokens)
            del writer.pending[:len(feed.tokens)]
        self._meter.seconds += time.perf_counter() - started
        return scores

    def _run(self, feeds: Sequence[Feed]) -> Any:
        self._meter.passes += 1
        self._meter.fed += sum(len(feed.tokens) for feed in feeds)
        return run_pass(self._network, self._cache, feeds)

    def _open_cache(self) -> None:
        self._cache, self._prefixed = SlotCache(self.slots), set()
        if self._prefix:
            self._run([Feed(self._prefix, 0)])
            self._cache.keep(0, len(self._prefix))
            self._prefixed.add(0)

    def _place_prefix(self) -> None:
        """Put the prefix into the slots of rows that count on it; it stays there for those that come after."""
        for slot, writer in enumerate(self._live):
            if not writer.shares:
                self._prefixed.discard(slot)
            elif slot not in self._prefixed:
                self._cache.recall(slot)
                self._prefixed.add(slot)

    def _choose(self, scores: Any) -> None:
        """Choose the next token of every row whose prompt is fed, and append it."""
        started = time.perf_counter()
        for writer in self._live:
            if not writer.pending:
                writer.watch_room()
        chosen = [i for i, writer in enumerate(self._live) if not writer.pending and not writer.finish]
        writers = [self._live[i] for i in chosen]
        if not writers:
            return
        bits = fill_masks([writer.guide for writer in writers], scores.shape[-1])
        self._meter.mask_seconds += time.perf_counter() - started
        if len(writers) < len(self._live):  # not before the masks: on a GPU this waits for the scores
            scores = scores[chosen]
        scores = scores.float()
        if bits is not None:
            scores = self._forbid(scores, bits)
        requests = [writer.row.request for writer in writers]
        tokens, sound = choose_tokens(scores, requests, lambda i: writers[i].draw())
        for writer, token, fine in zip(writers, tokens, sound):
            writer.take(token if fine else None, self._ends)
        self._meter.seconds += time.perf_counter() - started

    def _forbid(self, scores: Any, bits: Any) -> Any:
        started = time.perf_counter()
        scores = forbid(scores, bits)
        self._meter.mask_seconds += time.perf_counter() - started
        return scores

    # --- rows leave ---------------------------------------------------------------------------------------------

    def _leave(self) -> Iterator[Written]:
        """Hand out what is finished, and close the gaps."""
        import torch

        done = [i for i, writer in enumerate(self._live) if writer.finish]
        finished = [self._live[i].written() for i in done]
        left = [writer for writer in self._live if not writer.finish]
        try:
            with torch.inference_mode():
                self._close_gaps(done)
        except Exception as exc:  # the cache can be computed again, what is finished cannot
            log.warning("the cache was lost (%s): computing it again", first_line(exc))
            self._cache, self._live = None, left
            for writer in left:
                writer.start(self._prefix)
        yield from finished

    def _close_gaps(self, done: Sequence[int]) -> None:
        """Move the last rows into the slots that became free, so that passes run over the first slots only."""
        if not done:
            return
        for slot in done if self._cache else ():
            if self._live[slot].finish == "error":
                self._cache.clear(slot)  # its numbers may be none
                self._prefixed.discard(slot)
        left = len(self._live) - len(done)
        gaps = [slot for slot in done if slot < left]
        movers = [slot for slot in range(left, len(self._live)) if not self._live[slot].finish]
        if movers and self._cache:
            self._cache.move(movers, gaps, max(self._live[slot].fed for slot in movers))
        for gap, mover in zip(gaps, movers):
            self._live[gap] = self._live[mover]
            (self._prefixed.add if self._live[gap].shares else self._prefixed.discard)(gap)
        del self._live[left:]

    # --- what goes wrong ----------------------------------------------------------------------------------------

    def _guarded(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """The step's result, or None when it failed; then its rows are set up to run again, fewer at once."""
        import torch

        try:
            with torch.inference_mode(), quiet():
                return step(*arguments)
        except Exception as exc:  # a model may fail in any way; it must cost no more than the row that it fails on
            text, memory = first_line(exc), is_out_of_memory(exc)
        rows = [writer for writer in self._live if not writer.finish]  # a pass may fail after some rows have ended
        finished = [writer for writer in self._live if writer.finish]
        self._cache = None
        if memory:
            free_memory()
        smaller = memory and self.slots > 1  # the cache has room for as many rows as there are slots, however few run now
        if len(rows) == 1 and not smaller:
            rows[0].finish, rows[0].error = "error", text
            self._live = finished + rows
            return None
        for writer in rows:
            writer.start(self._prefix)
        self._live = finished
        if not rows:
            return None
        if smaller:
            log.warning("out of memory with %d requests at once: going on with %d", self.slots, self.slots // 2)
            self.slots //= 2
            self._waiting.extendleft(reversed(rows))
        else:
            log.warning("a pass over %d requests failed (%s): running them in halves", len(rows), text)
            half = len(rows) // 2
            self._suspects.extendleft([rows[half:], rows[:half]])
        return None
