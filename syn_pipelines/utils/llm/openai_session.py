"""Requests to a server from a thread with an event loop of its own, asked again when they fail.

The thread is what makes the asynchronous client work below a synchronous iterator, inside a notebook's running loop as
well. What is retried and for how long is decided here; the client's own retries are off.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ipaddress
import json
import logging
import re
import sys
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from syn_pipelines.utils.errors import ServiceError, UserError
from syn_pipelines.utils.llm.checkpoints import first_line
from syn_pipelines.utils.llm.openai_errors import FIRST_PAUSE_S, backoff_s, error_fields, is_too_long, retry_after_s
from syn_pipelines.utils.llm.openai_gate import Gate
from syn_pipelines.utils.llm.openai_limits import PLAIN, limit_body
from syn_pipelines.utils.llm.openai_transport import transport
from syn_pipelines.utils.llm.openai_wire import EXTRAS, Habits, Outcome, model_names, read_answer

# Failures in a row, over all requests, after which the server is taken for gone.
MOST_FAILURES = 20
# A server that is alive and asks for patience gets more of it than one that fails.
_LIMITED_TRIES = 12
_EMPTY_TRIES = 3
# Time for the list of models. Longer than the time to connect, so that an address behind a wall is told from a busy server.
_CHECK_S = 15.0
# Waiting is done in turns of this many seconds: Python sees a signal that comes just before a wait only when that ends.
LOOK_S = 0.5
# Statuses besides 5xx that a second try can mend.
_PASSING = {408, 409, 425}


@dataclass(frozen=True)
class Settings:
    """Where the server is and how patiently it is asked. Times in seconds; ``timeout_s`` is for a whole answer."""

    base_url: str
    key: str = field(repr=False)
    concurrency: int
    timeout_s: float
    connect_timeout_s: float = 10.0
    tries: int = 6
    first_pause_s: float = FIRST_PAUSE_S

    def told(self, text: str) -> str:
        """The text without the key, in case the server repeats it."""
        if not self.key:
            return text
        # What is as short as a word is one in most places ("none", "EMPTY").
        return (_spellings(self.key) if len(self.key) > 7 else re.compile(rf"\b{re.escape(self.key)}\b")).sub("***", text)

    def without_key(self, reply: str) -> str:
        """A reply, which is stored, without the key. Keys of servers that ask for none are words and may stay in it."""
        return _spellings(self.key).sub("***", reply) if len(self.key) > 15 else reply


@lru_cache(maxsize=4)
def _spellings(key: str) -> re.Pattern[str]:
    """The key in small and capital letters, any of its characters also as JSON writes it with an escape."""
    return re.compile("".join(rf"(?:{re.escape(char)}|\\u{ord(char):04x})" for char in key), re.IGNORECASE)


def finished(future: Future[Any]) -> Any:
    """The result of a future; see ``LOOK_S``."""
    while not concurrent.futures.wait([future], LOOK_S).done:
        pass
    return future.result()


class Session:
    """The client in its thread; a context manager that on leaving cancels what is under way and ends the thread.

    Methods that are coroutines run in the session's loop: see ``start``.
    """

    def __init__(self, settings: Settings, habits: Habits) -> None:
        self.settings, self.habits = settings, habits
        self.lock = asyncio.Lock()
        self.answered = 0
        self.gate = Gate(settings.concurrency)
        self._failures = self._limits = 0
        self._limited_at = 0.0
        self._over: Exception | None = None
        self._client: Any = None
        self._http: Any = None
        self._pattern: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="requests to the server", daemon=True)

    def __enter__(self) -> Session:
        """Start the thread. UserError where the client cannot be made, mostly for a proxy that it cannot use."""
        try:
            self._client, self._http = _client(self.settings)
            self._pattern = self._request()
        except Exception as err:
            self._loop.close()
            raise UserError(f"the client for {self.settings.base_url} cannot be made ({first_line(err)}). If it speaks of a "
                            "proxy, unset ALL_PROXY, HTTP_PROXY and HTTPS_PROXY or correct them; one of socks needs: pip "
                            "install 'httpx[socks]'") from err
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            finished(self.start(self._end()))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def start(self, task: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run a coroutine in the session's loop."""
        return asyncio.run_coroutine_threadsafe(task, self._loop)

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        with contextlib.suppress(asyncio.TimeoutError):  # all answers are in; what does not close now ends with the thread
            await asyncio.wait_for(self._client.close(), 5.0)

    async def ask(self, fields: Mapping[str, Any], limit: int, tries: int = 0) -> Outcome:
        """Send a chat request until it is answered or refused, or its tries are used up.

        Args:
            fields: "model", "messages" and what else the request has, but for its limit. limit: most reply tokens.
            tries: for transport failures; 0: as the settings say.
        Raises:
            ServiceError: the server is gone (20 failures in a row over all requests).
        """
        failures = limited = empty = 0
        while True:
            outcome, body = await self._send(fields, limit)
            if outcome.kind == "answer":
                self._note_answer()
                return outcome
            if outcome.kind == "refused":
                self._failures = 0
                if self.habits.learn(outcome, body):
                    continue
                return await self._without_extras(fields, body, limit, outcome)
            if outcome.kind == "limited":
                limited += 1
                if limited >= _LIMITED_TRIES:
                    return outcome
                continue  # the gate holds the pause
            if outcome.kind == "empty":
                self._failures = 0
                empty += 1
            else:
                self._note_failure(outcome)
                failures += 1
            if failures >= (tries or self.settings.tries) or empty >= _EMPTY_TRIES:
                return outcome
            await asyncio.sleep(max(outcome.pause_s, backoff_s(failures + empty, self.settings.first_pause_s)))

    async def _without_extras(self, fields: Mapping[str, Any], body: Mapping[str, Any], limit: int,
                              refusal: Outcome) -> Outcome:
        """One more try of a request that was refused without naming a field; what helps is kept."""
        extras = EXTRAS & body.keys()
        if not extras or self.answered or refusal.status not in (400, 422) or is_too_long(refusal.message, refusal.code):
            return refusal
        outcome, _ = await self._send({name: value for name, value in fields.items() if name not in extras}, limit)
        if outcome.kind != "answer":
            return refusal
        self.habits.drop(extras)
        self._note_answer()
        return outcome

    async def _send(self, fields: Mapping[str, Any], limit: int) -> tuple[Outcome, dict[str, Any]]:
        """One try: what became of it and what was sent."""
        async with self.gate:
            if self._over:
                raise self._over
            body = self.habits.body(fields, limit)  # as known at this moment, however long it waited at the gate
            sent_at = self._loop.time()
            try:
                response = await asyncio.wait_for(self._post(json.dumps(body, ensure_ascii=False).encode()), self.settings.timeout_s)
            except UnicodeEncodeError:
                return Outcome("refused", message="the prompt holds half a surrogate pair, which cannot be sent"), body
            except Exception as err:
                if _is_timeout(err):
                    message = f"time-out: no answer within {self.settings.timeout_s:g} s"
                else:
                    message = self.settings.told(f"connection: {_cause(err)}")
                return Outcome("broken", message=message), body
            outcome = self._outcome(response)
            if outcome.kind == "limited":
                self._note_limit(sent_at, outcome)
        return outcome, body

    async def _post(self, content: bytes) -> Any:
        """Send a chat request as it is, by the client's own HTTP client: the layers above it take half a millisecond of
        processor time for a request, more than all that is done here."""
        pattern = self._pattern
        return await self._http.send(type(pattern)(pattern.method, pattern.url, headers=pattern.headers, content=content,
                                                   extensions=pattern.extensions))

    def _request(self) -> Any:
        """A chat request without its content, as the client would make it."""
        headers = {name: value for name, value in self._client.default_headers.items() if isinstance(value, str)}
        made = self._http.build_request("POST", f"{self.settings.base_url}/chat/completions", timeout=self._client.timeout,
                                        headers={**headers, "Authorization": f"Bearer {self._client.api_key}"})
        made.headers.pop("Content-Length", None)
        return made

    def _outcome(self, response: Any) -> Outcome:
        try:
            if not response.is_success:
                return self._refusal(response)
            outcome = read_answer(response.content, self.settings.told)
            return replace(outcome, text=self.settings.without_key(outcome.text))
        except ServiceError:
            raise
        except Exception as err:  # what the client itself trips over, such as a charset that is none
            return Outcome("broken", message=self.settings.told(f"broken answer: {_cause(err)}"))

    def _refusal(self, response: Any) -> Outcome:
        status, headers = response.status_code, response.headers
        message, code, parameter = error_fields(self.settings.told(response.text))
        told = self.settings.told(f"HTTP {status}: {message}")  # again: JSON may have hidden the key behind escapes
        if status == 402 or (status == 429 and "insufficient_quota" in code):
            raise self.stop(ServiceError(f"{self.settings.base_url} wants to be paid first ({told}). What is finished is kept; "
                                         "the same command goes on from there."))
        pause_s = retry_after_s(headers)
        if status == 429 or (status == 503 and pause_s):
            kind = "limited"
        else:
            # What was answered there before is gone for a while: a proxy without its server, a model that is not loaded.
            vanished = status == 404 and self.answered
            kind = "broken" if status >= 500 or status in _PASSING or vanished else "refused"
        return Outcome(kind, status=status, message=told, code=code, parameter=parameter, pause_s=pause_s)

    def _note_answer(self) -> None:
        self.answered += 1
        self._failures = self._limits = 0
        self.gate.answered()

    def _note_failure(self, outcome: Outcome) -> None:
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            raise self.stop(ServiceError(f"{self.settings.base_url}: {self._failures} tries in a row failed, the last with: "
                                         f"{outcome.message}. What is finished is kept; when the server is back, the same "
                                         "command goes on from there."))

    def _note_limit(self, sent_at: float, outcome: Outcome) -> None:
        """Pause all requests; refusals of requests sent before the pause began are part of the same one."""
        new = sent_at >= self._limited_at
        if new:
            self._limits += 1
            self._limited_at = self._loop.time()
        if self._limits > MOST_FAILURES:
            raise self.stop(ServiceError(f"{self.settings.base_url} goes on asking for patience ({outcome.message}). What is "
                                         "finished is kept; the same command goes on from there, more gently with a lower "
                                         "--concurrency."))
        self.gate.pause(max(outcome.pause_s, backoff_s(self._limits, self.settings.first_pause_s)), slower=new)

    def stop(self, error: Exception) -> Exception:
        """Send nothing any more; returns the error to raise, the same for all that end now."""
        self._over = self._over or error
        return self._over

    async def models(self) -> tuple[Outcome, list[str]]:
        """Names of the server's models, as far as it tells them ("answer"); "broken": nobody is there; "limited": somebody
        is, but slow. A dropped connection is tried again."""
        import openai

        for attempt in range(3):
            try:
                call = self._client.models.with_raw_response.list()
                response = await asyncio.wait_for(call, min(_CHECK_S, self.settings.timeout_s))
                return Outcome("answer"), model_names(response.content)
            except (openai.APITimeoutError, asyncio.TimeoutError) as err:
                unreachable = type(err.__cause__).__name__ == "ConnectTimeout"
                return Outcome("broken" if unreachable else "limited", message="it does not answer in time"), []
            except openai.APIConnectionError as err:
                outcome = Outcome("broken", message=self.settings.told(_cause(err)))
            except openai.APIStatusError as err:
                message = f"HTTP {err.status_code}: {error_fields(self.settings.told(err.response.text))[0]}"
                return Outcome("refused", status=err.status_code, message=self.settings.told(message)), []
            except Exception as err:  # what the client itself trips over: the address answers, if not with a list
                return Outcome("refused", message=self.settings.told(f"broken answer: {_cause(err)}")), []
            await asyncio.sleep(self.settings.first_pause_s * (attempt + 1))
        return outcome, []

    async def exists(self, url: str) -> bool:
        """Whether a GET of this address is answered with 2xx."""
        import openai

        try:
            await asyncio.wait_for(self._client.get(url, cast_to=object, options={"timeout": 5.0}), 10.0)
        except (openai.OpenAIError, ValueError, asyncio.TimeoutError):
            return False
        return True


