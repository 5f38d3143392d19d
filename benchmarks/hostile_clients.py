"""Clients that mean harm, in turn, each kind counted with its responses: a status, or how the connection ended.

They come from addresses of their own, and tell of whatever gives away something of the server.
"""

import asyncio
import itertools
import json
import random
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from hostile_requests import (
    CONTROLS,
    EVENTS,
    FORM,
    FORMS,
    GARBAGE,
    INFERENCES,
    JSON,
    UNKNOWN,
    VALUES,
    request,
    status_of,
)
from pace import at_rate

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

ADDRESSES = tuple(f"127.0.1.{number}" for number in range(1, 5))
PATIENCE_S = 25.0
MOST_AT_ONCE = 600
TELLTALES = (b"Traceback", b'File "', b"site-packages", str(Path(__file__).parent.parent).encode())
UNREAD_PAGES = 60
"""More bytes of responses than the sockets of both sides hold."""


class HostileClients:
    """All kinds, in turn.

    Args:
        port: of the server, on this machine.

    Attributes:
        responses: by kind, how often each response was given.
        leaks: what a response gave away.
        fetched: how often the server asked for the address that it was told to fetch.
        opened: requests sent.
    """

    def __init__(self, port: int) -> None:
        from hostile_images import HOSTILE, content_of

        self.responses: dict[str, Counter[str]] = {}
        self.leaks: list[str] = []
        self.fetched = 0
        self.opened = 0
        self._port = port
        self._random = random.Random(0)
        images = [content_of(case) for case, _ in HOSTILE.values()]
        self._images = itertools.cycle([data for data in images if len(data) < 2_500_000])
        self._addresses = itertools.cycle(ADDRESSES)
        shares: dict[Callable[[], Awaitable[str]], int] = {
            self.unknown_route: 8,
            self.forged_event: 6,
            self.replayed_event: 2,
            self.unknown_stream: 5,
            self.new_session: 4,
            self.form_of_many: 2,
            self.form_cut_off: 2,
            self.form_too_large: 2,
            self.proxied_file: 4,
            self.page_with_query: 3,
            self.garbage: 5,
            self.half_request: 4,
            self.never_reads: 1,
            self.slow_sender: 2,
            self.broken_image: 6,
            self.wrong_password: 3,
            self.control_characters: 4,
            self.json_bomb: 3,
            self.foreign_origin: 2,
        }
        self._turns = [kind for kind, share in shares.items() for _ in range(share)]
        self._random.shuffle(self._turns)
        self.kinds = {kind.__name__: kind for kind in shares}

    async def run(self, per_second: float, until: asyncio.Event) -> None:
        """Sends requests at a constant rate, as long as no more than so many are open."""
        canary = await asyncio.start_server(self._on_fetched, "127.0.0.1", 0)
        self._canary = f"http://127.0.0.1:{canary.sockets[0].getsockname()[1]}/x.png"
        turns = itertools.cycle(self._turns)
        async with canary:
            await at_rate(per_second, until, lambda: self.attack(next(turns)), most_at_once=MOST_AT_ONCE)

    async def attack(self, kind: Callable[[], Awaitable[str]]) -> None:
        self.opened += 1
        try:
            told = await kind()
        except OSError as error:
            told = type(error).__name__
        self.responses.setdefault(kind.__name__, Counter())[told] += 1

    # Routes and events of the page

    async def unknown_route(self) -> str:
        return await self._ask(self._random.choice(UNKNOWN), b"{}", "Content-Type: application/json")

    async def forged_event(self) -> str:
        path, order = self._random.choice(EVENTS)
        return await self._event(path, {"session_hash": self._session(), **order})

    async def replayed_event(self) -> str:
        """Once begun and heard to its end, it is asked for twice more."""
        begun = await self._exchange(request("POST /gradio_api/call/predict", b'{"data":[null]}', JSON))
        path = f"GET /gradio_api/call/predict/{begun.rpartition(b'event_id')[2][3:35].decode('latin-1')}"
        return " then ".join([await self._ask(path) for _ in range(3)][1:])

    async def unknown_stream(self) -> str:
        paths = (f"queue/data?session_hash={self._session()}", f"call/predict/{self._session()}", "queue/data")
        return await self._ask(f"GET /gradio_api/{self._random.choice(paths)}")

    async def new_session(self) -> str:
        """Each with any event of the page, and values that it does not send."""
        value = self._random.choice(VALUES)
        order = {"data": [value] * self._random.randrange(4), "fn_index": self._random.randrange(60)}
        happened = {"event_data": value, "session_hash": self._session()}
        return await self._event("run/predict", order | happened)

    async def proxied_file(self) -> str:
        if self._random.random() < 0.5:
            return await self._ask(f"GET /gradio_api/{self._random.choice(('file', 'proxy'))}={self._canary}")
        value = {"path": self._canary, "url": self._canary, "meta": {"_type": "gradio.FileData"}}
        path = self._random.choice(("run/predict", "call/predict", "queue/join"))
        return await self._event(path, {"data": [value], "fn_index": 3, "session_hash": self._session()})

    async def page_with_query(self) -> str:
        return await self._ask(f"GET /?a={self._session()}")

    # Uploads

    async def form_of_many(self) -> str:
        name = self._random.choice(tuple(FORMS))
        part, count = FORMS[name]
        return f"{name}: {await self._form(part * count + b'--x--')}"

    async def form_cut_off(self) -> str:
        """The sender leaves in the middle of a file."""
        body = FORMS["65 files"][0] + bytes(100_000)
        head = request("POST /gradio_api/upload", b"", FORM, f"Content-Length: {2 * len(body)}")
        return await self._leave(head + body)

    async def form_too_large(self) -> str:
        return await self._form(b"", f"Content-Length: {2**30}")

    async def _form(self, body: bytes, *headers: str) -> str:
        return await self._ask("POST /gradio_api/upload", body, FORM, *headers)

    # Sockets

    async def garbage(self) -> str:
        data = self._random.choice([*GARBAGE, self._random.randbytes(300)])
        return status_of(await self._exchange(data))

    async def half_request(self) -> str:
        whole = request("POST /predict", bytes(2_000), "Content-Type: image/jpeg")
        return await self._leave(whole[: self._random.randrange(1, len(whole))])

    async def never_reads(self) -> str:
        """Asks for many pages and takes none; whether the server left is seen by what it had sent in the end."""
        loop = asyncio.get_running_loop()
        with socket.socket() as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.setblocking(False)
            plain.bind((next(self._addresses), 0))
            await loop.sock_connect(plain, ("127.0.0.1", self._port))
            await loop.sock_sendall(plain, request("GET /", b"") * UNREAD_PAGES)
            await asyncio.sleep(PATIENCE_S)
            pages, end = 0, b""
            with suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    while piece := await loop.sock_recv(plain, 1 << 20):
                        pages += (end + piece).count(b"HTTP/1.1 200")
                        end = piece[-11:]
        return "left" if pages < UNREAD_PAGES else "not left"

    async def slow_sender(self) -> str:
        """A byte a second, of a head or of a body."""
        whole = request("POST /predict", b"", "Content-Type: image/jpeg", "Content-Length: 5000")
        data = whole if self._random.random() < 0.5 else whole[:-20]
        reader, writer = await self._connect()
        try:
            writer.write(data)
            response = asyncio.ensure_future(reader.read(65_536))
            for _ in range(int(PATIENCE_S)):
                await asyncio.wait([response], timeout=1)
                if response.done():
                    return status_of(response.result())
                writer.write(b"x")
            response.cancel()
            return "never told"
        finally:
            writer.close()

    # What REST takes

    async def broken_image(self) -> str:
        return await self._ask("POST /predict", next(self._images), "Content-Type: image/png")

    async def wrong_password(self) -> str:
        form = "Content-Type: application/x-www-form-urlencoded"
        return await self._ask("POST /login", b"password=" + self._session().encode() * 9, form)

    async def control_characters(self) -> str:
        line, header = self._random.choice(CONTROLS)
        return status_of(
            await self._exchange(line + b"\r\nHost: 127.0.0.1\r\nConnection: close\r\n" + header + b"\r\n")
        )

    async def json_bomb(self) -> str:
        return await self._ask("POST /v2/models/cifar10/infer", self._random.choice(INFERENCES), JSON)

    async def foreign_origin(self) -> str:
        path = self._random.choice(("/predict", "/login", "/gradio_api/queue/join"))
        return await self._ask(f"POST {path}", b"{}", "Origin: http://evil.example", "Cookie: cifar_lit_login=x")

    # How it is sent

    async def _event(self, path: str, order: dict[str, object]) -> str:
        return await self._ask(f"POST /gradio_api/{path}", json.dumps(order).encode(), JSON)

    async def _ask(self, line: str, body: bytes = b"", *headers: str) -> str:
        return status_of(await self._exchange(request(line, body, *headers, "Connection: close")))

    async def _exchange(self, data: bytes) -> bytes:
        """The beginning of what is sent back to these bytes, on a connection of their own."""
        reader, writer = await self._connect()
        try:
            with suppress(ConnectionError):
                writer.write(data)
                await writer.drain()
            response = b""
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    while len(response) < 65_536 and (more := await reader.read(65_536)):
                        response += more
            self.leaks += [f"{told!r} in {response[:300]!r}" for told in TELLTALES if told in response]
            return response
        finally:
            writer.close()

    async def _leave(self, data: bytes) -> str:
        _, writer = await self._connect()
        writer.write(data)
        await asyncio.sleep(0.05)
        writer.close()
        return "gone"

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port, local_addr=(next(self._addresses), 0))

    async def _on_fetched(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.fetched += 1
        writer.close()

    def _session(self) -> str:
        return f"{self._random.getrandbits(64):016x}"
