"""A `cifar-lit serve` process, and clients that load it with images of CIFAR-10 (JPEG) as raw JPEG bodies."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CONNECTIONS = 20
IMAGES = 16


@dataclass
class Reply:
    status: int
    seconds: float
    body: bytes
    headers: bytes


class Connection(asyncio.Protocol):
    """A keep-alive connection that has one request on its way at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._waiting: asyncio.Future[Reply] | None = None
        self._began = 0.0
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, request: bytes) -> "asyncio.Future[Reply]":
        self._waiting = asyncio.get_running_loop().create_future()
        self._began = time.perf_counter()
        self._transport.write(request)  # type: ignore[attr-defined]
        return self._waiting

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._waiting is None:
            return
        head = self._buffer[:end]
        at = head.lower().find(b"content-length:")
        size = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self._buffer) < end + 4 + size:
            return
        body, self._buffer = self._buffer[end + 4 : end + 4 + size], self._buffer[end + 4 + size :]
        reply = Reply(int(head[9:12]), time.perf_counter() - self._began, body, head)
        waiting, self._waiting = self._waiting, None
        if not waiting.done():
            waiting.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def close(self) -> None:
        self._transport.close()


@dataclass
class Server:
    """A `cifar-lit serve` process on a registry of its own."""

    port: int
    registry: Path
    process: subprocess.Popen[bytes]
    bodies: list[bytes] = field(default_factory=list)

    def request(self, number: int) -> bytes:
        body = self.bodies[number % len(self.bodies)]
        head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self.port)
        return connection

    async def get(self, path: str) -> Any:
        connection = await self.connect()
        try:
            reply = await connection.ask(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            return json.loads(reply.body)
        finally:
            connection.close()

    def memory_mib(self) -> float:
        """Proportional memory of the server and the processes that it started."""
        total = 0
        for pid in family(self.process.pid):
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        return total / 1024


def family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        own = [
            int(each)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for each in (task / "children").read_text().split()
        ]
    except OSError:
        own = [int(each) for each in children.read_text().split()] if children.exists() else []
    return [pid, *(each for child in own for each in family(child))]


@contextlib.asynccontextmanager
async def serving(
    bodies: list[bytes], prepare: Callable[[Path], None] = lambda registry: None
) -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        registry = Path(folder) / "checkpoints"
        shutil.copytree(ROOT / "checkpoints", registry)
        prepare(registry)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "cifar_lit.cli", "serve", "--port", str(port), "--registry", str(registry)]
        with open(Path(folder) / "log", "wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        server = Server(port, registry, process, bodies)
        try:
            until = time.monotonic() + 120
            while True:
                with contextlib.suppress(OSError):
                    if (await server.get("/ready")).get("status") == "ready":
                        break
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < until, "the server did not start"
                await asyncio.sleep(0.1)
            yield server
        finally:
            process.terminate()
            status = process.wait(30)
            assert status == 0, f"the server ended with status {status}"


async def closed_loop(server: Server, seconds: float) -> float:
    """Predictions a second to as many users as the server takes at once."""
    until = time.perf_counter() + seconds
    count = 0

    async def user() -> None:
        nonlocal count
        connection = await server.connect()
        while time.perf_counter() < until:
            reply = await connection.ask(server.request(count))
            count += reply.status == 200
        connection.close()

    await asyncio.gather(*(user() for _ in range(48)))
    return count / seconds


async def open_loop(
    server: Server, idle: deque[Connection], rate: float, seconds: float, latencies: list[float] | None = None
) -> dict[str, Any]:
    """Requests at a constant rate. Latency counts from the moment at which a request was due.

    Args:
        latencies: gets those of accepted requests, seconds.
    """
    accepted: list[float] = []
    turned_away: list[float] = []
    others: Counter[str] = Counter()
    late: list[float] = []
    without_retry_after = 0

    async def one(number: int, due: float) -> None:
        nonlocal without_retry_after
        try:
            connection = idle.popleft() if idle else await server.connect()
            if connection.lost:
                connection = await server.connect()
            late.append(time.perf_counter() - due)
            reply = await connection.ask(server.request(number))
        except OSError as error:
            others[type(error).__name__] += 1
            return
        idle.append(connection)
        if reply.status == 200:
            accepted.append(time.perf_counter() - due)
        elif reply.status == 503:
            turned_away.append(reply.seconds)
            without_retry_after += b"retry-after" not in reply.headers.lower()
        else:
            others[f"status {reply.status}"] += 1

    began = time.perf_counter()
    tasks = set()
    total = int(rate * seconds)
    for number in range(total):
        due = began + number / rate
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        task = asyncio.create_task(one(number, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    if latencies is not None:
        latencies += accepted
    return {
        "requests": total,
        "accepted": {"count": len(accepted), **percentiles(accepted)},
        "turned_away": {
            "count": len(turned_away),
            "without_retry_after": without_retry_after,
            **percentiles(turned_away),
        },
        "other": dict(others),
        "client_late": percentiles(late),
    }


def images() -> list[bytes]:
    folder = Path(os.environ["CIFAR_LIT_DATA"]) / "test"
    found = [path for name in sorted(os.listdir(folder)) for path in sorted((folder / name).iterdir())[:2]]
    return [path.read_bytes() for path in found[:IMAGES]]


def percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    if not ordered:
        return {}
    found = {f"p{share}_ms": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 95, 99)}
    return {name: round(1000 * value, 2) for name, value in {**found, "max_ms": ordered[-1]}.items()}
