"""The page and what it asks for, over HTTP on 127.0.0.1, for the one person who started it.

Four walls. The socket listens on the loopback address only. A ``Host`` other than 127.0.0.1 or localhost is refused, so that
no name of somebody else's can be bound to this address (DNS rebinding). Everything but the empty page wants a secret in a
header of its own, which other users of the machine do not know and which a page from elsewhere can neither know nor send. A
post must also come from this page's own origin. The secret travels behind the # of the address: browsers keep that part to
themselves, and no cookie carries it to the other ports of this machine.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syn_pipelines.reviewing.session import Refused, Session
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import parsed

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
NAMES = [HOST, "localhost"]
STATIC = Path(__file__).with_name("static")
TOKEN_HEADER = "x-review-token"
MAX_BODY = 1 << 14  # bytes of an action: one span and a few words
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
                               "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "X-Frame-Options": "DENY",
}


def application(session: Session, token: str) -> Starlette:
    """The page, and the data behind it. UserError: Starlette is not installed."""
    with explained():
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import FileResponse, JSONResponse
        from starlette.routing import Route

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in {path.name for path in STATIC.iterdir()}:
            return JSONResponse({"problem": "There is no such page."}, 404)
        return FileResponse(STATIC / name)

    async def queue(request: Request) -> Response:
        return JSONResponse(session.overview())

    async def sentence(request: Request) -> Response:
        return JSONResponse({"view": session.view(request.path_params["index"]), "progress": session.progress()})

    async def act(request: Request) -> Response:
        action = await _body(request)
        return JSONResponse(session.act(request.path_params["index"], action))

    async def refused(request: Request, problem: Exception) -> Response:
        status = {Refused: 409, _Forbidden: 403, _TooLarge: 413}.get(type(problem), 500)
        if status == 500:
            log.error("%s", problem)
        return JSONResponse({"problem": _words(problem)}, status)

    return Starlette(
        routes=[Route("/", page), Route("/static/{name}", page), Route("/api/queue", queue),
                Route("/api/sentences/{index:int}", sentence), Route("/api/sentences/{index:int}", act, methods=["POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=NAMES, www_redirect=False), Middleware(_Guard, token=token)],
        exception_handlers=dict.fromkeys((Refused, _Forbidden, _TooLarge, UserError, OSError), refused))


class _Forbidden(Exception):
    """Not from this page."""


class _TooLarge(Exception):
    """More than any action needs."""


class _Guard:
    """Lets requests for data through only with the secret, posts only from the page's own origin; sets the headers of all."""

    def __init__(self, app: Any, token: str) -> None:
        self.app, self._token = app, token.encode()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        from starlette.datastructures import MutableHeaders
        from starlette.responses import JSONResponse

        async def send_with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        problem = self._problem(scope) if scope["type"] == "http" else ""
        app = JSONResponse({"problem": problem}, 403) if problem else self.app
        await app(scope, receive, send_with_headers)

    def _problem(self, scope: dict[str, Any]) -> str:
        headers = {name: value for name, value in scope["headers"]}
        if scope["path"].startswith("/api/") and not hmac.compare_digest(headers.get(TOKEN_HEADER.encode(), b""), self._token):
            return "This page needs the whole address that review.py has printed; open that."
        if scope["method"] in ("GET", "HEAD"):
            return ""
        if headers.get(b"origin") != b"http://" + headers.get(b"host", b"") or headers.get(
                b"sec-fetch-site", b"same-origin") != b"same-origin":
            return "This comes from another site."
        return "" if headers.get(b"content-type", b"").split(b";")[0] == b"application/json" else "An action is JSON."


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Stops reading at the limit, whatever length was announced."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY:
            raise _TooLarge("This is too much for one action.")
    try:
        value = parsed(data.decode("utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Refused("An action is a JSON object.")
    return value


def _words(problem: Exception) -> str:
    if isinstance(problem, OSError):
        return f"{problem.filename or 'file'}: {problem.strerror or problem}. The decision was not saved."
    return str(problem)


@contextmanager
def explained() -> Iterator[None]:
    """An import error says what to install."""
    try:
        yield
    except ModuleNotFoundError as err:
        raise UserError(f"The review page needs the package {err.name!r}, which is not installed. Install it with: "
                        "pip install 'syn_pipelines[review]' (or pip install starlette uvicorn)") from None


def serve(session: Session, *, port: int, browser: bool) -> None:
    """Serve until Ctrl-C or SIGTERM, which are the way to end a review and so no error.

    Raises:
        UserError: the port is taken, or a package is missing.
    """
    with explained():
        import uvicorn

    token = secrets.token_urlsafe(24)
    app = application(session, token)
    with _listening(port) as listener:
        address = f"http://{HOST}:{listener.getsockname()[1]}/#{token}"
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2,
                                lifespan="off", ws="none", limit_concurrency=64)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="review", daemon=True)
        with _until_stopped() as stopped:
            thread.start()
            print(f"Review at {address}\nCtrl-C ends it; every decision is on disk at once.", flush=True)
            with _opened_browser(session.corpus.paths.journals, address) if browser else nullcontext():
                while thread.is_alive() and not stopped.wait(0.5):
                    pass
            server.should_exit = True
            thread.join(5)


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as err:
            raise UserError(f"port {port} of {HOST} cannot be used ({err.strerror}). Leave --port out to take any that is free."
                            ) from None
        listener.listen(64)
        yield listener


@contextmanager
def _until_stopped() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set. In a notebook's thread there are no signals, but its own interrupt."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _opened_browser(folder: Path, address: str) -> Iterator[None]:
    """Open the page in the browser by a file that only this user can read: other users see the words of a command line."""
    path = folder / "review.html"
    try:
        path.unlink(missing_ok=True)
        with open(path, "x", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(f'<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer"><title>Review</title>'
                       f'<meta http-equiv="refresh" content="0; url={address}"><a href="{address}">Review</a>\n')
        if not webbrowser.open(path.resolve().as_uri()):
            print("No browser could be opened; open the address in one.", file=sys.stderr)
    except OSError as err:
        log.warning("no browser was opened (%s); open the address in one.", err)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
