"""No answer of a server fills the memory: bodies are cut off at a size that no reply has."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from functools import cache
from typing import Any

MOST_BYTES = 8 << 20  # of one body; the longest replies asked for have some ten thousand bytes
# A small compressed body may grow to any size, so none is asked for.
PLAIN = {"Accept-Encoding": "identity"}


class UnusableBody(Exception):
    """A body that is not read to its end."""


async def limit_body(response: Any) -> None:
    """Hook of the HTTP client, called before the body is read.

    Raises:
        UnusableBody: the body is compressed; later, while it is read: it is too long.
    """
    encoding = response.headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise UnusableBody(f"the answer is compressed ({encoding[:40]}), which was not asked for")
    package = sys.modules[type(response).__module__.partition(".")[0]]  # httpx, or httpx2 below newer clients
    response.stream = _limited(package.AsyncByteStream)(response.stream)


@cache
def _limited(base: type) -> type:
    class Limited(base):  # type: ignore[misc, valid-type]
        """A stream of bytes that breaks off."""

        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for chunk in self._stream:
                size += len(chunk)
                if size > MOST_BYTES:
                    raise UnusableBody(f"the answer has more than {MOST_BYTES >> 20} MiB")
                yield chunk

        async def aclose(self) -> None:
            await self._stream.aclose()

    return Limited
