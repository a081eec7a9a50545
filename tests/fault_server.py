"""A server with OpenAI's interface that misbehaves on demand: a real HTTP server on this machine, in a thread.

    with FaultServer(faults=lambda n, body: Fault(429, retry_after="0") if n == 1 else None) as server:
        OpenAIBackend("tiny", server.url)

It counts what it is asked, answers with a function of the messages, and can really hold its answers to a grammar or a
schema (a random model of bytes under llguidance). With ``upstream`` it hands requests on to another server and so puts
faults in front of a real one.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KNOWN_FIELDS = {"model", "messages", "max_tokens", "temperature", "top_p", "seed", "response_format"}


@dataclass(frozen=True)
class Fault:
    """What to do instead of answering. One of: a status with its message; raw bytes (with a status or 200); ``drop`` the
    connection; ``hang_s`` seconds before a normal answer; ``cut`` the body of a normal answer in the middle. ``charset``: what a
    status says its message is written in. ``endless``: a body without an end, at any status. ``headers``: more of them."""

    status: int = 200
    message: str = "something went wrong"
    code: str | None = None
    parameter: str | None = None
    retry_after: str = ""
    raw: bytes | None = None
    drop: bool = False
    hang_s: float = 0.0
    cut: bool = False
    charset: str = ""
    endless: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class FaultServer:
    """Context manager; ``url`` is what --base_url takes.

    Attributes:
        answer: text of a normal answer; a mapping is a whole "choice" of the completion.
        faults: called with the number of the chat request (from 1) and its body; None: answer normally.
        models: what /v1/models lists; None: there is no such address. models_fault: what that address does instead.
        only_model: any other name is answered with 404.
        key: the one that is taken; "": any, and none.
        knows: field names that it takes; it refuses others with 422. None: it ignores what it does not know.
        holds: "grammar" (``structured_outputs``) and "json_schema" (``response_format``) are obeyed when named here.
        upstream: address of a server that answers in its place.
        port: 0 takes a free one.
    """

    answer: Callable[[Mapping[str, Any]], str | Mapping[str, Any]] = lambda body: "[]"
    faults: Callable[[int, Mapping[str, Any]], Fault | None] = lambda number, body: None
    models: Sequence[str] | None = ("tiny",)
    only_model: str = ""
    models_fault: Fault | None = None
    key: str = ""
    knows: set[str] | None = None
    holds: Sequence[str] = ()
    upstream: str = ""
    port: int = 0
    usage: Mapping[str, Any] | None = field(default_factory=lambda: {"prompt_tokens": 7, "completion_tokens": 3})
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    def __enter__(self) -> FaultServer:
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", self.port), _handler(self))
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def asked(self) -> list[str]:
        """Content of the last message of each chat request, in the order of arrival."""
        with self._lock:
            return [body["messages"][-1]["content"] for body in self.requests]

    # --- what the handler calls ---

    def note(self, body: dict[str, Any], headers: Mapping[str, str]) -> int:
        with self._lock:
            self.requests.append(body)
            self.headers.append(headers)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            return len(self.requests)

    def done(self) -> None:
        with self._lock:
            self.at_once -= 1

    def reply(self, body: Mapping[str, Any]) -> tuple[int, bytes]:
        """Status and body of an undisturbed answer."""
        if self.upstream:
            return _forwarded(f"{self.upstream}/chat/completions", body)
        if self.only_model and body["model"] != self.only_model:
            return 404, error_body(f"The model `{body['model']}` does not exist.", "model_not_found", "model")
        unknown = sorted(set(body) - self.knows) if self.knows is not None else []
        if unknown:
            detail = [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}
                      for name in unknown]
            return 422, json.dumps({"detail": detail}).encode()
        said = self._held(body)
        choice = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        if not isinstance(said, str):
            choice = dict(said)
        return 200, json.dumps({"id": "1", "object": "chat.completion", "model": body["model"],
                                "choices": [{"index": 0, **choice}],
                                **({"usage": self.usage} if self.usage is not None else {})}).encode()

    def _held(self, body: Mapping[str, Any]) -> str | Mapping[str, Any]:
        if "grammar" in self.holds and "structured_outputs" in body:
            return random_text("lark", body["structured_outputs"]["grammar"], body)
        if "json_schema" in self.holds and body.get("response_format", {}).get("type") == "json_schema":
            return random_text("json_schema", json.dumps(body["response_format"]["json_schema"]["schema"]), body)
        return self.answer(body)


def error_body(message: str, code: str | None = None, parameter: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": "error", "code": code, "param": parameter}}).encode()


def random_text(kind: str, grammar: str, body: Mapping[str, Any]) -> str:
    """A text that the grammar allows, drawn byte by byte; the same for the same messages."""
    import numpy as np
    from llguidance import LLMatcher, LLTokenizer, grammar_from
    from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

    tokenizer = LLTokenizer("byte")
    matcher = LLMatcher(tokenizer, grammar_from(kind, grammar))
    assert not matcher.is_error(), matcher.get_error()
    mask = allocate_token_bitmask(1, tokenizer.vocab_size)
    draw = random.Random(json.dumps(body["messages"]))
    written = bytearray()
    while True:
        fill_next_token_bitmask(matcher, mask, 0)
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
        ends = tokenizer.eos_token in allowed or not len(allowed)
        # Leaning to what closes keeps the text short where the grammar sets no end.
        closing = [token for token in allowed if token < 256 and chr(token) in '"]}']
        if ends and (draw.random() < 0.5 or len(allowed) <= 1):
            return written.decode("utf-8")
        token = int(draw.choice(closing if closing and draw.random() < 0.5 else [t for t in allowed if t < 256]))
        matcher.consume_token(token)
        written.append(token)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave in the middle are part of the tests."""


