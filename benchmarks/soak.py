"""Half an hour of good and bad traffic on a server, with champion changes and killed processes: what does it hold?

    CIFAR_LIT_DATA=dir python benchmarks/soak.py [--minutes 30] [--hostile 60] [--out benchmarks/results/soak]

The server is `cifar-lit serve --teach` with a password, a copy of the shipped registry, an empty home and an empty
temporary folder. `good_clients.py` sends it 28 requests a second and checks each answer, `hostile_clients.py` sends 60
of nineteen kinds. Every minute the other of two versions becomes the champion; every two minutes decode workers are
killed, one or all in turn; every four minutes somebody signs in and has the page fine-tune, with a correction or an
increment in turn, and the process that learns is killed.

Every 5 s it is looked at what the server holds. The rules by which it passes are in `soak_report.py`. Ends with one
JSON line; OUT.json has all rows, OUT.png is a plot.
"""

import argparse
import asyncio
import io
import itertools
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
import numpy as np
import onnxruntime
import uvloop
from footprint import children, contents, cpu_s, handles, memory_mib
from good_clients import GoodClients, Picture, Visitor, WrongError, answers_of, client, small_pictures, ticks
from hostile_clients import HostileClients
from load import ROOT, percentiles
from pictures import photograph
from soak_report import plot, verdict

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.inference.predictor import Predictor
from cifar_lit.registry.registry import Registry

PASSWORD = "a long password for the soak"
ADMINISTRATOR = "127.0.0.3"
VERSIONS = ("v0001", "v0002")
FOLDERS = ("registry", "home", "temp", "taught")
SAMPLE_S, SWAP_S, KILL_S, TUNE_S = 5.0, 60.0, 120.0, 240.0
TUNE_FOR_S = (5.0, 15.0, 30.0)
"""Of a fine-tuning, in turn, before its process is killed."""
PICTURES = ("32x32", "photograph")
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
        async with client(place.url) as http:
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

    def __init__(self, place: Place, good: GoodClients, hostile: HostileClients, pictures: list[Picture]) -> None:
        self.rows: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self._place = place
        self._good, self._hostile = good, hostile
        self._pictures = itertools.cycle(pictures)
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
            group.create_task(self._repeat("fine-tuning", TUNE_S * scale, self._fine_tune))

    @property
    def minute(self) -> float:
        return round((time.monotonic() - self._began) / 60, 3)

    async def _sample(self) -> None:
        seen = 0
        async for _ in ticks(1 / (SAMPLE_S * self._scale), self._over):
            place, pid = self._place, self._place.process.pid
            assert place.process.poll() is None, "the server ended"
            new, seen = self._good.outcomes[seen:], len(self._good.outcomes)
            found = percentiles([each.seconds for each in new if each.kind in PICTURES and not each.wrong])
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

    async def _fine_tune(self, number: int) -> dict[str, Any]:
        async with client(self._place.url, ADMINISTRATOR) as http:
            http.timeout = httpx.Timeout(180)  # an increment's check reads CIFAR-10
            signed_in = await http.post("/login", data={"password": PASSWORD})
            if signed_in.status_code != 303:
                raise WrongError(f"sign-in: {signed_in.status_code}")
            visitor = Visitor(http)
            await visitor.open()
            if number % 2:
                upload = await visitor.upload("new.npz", _increment(number))
                told = (await visitor.seen(visitor.event("teach-increment", "change"), upload))["teach-audit"]
                start = "teach-start-file"
            else:
                told = await self._correct(visitor)
                start = "teach-start"
            begun = await visitor.seen(visitor.event(start, "click"))
            if begun["teach-start-outcome"]:
                raise WrongError(f"{begun['teach-start-outcome']} after {told}"[:300])
            await asyncio.sleep(TUNE_FOR_S[number % len(TUNE_FOR_S)])
            (pid, *_) = children(self._place.process.pid, "fine_tuning")
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            await asyncio.sleep(0.2)
            while time.monotonic() < killed + 10:
                seen = await visitor.seen(_arrival(visitor))
                if state := re.search(r'data-state="(\w+)"', str(seen["teach-verdict"])):
                    reason = re.search(r"<strong>Why:</strong> ([^<]*)", seen["teach-verdict"])
                    told_after_s = round(time.monotonic() - killed, 1)
                    about = {"of": "increment" if number % 2 else "correction", "told_after_s": told_after_s}
                    return {**about, "state": state[1], "reason": reason[1] if reason else ""}
                await asyncio.sleep(0.2)
            return {"state": "running", "reason": "10 s after its process was killed"}

    async def _correct(self, visitor: Visitor) -> str:
        """Corrects an answer, to a class that it is not."""
        picture = next(self._pictures)
        upload = await visitor.upload(picture.name, picture.data)
        seen = (await visitor.seen(visitor.event("teach-picture", "change"), upload))["teach-seen"]
        said = re.search(r'id="teach-said">(\w+)<', seen)
        if said is None:
            raise WrongError(f"no answer to correct: {seen[:200]}")
        label = next(name for name in CLASS_NAMES if name != said[1])
        return str((await visitor.seen(visitor.event("teach-add", "click"), None, label))["teach-outcome"])


def _arrival(visitor: Visitor) -> dict[str, Any]:
    """The event of the page's arrival that shows how learning stands."""
    number = next(number for number, name in visitor.names.items() if name == "teach-verdict")
    return next(each for each in visitor.events if number in each["outputs"] and not each["inputs"])


def _increment(seed: int) -> bytes:
    drawn = np.random.default_rng(seed)
    images, labels = drawn.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8), drawn.integers(0, 10, 200)
    buffer = io.BytesIO()
    np.savez(buffer, x_new=images, y_new=labels)
    return buffer.getvalue()


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
            files = [*small_pictures(), ("cat.jpg", (ROOT / "docs" / "cat.jpg").read_bytes())]
            files.append(("large.jpg", photograph((4_000, 3_000))))
            made = [Picture(name, data, answers_of(data, predictors)) for name, data in files]
            *small, middle, large = made
            good = GoodClients(place.port, small, middle, large, Path(name))
            hostile = HostileClients(place.port)
            soak = Soak(place, good, hostile, small)
            await soak.run(minutes, per_second)
            in_run, num_hostile = place.log.stat().st_size, hostile.opened
            answers = {kind: dict(counts.most_common()) for kind, counts in sorted(hostile.answers.items())}
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
    about = {"requests": num_hostile, "answers": answers, "leaks": hostile.leaks[:20], "fetched": hostile.fetched}
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
