"""What every request passes first: is it well formed, small and quick enough; and what is told of it afterwards.

Pure ASGI, around REST and the page alike.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cifar_lit.serving.jitter import jitter
from cifar_lit.serving.metrics import Metrics
from cifar_lit.serving.replies import RequestError, error_reply

BODY_GRACE_S = 10.0
BODY_BYTES_PER_S = 64 * 1024
"""A body has ten seconds, and one more for each of these bytes that did come."""

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

_log = logging.getLogger("cifar_lit.access")
_HOST = re.compile(r"([A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_CLIENT_LEFT = 499
"""What nginx calls it, for the log and the metrics: nobody is there to read a response."""
_OF_PROXIES = (b"x-forwarded-", b"forwarded", b"x-real-ip")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class RequestLimitsMiddleware:
    """ASGI middleware: host, origin, request id, bounds of the body in bytes and seconds, access log, metrics.

    Args:
        app: what is behind it.
        metrics: where requests are counted.
        hosts: host names that the server accepts; None for any.
        behind_proxy: headers by which a proxy tells how the client asked are passed on, and left out else.
        max_body: the most bytes of a body, by path and content type.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        hosts: Collection[str] | None,
        behind_proxy: bool = False,
        max_body: Callable[[str, str], int],
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._hosts = None if hosts is None else {host.lower() for host in hosts}
        self._behind_proxy = behind_proxy
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        if not self._behind_proxy:
            scope["headers"] = [pair for pair in scope["headers"] if not pair[0].startswith(_OF_PROXIES)]
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = secrets.token_hex(8).encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        status, complete = 0, False

        async def respond(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
                if status in (408, 413):  # the rest of such a body is not to be waited for
                    message["headers"].append((b"connection", b"close"))
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            self._check(scope, headers)
            content_type = headers.get(b"content-type", b"").decode("latin-1")
            body = _Body(receive, headers, self._max_body(scope["path"], content_type))
            await self._app(scope, body.receive, respond)
        except RequestError as error:
            if status:  # too late for words
                raise
            await error_reply(error)(scope, receive, respond)
        except ClientDisconnect:
            status = status or _CLIENT_LEFT
        except Exception as error:
            _log.exception("%s %s failed, request %s", scope["method"], _shown(scope), request_id.decode())
            if status and not complete:  # the page responds with 500 by itself and raises all the same
                raise
            if not status:
                await error_reply(error)(scope, receive, respond)
        finally:
            self._tell(scope, status, time.perf_counter() - began, request_id)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        host = hosts[0].decode("latin-1") if len(hosts) == 1 else ""
        match = _HOST.fullmatch(host)
        if match is None or (self._hosts is not None and match[1].lower() not in self._hosts):
            raise RequestError(400, "the Host header names no host that is served here.")
        if not scope["path"].startswith("/"):
            raise RequestError(400, "the path does not begin with a slash.")
        origin = headers.get(b"origin", b"").decode("latin-1")
        # Of all that needs no cookie a sign-in alone does another site good: to try passwords from its visitors.
        is_guarded = b"cookie" in headers or scope["path"] == "/login"
        if origin and is_guarded and scope["method"] not in _SAFE_METHODS:
            try:
                own = urlsplit(origin).netloc.lower() == host.lower()
            except ValueError:
                own = False
            if not own:
                raise RequestError(403, "this request comes from a page of another site.")

    def _tell(self, scope: Scope, status: int, seconds: float, request_id: bytes) -> None:
        route = getattr(scope.get("route"), "path", "none") or "page"  # a pattern: paths are without number
        method = scope["method"]
        if method not in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            method = "other"
        self._metrics.requests.labels(route, method, status).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        if _log.isEnabledFor(logging.INFO):
            timings = scope.get("state", {}).get("timings", "")
            client = scope.get("client") or ("-",)
            _log.info(
                "%s %s %s %d %.1f ms%s id=%s",
                client[0],
                method,
                _shown(scope),
                status,
                1000 * seconds,
                timings,
                request_id.decode(),
            )


class _Body:
    """Passes a request's body on, as long as it keeps within its bounds."""

    def __init__(self, receive: Receive, headers: dict[bytes, bytes], max_bytes: int) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._began = time.monotonic()
        self._grace_s = jitter(BODY_GRACE_S)
        length = headers.get(b"content-length")
        self._complete = length is None and b"transfer-encoding" not in headers
        if length is not None and (not _LENGTH.fullmatch(length) or int(length) > max_bytes):
            raise self._too_large()

    async def receive(self) -> Message:
        if self._complete:  # what comes now is the client's leaving, which may take for ever
            return await self._receive()
        until = self._began + self._grace_s + self._num_bytes / BODY_BYTES_PER_S
        try:
            async with asyncio.timeout(until - time.monotonic()):
                message = await self._receive()
        except TimeoutError as error:
            seconds = time.monotonic() - self._began
            raise RequestError(
                408, f"the body came too slowly: after {seconds:.0f} s it was not complete. Send it again, faster."
            ) from error
        if message["type"] == "http.request":
            self._num_bytes += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._num_bytes > self._max_bytes:
                raise self._too_large()
        return message

    def _too_large(self) -> RequestError:
        return RequestError(413, f"the body is too large, at most {self._max_bytes:,} bytes are accepted here.")


def _shown(scope: Scope) -> str:
    """The path for a log: one line, nothing that a terminal would obey."""
    path: str = scope["path"][:200]
    return path.encode("ascii", "backslashreplace").decode() if path.isprintable() else repr(path)
