"""Keeps what Gradio sends every visitor alike. Knows nothing of Gradio but these paths.

A browser that opens the page asks for some eighty files. Gradio reads and compresses each of them anew, renders the
page and copies its own description, which takes 0.1 s of the interpreter that all requests share. None of it depends on
the visitor: who is signed in, and what is served, the page asks afterwards.
"""

import asyncio
import gzip
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_CACHE_BYTES = 64 * 2**20

_MAX_BYTES = 8 * 2**20
"""A larger file is passed on as it comes."""
_WORTH_BYTES = 500
"""What is smaller is not compressed."""
_FILES = ("/assets/", "/static/", "/theme.css")
_BY_ORIGIN = ("/", "/config", "/gradio_api/info")
"""These name the address that they were asked by; a query makes no difference to them."""
_OF_ORIGIN = (b"host", b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server")
_TEXTS = (b"text/", b"application/json", b"application/javascript", b"image/svg+xml")
_OWN_HEADERS = (b"content-length", b"vary", b"accept-ranges")

_Key = tuple[str | bytes, ...]


@dataclass
class _Kept:
    """An answer of status 200.

    Attributes:
        headers: but `_OWN_HEADERS`.
        plain: body.
        route: that answered, for the log.
        zipped: body, once somebody has asked for it.
    """

    headers: list[tuple[bytes, bytes]]
    plain: bytes = field(repr=False)
    route: Any
    zipped: bytes | None = field(default=None, repr=False)

    @property
    def num_bytes(self) -> int:
        return len(self.plain) + len(self.zipped or b"")

    @property
    def can_be_zipped(self) -> bool:
        kind = dict(self.headers).get(b"content-type", b"")
        return len(self.plain) >= _WORTH_BYTES and kind.startswith(_TEXTS)


class PageCache:
    """ASGI middleware. The first answer to a GET of one of these paths is kept, and the others are answered with it.

    Args:
        app: makes the answers.
        max_bytes: of all that are kept; those go first that were not asked for the longest.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = _key(scope)
        if key is None:
            await self._app(scope, receive, send)
            return
        kept = self._kept.get(key) or await self._ask(key, scope, receive, send)
        if kept is None:
            return
        if key in self._kept:
            self._kept.move_to_end(key)
        scope["route"] = kept.route
        headers, body = list(kept.headers), kept.plain
        if kept.can_be_zipped:
            headers.append((b"vary", b"Accept-Encoding"))
            if _takes_gzip(scope):
                if kept.zipped is None:
                    kept.zipped = await asyncio.to_thread(gzip.compress, kept.plain, mtime=0)
                    self._make_room()
                headers.append((b"content-encoding", b"gzip"))
                body = kept.zipped
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _ask(self, key: _Key, scope: Scope, receive: Receive, send: Send) -> _Kept | None:
        """The answer, which is kept from now on; None if it is not to be kept, and was passed on."""
        asked = {
            **scope,
            "query_string": b"",
            "headers": [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"],
        }
        headers: list[tuple[bytes, bytes]] | None = None
        chunks: list[bytes] = []

        async def collect(message: Message) -> None:
            nonlocal headers
            if message["type"] == "http.response.start" and _is_for_everybody(message):
                headers = [pair for pair in message["headers"] if pair[0].lower() not in _OWN_HEADERS]
            elif headers is None:
                await send(message)
            else:
                chunks.append(message.get("body", b""))

        await self._app(asked, receive, collect)
        scope["route"] = asked.get("route")
        if headers is None:
            return None
        kept = self._kept[key] = _Kept(headers, b"".join(chunks), scope["route"])
        self._make_room()
        return kept

    def _make_room(self) -> None:
        while sum(each.num_bytes for each in self._kept.values()) > self._max_bytes:
            self._kept.popitem(last=False)


def _key(scope: Scope) -> _Key | None:
    """What tells such answers apart; None for a request that asks for none of them, or for a part."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return None
    path: str = scope["path"]
    if any(name == b"range" for name, _ in scope["headers"]):
        return None
    if path.startswith(_FILES):
        return (path,)
    if path not in _BY_ORIGIN:
        return None
    origin = [part for pair in scope["headers"] if pair[0] in _OF_ORIGIN for part in pair]
    return (path, scope.get("scheme", ""), scope.get("root_path", ""), *origin)


def _is_for_everybody(start: Message) -> bool:
    headers = {name.lower(): value for name, value in start["headers"]}
    length = headers.get(b"content-length", b"")
    own = headers.keys() & {b"set-cookie", b"content-encoding"}
    return start["status"] == 200 and length.isdigit() and int(length) <= _MAX_BYTES and not own


def _takes_gzip(scope: Scope) -> bool:
    given = b",".join(value for name, value in scope["headers"] if name == b"accept-encoding")
    parts = given.lower().replace(b" ", b"").split(b",")
    return any(part == b"gzip" or (part.startswith(b"gzip;q=") and part[7:].strip(b"0.") != b"") for part in parts)
