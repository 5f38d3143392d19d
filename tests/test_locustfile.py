"""The load test looks at what is inside of an answer. Locust patches sockets, so it runs in processes of its own."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from servers import served

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version

ROOT = Path(__file__).parent.parent
SHARES = {name: 0.05 for name in CLASS_NAMES} | {"cat": 0.55}
GOOD = {"filename": "a.png", "prediction": "cat", "confidence": 0.55, "probabilities": SHARES, "version": "v0001"}


def locust(url: str, *options: str, limit_ms: float = 1e6) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "locustfile.py"), "--headless", "--only-summary"]
    return subprocess.run(
        [*command, "-u", "4", "-r", "4", "-t", "6s", "--host", url, *options],
        env={**os.environ, "CIFAR_LIT_P95_LIMIT_MS": str(limit_ms)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_complaints() -> None:
    wrong = {
        "an error inside": ({"error": "no model"}, "not the ten classes"),
        "no object": (["cat"], "not an object"),
        "nine classes": ({**GOOD, "probabilities": {"cat": 1.0}}, "not the ten classes"),
        "a sum of 1.1": ({**GOOD, "probabilities": {**SHARES, "dog": 0.15}}, "probabilities sum to"),
        "another prediction": ({**GOOD, "prediction": "dog"}, "cat is the most probable"),
        "another confidence": ({**GOOD, "confidence": 0.5}, "cat is the most probable"),
        "no version": ({**GOOD, "version": None}, "names no version"),
        "another file": ({**GOOD, "filename": "b.png"}, "is about b.png"),
    }
    code = (
        "import json, sys; from locustfile import complaint; "
        "print(json.dumps([complaint(each, 'a.png') for each in json.loads(sys.argv[1])]))"
    )
    answers = [GOOD, *(answer for answer, _ in wrong.values())]
    found = subprocess.run(
        [sys.executable, "-c", code, json.dumps(answers)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    good, *complaints = json.loads(found.stdout.splitlines()[-1])
    assert good is None
    for complaint, (name, (_, expected)) in zip(complaints, wrong.items(), strict=True):
        assert expected in (complaint or ""), name


@pytest.mark.slow
def test_both_users_are_content_with_our_server_and_a_tight_limit_fails(
    registry: Registry, publish: Callable[..., Version]
) -> None:
    publish(promote=True)
    with served(["--registry", str(registry.root)]) as (url, _):
        passed = locust(url)
        assert passed.returncode == 0, passed.stdout + passed.stderr
        for name in ("REST", "page: opened", "page: upload", "page: predict"):
            assert f"{name}: " in passed.stdout, passed.stdout
        late = locust(url, "RestUser", limit_ms=0.001)
        assert late.returncode == 1
        assert "FAILED: REST's p95" in late.stdout


@pytest.mark.slow
def test_an_error_inside_of_a_200_is_a_failure() -> None:
    class Liar(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b'{"error": "Model not loaded"}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        failed = locust(f"http://127.0.0.1:{server.server_port}", "RestUser")
        server.shutdown()
    assert failed.returncode == 1
    assert "requests failed" in failed.stdout
