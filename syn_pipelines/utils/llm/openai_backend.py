"""Answers from any server with OpenAI's interface: vLLM, SGLang, Ollama, llama.cpp, transformers serve, commercial ones.

Covered: chat completions, many at once, with retries; grammars and JSON schemas where the server takes them.
Not covered: streaming, batch files, Azure's addresses with a query.

The key comes from the environment variable OPENAI_API_KEY and is written nowhere. Importing this module is cheap; the
client is imported on first use.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
import os
import queue
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import chain, islice
from typing import Any
from urllib.parse import urlsplit

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.llm import LEAST_REPLY_TOKENS, Constraint, Reply, Request
from syn_pipelines.utils.llm.openai_constraints import (
    FREE,
    PROBE_MESSAGES,
    PROBE_TOKENS,
    WAYS,
    Way,
    obeys,
    probe_constraint,
)
from syn_pipelines.utils.llm.openai_errors import is_too_long, room_left
from syn_pipelines.utils.llm.openai_session import LOOK_S, Session, Settings, finished
from syn_pipelines.utils.llm.openai_wire import Habits, Outcome

log = logging.getLogger(__name__)

KEY_VARIABLE = "OPENAI_API_KEY"
# How long answers under way are waited for when the work has to stop.
_LAST_ANSWERS_S = 5.0
_FAILED = ("broken", "limited")
_PIECES = re.compile(r"[A-Za-z]+|[^\S\n]+|\n+|[^A-Za-z\s]")
_NO_MODEL = re.compile(r"model.{0,80}(?:not found|not exist|unknown|no such|not available|not loaded|invalid)|"
                       r"(?:unknown|no such|invalid).{0,20}model", re.IGNORECASE)


class OpenAIBackend:
    """Backend over a server (see ``syn_pipelines.utils.llm.Backend``).

    Args:
        model: its name on the server.
        base_url: address of the interface, mostly ending in /v1.
        concurrency: most requests under way at once.
        timeout_s: seconds to wait for a whole answer; connect_timeout_s: for a connection.
        tries: of one request that meets transport failures. first_pause_s: longest pause after the first failure,
            doubled with each further one.
        try_out: ``check`` always has the model say a word: some services list their models to any key.

    Raises:
        UserError: the address is none, the key cannot be one, or the client is not installed.
    """

    name = "openai"

    def __init__(self, model: str, base_url: str, *, concurrency: int = 16, timeout_s: float = 300.0,
                 connect_timeout_s: float = 10.0, tries: int = 6, first_pause_s: float = 0.5,
                 try_out: bool = False) -> None:
        if not importlib.util.find_spec("openai"):
            raise UserError("a server needs the package openai here. Install it: pip install openai")
        self.model = model
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UserError(f"--base_url={base_url}: not an address. It looks like http://localhost:8000/v1.")
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not re.fullmatch(r"[!-~]*", key):
            raise UserError(f"{KEY_VARIABLE} holds blanks or characters that no key has. Set it to the key alone.")
        self._settings = Settings(base_url.rstrip("/"), key, concurrency, timeout_s, connect_timeout_s, tries, first_pause_s)
        self._habits = Habits()
        self._try_out = try_out
        self._ways: dict[tuple[str, str], Way] = {}
        self._models: list[str] = []
        self._announced = False

    def count_tokens(self, text: str) -> int:
        """Estimate of the length of ``text`` in tokens, mostly too high: the server's tokenizer is not here.

        One token for 3 ASCII letters, for each digit and sign, and for 1, 2, 3 (UTF-8 bytes less one) of any other
        character: vocabularies of the last years need half of that for Chinese, Japanese and Korean. Single blanks
        belong to the word behind them.
        """
        count = 0
        for piece in _PIECES.findall(text):
            if piece[0].isascii():
                count += -(-len(piece) // 3) if piece[0].isalpha() else 0 if piece == " " else 1
            else:
                count += max(1, len(piece.encode("utf-8", "surrogatepass")) - 1)
        return count

    def check(self) -> None:
        """Ask the server for its models and, where the model is not among them or is to be tried out, for one word.

        Raises:
            UserError: nobody answers there; the key is refused; there is no such model.
        """
        with Session(self._settings, self._habits) as session:
            finished(session.start(self._check(session)))

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Answer every request exactly once, as the answers come. At most twice ``concurrency`` requests are read ahead.

        A request that used up its tries is reported as failed only when the server has answered another one since, or
        at the end: a server that is down fails no request.

        A KeyboardInterrupt that is thrown in is raised after the answers that have arrived by then.

        Raises:
            UserError: the server refuses the key or has no such model.
            ServiceError: 20 transport failures in a row, or no end of 429; finished replies were given before.
        """
        source = iter(requests)
        first = next(source, None)
        if first is None:
            return
        done: queue.SimpleQueue[Future[tuple[Reply, bool]]] = queue.SimpleQueue()
        with Session(self._settings, self._habits) as session:
            try:
                yield from self._replies(session, chain([first], source), done)
            except KeyboardInterrupt:  # what has been answered by now is paid for; the rest is not waited for
                yield from _last_answers(session, done, wait_s=0.0)
                raise
            except Exception:
                yield from _last_answers(session, done)
                raise

    def _replies(self, session: Session, requests: Iterator[Request], done: queue.SimpleQueue[Future[tuple[Reply, bool]]]
                 ) -> Iterator[Reply]:
        """See ``generate``. done: gets what is answered."""
        unsure, under_way = [], 0
        while True:
            pending = list(islice(requests, 2 * self._settings.concurrency - under_way))
            for request in pending:
                session.start(self._answer(session, request)).add_done_callback(done.put)
            under_way += len(pending)
            if not under_way:
                break
            (reply, sure), under_way = _next(done).result(), under_way - 1
            if not sure:
                unsure.append(reply)
                continue
            yield reply
            if reply.finish_reason in ("stop", "length"):
                yield from unsure
                unsure.clear()
        yield from unsure

    async def _answer(self, session: Session, request: Request) -> tuple[Reply, bool]:
        """The reply, and whether it is sure: a failure of transport may be the server's and not the request's."""
        way = await self._way(session, request.constraint)
        fields, limit, shrunk = self._fields(request), max(1, request.max_new_tokens), False
        while True:
            said = way.fields(request.constraint) if way and request.constraint else {}
            outcome = await session.ask({**fields, **said}, limit)
            if outcome.kind == "answer":
                return Reply(request.id, outcome.text, outcome.finish_reason, outcome.prompt_tokens,
                             outcome.completion_tokens, decoded=way.decoded if said else ""), True
            if outcome.kind != "refused":
                return Reply(request.id, "", "error", error=outcome.message), outcome.kind == "empty"
            if is_too_long(outcome.message, outcome.code):
                limit, shrunk = (limit // 2 if shrunk else room_left(outcome.message, limit)), True
                if limit < min(request.max_new_tokens, LEAST_REPLY_TOKENS) or limit < 1:
                    return Reply(request.id, "", "too_long", error=outcome.message), True
            elif said and outcome.status in (400, 422):
                way = None  # this one grammar is too much for the server: the reply is checked all the same
            else:
                self._stop_if_hopeless(session, outcome)
                return Reply(request.id, "", "error", error=outcome.message), True

    def _fields(self, request: Request) -> dict[str, Any]:
        # Servers fill in what is missing from the checkpoint's own settings: a penalty on repetition makes a model
        # avoid the words it is asked to copy, and top_p is rarely 1 there.
        return {"model": self.model, "messages": [dict(message) for message in request.messages],
                "temperature": request.temperature, "top_p": request.top_p, "seed": request.seed,
                "repetition_penalty": 1.0, "chat_template_kwargs": {"enable_thinking": False}}

    async def _way(self, session: Session, constraint: Constraint | None) -> Way | None:
        """How the server is told the constraint; found out once, before the first request that has one."""
        async with session.lock:
            kind = (constraint.mode, constraint.reply_format) if constraint else ("", "")
            if constraint and kind not in self._ways:
                self._ways[kind] = await self._probe(session, constraint)
            way = self._ways.get(kind)
            if not self._announced:
                self._announced = True
                log.info("%s at %s, up to %d requests at once; replies are held to: %s", self.model,
                         self._settings.base_url, self._settings.concurrency, way.name if way else "nothing (no constraint)")
        return way

    async def _probe(self, session: Session, constraint: Constraint) -> Way:
        constraint = probe_constraint(constraint)
        fields = self._fields(Request("probe", PROBE_MESSAGES, PROBE_TOKENS))
        for way in WAYS:
            said = way.fields(constraint)
            if not said:
                continue
            outcome = await _tried(session, fields, said)
            if outcome.kind == "refused" and outcome.status not in (400, 422):
                self._stop_if_hopeless(session, outcome)
            cut = outcome.finish_reason == "length"
            if outcome.kind == "answer" and obeys(way, constraint, outcome.text, cut=cut):
                return way
            log.debug("%s: %s", way.name, outcome.message or f"not held to it: {outcome.text[:80]!r}")
        return FREE

    def _stop_if_hopeless(self, session: Session, outcome: Outcome) -> None:
        """UserError where every other request would be refused as well; none of them is sent any more."""
        status, url, anew = outcome.status, self._settings.base_url, not session.answered
        # Some services refuse single prompts with 403; a key without the right never gets an answer.
        if status == 401 or (status == 403 and anew):
            advice = ("Set it to a key of this server" if self._settings.key else "It is not set; set it to a key of this "
                      "server")
            raise session.stop(UserError(f"{url} refuses the key in {KEY_VARIABLE} ({outcome.message}). {advice}."))
        if status == 404 or (anew and _NO_MODEL.search(outcome.message)):
            raise session.stop(UserError(f"{url} has no model {self.model!r} ({outcome.message}).{self._models_shown()} "
                                         "Correct --model_from_pretrained, or --base_url (mostly ending in /v1)."))

    def _models_shown(self) -> str:
        near = difflib.get_close_matches(self.model, self._models, 5, 0.4)
        some = list(dict.fromkeys([*near, *self._models]))[:5]
        more = f" and {len(self._models) - len(some)} more" if len(self._models) > len(some) else ""
        return self._settings.told(f" It has {', '.join(some)}{more}.") if some else ""

    async def _check(self, session: Session) -> None:
        url = self._settings.base_url
        outcome, self._models = await session.models()
        if outcome.kind == "broken":
            raise UserError(f"{url}: no server answers there ({outcome.message}). Start it, or correct --base_url.")
        if outcome.kind == "limited":
            log.warning("%s: %s; going on all the same", url, outcome.message)
            return
        if self.model in self._models and not self._try_out:
            return
        if outcome.status == 404 and not urlsplit(url).path and await session.exists(f"{url}/v1/models"):
            raise UserError(f"{url} answers under another address: use --base_url={url}/v1.")
        # Not every server lists its models, or all of them, or to every key: the first word decides.
        request = Request("check", ({"role": "user", "content": "Say yes."},), LEAST_REPLY_TOKENS)
        outcome = await session.ask(self._fields(request), request.max_new_tokens, tries=2)
        if outcome.kind == "refused":
            self._stop_if_hopeless(session, outcome)
            if self.model in outcome.message and self.model not in self._models:
                self._stop_if_hopeless(session, replace(outcome, status=404))
        if outcome.kind == "answer" and self._models and self.model not in self._models:
            _warn_of_name(url, self.model, self._models_shown())


@cache
def _warn_of_name(url: str, model: str, models: str) -> None:
    """Once a process: a server started again with another model may go on answering to the old name."""
    log.warning("%s does not list the model %r and answers to that name all the same.%s The replies are stored as those of %r.",
                url, model, models, model)


async def _tried(session: Session, fields: Mapping[str, Any], said: Mapping[str, Any]) -> Outcome:
    """What becomes of a request with a constraint, said in one way.

    A failure is put down to the constraint only when the server answers without it, twice: a server that is just
    starting again fails with anything, one that dies of a field would never be seen to answer.
    """
    for _ in range(2):
        outcome = await session.ask({**fields, **said}, PROBE_TOKENS)
        while outcome.kind in _FAILED and (await session.ask(fields, PROBE_TOKENS)).kind in _FAILED:
            outcome = await session.ask({**fields, **said}, PROBE_TOKENS)
        if outcome.kind not in _FAILED:
            break
    return outcome


def _next(done: queue.SimpleQueue[Future[tuple[Reply, bool]]]) -> Future[tuple[Reply, bool]]:
    """The next one that is done; see ``LOOK_S``."""
    while True:
        with suppress(queue.Empty):
            return done.get(timeout=LOOK_S)


def _last_answers(session: Session, done: queue.SimpleQueue[Future[tuple[Reply, bool]]], wait_s: float = _LAST_ANSWERS_S
                  ) -> Iterator[Reply]:
    """What was answered, or is just being answered, when the end came: no answer is thrown away and paid for again."""
    end = time.monotonic() + wait_s
    while True:
        try:
            future = done.get(timeout=0.05)  # an answer that has passed the gate needs a moment to get here
        except queue.Empty:
            if not session.gate.inside or time.monotonic() > end:
                return
        else:
            if not future.exception() and future.result()[1]:
                yield future.result()[0]
