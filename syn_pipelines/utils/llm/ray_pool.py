"""Rows through a pool of Ray workers, from the driver's side: bounded in memory, each answered once, whoever dies."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NoReturn, Protocol

from syn_pipelines.utils.errors import ServiceError, UserError
from syn_pipelines.utils.llm.ray_cluster import Cluster, connected
from syn_pipelines.utils.llm.ray_desk import Desk, Shape
from syn_pipelines.utils.options import EngineOptions
from syn_pipelines.utils.summary import duration

log = logging.getLogger(__name__)

# How long a run waits for the first worker, or for another one when all are gone: a cluster may have to start a machine.
PATIENCE_S = 300.0
SPARE_BLOCKS = 4  # on their way, besides two for each one that is worked on
_TELL_S = 30.0
_TAKE_S = 1.0  # a signal is seen after so long at the latest
_LAST_ANSWERS_S = 1.0
MOST_DESKS = 3  # in a row that end without an answer in between


class Work(Protocol):
    """What a worker does; sent to each. local_model: it has weights of its own, and so may want a GPU. calls: blocks that
    one worker answers at once, in threads."""

    local_model: bool
    calls: int

    def build(self, gpus: float) -> Callable[[Sequence[Any]], Iterator[tuple[int, Any]]]:
        """In the worker, once; it sees so many GPUs. What is returned is called with rows and gives (place, answer) for each,
        in any order."""


class Died:
    """In place of an answer: the row has killed its worker every time."""


class _Broken(Exception):
    """Ray Data ended early."""


class Pool:
    """Answers to rows, by workers on a Ray cluster. One pool answers one stream of rows.

    Args:
        block_rows: rows that a worker gets at once.
        ordered: answers come in the order of the rows.
    """

    def __init__(self, opts: EngineOptions, work: Work, *, block_rows: int, ordered: bool = False) -> None:
        self._opts, self._work, self._block_rows, self._ordered = opts, work, block_rows, ordered
        self._desk: Any = None
        self._rows: dict[int, Any] = {}  # read and not yet given back, in their order
        self._answers: dict[int, Any] = {}  # to some of them
        self._seen = 0  # answers taken from the desk
        self._told: set[str] = set()

    def answers(self, rows: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """(row, answer or ``Died``) for every row. Read ahead are twice as many blocks as the workers hold at once, and some.

        Raises:
            UserError, ServiceError: as the work raises them; the cluster has no room; workers die before they are ready.
        """
        source = enumerate(rows)
        first = next(source, None)
        if first is None:
            return
        with connected(self._opts) as cluster:
            yield from self._through(cluster, self._shape(cluster), chain([first], source))

    def at_hand(self) -> Iterator[tuple[Any, Any]]:
        """What has been answered by now and was not given yet; nothing is waited for. For the end after a signal."""
        self._fetch_last()
        while self._answers:
            n, answer = self._answers.popitem()
            yield self._rows.pop(n), answer

    def _shape(self, cluster: Cluster) -> Shape:
        """How many workers of which size; says so. UserError where a cluster of our own has no room for one."""
        opts, nodes, local = self._opts, cluster.nodes(), self._work.local_model
        gpus = opts.gpus_per_worker if opts.gpus_per_worker >= 0 else float(local and any(node.gpus for node in nodes))
        cpus = opts.cpus_per_worker if opts.cpus_per_worker >= 0 else 1.0 if local else 0.5
        room = sum(node.room(cpus, gpus) for node in nodes)
        if opts.num_workers == "auto":
            least = most = max(1, room if gpus else min(room, len(nodes)))
        else:
            numbers = [int(number) for number in opts.num_workers.split("-")]
            least, most = numbers[0], numbers[-1]
        shape = Shape(least, most, cpus, gpus, self._work.calls)
        log.info("%s; %s worker%s of %g CPU and %g GPU%s", cluster, f"{least}-{most}" if least < most else most,
                 "s" if most > 1 else "", cpus, gpus, f", of which {room} fit at once" if 0 < room < most else "")
        if not room and cluster.own:
            raise UserError(no_room(cluster, shape))
        return shape

    @contextmanager
    def _open(self, shape: Shape) -> Iterator[Any]:
        """A desk and the workers behind it, which end with it."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(num_cpus=0, max_concurrency=1000, scheduling_strategy=here)(Desk)
        self._desk, self._seen = actor.remote(self._work, shape), 0
        try:
            ray.get(self._desk.start.remote())
            yield self._desk
        except KeyboardInterrupt:
            self._fetch_last()
            raise
        finally:
            desk, self._desk = self._desk, None
            if ray.is_initialized():
                ray.kill(desk)

    def _through(self, cluster: Cluster, shape: Shape, source: Iterator[tuple[int, Any]]) -> Iterator[tuple[Any, Any]]:
        """The rows over one desk, or over one after the other, should one die."""
        import ray

        failures = 0
        while True:
            try:
                with self._open(shape) as desk:
                    for answered in self._exchange(desk, _Waiting(cluster, shape), 2 * shape.most * shape.calls + SPARE_BLOCKS, source):
                        failures = 0
                        yield answered
                return
            except (_Broken, ray.exceptions.RayActorError) as exc:
                failures += 1
                said = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(exc)).split())
                if failures >= MOST_DESKS:
                    raise ServiceError(f"Ray has ended {failures} times in a row: {said[:500]}. What is finished is kept; the same "
                                       "command goes on from there.") from exc
                log.warning("Ray has ended (%s); it is begun anew, and what was under way is worked on again.", said[:300])

    def _exchange(self, desk: Any, waiting: _Waiting, ahead: int, source: Iterator[tuple[int, Any]]) -> Iterator[tuple[Any, Any]]:
        """Keep a desk supplied, ``ahead`` blocks of rows under way, and give what is answered."""
        import ray

        left = [item for item in self._rows.items() if item[0] not in self._answers]  # of a desk that has died
        for first in range(0, len(left), self._block_rows):
            desk.give.remote(left[first:first + self._block_rows], last=False)
        more = True
        while True:
            while more and len(self._rows) <= (ahead - 1) * self._block_rows:
                block = dict(islice(source, self._block_rows))
                self._rows.update(block)
                more = len(block) == self._block_rows
                desk.give.remote(list(block.items()), last=not more)
            if not self._rows:
                return
            told = ray.get(desk.take.remote(self._seen, _TAKE_S))
            self._receive(told)
            yield from self._given()
            if told["failure"]:
                time.sleep(_LAST_ANSWERS_S)
                self._receive(ray.get(desk.take.remote(self._seen, 0.0)))
                yield from self._given()
                _raise(*told["failure"])
            waiting.look(told)

    def _given(self) -> Iterator[tuple[Any, Any]]:
        """Hand on the answers that are there; in order: up to the first that is not."""
        while self._answers:
            n = next(iter(self._rows if self._ordered else self._answers))
            if n not in self._answers:
                return
            answer = self._answers.pop(n)
            yield self._rows.pop(n), answer

    def _receive(self, told: dict[str, Any]) -> None:
        self._seen += len(told["results"])
        for n, answer in told["results"]:
            if n in self._rows:
                self._answers[n] = answer[0] if answer else Died()
        for level, text in told["notes"]:
            if text not in self._told and len(self._told) < 1000:
                self._told.add(text)
                log.log(level, "%s", text)

    def _fetch_last(self) -> None:
        import ray

        if self._desk is not None and ray.is_initialized():
            try:
                self._receive(ray.get(self._desk.take.remote(self._seen, 0.0), timeout=_LAST_ANSWERS_S))
            except ray.exceptions.RayError as exc:  # the desk is gone, and what it had is asked again
                log.debug("%s", exc)


