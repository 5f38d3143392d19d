"""A phone's photograph through the server: time and memory, beside an earlier commit and a plain handler.

    python benchmarks/photographs.py [--before e14267a] [--repeats 7]

JPEGs of 12, 24 and 50 megapixels (docs/cat.jpg enlarged, with noise, quality 90) are posted one after the other,
to three servers in turn.
Before: the server of that commit, from a git worktree, with its limits on bytes and pixels lifted. Plain: a FastAPI
handler with `PIL.Image.open(...).convert("RGB").resize(...)`, and the network as a PyTorch module. Memory: by how much
the peak resident sizes of all processes of a server exceed what they had before the first of these images.
Ends with one JSON line, and keeps it in benchmarks/results/.
"""

import argparse
import contextlib
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import serving
from PIL import Image

ROOT = Path(__file__).parent.parent
SIZES = {"12 Mpx": (4_000, 3_000), "24 Mpx": (6_000, 4_000), "50 Mpx": (8_160, 6_120)}
LIMITS = {"MAX_BYTES": "50 * 2**20", "MAX_PIXELS": "200_000_000", "MAX_SIDE": "20_000"}


def plain(port: int) -> None:
    """A handler as most people write it."""
    import torch
    import uvicorn
    from by_network import ByNetwork
    from fastapi import FastAPI, Request

    champion = ByNetwork()
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        image = Image.open(io.BytesIO(await request.body())).convert("RGB").resize((32, 32))
        return {"filename": "", **champion.predict(torch.from_numpy(np.array(image)).unsqueeze(0))[0]}

    uvicorn.run(app, port=port, log_level="error", access_log=False, loop="uvloop", http="httptools")


serving.SERVERS = {"plain": plain, "cifar_lit": serving.ours}


@contextlib.contextmanager
def earlier(commit: str) -> Iterator[Path]:
    """A worktree of a commit, its limits lifted."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--detach", "-q", str(tree), commit], cwd=ROOT, check=True)
        try:
            module = tree / "cifar_lit" / "data" / "images.py"
            text = module.read_text()
            for name, value in LIMITS.items():
                text = re.sub(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
            module.write_text(text)
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


@contextlib.contextmanager
def running(name: str, tree: Path) -> Iterator[tuple[int, int]]:
    """A server of a tree; gives its port and the session that its processes belong to."""
    command = [sys.executable, "-W", "ignore", str(tree / "benchmarks" / "serving.py"), "--serve", name]
    if name == "plain":
        command = [sys.executable, __file__, "--serve", name]
    with serving.socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    process = subprocess.Popen(
        [*command, str(port)], cwd=tree, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=1)
                break
            time.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()
        process.wait()


def memory(server: int, field: str) -> dict[int, float]:
    """MiB of a server and of all its descendants."""
    parents, sizes = {}, {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError, TypeError):
            text = status.read_text()
            pid = int(status.parent.name)
            parents[pid] = int(re.search(r"PPid:\s+(\d+)", text)[1])  # type: ignore[index]
            sizes[pid] = int(re.search(rf"{field}:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]
    family, grown = {server}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        family |= more
        grown = bool(more)
    return {pid: sizes[pid] for pid in family if pid in sizes}


def post(port: int, data: bytes) -> float:
    """Seconds until the response."""
    headers = {"Content-Type": "image/jpeg"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", data=data, headers=headers)
    start = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as response:
        assert "prediction" in json.load(response)
    return time.perf_counter() - start


def photograph(size: tuple[int, int]) -> bytes:
    image = Image.open(ROOT / "docs" / "cat.jpg").resize(size, Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 4, (size[1], size[0], 1)).astype(np.float32)
    pixels = (np.asarray(image) + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def measure(trees: dict[str, tuple[str, Path]], photographs: dict[str, bytes], repeats: int) -> dict[str, Any]:
    """All servers run at once and are asked in turn, so that other work on the machine meets them alike."""
    found: dict[str, Any] = {name: {} for name in trees}
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(running(kind, tree)) for name, (kind, tree) in trees.items()}
        for port, _ in servers.values():
            post(port, (ROOT / "docs" / "cat.jpg").read_bytes())
        idle = {name: memory(server, "VmRSS") for name, (_, server) in servers.items()}
        for size, data in photographs.items():
            times: dict[str, list[float]] = {name: [] for name in servers}
            for number in range(repeats + 1):
                for name, (port, _) in servers.items():
                    took = post(port, data)
                    times[name] += [took] if number else []  # the first warms up
            for name, (_, server) in servers.items():
                peaks = memory(server, "VmHWM")
                found[name][size] = {
                    "ms": round(1000 * statistics.median(times[name]), 1),
                    "ms_min": round(1000 * min(times[name]), 1),
                    "ms_max": round(1000 * max(times[name]), 1),
                    "memory_mib": round(sum(peaks[pid] - idle[name].get(pid, 0) for pid in peaks), 1),
                }
                print(json.dumps({"server": name, "image": size, **found[name][size]}), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", nargs=2, metavar=("NAME", "PORT"), help=argparse.SUPPRESS)
    parser.add_argument("--before", default="e14267a", metavar="COMMIT")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.serve:
        serving.SERVERS[arguments.serve[0]](int(arguments.serve[1]))
        return
    photographs = {name: photograph(size) for name, size in SIZES.items()}
    with earlier(arguments.before) as tree:
        trees = {
            "before": ("cifar_lit", tree),
            "plain FastAPI with Pillow": ("plain", ROOT),
            "cifar_lit": ("cifar_lit", ROOT),
        }
        rows = measure(trees, photographs, arguments.repeats)
    before, now = rows["before"], rows["cifar_lit"]
    result = {
        "benchmark": "phones' photographs, one at a time",
        "before": arguments.before,
        "bytes": {name: len(data) for name, data in photographs.items()},
        "results": rows,
        "times_as_fast_as_before": {size: round(before[size]["ms"] / now[size]["ms"], 2) for size in SIZES},
        "share_of_its_memory": {size: round(now[size]["memory_mib"] / before[size]["memory_mib"], 3) for size in SIZES},
        "hardware": f"{os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
    }
    (ROOT / "benchmarks" / "results" / "photographs.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
