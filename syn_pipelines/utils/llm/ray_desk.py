"""The desk of a Ray run: an actor that hands rows to the workers of a Ray Data actor pool and collects what they answer.

Ray Data moves the numbers of blocks, starts the workers, keeps their number between its bounds and replaces those that
die. The rows themselves and the answers go over the desk, so that an answer is handed on when it is there and not when
its block is done, and so that it is known which rows a worker that dies had in hand: they are given out again, each in a
block of its own, and one that has killed ``TRIES`` workers while it was alone with them is given up.

A row may be answered twice (by a worker that was taken for dead); the second answer is dropped.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

TRIES = 3
SILENT_S = 30.0  # without a sign of life a worker counts as dead
STALL_S = 5.0  # a block that Ray Data does not bring to an idle worker is taken for lost
BEAT_S = 2.0  # between two signs of life
MOST_FALSE_STARTS = 3  # deaths of a worker before it is ready, while no other is
NO_BLOCK = -1  # a block without rows
OBJECT_BYTES = 1  # Ray Data collects outputs up to this size: each one goes on at once


@dataclass(frozen=True)
class Shape:
    """The pool: least and most workers, what each takes of its node, and the blocks it works on at once."""

    least: int
    most: int
    cpus: float
    gpus: float
    calls: int = 1


@dataclass
class _Worker:
    """One process. actor: Ray's id, which stays when the process is replaced."""

    actor: str
    node: str
    ready: bool = False
    heard: float = 0.0
    idle_since: float = 0.0
    blocks: set[int] = field(default_factory=set)