@dataclass
class _Waiting:
    """Watches the number of workers: says that some died, waits for the first one with patience."""

    cluster: Cluster
    shape: Shape
    lost: int = 0
    since: float = 0.0
    said: float = 0.0

    def look(self, told: dict[str, Any]) -> None:
        """ServiceError when there has been no worker for too long."""
        now = time.monotonic()
        if told["lost"] > self.lost:
            self.lost = told["lost"]
            log.warning("a Ray worker has died (%d by now); what it had in hand is worked on again.", self.lost)
        if told["workers"]:
            self.since = 0.0
            return
        self.since = self.since or now
        if now - self.since > PATIENCE_S:
            raise ServiceError(f"no Ray worker could be started for {duration(PATIENCE_S)}: {no_room(self.cluster, self.shape)} What is "
                               "finished is kept; the same command goes on from there.")
        if now - self.since > _TELL_S and now - self.said > _TELL_S:
            self.said = now
            log.warning("waiting for a Ray worker: %s", no_room(self.cluster, self.shape))


def no_room(cluster: Cluster, shape: Shape) -> str:
    """Why no worker runs, with the numbers. One that starts slowly has room."""
    import ray

    nodes, free = cluster.nodes(), ray.available_resources()
    if shape.cpus <= free.get("CPU", 0) and shape.gpus <= free.get("GPU", 0) and any(node.room(shape.cpus, shape.gpus) for node in nodes):
        return f"the {cluster} seems to have room for one of {shape.cpus:g} CPU and {shape.gpus:g} GPU, which takes long to start."
    largest = max(nodes, key=lambda node: (node.gpus, node.cpus), default=None)
    has = f"the largest node has {largest.cpus:g} CPUs and {largest.gpus:g} GPUs" if largest else "it has no node"
    return (f"there is no room for a worker of {shape.cpus:g} CPU and {shape.gpus:g} GPU in the {cluster}; {has}, free are "
            f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs in all. Ask for less with --cpus_per_worker and "
            "--gpus_per_worker, or wait for a node.")


def _raise(kind: str, message: str) -> NoReturn:
    if kind == "UserError":
        raise UserError(message)
    if kind == "ServiceError":
        raise ServiceError(message)
    if kind == "execution":
        raise _Broken(message)
    raise RuntimeError(f"a Ray worker failed:\n{message}")