def _forwarded(url: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as err:
        return err.code, err.read()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return 502, b"<html><body>Bad Gateway</body></html>"


def _handler(state: FaultServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if not self._key_fits():
                return
            if self.path == "/v1/models" and state.models_fault:
                time.sleep(state.models_fault.hang_s)
                self._send(state.models_fault.status, error_body(state.models_fault.message))
            elif self.path == "/v1/models" and state.models is not None:
                rows = [{"id": name, "object": "model"} for name in state.models]
                self._send(200, json.dumps({"object": "list", "data": rows}).encode())
            else:
                self._send(404, error_body("Not Found"))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self._key_fits():
                return
            if self.path != "/v1/chat/completions":
                self._send(404, error_body("Not Found"))
                return
            number = state.note(body, dict(self.headers))
            try:
                self._answer(body, state.faults(number, body) or Fault())
            finally:
                state.done()

        def _answer(self, body: Mapping[str, Any], fault: Fault) -> None:
            time.sleep(fault.hang_s)
            if fault.drop:
                # A reset, so that the client cannot take it for the end of an answer.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
            elif fault.endless:
                self._send_on(fault.status)
            elif fault.raw is not None:
                self._send(fault.status, fault.raw, more=fault.headers)
            elif fault.status != 200:
                self._send(fault.status, error_body(fault.message, fault.code, fault.parameter), fault.retry_after, fault.charset,
                           fault.headers)
            else:
                status, content = state.reply(body)
                self._send(status, content[:len(content) // 2] if fault.cut else content)
                if status == 200 and not fault.cut:
                    state.answered.append(body["messages"][-1]["content"])

        def _key_fits(self) -> bool:
            given = self.headers.get("Authorization", "")
            if not state.key or given == f"Bearer {state.key}":
                return True
            self.rfile.read(0)
            self._send(401, error_body(f"Incorrect API key provided: {given}", "invalid_api_key"))
            return False

        def _send_on(self, status: int) -> None:
            """Half an answer and blanks, until the client has had enough."""
            self.close_connection = True
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b'{"choices": [{"message": {"content": "[')
            while True:
                self.wfile.write(b" " * 65536)

        def _send(self, status: int, content: bytes, retry_after: str = "", charset: str = "",
                  more: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", f"application/json; charset={charset}" if charset else "application/json")
            self.send_header("Content-Length", str(len(content)))
            if retry_after:
                self.send_header("Retry-After", retry_after)
            for name, value in (more or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    return Handler
