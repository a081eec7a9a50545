"""Connections to a server over plain HTTP: what is read from the wire, and how often a connection is used."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from itertools import takewhile

import pytest
from fault_server import FaultServer

openai = pytest.importorskip("openai", reason="needs the package openai (see requirements.txt)")

from syn_pipelines.utils.llm import Request  # noqa: E402
from syn_pipelines.utils.llm.openai_backend import OpenAIBackend  # noqa: E402
from syn_pipelines.utils.llm.openai_limits import MOST_BYTES, UnusableBody  # noqa: E402
from syn_pipelines.utils.llm.openai_transport import Connection  # noqa: E402

BODY = json.dumps({"choices": [{"message": {"content": "好"}, "finish_reason": "stop"}]}, ensure_ascii=False).encode()
LENGTH = b"Content-Length: %d\r\n" % len(BODY)


def chunked(*sizes: int) -> bytes:
    pieces, start = [], 0
    for size in (*sizes, len(BODY)):
        piece, start = BODY[start:start + size], start + size
        pieces.append(b"%x;name=value\r\n%b\r\n" % (len(piece), piece) if piece else b"")
    return b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(pieces) + b"0\r\nX-Trailer: 1\r\n\r\n"


WHOLE = {
    "length": b"HTTP/1.1 200 OK\r\n" + LENGTH + b"\r\n" + BODY,
    "one chunk": b"HTTP/1.1 200 OK\r\n" + chunked(),
    "chunks that cut characters": b"HTTP/1.1 200 OK\r\n" + chunked(*range(1, 14)),
    "odd spelling": b"HTTP/1.1 200\r\ncOnTeNt-LeNgTh:%d  \r\nX:\r\n\r\n" % len(BODY) + BODY,
    "bare line ends": b"HTTP/1.1 200 OK\n" + LENGTH.replace(b"\r", b"") + b"\n" + BODY,
    "an answer before the answer": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n" + LENGTH
                                   + b"\r\n" + BODY,
    "to the end": b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
    "said to be closed": b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + LENGTH + b"\r\n" + BODY,
}
STAYS = {"length", "one chunk", "chunks that cut characters", "odd spelling", "bare line ends", "an answer before the answer"}
BROKEN = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a line that is no header": b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000,
    "a header without end": b"HTTP/1.1 200 OK\r\nA: " + b"b" * 200_000,
    "half a body": b"HTTP/1.1 200 OK\r\n" + LENGTH + b"\r\n" + BODY[:9],
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n" + BODY,
    "a length below zero": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + BODY,
    "a chunk that is none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n" + BODY,
    "a chunk below zero": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n" + BODY,
    "chunks that end early": b"HTTP/1.1 200 OK\r\n" + chunked()[:-22],
}
TOO_LONG = {
    "by its length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MOST_BYTES + 1),
    "by one chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (1 << 60),
    "by many chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"100000\r\n" + bytes(1 << 20) + b"\r\n") * 9,
    "without an end": b"HTTP/1.1 200 OK\r\n\r\n" + bytes(MOST_BYTES + 1),
}


def read(wire: bytes) -> tuple:
    """What a connection makes of these bytes, after which the server hangs up."""
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(wire)
        writer.close()

    async def ask() -> tuple:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        connection = Connection(*await asyncio.open_connection(*server.sockets[0].getsockname()))
        try:
            return await asyncio.wait_for(connection.exchange(b"?"), 30)
        finally:
            connection.writer.transport.abort()
            server.close()
    return asyncio.run(ask())


@pytest.mark.parametrize("name", WHOLE)
def test_every_way_to_say_how_long_a_body_is_gives_the_same_body(name):
    status, _, body, again = read(WHOLE[name])
    assert (status, body, again) == (200, BODY, name in STAYS)


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_whole_answer_is_an_error(name):
    with pytest.raises((OSError, EOFError, ValueError)):
        read(BROKEN[name])


@pytest.mark.parametrize("name", TOO_LONG)
def test_a_body_that_no_reply_has_is_not_read_to_its_end(name):
    with pytest.raises(UnusableBody, match="more than 8 MiB"):
        read(TOO_LONG[name])


class Wire:
    """A server that sends the same bytes for each request, hanging up after some of them; counts its connections."""

    def __init__(self, answer: bytes, *, hangs_up_after: int = 0) -> None:
        self.answer, self.hangs_up_after, self.connections = answer, hangs_up_after, 0
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        answered = 0
        with connection, connection.makefile("rb") as file:
            while head := [*takewhile(lambda line: line not in (b"", b"\r\n"), file)]:
                sizes = [int(line.split(b":")[1]) for line in head if line.lower().startswith(b"content-length:")]
                file.read(sum(sizes))
                connection.sendall(self.answer)
                answered += 1
                if answered == self.hangs_up_after:
                    return


def replies_of(url: str, count: int, concurrency: int) -> list[str]:
    backend = OpenAIBackend("tiny", url, concurrency=concurrency, timeout_s=20, first_pause_s=0.01)
    requests = [Request(str(k), ({"role": "user", "content": "你好"},), 64) for k in range(count)]
    return [reply.text or reply.error for reply in backend.generate(requests)]


@pytest.mark.parametrize("name", WHOLE)
def test_a_connection_is_used_again_where_the_server_leaves_it_open(name):
    wire = Wire(WHOLE[name], hangs_up_after=0 if name in STAYS else 1)
    try:
        assert replies_of(wire.url, 40, 4) == ["好"] * 40
        assert wire.connections <= 4 if name in STAYS else wire.connections == 40
    finally:
        wire.socket.close()


def test_a_connection_that_the_server_has_closed_meanwhile_is_opened_anew():
    wire = Wire(WHOLE["length"], hangs_up_after=3)
    try:
        assert replies_of(wire.url, 30, 2) == ["好"] * 30
        assert wire.connections >= 10
    finally:
        wire.socket.close()


def test_a_proxy_of_the_environment_is_used_for_other_machines_and_never_for_this_one():
    code = ("from syn_pipelines.utils.llm import Request\n"
            "from syn_pipelines.utils.llm.openai_backend import OpenAIBackend\n"
            "import sys\n"
            "backend = OpenAIBackend('tiny', sys.argv[1], concurrency=1, tries=1)\n"
            "print(next(iter(backend.generate([Request('1', ({'role': 'user', 'content': 'x'},), 64)]))).text)")
    proxy = Wire(WHOLE["length"])
    try:
        with FaultServer(answer=lambda body: "direct") as server:
            for url, said in (("http://models.invalid/v1", "好"), (server.url, "direct")):
                done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, encoding="utf-8",
                                      env={**os.environ, "HTTP_PROXY": proxy.url.removesuffix("/v1"), "NO_PROXY": "",
                                           "no_proxy": "", "PYTHONUTF8": "1"})
                assert done.stdout.strip() == said, done.stderr
    finally:
        proxy.socket.close()
