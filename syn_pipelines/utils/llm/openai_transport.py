"""Connections to a server without encryption, such as one in the same house, below the client's own HTTP layer.

The transport that comes with the client looks at all of its connections for each request: half a millisecond of
processor time with 16 of them, and more with every further one. This one takes the connection that was used last.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import cache
from types import ModuleType
from typing import Any
from urllib.request import getproxies

from syn_pipelines.utils.llm.openai_limits import MOST_BYTES, UnusableBody

# Servers close a connection that nobody uses, uvicorn after 5 s: one that may be closing just now is not used.
_IDLE_S = 4.0
_MOST_HEADERS = 200
_NO_BODY = (204, 304)


def transport(package: ModuleType, *, proxies: bool) -> Any:
    """A transport for the client; None where its own is needed, for a proxy of the environment.

    package: httpx, or httpx2 below newer clients. proxies: whether those of the environment count.
    """
    return None if proxies and getproxies() else _plain(package)()


class Connection:
    """One connection, for one request at a time. ``idle_since``: monotonic seconds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.idle_since = 0.0

    @property
    def is_usable(self) -> bool:
        """Whether the server has not closed it, as far as can be seen."""
        return not self.reader.at_eof() and not self.writer.is_closing() and time.monotonic() - self.idle_since < _IDLE_S

    async def exchange(self, message: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes, bool]:
        """Send a request; (status, headers, body, whether the connection can be used again) of the answer.

        Raises:
            OSError, EOFError, ValueError: there is no whole answer. UnusableBody: it is too long.
        """
        self.writer.write(message)
        await self.writer.drain()
        status = 100
        while 100 <= status < 200:  # those before the answer itself
            version, status, headers = await self._head()
        known = {name.lower(): value.lower() for name, value in headers}
        whole = version != b"HTTP/1.0" and known.get(b"connection") != b"close"
        if status in _NO_BODY:
            return status, headers, b"", whole
        if b"chunked" in known.get(b"transfer-encoding", b""):
            return status, headers, await self._chunks(), whole
        if b"content-length" in known:
            return status, headers, await self._exactly(int(known[b"content-length"])), whole
        return status, headers, await self._to_the_end(), False

    async def _head(self) -> tuple[bytes, int, list[tuple[bytes, bytes]]]:
        first = await self.reader.readline()
        if not first:
            raise ConnectionResetError("the server closed the connection without an answer")
        version, status = first.split(None, 2)[:2]
        if not version.startswith(b"HTTP/1."):
            raise ValueError("the answer is not HTTP")
        headers = []
        while (line := await self.reader.readline()) not in (b"\r\n", b"\n"):
            name, colon, value = line.partition(b":")
            if not colon or len(headers) >= _MOST_HEADERS:
                raise ValueError("the head of the answer is broken")
            headers.append((name.strip(), value.strip()))
        return version, int(status), headers

    async def _exactly(self, size: int) -> bytes:
        if size > MOST_BYTES:
            raise _too_long()
        return await self.reader.readexactly(size)

    async def _chunks(self) -> bytes:
        body = bytearray()
        while size := int((await self.reader.readline()).partition(b";")[0], 16):
            body += await self._exactly(size)
            await self.reader.readline()
            if len(body) > MOST_BYTES:
                raise _too_long()
        while (await self.reader.readline()).strip():  # headers behind the body
            pass
        return bytes(body)

    async def _to_the_end(self) -> bytes:
        body = bytearray()
        while block := await self.reader.read(1 << 16):
            body += block
            if len(body) > MOST_BYTES:
                raise _too_long()
        return bytes(body)


def _too_long() -> UnusableBody:
    return UnusableBody(f"the answer has more than {MOST_BYTES >> 20} MiB")


async def _end(connection: Connection) -> None:
    """Close a connection, and take note of what it has ended with: asyncio would print what nobody has looked at."""
    connection.writer.transport.abort()
    with suppress(Exception):
        await connection.writer.wait_closed()


@cache
def _plain(package: ModuleType) -> type:
    class Plain(package.AsyncBaseTransport):  # type: ignore[misc, name-defined]
        """The client's transport: http by connections of our own, https by those of the client."""

        def __init__(self) -> None:
            self._idle: dict[tuple[str, int], list[Connection]] = {}
            self._other: Any = None

        async def handle_async_request(self, request: Any) -> Any:
            if request.url.scheme != "http":
                self._other = self._other or package.AsyncHTTPTransport()
                return await self._other.handle_async_request(request)
            idle = self._idle.setdefault((request.url.host, request.url.port or 80), [])
            connection = await self._connection(idle, request)
            try:
                head = b"".join(b"%b: %b\r\n" % pair for pair in request.headers.raw)
                status, headers, body, again = await connection.exchange(b"%b %b HTTP/1.1\r\n%b\r\n%b" % (
                    request.method.encode(), request.url.raw_path, head, await request.aread()))
            except (OSError, EOFError, ValueError) as err:
                await _end(connection)
                raise package.ReadError(str(err), request=request) from err
            except BaseException:
                connection.writer.transport.abort()
                raise
            if again:
                connection.idle_since = time.monotonic()
                idle.append(connection)
            else:
                connection.writer.close()
            return package.Response(status, headers=headers, stream=package.ByteStream(body), request=request)

        async def _connection(self, idle: list[Connection], request: Any) -> Connection:
            while idle:
                if (connection := idle.pop()).is_usable:
                    return connection
                await _end(connection)
            timeout_s = request.extensions.get("timeout", {}).get("connect")
            try:
                opened = asyncio.open_connection(request.url.host, request.url.port or 80)
                return Connection(*await asyncio.wait_for(opened, timeout_s))
            except asyncio.TimeoutError as err:
                raise package.ConnectTimeout(f"no connection within {timeout_s:g} s", request=request) from err
            except OSError as err:
                raise package.ConnectError(str(err), request=request) from err

        async def aclose(self) -> None:
            for connection in (connection for idle in self._idle.values() for connection in idle):
                await _end(connection)
            self._idle.clear()
            if self._other:
                await self._other.aclose()

    return Plain
