"""A backend whose models run in Ray workers: each worker holds what ``--engine=local`` would hold here.

Replies, and so all files, are the same as with one process. A worker is a client of a server with ``--concurrency``
requests at once, or has a local model of its own with ``--batch_size`` prompts side by side.
"""

from __future__ import annotations

import dataclasses
import math
import os
import queue
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.llm import Backend, Reply, Request, choose_local_backend
from syn_pipelines.utils.llm.checkpoints import local_path
from syn_pipelines.utils.llm.ray_cluster import refuse_hopeless, require_ray
from syn_pipelines.utils.llm.ray_desk import TRIES
from syn_pipelines.utils.llm.ray_pool import Died, Pool
from syn_pipelines.utils.options import LlmOptions, option

KEY_VARIABLE = "OPENAI_API_KEY"
# Blocks of a server's client: two at once, so that the slow ones of one leave no place idle; a new one means new connections.
CALLS = 2
REQUESTS_A_PLACE = 8
# Batches of a local model in a block, which is sorted by length.
BATCHES_A_BLOCK = 4
OFFLINE_ROWS = 128


@dataclass(frozen=True)
class WorkerOptions(LlmOptions):
    """What a worker needs to know of a step's options: a class of its own, for a script's own cannot be imported there."""

    batch_size: int = option(1, "prompts side by side")


@dataclass(frozen=True)
class LlmWork:
    """Builds the backend in a worker and answers requests with it (``ray_pool.Work``).

    keyed: a server's key is set where the run was started. It is not sent: each worker reads its own environment.
    """

    opts: WorkerOptions
    local_model: bool
    calls: int
    keyed: bool

    def build(self, gpus: float) -> Callable[[Sequence[Request]], Iterator[tuple[int, Reply]]]:
        """See ``ray_pool.Work``. UserError for what cannot work here."""
        if self.keyed and not os.environ.get(KEY_VARIABLE):
            import ray

            node = ray.util.get_node_ip_address()
            raise UserError(f"{KEY_VARIABLE} is set where this was started, and not in the Ray worker on {node}. It is never sent "
                            "over the network: set it on every node before `ray start`, or as a secret of the cluster.")
        seen = ",".join(map(str, range(max(1, math.ceil(gpus)))))
        each = dataclasses.replace(self.opts, n_gpu=seen, concurrency=max(1, self.opts.concurrency // self.calls))
        backends: queue.SimpleQueue[Backend] = queue.SimpleQueue()
        for _ in range(self.calls):
            backend = choose_local_backend(each, announce=False)
            if load := getattr(backend, "load", None):
                load()
            backends.put(backend)

        def answers(requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
            backend, places = backends.get(), {request.id: place for place, request in enumerate(requests)}
            try:
                for reply in backend.generate(iter(requests)):
                    yield places.pop(reply.id), reply
                for identity, place in places.items():  # as ``ask`` says of a backend that forgets a request
                    yield place, Reply(identity, "", "error", error="the backend gave no reply")
            finally:
                backends.put(backend)

        return answers


class RayBackend:
    """Backend over Ray workers (see ``syn_pipelines.utils.llm.Backend``); nothing of Ray is started before the first request.

    inner: the backend that this process would use, for what needs no model: names, checks, lengths in tokens.
    """

    starts_anew = True  # workers are started for each call of ``generate``

    def __init__(self, opts: LlmOptions, inner: Backend) -> None:
        require_ray()
        self._opts, self._inner = opts, inner
        self.name, self.model = inner.name, inner.model

    def check(self) -> None:
        """As the inner backend, on this machine; and whether the cluster's address can be one."""
        refuse_hopeless(self._opts.ray_address)
        self._inner.check()

    def count_tokens(self, text: str) -> int:
        """As the inner backend; reads a tokenizer and no weights."""
        return self._inner.count_tokens(text)

    def prompt_as_sent(self, messages: Iterable[Mapping[str, str]]) -> tuple[str, int]:
        """As the inner backend, where it has a chat template; else the plain text."""
        if as_sent := getattr(self._inner, "prompt_as_sent", None):
            return as_sent(messages)
        text = "\n\n".join(message["content"] for message in messages)
        return text, self.count_tokens(text)

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Answer every request exactly once, as the answers come. A request that kills its worker every time is answered
        with an error.

        A KeyboardInterrupt that is thrown in is raised after the answers that have arrived by then.

        Raises:
            UserError, ServiceError: as the inner backend in a worker; see also ``ray_pool.Pool.answers``.
        """
        pool = self._pool()
        answers = pool.answers(requests)
        try:
            for answered in answers:
                yield _reply(*answered)
        except KeyboardInterrupt:
            for answered in pool.at_hand():
                yield _reply(*answered)
            raise
        finally:
            answers.close()

    def _pool(self) -> Pool:
        known = {field.name for field in dataclasses.fields(WorkerOptions)}
        values = {field.name: getattr(self._opts, field.name) for field in dataclasses.fields(self._opts)}
        if self.name not in ("offline", "openai"):
            values |= {name: _absolute(values[name]) for name in ("model_from_pretrained", "chat_template")}
        opts = WorkerOptions(**{name: value for name, value in values.items() if name in known and value is not None})
        served = self.name == "openai"
        calls = min(CALLS, opts.concurrency) if served else 1
        rows = OFFLINE_ROWS if self.name == "offline" else (
            max(1, opts.concurrency // calls) * REQUESTS_A_PLACE if served else opts.batch_size * BATCHES_A_BLOCK)
        work = LlmWork(opts, self.name not in ("offline", "openai"), calls, served and bool(os.environ.get(KEY_VARIABLE)))
        return Pool(self._opts, work, block_rows=rows)


def _absolute(path: str) -> str:
    """A path that is here, as it is called in any working directory; hub names as they are."""
    return str(local_path(path).absolute()) if path and local_path(path).exists() else path


def _reply(request: Request, answer: Reply | Died) -> Reply:
    if isinstance(answer, Died):
        return Reply(request.id, "", "error", error=f"the worker died: {TRIES} times, while it answered this alone")
    return answer
