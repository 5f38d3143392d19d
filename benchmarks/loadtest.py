"""The original's load test, against a server that it starts: 20 users, 5 more a second, 30 s.

    python benchmarks/loadtest.py [--users 20] [--rate 5] [--seconds 30] [--registry DIR]

Ends with status 1 if any prediction was wrong or REST's p95 was over its limit (CIFAR_LIT_P95_LIMIT_MS, default 50).
"""

import argparse
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent
START_S = 120


def wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with status {server.returncode}")
        try:
            urllib.request.urlopen(f"{url}/ready", timeout=2)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit(f"the server was not ready within {START_S} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--rate", type=int, default=5, help="users that start in a second")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--registry", default=str(ROOT / "checkpoints"))
    arguments = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "cifar_lit.cli", "serve", "--port", str(port), "--registry", arguments.registry]
    server = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_until_ready(url, server)
        options = ["-u", str(arguments.users), "-r", str(arguments.rate), "-t", f"{arguments.seconds}s"]
        locust = [sys.executable, "-m", "locust", "-f", str(ROOT / "locustfile.py"), "--headless", "--only-summary"]
        return subprocess.run([*locust, *options, "--host", url], check=False).returncode
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


if __name__ == "__main__":
    sys.exit(main())
