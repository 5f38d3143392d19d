"""Requests a second and latency: this server beside LitServe with batching and plain FastAPI handlers.

    CIFAR_LIT_DATA=dir python benchmarks/serving.py [--seconds 10] [--rounds 3] [--connections 20 1]

Closed loop by wrk (its own process; install it with the system's packages), which posts a JPEG as a multipart form and
looks for a version in each response. The JPEGs: a 32x32 one of CIFAR-10 (JPEG), and the photograph docs/cat.jpg. All
four servers have the same network (the registry's champion), the same decoding, JSON with the same fields, uvicorn with
uvloop and httptools, one thread for the network, and run one after the other in each round. The others call the network
as a PyTorch module, as their documentation does (by_network.py); this server runs its ONNX graph by ONNX Runtime.
LitServe (pip install litserve) takes batches of 16 and waits for none (each `batch_timeout` that was tried made it
slower).
Ends with one JSON line, and keeps it and the raw output in benchmarks/results/.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
ROOT = HERE.parent
MAX_BATCH_SIZE = 16

_LUA = """
local file = io.open(os.getenv("IMAGE"), "rb")
local content = file:read("*all")
file:close()
wrk.method = "POST"
wrk.path = "/predict"
wrk.headers["Content-Type"] = "multipart/form-data; boundary=wrkwrkwrk"
wrk.body = "--wrkwrkwrk\\r\\nContent-Disposition: form-data; name=\\"" .. os.getenv("FIELD") ..
  "\\"; filename=\\"a.jpg\\"\\r\\n" ..
  "Content-Type: image/jpeg\\r\\n\\r\\n" .. content .. "\\r\\n--wrkwrkwrk--\\r\\n"
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init(args) wrong = 0 end
function response(status, headers, body)
  if status ~= 200 or not body:find('"version":') then wrong = wrong + 1 end
end
function done(summary, latency, requests)
  local sum = 0
  for _, thread in ipairs(threads) do sum = sum + thread:get("wrong") end
  local e = summary.errors
  print(string.format("RESULT %d %f %f %f %f %d", summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    sum + e.connect + e.read + e.write + e.timeout))
end
"""


# The baselines


def plain(port: int, *, in_loop: bool) -> None:
    """A handler as FastAPI's documentation has it: decodes and predicts in the handler, one image at a time."""
    import uvicorn
    from by_network import ByNetwork
    from fastapi import FastAPI, UploadFile

    champion = ByNetwork()
    app = FastAPI()

    def respond(name: str | None, data: bytes) -> dict[str, Any]:
        return {"filename": name, **champion.predict(champion.decode(data).unsqueeze(0))[0]}

    if in_loop:

        @app.post("/predict")
        async def predict(file: UploadFile) -> dict[str, Any]:
            return respond(file.filename, await file.read())
    else:

        @app.post("/predict")
        def predict_in_thread(file: UploadFile) -> dict[str, Any]:
            return respond(file.filename, file.file.read())

    uvicorn.run(app, port=port, log_level="error", access_log=False, loop="uvloop", http="httptools")


def litserve(port: int) -> None:
    """LitServe with batching."""
    import litserve as ls
    from litserve_api import API

    timeout_s = float(os.environ.get("BATCH_TIMEOUT_S", "0"))
    api = API(max_batch_size=MAX_BATCH_SIZE, batch_timeout=timeout_s, api_path="/predict")
    ls.LitServer(api, accelerator="cpu").run(port=port, host="127.0.0.1", log_level="error", generate_client_file=False)


def ours(port: int) -> None:
    """`cifar-lit serve`, page and all."""
    from cifar_lit.cli import main as cli

    sys.exit(cli(["serve", "--port", str(port)]))


SERVERS = {
    "plain FastAPI, async def": lambda port: plain(port, in_loop=True),
    "plain FastAPI, def": lambda port: plain(port, in_loop=False),
    "LitServe": litserve,
    "cifar_lit": ours,
}


# The measurement


@contextlib.contextmanager
def running(name: str) -> Iterator[int]:
    """A server in a process of its own; gives its port when it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", name, str(port)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            with contextlib.suppress(OSError):
                if urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=1).status == 200:
                    break
            time.sleep(0.2)
        else:
            raise RuntimeError(f"{name} did not start")
        yield port
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def load(port: int, image: Path, connections: int, seconds: int, script: Path, field: str) -> dict[str, float]:
    """One run of wrk, after a second of it that does not count."""
    url = f"http://127.0.0.1:{port}"
    for duration in (1, seconds):
        found = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{duration}s", "--timeout", "10s", "-s", str(script), url],
            env={**os.environ, "IMAGE": str(image), "FIELD": field},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    result = re.search(r"RESULT (\S+) (\S+) (\S+) (\S+) (\S+) (\S+)", found)
    assert result is not None, found
    requests, took, p50, p99, longest, failed = map(float, result.groups())
    return {"per_second": requests / took, "p50_ms": p50, "p99_ms": p99, "max_ms": longest, "failed": failed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", nargs=2, metavar=("NAME", "PORT"), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[20, 1])
    parser.add_argument("--only", nargs="+", choices=SERVERS, default=list(SERVERS))
    arguments = parser.parse_args()
    if arguments.serve:
        SERVERS[arguments.serve[0]](int(arguments.serve[1]))
        return
    data = Path(os.environ["CIFAR_LIT_DATA"])
    images = {"32x32": sorted((data / "test" / "cat").iterdir())[0], "photograph": ROOT / "docs" / "cat.jpg"}
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(_LUA)
        for number in range(arguments.rounds):
            for name in arguments.only:
                with running(name) as port:
                    for image, path in images.items():
                        for connections in arguments.connections:
                            field = "request" if name == "LitServe" else "file"  # the names of their arguments
                            found = load(port, path, connections, arguments.seconds, script, field)
                            row = {"server": name, "image": image, "connections": connections, "round": number}
                            runs.append({**row, **{key: round(value, 2) for key, value in found.items()}})
                            print(json.dumps(runs[-1]), flush=True)
    result = {
        "benchmark": "serving, closed loop",
        "images_bytes": {name: path.stat().st_size for name, path in images.items()},
        "results": summary(runs, list(images), arguments.connections),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    if arguments.only == list(SERVERS):
        (HERE / "results" / "serving.json").write_text(json.dumps({**result, "runs": runs}, indent=2) + "\n")
    print(json.dumps(result))


def summary(runs: list[dict[str, Any]], images: list[str], connections: list[int]) -> list[dict[str, Any]]:
    """Medians over the rounds, and our ratios to the best of the others."""
    rows = []
    for image in images:
        for count in connections:
            medians = {}
            for name in SERVERS:
                of = [run for run in runs if (run["server"], run["image"], run["connections"]) == (name, image, count)]
                if of:
                    keys = ("per_second", "p50_ms", "p99_ms", "failed")
                    medians[name] = {key: round(statistics.median(run[key] for run in of), 2) for key in keys}
            row: dict[str, Any] = {"image": image, "connections": count, **medians}
            others = [each for name, each in medians.items() if name != "cifar_lit"]
            if "cifar_lit" in medians and others:
                best = max(others, key=lambda each: each["per_second"])
                row["times_the_requests_of_the_best"] = round(
                    medians["cifar_lit"]["per_second"] / best["per_second"], 2
                )
                row["p99_of_the_best"] = round(medians["cifar_lit"]["p99_ms"] / min(o["p99_ms"] for o in others), 2)
            rows.append(row)
    return rows


if __name__ == "__main__":
    main()
