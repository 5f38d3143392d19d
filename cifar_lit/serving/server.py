"""The process that serves the application: sockets, slow clients, signals."""

import asyncio
import gc
import signal
import socket
import sys
from asyncio import TimerHandle, Transport
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import httptools
import uvicorn
import uvloop
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cifar_lit.errors import OverloadedError, SettingError
from cifar_lit.memory import keep_freed_memory
from cifar_lit.serving.patience import patience
from cifar_lit.serving.replies import error_reply

HEAD_TIMEOUT_S = 10.0
MAX_HEAD_BYTES = 64 * 1024
_CHUNK_BYTES = 12
"""What a chunk of a body needs besides: its size in hexadecimal and two line ends."""
_WAKE_BYTES = 16 * 1024
"""The application is woken for so much of a body, and for its end: byte by byte would cost more than answering it."""
LINGER_S = 30
LINGER_BYTES = 64 * 1024 * 1024
LINGER_BYTES_PER_S = 64 * 1024
"""After an answer that ends the connection, the rest of the request's body is read and dropped within these bounds."""
_SHUTDOWN_S = 12
_ENDLESS = "/gradio_api/heartbeat/"
"""What a page asks for and reads as long as it is open."""
_LAST_WORDS_S = 0.5
"""So long a connection without a request stays open at the end: a client that asks just then hears why not."""
_SWITCH_S = 0.0005


def run(app: FastAPI, host: str, port: int) -> None:
    """Serves until SIGTERM or Ctrl-C: then takes nothing more, finishes what it took, and returns.

    Raises:
        SettingError: the port is taken, or the address is not this machine's.
    """
    with _listen(host, port) as listener:
        # The model's thread asks for the interpreter after each of its operations; by default it waits 5 ms for it.
        sys.setswitchinterval(_SWITCH_S)
        keep_freed_memory()
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_Server(config).serve([listener]))
        finally:
            gc.unfreeze()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise SettingError(
            f"{host}:{port} can't be listened on ({error}). Name another --port, or another --host."
        ) from error


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _Server(uvicorn.Server):
    """Ends with status 0 when it is told to end, and not by the signal once more."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # looking through all that was imported, again and again, stops the world for 0.2 s each time
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            print(f"Serving at http://{_shown(host)}:{port}/ (Ctrl-C ends it).", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


async def _turn_away_at_the_end(scope: Scope, receive: Receive, send: Send) -> None:
    await error_reply(OverloadedError("the server is stopping. Send it again."))(scope, receive, send)


@dataclass(frozen=True)
class _Answering:
    """What uvicorn needs of a transport to write an answer."""

    write: Callable[[bytes], None]
    is_closing: Callable[[], bool]
    close: Callable[[], None]


class _Protocol(HttpToolsProtocol):
    """HTTP with bounds for all of a request but its body: uvicorn waits for it for ever, and takes any size."""

    _timer: TimerHandle | None = None
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
                self.app = _turn_away_at_the_end
            super().on_headers_complete()
            self.cycle.keep_alive = self.cycle.keep_alive and not self._stopping
            transport = self.transport
            self.cycle.transport = _Answering(transport.write, transport.is_closing, self._end)  # type: ignore[assignment]

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
        elif not self._complete and self.cycle.response_complete:  # an early answer; nobody reads the rest of the body
            self._start_timer()

    def _end(self) -> None:
        """Closes the connection after an answer. If the request's body is still coming, it is closed for writing first.

        A socket that is closed with bytes unread is reset. Clients that send a whole body before they read, as
        http.client and browsers do, would see the reset instead of the answer (RFC 9112, section 9.6).
        """
        if self._complete or self.transport.is_closing():
            self.transport.close()
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
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():
            super().send_400_response(msg)

    def shutdown(self) -> None:
        self._stopping = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LAST_WORDS_S, self._close_if_idle)
            return
        super().shutdown()
        if self.cycle.scope["path"].startswith(_ENDLESS):  # no answer is owed to it
            self.transport.close()

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(
                patience(HEAD_TIMEOUT_S),
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
            self.transport.close()