def _cause(err: BaseException) -> str:
    """The innermost reason that the client library wrapped: "Connection refused" rather than "Connection error."."""
    while err.__cause__ or err.__context__:
        err = err.__cause__ or err.__context__
    return " ".join(str(err).split())[:200] or type(err).__name__


def _is_timeout(err: BaseException) -> bool:
    """Whether it is one of asyncio's or of the HTTP client's, whichever package that is."""
    return isinstance(err, asyncio.TimeoutError) or any(kind.__name__ == "TimeoutException" for kind in type(err).__mro__)


def _client(settings: Settings) -> tuple[Any, Any]:
    """The official client, and the HTTP client in it. It asks for a key even where the server does not, so a server without one gets a word."""
    import openai

    for name in ("httpx", "httpx2", "httpcore", "openai"):  # a line for each request is noise
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.WARNING)
    timeout = openai.Timeout(settings.timeout_s, connect=settings.connect_timeout_s, pool=None)
    # A proxy that the environment names leads out of the house, where nobody knows this machine's own servers.
    own = _is_own_machine(settings.base_url)
    kind = next(kind for kind in openai.DefaultAsyncHttpxClient.__mro__ if kind.__name__ == "AsyncClient")
    package = sys.modules[kind.__module__.partition(".")[0]]  # httpx, or httpx2 below newer clients
    http = openai.DefaultAsyncHttpxClient(event_hooks={"response": [limit_body]}, headers=PLAIN, trust_env=not own,
                                          transport=transport(package, proxies=not own))
    return openai.AsyncOpenAI(api_key=settings.key or "none", base_url=settings.base_url, timeout=timeout, max_retries=0,
                              http_client=http), http


def _is_own_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
