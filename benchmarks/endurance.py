"""The server under load while things happen to it: champions change, broken versions appear, too much is asked.

    CIFAR_LIT_DATA=dir python benchmarks/endurance.py [changes|broken|overload ...]

changes    200 champion changes during 100,000 requests: none fails, and each answer has the probabilities of the
           version that it names.
broken     every kind of broken version of tests/broken_versions.py becomes the champion under load: all are refused.
overload   twice the capacity for 60 s, arrivals at a constant rate whatever the server does (open loop).

All on the shipped network and pictures of CIFAR-10 (JPEG) as raw JPEG bodies, server and client on the same machine.
Ends with one JSON line for each, and keeps them in benchmarks/results/endurance.json.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import uvloop

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "tests"))

CONNECTIONS = 20
PICTURES = 16


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
    import socket

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


# What happens


async def changes(server: Server, num_requests: int, num_changes: int) -> dict[str, Any]:
    from cifar_lit.registry.registry import Registry

    registry = Registry(server.registry)
    expected = {each: answers_of(registry, each, server.bodies) for each in ("v0001", "v0002")}
    wrong: Counter[str] = Counter()
    by_version: Counter[str] = Counter()
    done = 0
    latencies: list[float] = []

    async def user() -> None:
        nonlocal done
        connection = await server.connect()
        while done < num_requests:
            number = done
            done += 1
            try:
                reply = await connection.ask(server.request(number))
            except OSError as error:
                wrong[repr(error)] += 1
                connection = await server.connect()
                continue
            latencies.append(reply.seconds)
            if reply.status != 200:
                wrong[f"status {reply.status}"] += 1
                continue
            answer = json.loads(reply.body)
            by_version[answer["version"]] += 1
            target = expected[answer["version"]][number % len(server.bodies)]
            if max(abs(answer["probabilities"][name] - value) for name, value in target.items()) > 1e-6:
                wrong["probabilities of another version"] += 1
        connection.close()

    async def promoter() -> int:
        made = 0
        for number in range(num_changes):
            while done < (number + 1) * num_requests / (num_changes + 1):
                await asyncio.sleep(0.01)
            version = ("v0002", "v0001")[number % 2]
            await asyncio.to_thread(registry.promote, version, "to see what happens")
            while (await server.get("/version"))["version"] != version:
                await asyncio.sleep(0.02)
            made += 1
        return made

    began = time.perf_counter()
    made, *_ = await asyncio.gather(promoter(), *(user() for _ in range(CONNECTIONS)))
    seconds = time.perf_counter() - began
    return {
        "champion_changes": made,
        "requests": len(latencies),
        "failed_or_wrong": dict(wrong),
        "answers_by_version": dict(by_version),
        "per_second": round(len(latencies) / seconds, 1),
        **percentiles(latencies),
    }


async def broken(server: Server) -> dict[str, Any]:
    from broken_versions import BROKEN

    from cifar_lit.registry.registry import Registry

    registry = Registry(server.registry)
    expected = answers_of(registry, "v0001", server.bodies)
    stop = False
    wrong: Counter[str] = Counter()
    latencies: list[float] = []

    async def user(first: int) -> None:
        connection = await server.connect()
        number = first
        while not stop:
            number += 1
            reply = await connection.ask(server.request(number))
            latencies.append(reply.seconds)
            answer = json.loads(reply.body)
            target = expected[number % len(server.bodies)]
            if reply.status != 200:
                wrong[f"status {reply.status}"] += 1
            elif answer["version"] != "v0001":
                wrong[f"answered by {answer['version']}"] += 1
            elif max(abs(answer["probabilities"][name] - value) for name, value in target.items()) > 1e-6:
                wrong["other probabilities"] += 1
        connection.close()

    async def breaker() -> dict[str, str]:
        reasons = {}
        for name, harm in BROKEN.items():
            victim = await asyncio.to_thread(copy_of_first, registry)
            before = (await server.get("/version"))["refused"]
            await asyncio.to_thread(harm, victim)
            until = time.monotonic() + 20
            while True:
                about = await server.get("/version")
                if about["refused"] not in (None, before):
                    reasons[name] = about["refused"]["reason"]
                    break
                if not registry.pointer():  # nothing is named, so there is nothing to refuse
                    await asyncio.sleep(1.5)
                    reasons[name] = "names none: v0001 stays"
                    break
                if time.monotonic() > until:
                    reasons[name] = "NOT REFUSED"
                    break
                await asyncio.sleep(0.05)
            await asyncio.to_thread(mend, registry, victim)
            while (await server.get("/version"))["refused"] is not None and time.monotonic() < until:
                await asyncio.sleep(0.05)
        return reasons

    users = [asyncio.create_task(user(each)) for each in range(CONNECTIONS)]
    reasons = await breaker()
    stop = True
    await asyncio.gather(*users)
    return {
        "kinds": len(reasons),
        "refused": sum(reason != "NOT REFUSED" for reason in reasons.values()),
        "requests": len(latencies),
        "failed_or_wrong": dict(wrong),
        **percentiles(latencies),
        "reasons": reasons,
    }


async def overload(server: Server, seconds: float) -> dict[str, Any]:
    capacity = await closed_loop(server, 10)
    before = server.memory_mib()
    idle: deque[Connection] = deque([await server.connect() for _ in range(50)])
    at_rate = await open_loop(server, idle, 2 * capacity, seconds)
    during = server.memory_mib()
    after = [await open_loop(server, idle, 0.5 * capacity, 1) for _ in range(5)]
    return {
        "capacity_per_second": round(capacity, 1),
        "offered_per_second": round(2 * capacity, 1),
        **at_rate,
        "memory_mib_before_and_after": [round(before), round(during)],
        "then_at_half_capacity_by_second": after,
    }


async def closed_loop(server: Server, seconds: float) -> float:
    """Answers a second to as many users as the server takes at once."""
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


async def open_loop(server: Server, idle: deque[Connection], rate: float, seconds: float) -> dict[str, Any]:
    """Requests at a constant rate. Latency counts from the moment at which a request was due."""
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


# What it takes


def pictures() -> list[bytes]:
    folder = Path(os.environ["CIFAR_LIT_DATA"]) / "test"
    found = [path for name in sorted(os.listdir(folder)) for path in sorted((folder / name).iterdir())[:2]]
    return [path.read_bytes() for path in found[:PICTURES]]


def answers_of(registry: Any, version: str, bodies: list[bytes]) -> list[dict[str, float]]:
    from cifar_lit.data.images import decode, to_network_size
    from cifar_lit.serving.predictor import Predictor

    predictor = Predictor.from_version(registry.get(version))
    return [predictor.predict(to_network_size(decode(body)).unsqueeze(0))[0].probabilities for body in bodies]


def add_second(root: Path) -> None:
    """v0002: the first one's network with other weights in its last layer."""
    from cifar_lit.registry.registry import Registry
    from cifar_lit.registry.weights import load_network

    registry = Registry(root)
    network = load_network(registry.get("v0001"))
    with torch.no_grad():
        network.head.weight.copy_(network.head.weight.flip(0))  # type: ignore[union-attr,operator]
    publish_as_first(registry, network)


