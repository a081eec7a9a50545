"""A model of known latency: a server with OpenAI's interface that answers ``[]`` to everything after a fixed time.

It thinks of nothing, so whatever a step takes above that time is the step's own. The answer is a list without entities, which
any grammar of entity mode allows: the steps take the server for one that obeys grammars and send it one with each request.

run     python benchmarks/scale_server.py --delay 0.1        prints its address, and runs until standard input ends
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence

MODEL = "simulated"
_MODELS = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()
_ANSWER = json.dumps({
    "id": "1", "object": "chat.completion", "created": 0, "model": MODEL,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "[]"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}).encode()


class Connection(asyncio.Protocol):
    """One connection; requests on it follow each other. Bare asyncio, so that the server takes little of the machine."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s, self._read = delay_s, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that has come whole."""
        self._read += data
        while (head_end := self._read.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._read[:head_end]).lower()
            _, _, length = head.partition(b"content-length:")
            end = head_end + 4 + (int(length.split(b"\r\n")[0]) if length else 0)
            if len(self._read) < end:
                return
            del self._read[:end]
            if head.startswith(b"post "):
                asyncio.get_running_loop().call_later(self._delay_s, self._send, _ANSWER)
            else:
                self._send(_MODELS)

    def _send(self, body: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                                  % (len(body), body))


async def serve(delay_s: float) -> None:
    """Run until standard input ends, as it does when the process that started this one is gone."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(delay_s), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=0.1, help="seconds from a request to its answer")
    asyncio.run(serve(parser.parse_args(arguments).delay))


if __name__ == "__main__":
    main()
