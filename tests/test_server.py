import asyncio
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
import uvicorn
import uvloop
from raw_http import Connection, connected, exchange, head
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from cifar_lit.errors import SettingError
from cifar_lit.serving import protocol, server
from cifar_lit.serving.protocol import MAX_HEAD_BYTES, Protocol
from cifar_lit.serving.server import _Server, run

FITTING = MAX_HEAD_BYTES - 1_000


@dataclass
class Application:
    """Echoes bodies. Under /early it answers before it has read one, under /refused it ends the connection besides,
    under /hold it answers once it is told to, under /pieces with the sizes in which a body came; an open page's
    heartbeat lasts as long as the page.
    """

    heads: list[dict[bytes, bytes]] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        self.heads.append(dict(scope["headers"]))
        body = b""
        if scope["path"].startswith("/gradio_api/heartbeat/"):
            self.begun.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        if scope["path"] == "/hold":
            self.begun.set()
            await asyncio.to_thread(self.go_on.wait, 20)
        if scope["path"] == "/pieces":
            body = b",".join([str(size).encode() async for size in _sizes(receive)])
        elif scope["path"] not in ("/early", "/refused"):
            body = await Request(scope, receive).body()
        headers = {"Connection": "close"} if scope["path"] == "/refused" else None
        await PlainTextResponse(body, headers=headers)(scope, receive, send)


async def _sizes(receive: Receive) -> AsyncIterator[int]:
    more = True
    while more:
        message = await receive()
        yield len(message["body"])
        more = message["more_body"]


@dataclass(frozen=True)
class Running:
    url: str
    application: Application
    stop: Callable[[], None]
    thread: threading.Thread


