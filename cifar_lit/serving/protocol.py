"""HTTP with bounds: uvicorn waits for ever for a request and for its response to be read, and takes any number."""

import sys
from asyncio import TimerHandle, Transport
from collections.abc import Callable
from dataclasses import dataclass

import httptools
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cifar_lit.errors import OverloadedError
from cifar_lit.serving.jitter import jitter
from cifar_lit.serving.replies import error_reply

HEAD_TIMEOUT_S = 10.0
MAX_HEAD_BYTES = 64 * 1024
_CHUNK_BYTES = 12
"""What a chunk of a body needs besides: its size in hexadecimal and two line ends."""
_WAKE_BYTES = 16 * 1024
"""The application is woken for so much of a body, and for its end: byte by byte would cost more than serving it."""
LINGER_S = 30
LINGER_BYTES = 64 * 1024 * 1024
LINGER_BYTES_PER_S = 64 * 1024
"""After a response that ends the connection, the rest of the request's body is read and dropped within these bounds."""
MAX_CONNECTIONS, MAX_CONNECTIONS_OF_ADDRESS = 4_096, 1_024
UNREAD_S, UNREAD_BYTES = 15.0, 16 * 1024
"""A client that takes less than so many bytes of a response that waits for it, in so many seconds, is left."""
_ENDLESS = "/gradio_api/heartbeat/"
"""What a page asks for and reads as long as it is open."""
_LAST_WORDS_S = 0.5
"""So long a connection without a request stays open at the end: a client that asks just then hears why not."""


async def turn_away_at_the_end(scope: Scope, receive: Receive, send: Send) -> None:
    await error_reply(OverloadedError("the server is stopping. Send it again."))(scope, receive, send)


@dataclass(frozen=True)
class _Responding:
    """What uvicorn needs of a transport to write a response."""

    write: Callable[[bytes], None]
    is_closing: Callable[[], bool]
    close: Callable[[], None]


class Protocol(HttpToolsProtocol):
    """HTTP with bounds for all of a request but its body: uvicorn waits for it for ever, and takes any size."""

    _timer: TimerHandle | None = None
    _unread_timer: TimerHandle | None = None
    _num_bytes = 0
    """Of the message that is being read, without its body."""
    _complete = True
    """The message has been read."""
    _data = b""
    _stopping = False
    _lingering = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()
        if len(self.connections) > MAX_CONNECTIONS or self._has_too_many():
            self._turn_away("503 Service Unavailable", "Too many connections are open.")

    def data_received(self, data: bytes) -> None:
        self._num_bytes += len(data)
        if self._lingering:
            if self._num_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        self._data = data
        super().data_received(data)
        if self._num_bytes > MAX_HEAD_BYTES:
            self._refuse_head()

    def _has_too_many(self) -> bool:
        """Whether the client has; a proxy has those of all its clients."""
        if len(self.connections) <= MAX_CONNECTIONS_OF_ADDRESS or self.config.proxy_headers or not self.client:
            return False
        addresses = [each.client[0] for each in self.connections if isinstance(each, Protocol) and each.client]
        return addresses.count(self.client[0]) > MAX_CONNECTIONS_OF_ADDRESS

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_unread()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_watching()

    def _watch_unread(self) -> None:
        """Leaves a client that does not take its response."""
        self._stop_watching()
        unread = self.transport.get_write_buffer_size()
        self._unread_timer = self.loop.call_later(UNREAD_S, self._look_at_unread, unread - UNREAD_BYTES)

    def _look_at_unread(self, most: int) -> None:
        if self.transport.get_write_buffer_size() > most:
            self.transport.abort()
        else:
            self._watch_unread()

    def _stop_watching(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _close(self) -> None:
        """Closes the connection when the client has taken what was written for it."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._watch_unread()

    def timeout_keep_alive_handler(self) -> None:
        if not self.transport.is_closing():
            self._close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._num_bytes, self._complete = 0, False
        self._start_timer()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        # A head that came at once has not been counted: on_message_begin was amid it.
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._refuse_head()
            raise ValueError("the head is too large")  # or the parser would go on
        if not self._wants_upgrade():
            if self._stopping:
                self.app = turn_away_at_the_end
            super().on_headers_complete()
            self.cycle.keep_alive = self.cycle.keep_alive and not self._stopping
            transport = self.transport
            self.cycle.transport = _Responding(self._write, transport.is_closing, self._end)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        self._num_bytes = max(0, self._num_bytes - len(body) - _CHUNK_BYTES)
        if len(self.cycle.body) + len(body) >= _WAKE_BYTES:
            super().on_body(body)
        elif not self._wants_upgrade() and not self.cycle.response_complete:
            self.cycle.body += body

    def on_message_complete(self) -> None:
        if self._wants_upgrade():
            return
        self._complete = True
        self._stop_timer()
        super().on_message_complete()

    def _wants_upgrade(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _unsupported_upgrade_warning(self) -> None:
        """The parser takes a body after an Upgrade, which Java's client asks for, for another protocol's: once more."""
        upgrade = sys.exception()
        assert isinstance(upgrade, httptools.HttpParserUpgrade)
        rest = self._data[upgrade.args[0] :]
        lines = [b"%b %b HTTP/1.1" % (self.parser.get_method(), self.url)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] not in (b"connection", b"upgrade")]
        self.parser = httptools.HttpRequestParser(self)
        super().data_received(b"\r\n".join((*lines, b"", rest)))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._lingering:
            self._unset_keepalive_if_required()
        elif (
            not self._complete and self.cycle.response_complete
        ):  # an early response; nobody reads the rest of the body
            self._start_timer()

    def _write(self, data: bytes) -> None:
        """Of requests that come together, uvicorn tells only the last that its client has gone."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def _end(self) -> None:
        """Closes the connection after a response, for writing first if the request's body is still coming.

        A socket that is closed with bytes unread is reset. Clients that send a whole body before they read, as
        http.client and browsers do, would see the reset instead of the response (RFC 9112, section 9.6).
        """
        if self._complete or self.transport.is_closing():
            self._close()
            return
        self._lingering, self._num_bytes = True, 0
        self.transport.write_eof()
        self._linger(LINGER_S, 0)

    def _linger(self, seconds: int, num_bytes: int) -> None:
        self._timer = self.loop.call_later(1, self._linger_on, seconds - 1, num_bytes + LINGER_BYTES_PER_S)

    def _linger_on(self, seconds: int, num_bytes: int) -> None:
        """`num_bytes` must have come by now."""
        if seconds > 0 and self._num_bytes >= num_bytes:
            self._linger(seconds, self._num_bytes)
        else:
            self._close()

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():
            super().send_400_response(msg)

    def shutdown(self) -> None:
        self._stopping = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LAST_WORDS_S, self._close_if_idle)
            return
        super().shutdown()
        if self.cycle.scope["path"].startswith(_ENDLESS):  # no response is owed to it
            self.transport.close()

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_watching()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(
                jitter(HEAD_TIMEOUT_S),
                self._turn_away,
                "408 Request Timeout",
                f"No request came within {HEAD_TIMEOUT_S:g} seconds.",
            )

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse_head(self) -> None:
        self._turn_away("431 Request Header Fields Too Large", f"A head has at most {MAX_HEAD_BYTES} bytes.")

    def _turn_away(self, status: str, text: str) -> None:
        self._stop_timer()
        if not self.transport.is_closing():
            head = (
                f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: {len(text)}\r\n"
            )
            self.transport.write(f"{head}\r\n{text}".encode())
            self._close()
