"""The server under load while things happen to it: champions change, broken versions appear, too much is asked.

    CIFAR_LIT_DATA=dir python benchmarks/endurance.py [changes|broken|overload|slow ...]

changes    200 champion changes during 100,000 requests: none fails, and each prediction has the probabilities of the
           version that it names.
broken     every kind of broken version of tests/broken_versions.py becomes the champion under load: all are refused.
overload   twice the capacity for 60 s, arrivals at a constant rate whatever the server does (open loop), on
           connections that are kept alive.
slow       a third of the capacity (open loop), in turn without others, beside 500 connections that send a byte now and
           then and came within 10 s (`spread`), and beside 500 that came all at once and keep time (`burst`).

All on the shipped network and images of CIFAR-10 (JPEG) as raw JPEG bodies, server and client on the same machine.
Ends with one JSON line for each, and keeps them in benchmarks/results/endurance.json.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import platform
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import torch
import uvloop
from champions import add_second, broken, changes
from load import Connection, Server, closed_loop, images, open_loop, percentiles, serving

HERE = Path(__file__).parent
CONNECTED = 400
"""Connections of the client that asks for too much, made before it does: their making is not what is measured."""
WITHIN_S = {"spread": 10.0, "burst": 0.0}
"""Seconds within which slow connections come. Clients that don't know of one another don't keep time; an attack can."""


async def overload(server: Server, seconds: float) -> dict[str, Any]:
    capacity = await closed_loop(server, 10)
    before = server.memory_mib()
    idle: deque[Connection] = deque([await server.connect() for _ in range(CONNECTED)])
    await asyncio.sleep(1)  # a connection is there for its client before the server has taken it
    gc.collect()
    gc.freeze()
    gc.disable()  # the client's own pauses would count as the server's
    at_rate = await open_loop(server, idle, 2 * capacity, seconds)
    gc.enable()
    during = server.memory_mib()
    after = [await open_loop(server, idle, 0.5 * capacity, 1) for _ in range(5)]
    return {
        "capacity_per_second": round(capacity, 1),
        "offered_per_second": round(2 * capacity, 1),
        **at_rate,
        "memory_mib_before_and_after": [round(before), round(during)],
        "then_at_half_capacity_by_second": after,
    }


async def slow(server: Server, num_sockets: int, seconds: float, rounds: int) -> dict[str, Any]:
    rate = await closed_loop(server, 10) / 3
    idle: deque[Connection] = deque([await server.connect() for _ in range(50)])
    await open_loop(server, idle, rate, 2)  # warm
    latencies: dict[str, list[float]] = {"without": [], **{name: [] for name in WITHIN_S}}
    by_round: list[dict[str, Any]] = []
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in WITHIN_S}
    num_open = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    for _ in range(rounds):
        by_round.append({"without": await open_loop(server, idle, rate, seconds, latencies["without"])})
        for name, within_s in WITHIN_S.items():
            async with slow_sockets(server, num_sockets, within_s, told[name]):
                by_round[-1][name] = await open_loop(server, idle, rate, seconds, latencies[name])
            await settle(server, num_open + 20)
    found = {name: percentiles(values) for name, values in latencies.items()}
    return {
        "per_second": round(rate, 1),
        "sockets": num_sockets,
        **found,
        "p99_ratio": {name: round(found[name]["p99_ms"] / found["without"]["p99_ms"], 3) for name in WITHIN_S},
        "slow_ones_were_told": told,
        "rounds": by_round,
    }


@contextlib.asynccontextmanager
async def slow_sockets(server: Server, count: int, within_s: float, told: list[dict[str, Any]]) -> AsyncIterator[None]:
    """Connections that send a byte now and then, from a process of their own, so that they don't delay the others'
    client; `told` gets the responses."""
    command = [sys.executable, str(HERE / "slow_sockets.py"), str(server.port), str(count), str(within_s)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"connected\n", "the slow sockets could not be opened"
        yield
    finally:
        process.stdin.close()
        told.append(json.loads(await process.stdout.readline()))
        await process.wait()


async def settle(server: Server, num_open: int) -> None:
    """Until the server has no more files and connections open than so many, or for half a minute."""
    until = time.monotonic() + 30
    while len(os.listdir(f"/proc/{server.process.pid}/fd")) > num_open and time.monotonic() < until:
        await asyncio.sleep(0.1)


async def measure(what: str, bodies: list[bytes], arguments: argparse.Namespace) -> dict[str, Any]:
    async with serving(bodies, add_second if what == "changes" else lambda registry: None) as server:
        if what == "changes":
            return await changes(server, arguments.requests, arguments.changes)
        if what == "broken":
            return await broken(server)
        if what == "slow":
            return await slow(server, arguments.sockets, arguments.slow_seconds, arguments.rounds)
        return await overload(server, arguments.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["changes", "broken", "overload", "slow"])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--sockets", type=int, default=500)
    parser.add_argument("--slow-seconds", type=float, default=15, help="of each part of a round of slow")
    parser.add_argument("--rounds", type=int, default=5, help="of slow")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bodies = images()
    path = HERE / "results" / "endurance.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    for what in arguments.what:
        result = uvloop.run(measure(what, bodies, arguments))
        about = {"torch": torch.__version__, "hardware": f"{os.cpu_count()} cores, {platform.machine()}"}
        kept[what] = {**result, **about, "date": time.strftime("%Y-%m-%d")}
        print(
            json.dumps({what: {name: value for name, value in result.items() if name not in ("reasons", "rounds")}}),
            flush=True,
        )
        path.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