@contextlib.contextmanager
def running() -> Iterator[Running]:
    application = Application()
    listener = server._listen("127.0.0.1", 0)
    config = uvicorn.Config(
        application,
        http=Protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
    )
    uvicorn_server = _Server(config)

    def serve() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(uvicorn_server.serve([listener]))

    def stop() -> None:
        uvicorn_server.should_exit = True

    with listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", application, stop, thread)
        finally:
            stop()
            application.go_on.set()
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running() as found:
        yield found.url


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow clients are turned away at once."""
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.3)


def is_alive(url: str) -> bool:
    return exchange(url, head("POST /", "Content-Length: 2") + b"ok").body == b"ok"


def drip(connection: Connection, data: bytes, pause_s: float = 0.05) -> None:
    """Sends a byte at a time, until the server wants no more."""
    for place in range(len(data)):
        if not connection.send(data[place : place + 1]):
            return
        time.sleep(pause_s)


def flood(connection: Connection, piece: bytes) -> None:
    """Sends it again and again, until the server wants no more."""
    assert not all(connection.send(piece) for _ in range(20_000_000 // len(piece))), "20 MB were taken"


# Heads


@pytest.mark.parametrize("piece", [10**6, 1_000, 100_003])
@pytest.mark.parametrize(("size", "status"), [(FITTING, 200), (MAX_HEAD_BYTES + 1, 431), (200_000, 431)])
def test_a_head_has_a_bound_however_it_is_cut(url: str, size: int, status: int, piece: int) -> None:
    data = head("GET /", f"X-Long: {'x' * size}")
    with connected(url) as connection:
        for place in range(0, len(data), piece):
            if not connection.send(data[place : place + piece]):
                break
        assert connection.reply().status == status


def test_a_large_head_closes_the_connection(url: str) -> None:
    with connected(url) as connection:
        connection.send(head("GET /", f"X-Long: {'x' * MAX_HEAD_BYTES}"))
        reply = connection.reply()
        assert (reply.status, reply.headers["connection"]) == (431, "close")
        assert reply.body == b"A head has at most 65536 bytes."
        assert connection.is_closed_by_server()
    assert is_alive(url)


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (b"GET /", b"x"),
        (b"GET / HTTP/1.1\r\n", b"X: y\r\n"),
        (b"GET / HTTP/1.1\r\nHost: ", b"x"),
        (b"GET / HTTP/1.1\r\n", b"x"),
        (b"", b"\r\n"),
    ],
    ids=["address", "many headers", "value", "name", "line ends"],
)
def test_a_head_that_does_not_end_is_turned_away(url: str, first: bytes, piece: bytes) -> None:
    with connected(url) as connection:
        connection.send(first)
        flood(connection, piece * 5_000)
        assert connection.reply().status == 431


def test_trailers_after_a_body_have_the_bound_of_a_head(url: str) -> None:
    with connected(url) as connection:
        connection.send(head("POST /", "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\nX-Trailer: ")
        flood(connection, b"x" * 10_000)
        assert connection.reply().status == 431


def test_the_extensions_of_chunks_have_the_bound_of_a_head(url: str) -> None:
    with connected(url) as connection:
        connection.send(head("POST /", "Transfer-Encoding: chunked") + b"1;")
        flood(connection, b"x" * 10_000)
        assert connection.reply().status == 431


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_a_body_in_small_chunks_is_no_large_head(url: str, size: int) -> None:
    body = bytes(range(256)) * 800
    chunks = [body[place : place + size] for place in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    reply = exchange(url, head("POST /", "Transfer-Encoding: chunked") + framed + b"0\r\n\r\n")
    assert (reply.status, reply.body) == (200, body)


def test_a_large_body_is_no_large_head(url: str) -> None:
    body = bytes(3_000_000)
    reply = exchange(url, head("POST /", f"Content-Length: {len(body)}") + body)
    assert (reply.status, reply.body) == (200, body)


def test_many_requests_on_a_connection_are_no_large_head(url: str) -> None:
    one = head("POST /", "Content-Length: 3", "X-Filling: " + "x" * 20_000) + b"abc"
    with connected(url) as connection:
        for _ in range(10):
            connection.send(one)
            assert connection.reply().body == b"abc"


def test_requests_sent_without_waiting_are_answered_in_order(url: str) -> None:
    with connected(url) as connection:
        connection.send(b"".join(head("POST /", "Content-Length: 2") + b"%02d" % number for number in range(50)))
        file = connection.socket.makefile("rb")
        bodies = []
        for _ in range(50):
            length = 0
            while (line := file.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            bodies.append(file.read(length))
        assert bodies == [b"%02d" % number for number in range(50)]


# Slow clients


def test_slow_heads_are_not_all_turned_away_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 3_600.0)
    monkeypatch.setattr(protocol, "jitter", lambda seconds: seconds / 18_000)
    with connected(url) as connection:
        assert connection.reply().status == 408


@pytest.mark.usefixtures("quick")
def test_a_connection_without_a_request_is_told_so_and_closed(url: str) -> None:
    with connected(url) as connection:
        assert connection.reply().status == 408
        assert connection.is_closed_by_server()


@pytest.mark.usefixtures("quick")
def test_a_head_of_a_byte_at_a_time_is_turned_away(url: str) -> None:
    with connected(url) as connection:
        drip(connection, head("GET /", f"X: {'x' * 100}"))
        reply = connection.reply()
        assert (reply.status, reply.headers["connection"]) == (408, "close")
        assert b"No request came within 0.3 seconds." in reply.body


@pytest.mark.usefixtures("quick")
def test_a_slow_second_request_is_turned_away_too(url: str) -> None:
    with connected(url) as connection:
        connection.send(head("POST /", "Content-Length: 1") + b"x")
        assert connection.reply().status == 200
        drip(connection, head("GET /", f"X: {'x' * 100}"))
        assert connection.reply().status == 408


@pytest.mark.usefixtures("quick")
def test_the_rest_of_a_body_is_not_awaited_for_ever_after_an_early_answer(url: str) -> None:
    with connected(url) as connection:
        connection.send(head("POST /early", "Content-Length: 1000"))
        assert connection.reply().status == 200
        drip(connection, b"x" * 100)
        assert connection.reply().status == 408
        assert connection.is_closed_by_server()


@pytest.mark.usefixtures("quick")
def test_the_rest_of_a_body_after_an_early_answer_may_come(url: str) -> None:
    with connected(url) as connection:
        connection.send(head("POST /early", "Content-Length: 1000000"))
        assert connection.reply().status == 200
        assert connection.send(bytes(1_000_000))
        time.sleep(0.5)
        connection.send(head("POST /", "Content-Length: 1") + b"x")
        assert connection.reply().body == b"x"


@pytest.mark.usefixtures("quick")
def test_a_slow_answer_is_no_slow_request() -> None:
    with running() as found, connected(found.url) as connection:
        connection.send(head("GET /hold"))
        found.application.begun.wait(20)
        time.sleep(0.6)
        found.application.go_on.set()
        assert connection.reply().status == 200


# Answers that end the connection before the body has come


def refused(connection: Connection, size: int) -> None:
    """Asks for an answer that comes before the body, and reads it."""
    connection.send(head("POST /refused", f"Content-Length: {size}"))
    assert connection.reply().headers["connection"] == "close"


def test_a_client_that_sends_before_it_reads_hears_the_answer(url: str) -> None:
    for _ in range(5):
        client = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        client.request("POST", "/refused", bytes(20_000_000))
        assert client.getresponse().status == 200
        client.close()


def test_the_end_of_the_answer_is_seen_while_the_body_is_still_taken(url: str) -> None:
    with connected(url) as connection:
        refused(connection, 20_000_000)
        assert connection.is_closed_by_server()
        assert connection.send(bytes(19_000_000))


def test_what_comes_after_the_end_of_a_connection_is_no_request() -> None:
    with running() as found, connected(found.url) as connection:
        refused(connection, 5)
        connection.send(b"hello" + head("POST /", "Content-Length: 2") + b"ok")
        assert connection.is_closed_by_server()
        assert is_alive(found.url)
        assert len(found.application.heads) == 2


@pytest.mark.parametrize(
    ("bound", "piece"), [("LINGER_BYTES", 100_000), ("LINGER_S", 100), ("LINGER_BYTES_PER_S", 100)]
)
def test_the_rest_of_a_body_is_taken_within_bounds(
    url: str, monkeypatch: pytest.MonkeyPatch, bound: str, piece: int
) -> None:
    generous = {"LINGER_BYTES": 10**9, "LINGER_S": 1_000, "LINGER_BYTES_PER_S": 0}
    for name, value in (generous | {bound: {"LINGER_S": 1}.get(bound, 1_000_000)}).items():
        monkeypatch.setattr(protocol, name, value)
    with connected(url) as connection:
        refused(connection, 10**9)
        until = time.monotonic() + 20
        while connection.send(bytes(piece)):
            assert time.monotonic() < until
            time.sleep(0.01)


# What is no HTTP


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        head("GET @evil"),
        head("GET evil"),
        head("GET / x"),
        head("GET /", "Host : x"),
        head("GET /", "X\x00Y: 1"),
        head("GET /", "X: a\x00b"),
        head("GET /", "X: a\rb"),
        head("POST /", "Content-Length: 5", "Content-Length: 6") + b"hello!",
        head("POST /", "Content-Length: -1"),
        head("POST /", "Content-Length: +5") + b"hello",
        head("POST /", "Content-Length: 5, 5") + b"hello",
        head("POST /", "Content-Length: 0x5") + b"hello",
        head("POST /", f"Content-Length: {'9' * 5_000}"),
        head("POST /", f"Content-Length: {2**64 + 5}") + b"hello",
        head("POST /", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head("POST /", "Transfer-Encoding: chunked", "Content-Length: 5") + b"0\r\n\r\n",
        head("POST /", "Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
        head("POST /", "Transfer-Encoding: xchunked") + b"0\r\n\r\n",
        head("POST /", "Transfer-Encoding: chunked") + b"-1\r\nx\r\n0\r\n\r\n",
        head("POST /", "Transfer-Encoding: chunked") + b"10000000000000000\r\nx\r\n",
        head("POST /", "Transfer-Encoding: chunked") + b"1\nx\n0\n\n",
        head("POST /", "Transfer-Encoding: chunked") + b"1\r\nxyz\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_400(url: str, data: bytes) -> None:
    with connected(url) as connection:
        connection.send(data)
        assert connection.reply().status == 400
        assert connection.is_closed_by_server()
    assert is_alive(url)


@pytest.mark.parametrize("cut", [1, 20, 60, 149, 150, 10**6])
@pytest.mark.parametrize(
    ("header", "body"), [("Content-Length: 5", b"hello"), ("Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n")]
)
def test_an_upgrade_to_another_protocol_is_not_taken_up(url: str, header: str, body: bytes, cut: int) -> None:
    h2c = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")
    data = head("POST /", header, *h2c) + body
    with connected(url) as connection:
        for _ in range(2):
            for place in range(0, len(data), cut):
                connection.send(data[place : place + cut])
            reply = connection.reply()
            assert (reply.status, reply.body) == (200, b"hello")


def test_a_web_socket_is_not_opened(url: str) -> None:
    key = ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13")
    assert exchange(url, head("GET /", "Connection: Upgrade", "Upgrade: websocket", *key)).status == 200
    assert exchange(url, head("CONNECT localhost:443")).status == 400


def test_a_body_is_asked_for_only_if_it_is_read(url: str) -> None:
    with connected(url) as connection:
        connection.send(head("POST /", "Content-Length: 2", "Expect: 100-continue"))
        assert connection.socket.recv(4_096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(b"ok")
        assert connection.reply().body == b"ok"
    with connected(url) as connection:
        connection.send(head("POST /early", "Content-Length: 2", "Expect: 100-continue"))
        assert connection.reply().status == 200


def test_answers_do_not_say_what_serves(url: str) -> None:
    assert "server" not in exchange(url, head("GET /")).headers


# Clients that do not read, and too many of them


def test_a_client_that_does_not_read_its_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "UNREAD_S", 0.2)
    size = 30_000_000  # more than the system buffers
    with running() as found, connected(found.url) as connection, connected(found.url) as other:
        connection.send(head("POST /", f"Content-Length: {size}") + bytes(size))
        time.sleep(1.0)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.socket.recv(1 << 20):
                received += len(piece)
        assert received < size
        other.send(head("POST /", "Content-Length: 2") + b"ok")
        assert other.reply().body == b"ok"


def test_a_client_that_is_left_among_requests_that_it_sent_together_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(protocol, "UNREAD_S", 0.2)
    request = head("POST /", "Content-Length: 1000000") + bytes(1_000_000)
    with running() as found:
        with connected(found.url) as connection:
            assert not all(connection.send(request) for _ in range(100))  # more than the system buffers
        assert exchange(found.url, head("POST /", "Content-Length: 2") + b"ok").body == b"ok"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_client_that_reads_slowly_gets_all_of_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "UNREAD_S", 0.3)
    size = 12_000_000
    with running() as found, connected(found.url) as connection:
        connection.send(head("POST /", f"Content-Length: {size}") + bytes(size))
        received = 0
        while received < size:
            piece = connection.socket.recv(400_000)
            assert piece, "the connection was closed"
            received += len(piece)
            time.sleep(0.03)


@pytest.mark.parametrize(("most", "of_address"), [(3, 100), (100, 3)])
def test_too_many_connections_are_told_so_and_make_room_when_they_end(
    monkeypatch: pytest.MonkeyPatch, most: int, of_address: int
) -> None:
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", most)
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS_OF_ADDRESS", of_address)
    with running() as found, contextlib.ExitStack() as stack:
        kept = [stack.enter_context(connected(found.url)) for _ in range(3)]
        for connection in kept:
            connection.send(head("POST /", "Content-Length: 1") + b"x")
            assert connection.reply().status == 200
        with connected(found.url) as one_more:
            reply = one_more.reply()
            assert (reply.status, reply.body) == (503, b"Too many connections are open.")
            assert one_more.is_closed_by_server()
        kept[0].socket.close()
        until = time.monotonic() + 20
        while not is_alive(found.url):
            assert time.monotonic() < until
            time.sleep(0.02)


# The end


def test_who_connects_just_before_the_end_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_BACKLOG_S", 5)
    with running() as found:
        assert is_alive(found.url)
        found.stop()
        time.sleep(0.5)
        for _ in range(3):
            reply = exchange(found.url, head("POST /", "Content-Length: 1") + b"x")
            assert (reply.status, reply.body) == (503, b'{"detail":"the server is stopping. Send it again."}')


def test_what_was_accepted_is_answered_at_the_end_and_nothing_more_is_taken() -> None:
    with running() as found, connected(found.url) as connection:
        connection.send(head("POST /hold", "Content-Length: 2") + b"ok")
        assert found.application.begun.wait(20)
        found.stop()
        address = connection.address
        until = time.monotonic() + 20
        while _is_listening(address):
            assert time.monotonic() < until
            time.sleep(0.02)
        found.application.go_on.set()
        reply = connection.reply()
        assert (reply.status, reply.body, reply.headers["connection"]) == (200, b"ok", "close")
        found.thread.join(20)
        assert not found.thread.is_alive()


def _is_listening(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=5).close()
    except ConnectionError:
        return False
    return True


def test_what_is_asked_at_the_end_on_a_connection_that_was_open_is_turned_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "_LAST_WORDS_S", 5)  # the server's end waits for it
    with running() as found, connected(found.url) as used, connected(found.url) as new, connected(found.url) as half:
        used.send(head("POST /", "Content-Length: 1") + b"x")
        assert used.reply().status == 200
        half.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Le")
        assert is_alive(found.url)
        found.stop()
        until = time.monotonic() + 20
        while _is_listening(used.address):
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(0.3)  # uvicorn tells its connections after its listener
        num_heads = len(found.application.heads)
        used.send(head("POST /", "Content-Length: 1") + b"x")
        new.send(head("GET /"))
        half.send(b"ngth: 1\r\n\r\nx")
        for connection in (used, new, half):
            reply = connection.reply()
            assert (reply.status, reply.headers["retry-after"], reply.headers["connection"]) == (503, "1", "close")
            assert reply.body == b'{"detail":"the server is stopping. Send it again."}'
            assert connection.is_closed_by_server()
        assert len(found.application.heads) == num_heads


def test_connections_without_a_request_do_not_hold_up_the_end() -> None:
    with running() as found, connected(found.url) as silent, connected(found.url) as half, connected(found.url) as idle:
        half.send(b"POST / HT")
        idle.send(head("POST /", "Content-Length: 1") + b"x")
        assert idle.reply().status == 200
        found.stop()
        for connection in (silent, half, idle):
            assert connection.is_closed_by_server()
        found.thread.join(5)
        assert not found.thread.is_alive()


def test_an_open_page_does_not_hold_up_the_end() -> None:
    with running() as found, connected(found.url) as connection:
        connection.send(head("GET /gradio_api/heartbeat/x"))
        assert found.application.begun.wait(20)
        found.stop()
        assert connection.is_closed_by_server()
        found.thread.join(5)
        assert not found.thread.is_alive()


# The address


def test_a_port_that_is_taken_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match=rf"127\.0\.0\.1:{port} can't be listened on .*Name another --port"):
            run(None, "127.0.0.1", port)  # type: ignore[arg-type]


@pytest.mark.parametrize(("host", "port"), [("203.0.113.1", 0), ("127.0.0.1", 65_536), ("127.0.0.1", -1), ("::2", 0)])
def test_an_address_that_is_none_of_this_machine_is_said_so(host: str, port: int) -> None:
    with pytest.raises(SettingError, match="can't be listened on"):
        run(None, host, port)  # type: ignore[arg-type]


def test_a_name_that_is_not_known_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_server", unknown)
    with pytest.raises(SettingError, match="can't be listened on"):
        run(None, "no.such.host", 7860)  # type: ignore[arg-type]


def test_the_application_is_not_woken_for_each_byte(url: str) -> None:
    with connected(url) as connection:
        connection.send(head("POST /pieces", "Content-Length: 12"))
        drip(connection, b"x" * 12, pause_s=0.02)
        assert connection.reply().body == b"12"


def test_the_application_has_a_large_body_before_its_end(url: str) -> None:
    large = protocol._WAKE_BYTES
    with connected(url) as connection:
        connection.send(head("POST /pieces", f"Content-Length: {large + 5}") + b"x" * large)
        time.sleep(0.3)
        connection.send(b"x" * 5)
        sizes = [int(size) for size in connection.reply().body.split(b",")]
    assert len(sizes) > 1
    assert sum(sizes) == large + 5