def publish_as_first(registry: Any, network: Any) -> Path:
    from cifar_lit.registry.manifest import About
    from cifar_lit.registry.version import WEIGHTS
    from cifar_lit.registry.weights import dump

    first = registry.get("v0001")
    about = About(**{name: getattr(first.manifest, name) for name in About.__dataclass_fields__})
    files = {name: first.read(name) for name in first.manifest.files} | {WEIGHTS: dump(network)}
    return Path(registry.publish(files, about).path)


def copy_of_first(registry: Any) -> Path:
    """A new promoted version that is whole and not the champion."""
    from cifar_lit.registry.registry import LATEST
    from cifar_lit.registry.weights import load_network

    folder = publish_as_first(registry, load_network(registry.get("v0001")))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "standing": "promoted"}))
    assert registry.resolve(LATEST).id == "v0001"
    return folder


def mend(registry: Any, victim: Path) -> None:
    (registry.root / "champion").unlink(missing_ok=True)
    (registry.root / "champion").write_text("v0001\n")
    if victim.is_dir() and not victim.is_symlink():
        shutil.rmtree(victim)
    else:
        victim.unlink(missing_ok=True)


def percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    if not ordered:
        return {}
    found = {f"p{share}_ms": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 95, 99)}
    return {name: round(1000 * value, 2) for name, value in {**found, "max_ms": ordered[-1]}.items()}


async def measure(what: str, bodies: list[bytes], arguments: argparse.Namespace) -> dict[str, Any]:
    async with serving(bodies, add_second if what == "changes" else lambda registry: None) as server:
        if what == "changes":
            return await changes(server, arguments.requests, arguments.changes)
        if what == "broken":
            return await broken(server)
        return await overload(server, arguments.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["changes", "broken", "overload"])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bodies = pictures()
    path = HERE / "results" / "endurance.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    for what in arguments.what:
        result = uvloop.run(measure(what, bodies, arguments))
        about = {"torch": torch.__version__, "hardware": f"{os.cpu_count()} cores, {platform.machine()}"}
        kept[what] = {**result, **about, "date": time.strftime("%Y-%m-%d")}
        print(json.dumps({what: {name: value for name, value in result.items() if name != "reasons"}}), flush=True)
        path.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
