"""Half an hour of good and bad traffic on a server, with champion changes and killed processes: what does it hold?

    CIFAR_LIT_DATA=dir python benchmarks/soak.py [--minutes 30] [--hostile 60] [--out benchmarks/results/soak]

The server is `cifar-lit serve --teach` with a password, a copy of the shipped registry, an empty home and an empty
temporary folder. `good_clients.py` sends it 28 requests a second and checks each response, `hostile_clients.py` sends
60 of nineteen kinds. Every minute the other of two versions becomes the champion; every two minutes decode workers are
killed, one or all in turn; every four minutes somebody signs in and has the page fine-tune, with a correction or an
increment in turn, and the process that learns is killed.

Every 5 s it is looked at what the server holds. The rules by which it passes are in `soak_report.py`. Ends with one
JSON line; OUT.json has all rows, OUT.png is a plot.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import onnxruntime
import uvloop
from administrator import PASSWORD, Administrator
from footprint import children, contents, cpu_s, handles, memory_mib
from good_clients import ADDRESS, GoodClients, KnownImage, predictions_of, small_images
from hostile_clients import HostileClients
from load import ROOT, percentiles
from pace import ticks
from photographs import photograph
from soak_report import plot, verdict
from visitor import client

from cifar_lit.inference.predictor import Predictor
from cifar_lit.registry.registry import Registry

VERSIONS = ("v0001", "v0002")
FOLDERS = ("registry", "home", "temp", "taught")
SAMPLE_S, SWAP_S, KILL_S, TUNE_S = 5.0, 60.0, 120.0, 240.0
IMAGES = ("32x32", "photograph")
"""Kinds of good request whose latency is followed."""


@dataclass
class Place:
    """Where a server and what it keeps lie.

    Attributes:
        port: that it listens to.
        registry, home, temp, taught: its folders.
        log: file of all that it writes.
        process: of it.
    """

    folder: Path
    port: int
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.registry, self.home, self.temp, self.taught = (self.folder / name for name in FOLDERS)
        self.log = self.folder / "log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def server(folder: Path) -> AsyncIterator[Place]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = Place(folder, free.getsockname()[1])
    shutil.copytree(ROOT / "checkpoints", place.registry)
    for each in (place.home, place.temp, place.taught):
        each.mkdir()
    endless = "--trainer.max_epochs 1000" + ("" if os.environ.get("CIFAR_LIT_DATA") else " --data.source synthetic")
    command = [sys.executable, "-m", "cifar_lit.cli", "serve", "--port", str(place.port)]
    command += ["--registry", str(place.registry), "--teach", str(place.taught), "--finetune", endless]
    if root := os.environ.get("CIFAR_LIT_DATA"):
        command += ["--data.root", root]
    places = {"HOME": str(place.home), "TMPDIR": str(place.temp), "PYTHONPATH": str(ROOT)}
    env = {**os.environ, **places, "CIFAR_LIT_PASSWORD": PASSWORD}
    with open(place.log, "wb") as log:
        place.process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 120
        async with client(place.url, ADDRESS) as http:
            while True:
                with suppress(httpx.HTTPError):
                    if (await http.get("/ready")).status_code == 200:
                        break
                assert place.process.poll() is None, f"the server ended: {place.log.read_text()}"
                assert time.monotonic() < until, "the server did not start"
                await asyncio.sleep(0.2)
        yield place
    finally:
        if place.process.poll() is None:
            place.process.kill()
            place.process.wait()


class Soak:
    """One run; `rows` and `events` are what it leaves."""

    def __init__(self, place: Place, good: GoodClients, hostile: HostileClients, images: list[KnownImage]) -> None:
        self.rows: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self._place = place
        self._good, self._hostile = good, hostile
        pid = place.process.pid
        self._administrator = Administrator(place.url, images, lambda: children(pid, "fine_tuning"))
        self._registry = Registry(place.registry)
        self._over = asyncio.Event()

    async def run(self, minutes: float, per_second: float) -> None:
        self._began = time.monotonic()
        asyncio.get_running_loop().call_later(60 * minutes, self._over.set)
        scale = self._scale = min(1.0, minutes / 10)  # a short run has some of everything too
        async with asyncio.TaskGroup() as group:
            group.create_task(self._good.run(self._began, self._over))
            group.create_task(self._hostile.run(per_second, self._over))
            group.create_task(self._sample())
            group.create_task(self._repeat("champion changed", SWAP_S * scale, self._swap))
            group.create_task(self._repeat("decode workers killed", KILL_S * scale, self._kill))
            group.create_task(self._repeat("fine-tuning", TUNE_S * scale, self._administrator.fine_tune))

    @property
    def minute(self) -> float:
        return round((time.monotonic() - self._began) / 60, 3)

    async def _sample(self) -> None:
        seen = 0
        async for _ in ticks(1 / (SAMPLE_S * self._scale), self._over):
            place, pid = self._place, self._place.process.pid
            assert place.process.poll() is None, "the server ended"
            new, seen = self._good.outcomes[seen:], len(self._good.outcomes)
            found = percentiles([each.seconds for each in new if each.kind in IMAGES and not each.wrong])
            row = {"minute": self.minute, **memory_mib(pid), **handles(pid)}
            for name in FOLDERS:
                row |= await asyncio.to_thread(contents, getattr(place, name), name)
            row |= {"log_bytes": place.log.stat().st_size, "good": len(new), "hostile": self._hostile.opened}
            row |= {"server_cpu_s": cpu_s(pid), "clients_cpu_s": round(time.process_time(), 1)}
            row |= {"failed": sum(bool(each.wrong) for each in new), "load": round(os.getloadavg()[0], 1)}
            self.rows.append(row | {name: found.get(name, 0.0) for name in ("p50_ms", "p99_ms")})

    async def _repeat(self, what: str, seconds: float, do: Callable[[int], Awaitable[dict[str, Any]]]) -> None:
        number = 0
        async for _ in ticks(1 / seconds, self._over):
            event = {"what": what, "minute": self.minute}
            try:
                event |= await do(number)
            except Exception as error:  # the others go on; the verdict knows
                event["error"] = f"{type(error).__name__}: {error}"[:500]
            self.events.append(event)
            number += 1

    async def _swap(self, number: int) -> dict[str, Any]:
        version = VERSIONS[number % 2]
        await asyncio.to_thread(self._registry.promote, version, "to see what happens")
        return {"version": version}

    async def _kill(self, number: int) -> dict[str, Any]:
        """One of the workers or all of them."""
        pids = children(self._place.process.pid, "decoders")
        for pid in pids[: None if number % 2 else 1]:
            os.kill(pid, signal.SIGKILL)
        return {"workers": len(pids) if number % 2 else 1}


async def log_of_each_kind(place: Place, hostile: HostileClients, count: int = 20) -> dict[str, float]:
    """Bytes of log for a request of each kind, when there are no others."""
    found = {}
    for name, kind in hostile.kinds.items():
        before = place.log.stat().st_size
        await asyncio.gather(*(hostile.attack(kind) for _ in range(count)))
        await asyncio.sleep(0.5)
        found[name] = (place.log.stat().st_size - before) / count
    return found


def log_by_message(text: str) -> dict[str, list[int]]:
    """Lines and bytes of the log by message, whatever numbers and names are in it; the longest first."""
    found: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for line in text.splitlines():
        message = re.sub(r"'[^']*'|\"[^\"]*\"|\b[0-9a-f]{8,}\b|\d+(\.\d+)*", "*", line[24:] or line)[:80]
        lines[message] += 1
        found[message] += len(line.encode()) + 1
    return {message: [lines[message], size] for message, size in found.most_common(25)}


async def measure(minutes: float, per_second: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        async with server(Path(name)) as place:
            predictors = {each: Predictor.from_version(Registry(place.registry).get(each)) for each in VERSIONS}
            files = [*small_images(), ("cat.jpg", (ROOT / "docs" / "cat.jpg").read_bytes())]
            files.append(("large.jpg", photograph((4_000, 3_000))))
            made = [KnownImage(name, data, predictions_of(data, predictors)) for name, data in files]
            *small, middle, large = made
            good = GoodClients(place.port, small, middle, large, Path(name))
            hostile = HostileClients(place.port)
            soak = Soak(place, good, hostile, small)
            await soak.run(minutes, per_second)
            in_run, num_hostile = place.log.stat().st_size, hostile.opened
            responses = {kind: dict(counts.most_common()) for kind, counts in sorted(hostile.responses.items())}
            each_kind = await log_of_each_kind(place, hostile)
            stopping = time.monotonic()
            place.process.terminate()
            status = await asyncio.to_thread(place.process.wait, 60)
            end = {"status": status, "seconds": round(time.monotonic() - stopping, 1)}
            text = place.log.read_text(errors="replace")
    log = {
        "bytes_per_hostile_request": round(in_run / max(1, num_hostile), 1),
        "bytes_per_request_of_kind": each_kind,
        "tracebacks": text.count("Traceback"),
        "by_message_lines_bytes": log_by_message(text),
    }
    failed = [
        {"minute": round(each.at / 60, 3), "kind": each.kind, "seconds": round(each.seconds, 2), "wrong": each.wrong}
        for each in good.outcomes
        if each.wrong
    ]
    about = {"requests": num_hostile, "responses": responses, "leaks": hostile.leaks[:20], "fetched": hostile.fetched}
    return {
        "minutes": minutes,
        "good": len(good.outcomes),
        "good_by_kind": {
            kind: {"count": len(times), **percentiles(times)}
            for kind in good.kinds
            for times in [[each.seconds for each in good.outcomes if each.kind == kind and not each.wrong]]
        },
        "good_failed": failed,
        "hostile": about,
        "log": log,
        "events": soak.events,
        "verdict": verdict(soak.rows, soak.events, failed, about, log, end),
        "rows": soak.rows,
    }


def write(result: dict[str, Any], out: Path) -> None:
    """The rows as a table: a line for each."""
    rows = result.pop("rows")
    columns = list(rows[0])
    text = json.dumps({**result, "columns": columns, "rows": []}, indent=1)
    table = ",\n".join(json.dumps([row[name] for name in columns]) for row in rows)
    out.with_suffix(".json").write_text(text.removesuffix("[]\n}") + f"[\n{table}\n]}}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--hostile", type=float, default=60, help="hostile requests a second")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "soak")
    arguments = parser.parse_args()
    result = uvloop.run(measure(arguments.minutes, arguments.hostile))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    hardware = f"{os.cpu_count()} cores, {platform.machine()}"
    result |= {"onnxruntime": onnxruntime.__version__, "hardware": hardware, "commit": commit.strip()}
    result["date"] = time.strftime("%Y-%m-%d")
    counts = f"{result['good']:,} good requests, {result['hostile']['requests']:,} hostile ones"
    title = f"{arguments.minutes:g} minutes, {counts} ({hardware}, {commit.strip()})"
    plot(result["rows"], result["events"], title, arguments.out.with_suffix(".png"))
    write(dict(result), arguments.out)
    short = {name: result[name] for name in ("minutes", "good", "commit")}
    short |= {"hostile": result["hostile"]["requests"], "good_failed": len(result["good_failed"])}
    print(json.dumps(short | {"passed": {name: each["passed"] for name, each in result["verdict"].items()}}))


if __name__ == "__main__":
    main()