class Desk:
    """See the module's text. Its methods are called over Ray, by the driver, by Ray Data's reader and by the workers."""

    def __init__(self, work: Any, shape: Shape) -> None:
        self._work, self._shape = work, shape
        self._rows: dict[int, tuple[Any, int]] = {}  # not answered yet: the row and the block it is in
        self._blocks: dict[int, list[int]] = {}  # not done yet: numbers of its rows
        self._handed: dict[int, float] = {}  # blocks that Ray Data has and no worker yet: since when
        self._todo: deque[int] = deque()
        self._lone: set[int] = set()  # blocks of one row that was lost before
        self._deaths: dict[int, int] = {}
        self._workers: dict[str, _Worker] = {}
        self._out: deque[tuple[int, tuple[Any] | None]] = deque()
        self._out_first = self._next_block = self._read = self._lost = 0
        self._false_starts: Counter[str] = Counter()  # by actor: a node that goes down counts once for each, a model that does not fit soon
        self._closed = False
        self._notes: deque[tuple[int, str]] = deque(maxlen=200)
        self._failure: tuple[str, str] | None = None
        self._changed = asyncio.Condition()

    # --- for the driver ---

    async def start(self) -> None:
        """Begin: a thread runs Ray Data."""
        import ray

        handle = ray.get_runtime_context().current_actor
        threading.Thread(target=self._execute, args=(handle, asyncio.get_running_loop()), daemon=True).start()
        self._watching = asyncio.ensure_future(self._watch())

    async def give(self, rows: list[tuple[int, Any]], last: bool) -> None:
        """One more block of rows, each with its number. last: no more will come, which is no call of its own, for a call
        with much to carry may be overtaken."""
        async with self._changed:
            if rows:
                self._add(rows)
            self._closed |= last
            self._changed.notify_all()

    async def take(self, seen: int, timeout_s: float) -> dict[str, Any]:
        """Answers behind the first ``seen`` ones, waiting for one if there is none; earlier ones are forgotten.

        Returns ``results`` (number of the row, and the answer alone in a tuple, or None for a row that was given up), ``notes`` (log lines),
        ``failure`` (kind and message) and how many workers there are.
        """
        async with self._changed:
            while self._out_first < seen and self._out:
                self._out.popleft()
                self._out_first += 1
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self._out or self._failure or self._notes), timeout_s)
            notes = list(self._notes)
            self._notes.clear()
            return {"results": list(self._out), "notes": notes, "failure": self._failure, "lost": self._lost,
                    "workers": len(self._workers), "ready": sum(w.ready for w in self._workers.values())}

    # --- for Ray Data's reader ---

    async def next_block(self, place: int) -> int | None:
        """The next block to hand out; None when all rows are answered and no more will come.

        place: how many the reader has asked for before. One that begins anew after its death passes over what was handed out.
        """
        async with self._changed:
            if place < self._read:
                return NO_BLOCK
            await self._changed.wait_for(lambda: self._todo or (self._closed and not self._rows))
            if not self._todo:
                return None
            block = self._todo.popleft()
            self._handed[block] = time.monotonic()
            self._read += 1
            return block

    # --- for the workers ---

    async def hello(self, worker: str, actor: str, node: str) -> None:
        """A worker's process has begun; whatever process the actor had before is dead."""
        async with self._changed:
            for name in [name for name, other in self._workers.items() if other.actor == actor and name != worker]:
                self._bury(name)
            now = time.monotonic()
            self._workers[worker] = _Worker(actor, node, heard=now, idle_since=now)
            self._changed.notify_all()

    async def beat(self, worker: str, ready: bool) -> None:
        """A sign of life."""
        if worker in self._workers:
            self._workers[worker].heard = time.monotonic()
            self._is_ready(self._workers[worker], ready)

    async def begin(self, worker: str, actor: str, node: str, block: int) -> list[tuple[int, Any]]:
        """The rows of a block that this worker is to answer now; none when that has been done, or is another's by now.

        A row that was lost before is worked on by a worker that does nothing else meanwhile.
        """
        if worker not in self._workers:  # it was taken for dead
            await self.hello(worker, actor, node)
        me = self._workers[worker]
        async with self._changed:
            self._is_ready(me)
            await self._changed.wait_for(lambda: self._workers.get(worker) is not me or (
                not me.blocks if block in self._lone else not me.blocks & self._lone))
            if self._workers.get(worker) is not me:  # it has died while it waited: the block is given again as one never begun
                return []
            self._handed.pop(block, None)
            rows = [(n, self._rows[n][0]) for n in self._blocks.get(block, ()) if n in self._rows and self._rows[n][1] == block]
            if rows:
                me.blocks.add(block)
            return rows

    async def told(self, worker: str, block: int, answers: list[tuple[int, Any]], notes: list[tuple[int, str]], over: bool
                   ) -> None:
        """Answers to rows of a block; ``over``: the last ones."""
        async with self._changed:
            for n, answer in answers:
                if self._rows.pop(n, None):
                    self._deaths.pop(n, None)
                    self._out.append((n, (answer,)))
            self._notes.extend(notes)
            if me := self._workers.get(worker):
                me.heard = time.monotonic()
                if over:
                    me.blocks.discard(block)
                    me.idle_since = me.heard
            if over:
                self._blocks.pop(block, None)
                self._lone.discard(block)
            self._changed.notify_all()

    async def fail(self, kind: str, message: str) -> None:
        """The work cannot go on. kind: the name of the exception for the driver. The first one counts."""
        async with self._changed:
            self._failure = self._failure or (kind, message)
            self._changed.notify_all()

    def _is_ready(self, worker: _Worker, ready: bool = True) -> None:
        worker.ready = ready
        if ready:
            self._false_starts.clear()

    # --- what is lost ---

    def _add(self, rows: Iterable[tuple[int, Any]], *, first: bool = False) -> int:
        block, self._next_block = self._next_block, self._next_block + 1
        self._blocks[block] = []
        for n, row in rows:
            self._rows[n] = (row, block)
            self._blocks[block].append(n)
        (self._todo.appendleft if first else self._todo.append)(block)
        return block

    def _bury(self, name: str) -> None:
        """A worker is dead: what it had in hand is given out again, row by row."""
        worker = self._workers.pop(name)
        if not worker.ready:
            self._false_starts[worker.actor] += 1
            if self._false_starts[worker.actor] >= MOST_FALSE_STARTS and not any(w.ready for w in self._workers.values()):
                self._failure = self._failure or ("ServiceError", (
                    f"a Ray worker died {MOST_FALSE_STARTS} times before it was ready, the last time on node {worker.node}, and no "
                    "other is ready. Mostly the memory did not suffice for the model: Ray's logs on that node tell. What is "
                    "finished is kept."))
            return
        self._lost += bool(worker.blocks)  # one without work may be one too many, that was ended
        for block in worker.blocks:
            left = [n for n in self._blocks.pop(block, ()) if n in self._rows and self._rows[n][1] == block]
            self._lone.discard(block)
            alone = len(worker.blocks) == 1 and len(left) == 1
            for n in left:
                self._deaths[n] = self._deaths.get(n, 0) + alone
                if self._deaths[n] < TRIES:
                    self._lone.add(self._add([(n, self._rows[n][0])], first=True))
                else:
                    del self._rows[n], self._deaths[n]
                    self._out.append((n, None))

    async def _watch(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(1.0)
            async with self._changed:
                now = time.monotonic()
                for worker in self._workers.values():  # a desk that was kept from running has heard nobody
                    worker.heard += max(0.0, now - last - 2.0)
                last = now
                for name in [name for name, worker in self._workers.items() if now - worker.heard > SILENT_S]:
                    self._bury(name)
                self._give_again(now)
                self._changed.notify_all()

    def _give_again(self, now: float) -> None:
        """Blocks that a worker never got to, because it died just then: others are idle and do not get them."""
        if not any(w.ready and not w.blocks and now - w.idle_since > STALL_S for w in self._workers.values()):
            return
        for block in [block for block, since in self._handed.items() if now - since > STALL_S]:
            del self._handed[block]
            left = [(n, self._rows[n][0]) for n in self._blocks.pop(block) if n in self._rows]
            again = {self._add(left, first=True)} if left else set()
            if block in self._lone:
                self._lone = (self._lone - {block}) | again

    # --- Ray Data ---

    def _execute(self, desk: Any, loop: asyncio.AbstractEventLoop) -> None:
        problem = "Ray Data ended before all was done"
        try:
            for _ in _dataset(desk, self._work, self._shape).iter_batches(batch_size=None, prefetch_batches=0):
                pass
        except BaseException as exc:
            problem = f"{type(exc).__name__}: {' '.join(str(exc).split())[:600]}"
        if not self._closed or self._rows:
            asyncio.run_coroutine_threadsafe(self.fail("execution", problem), loop)


def _dataset(desk: Any, work: Any, shape: Shape) -> Any:
    """Blocks from the desk through the pool of workers, forever."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = OBJECT_BYTES
    context.max_errored_blocks = -1  # the desk gives them out again
    blocks = ray.data.read_datasource(_blocks_of(desk), override_num_blocks=1, num_cpus=0)
    pool = ray.data.ActorPoolStrategy(min_size=shape.least, max_size=shape.most, max_tasks_in_flight_per_actor=shape.calls + 1,
                                      max_concurrent_calls_per_actor=shape.calls, enable_true_multi_threading=shape.calls > 1)
    return blocks.map_batches(Worker, batch_size=1, compute=pool, fn_constructor_kwargs={"desk": desk, "work": work, "gpus": shape.gpus},
                              num_cpus=shape.cpus, num_gpus=shape.gpus, max_restarts=-1, max_task_retries=0)


def _blocks_of(desk: Any) -> Any:
    """A Ray Data source of the numbers of blocks, one at a time. The reader takes no CPU, so that workers may take them all."""
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    class Blocks(Datasource):
        def estimate_inmemory_data_size(self) -> None:
            return None

        def get_read_tasks(self, parallelism: int, **_: Any) -> list[ReadTask]:
            unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(lambda: _read(desk), unknown)]

    return Blocks()


def _read(desk: Any) -> Iterable[Any]:
    import pyarrow
    import ray

    for place in count():
        if (block := ray.get(desk.next_block.remote(place))) is None:
            return
        yield pyarrow.table({"block": [block]})


# --- in the workers ---

class Worker:
    """One actor of the pool. ``work``: see ``ray_pool.Work``."""

    def __init__(self, desk: Any, work: Any, gpus: float) -> None:
        import os
        import uuid

        import ray

        if not gpus:  # before torch is imported: what Ray hides from a worker without a GPU depends on its release
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        context = ray.get_runtime_context()
        self._desk, self._ready = desk, False
        self._me, self._place = uuid.uuid4().hex, (context.get_actor_id(), context.get_node_id())
        self._notes: deque[tuple[int, str]] = deque(maxlen=100)
        _forward_logs(self._notes)
        ray.get(desk.hello.remote(self._me, *self._place))
        threading.Thread(target=self._beat, daemon=True).start()
        try:
            self._answers = work.build(gpus)
        except BaseException as exc:
            ray.get(desk.fail.remote(*_told(exc)))
            raise
        self._ready = True
        ray.get(desk.beat.remote(self._me, True))

    def _beat(self) -> None:
        while True:
            self._desk.beat.remote(self._me, self._ready)
            time.sleep(BEAT_S)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[int]]:
        import ray

        block = int(batch["block"][0])
        rows = ray.get(self._desk.begin.remote(self._me, *self._place, block))
        if rows:
            self._answer(block, rows)
        return {"block": [block]}

    def _answer(self, block: int, rows: list[tuple[int, Any]]) -> None:
        """Tell answers as they come: the model writes on while they are on their way."""
        import queue

        import ray

        done: queue.SimpleQueue[tuple[int, Any] | tuple[str, str] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work_on, args=(rows, done), daemon=True).start()
        over = False
        while not over:
            found = [done.get()]
            with suppress(queue.Empty):
                while True:
                    found.append(done.get_nowait())
            over = found[-1] is None
            failed = [item for item in found if item and isinstance(item[0], str)]
            notes = [self._notes.popleft() for _ in range(len(self._notes))]
            answers = [item for item in found if item and item not in failed]
            ray.get(self._desk.told.remote(self._me, block, answers, notes, over and not failed))
            for failure in failed:
                ray.get(self._desk.fail.remote(*failure))

    def _work_on(self, rows: list[tuple[int, Any]], done: Any) -> None:
        try:
            for place, answer in self._answers([row for _, row in rows]):
                done.put((rows[place][0], answer))
        except BaseException as exc:
            done.put(_told(exc))
        done.put(None)


def _told(exc: BaseException) -> tuple[str, str]:
    """Kind and message of what ends the work, for the driver."""
    import traceback

    kind = type(exc).__name__
    if kind in ("UserError", "ServiceError"):
        return kind, str(exc)
    return "worker", "".join(traceback.format_exception(exc))[-4000:]


def _forward_logs(notes: deque[tuple[int, str]]) -> None:
    """What our modules say in a worker is said by the driver."""
    import logging

    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notes.append((record.levelno, record.getMessage()))

    ours = logging.getLogger("syn_pipelines")
    ours.setLevel(logging.INFO)
    ours.addHandler(Forward())
