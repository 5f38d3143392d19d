"""The routes of Gradio that the page and its clients ask for; all others are not found.

A mounted Gradio opens some ninety routes: a recorder that fills the disk, a proxy, a monitor, the development server's.
What is allowed here is what a browser asks for when the page is used, and `gradio_client`: tests hold the list to both.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from urllib.parse import parse_qs

import gradio as gr
from prometheus_client import Gauge
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cifar_lit.errors import CifarLitError, OverloadedError
from cifar_lit.serving.login import Login
from cifar_lit.serving.replies import RequestError, error_reply

MAX_STREAMS, MAX_STREAMS_OF_ADDRESS = 512, 128
"""Open pages, each of which listens to its heartbeat, and now and then to its events."""
MAX_WAITING = 64
"""Events of those who are not signed in."""
HEARTBEAT = "/gradio_api/heartbeat/"
REFUSED = "refused"
"""Under this name a callback leaves the status of its refusal in the request's state: Gradio answers 500 to all."""

_STREAMS = re.compile(r"/gradio_api/(?:heartbeat/[^/]+|queue/data|call/[^/]+/(?P<event>[^/]+))")
_QUEUED = ("/gradio_api/queue/join", "/gradio_api/call/")
_ALLOWED = {
    "GET": re.compile(
        r"/|/config|/theme\.css|/favicon\.ico|/(?:assets|static)/.+|/gradio_api/(?:info|app_id|file=/.+)"
    ),
    "HEAD": re.compile(r"/|/gradio_api/file=/.+"),
    "POST": re.compile(r"/gradio_api/(?:run/predict|queue/join|call/[^/]+)"),
}
_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
        b"font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; "
        b"base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
    ),
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
]


class AllowedRoutes:
    """ASGI middleware before a mounted Gradio.

    Args:
        app: Gradio's application.
        page: what it serves; its queue knows which streams there are.
        login: knows who is signed in.
        streams: is told how many are open.
    """

    def __init__(self, app: ASGIApp, page: gr.Blocks, login: Login, streams: Gauge) -> None:
        self.app = app
        self._page = page
        self._login = login
        self._gauge = streams
        self._streams: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, state = scope["path"], scope.setdefault("state", {})

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
                if message["status"] == 500:
                    message["status"] = state.get(REFUSED, 500)
            await send(message)

        try:
            if scope["method"] == "GET" and (stream := _STREAMS.fullmatch(path)):
                self._check_session(scope, stream["event"])
                with self._stream(scope):
                    await self.app(scope, receive, answer)
            elif (allowed := _ALLOWED.get(scope["method"])) and allowed.fullmatch(path):
                self._check_queue(scope)
                await self.app(scope, receive, answer)
            else:
                raise RequestError(404, "there is nothing here. / is the page, /docs lists what programs may ask for.")
        except CifarLitError as error:
            await error_reply(error)(scope, receive, answer)

    def _check_session(self, scope: Scope, event: str | None) -> None:
        """Gradio begins a stream first and fails then, with a long traceback."""
        if scope["path"].startswith(HEARTBEAT):
            return
        queue = self._page._queue
        if event is None:
            asked = parse_qs(scope["query_string"].decode("latin-1"))
            known = asked.get("session_hash", [""])[0] in queue.pending_messages_per_session
        else:
            known = event in queue.event_ids_to_events
            known = known or any(event in each for each in queue.pending_event_ids_session.values())
        if not known:
            raise RequestError(404, "no event waits here for an answer. Begin one first.")

    def _check_queue(self, scope: Scope) -> None:
        """Gradio has one queue: half of it is left to those who are signed in."""
        is_full = scope["path"].startswith(_QUEUED) and len(self._page._queue) >= MAX_WAITING
        if is_full and not self._login.signed_in(Request(scope).cookies):
            raise OverloadedError("too many events wait to be run. Send it again a little later.")

    @contextlib.contextmanager
    def _stream(self, scope: Scope) -> Iterator[None]:
        address = (scope.get("client") or ("",))[0]
        if self._streams.total() >= MAX_STREAMS or self._streams[address] >= MAX_STREAMS_OF_ADDRESS:
            raise RequestError(503, "too many pages are open. Close some, or come again later.", retry_after_s=60)
        self._streams[address] += 1
        self._gauge.inc()
        try:
            yield
        finally:
            self._gauge.dec()
            self._streams[address] -= 1
            self._streams += Counter()  # forgets who has none
