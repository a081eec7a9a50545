"""The interface between the steps and the models: requests in, replies out, in completion order.

A backend knows nothing of files, a step knows nothing of models. Backends are built by ``choose_backend`` and load
their weights on first use, so a step whose work is done never loads a model.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.options import LlmOptions

log = logging.getLogger(__name__)

# A prompt that leaves less room than this (or less than it asked for) is reported, not answered with a stump.
LEAST_REPLY_TOKENS = 16


@dataclass(frozen=True)
class Constraint:
    """What an answer about a sentence can be: only what can be found in it.

    mode: "entity" (spans of tokens with their types) or "pos" (all words in order with their tags).
    tokens: of the sentence. dense: they join without blanks, and a word may be several tokens; else one blank joins
        them, and words are tokens.
    labels: the types or tags to choose from; empty: any short name.
    reply_format: "json", or "inline" (pos only): ``word/TAG word/TAG``.
    """

    mode: str
    tokens: tuple[str, ...]
    dense: bool
    labels: tuple[str, ...] = ()
    reply_format: str = "json"


@dataclass(frozen=True)
class Request:
    """One question to a model.

    id: comes back in the reply, unique among the requests of one call.
    messages: chat messages, ``({"role": "system" | "user" | "assistant", "content": str}, ...)``.
    max_new_tokens: limit of the reply, in tokens of the model (see ``Backend.count_tokens``).
    temperature: 0 is greedy; top_p acts only when temperature > 0. seed: of this request alone.
    constraint: what the reply can be; backends that cannot hold a model to it leave it out (see ``Reply.decoded``).
    task, record: what is asked about which sentence, for backends that do not read prompts (offline). Model backends
        ignore both. task is "entity", "pos" or "explain"; record is ``{"tokens": [str], "dense": bool, "lang": "zh" |
        "en" | "ja" | "ko", "entities": [{"start", "end", "entity", "text"}]}``.
    """

    id: str
    messages: tuple[Mapping[str, str], ...]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    constraint: Constraint | None = None
    task: str | None = None
    record: Mapping | None = None


@dataclass(frozen=True)
class Reply:
    """One answer. ``finish_reason``: "stop" (the model ended), "length" (cut at max_new_tokens), "too_long" (the prompt
    does not fit the context; never cut, ``error`` holds the lengths), "error" (no reply after retries, see ``error``).

    decoded: how the reply was held to the constraint: "" (not at all), "grammar" or "json_schema". closed: the room ran
    out and the grammar closed the reply; it is whole, but the model might have said more.
    """

    id: str
    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""
    decoded: str = ""
    closed: bool = False


class Backend(Protocol):
    """Anything that answers requests. ``name`` and ``model`` go into fingerprints and manifests."""

    name: str
    model: str

    def check(self) -> None:
        """UserError for whatever can be known to fail before weights are loaded."""

    def count_tokens(self, text: str) -> int:
        """Length of ``text`` in tokens of this model, without special tokens."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Answer every request exactly once, in any order; one that cannot be answered comes back as an error.

        A generator; where KeyboardInterrupt is thrown into it, it may give what is answered already before it raises that.
        """


def choose_backend(opts: LlmOptions) -> Backend:
    """The backend that the flags ask for; its weights load on first use.

    Raises:
        UserError: nothing says which model to use, or two things say it; --engine=ray without Ray.
    """
    backend = choose_local_backend(opts)
    if opts.engine == "ray":
        from syn_pipelines.utils.llm.ray_engine import RayBackend

        return RayBackend(opts, backend)
    return backend


def choose_local_backend(opts: LlmOptions, *, announce: bool = True) -> Backend:
    """As ``choose_backend``, for one process: that of --engine=local, or a Ray worker. announce: say which one it is."""
    name, reason = _chosen(opts)
    if name == "offline":
        from syn_pipelines.utils.llm.offline import OfflineBackend

        return OfflineBackend()
    if announce:
        _announce(name, opts.model_from_pretrained, reason)
    if name == "openai":
        from syn_pipelines.utils.llm.openai_backend import OpenAIBackend

        return OpenAIBackend(opts.model_from_pretrained, opts.base_url, concurrency=opts.concurrency,
                             timeout_s=opts.timeout, try_out=opts.overwrite and not opts.dry_run)
    return _local_backend(opts, glm3=name == "glm3")


def _local_backend(opts: LlmOptions, *, glm3: bool) -> Backend:
    from syn_pipelines.utils.llm.glm3_backend import Glm3Backend
    from syn_pipelines.utils.llm.transformers_backend import TransformersBackend

    model = opts.model_from_pretrained.rstrip("/") or "/"  # as a shell completes a folder, it is the same model
    settings = {"n_gpu": opts.n_gpu, "scheduler": opts.scheduler, "chat_template": opts.chat_template,
                "trust_remote_code": opts.trust_remote_code}
    key = (glm3, model, *settings.values())
    if _kept is None or key not in _kept:
        made = (Glm3Backend if glm3 else TransformersBackend)(model, batch_size=1, **settings)
        if _kept is None:
            made.resize(opts.batch_size or 1)
            return made
        _kept.clear()  # one model at a time
        _kept[key] = made
    _kept[key].resize(opts.batch_size or 1)
    return _kept[key]


_kept: dict[tuple, Any] | None = None


@contextmanager
def kept_model() -> Iterator[None]:
    """Within this, steps that ask the same local model share it, so that its weights are read once."""
    global _kept
    _kept = {}
    try:
        yield
    finally:
        used, _kept = bool(_kept), None
        if used and "torch" in sys.modules:
            from syn_pipelines.utils.llm.transformers_loading import free_memory

            free_memory()


@cache
def _announce(name: str, model: str, reason: str) -> None:
    """Say what answers and why; once a process, for run_all chooses anew for each of its steps."""
    log.info("backend %s for %s: %s", name, model, reason)


def _chosen(opts: LlmOptions) -> tuple[str, str]:
    """Name of the backend, and why this one."""
    model = opts.model_from_pretrained
    if opts.backend == "offline":
        if model:
            raise UserError(f"--backend=offline uses no model, but --model_from_pretrained={model} is given. "
                            "Leave one of them out.")
        if opts.base_url:
            raise UserError(f"--backend=offline asks no server, but --base_url={opts.base_url} is given. Leave one of "
                            "them out.")
        return "offline", "--backend"
    if opts.base_url or opts.backend == "openai":
        return "openai", _checked_server(opts)
    if opts.backend == "auto":
        if not model:
            raise UserError("no language model is given. Give one with --model_from_pretrained (a local folder or a hub "
                            "name such as Qwen/Qwen2.5-0.5B-Instruct), or try the steps without one: --backend=offline.")
        from syn_pipelines.utils.llm.glm3_backend import is_chatglm3

        if opts.save_type_name.lower() == "glm3":
            return "glm3", f"--save_type_name={opts.save_type_name}"
        if is_chatglm3(model):
            return "glm3", "the model is ChatGLM3"
        return "transformers", "--model_from_pretrained is given, --base_url is not"
    if not model:
        raise UserError(f"--backend={opts.backend} needs --model_from_pretrained (a local folder or a hub name).")
    return opts.backend, "--backend"


def _checked_server(opts: LlmOptions) -> str:
    """Why a server answers; UserError when the flags do not go together."""
    if opts.backend not in ("auto", "openai"):
        raise UserError(f"--backend={opts.backend} asks no server, but --base_url={opts.base_url} is given. Leave one of "
                        "them out.")
    if not opts.base_url:
        raise UserError("--backend=openai needs the server's address: --base_url, such as http://localhost:8000/v1.")
    if not opts.model_from_pretrained:
        raise UserError(f"--base_url={opts.base_url} needs --model_from_pretrained: the model's name on that server.")
    return "--base_url is given" if opts.backend == "auto" else "--backend"
