"""Servers for tests: on a free port of this machine, ended with the test."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import uvicorn
import uvloop

from cifar_lit.page.app import create_app
from cifar_lit.serving.app import Options
from cifar_lit.serving.protocol import Protocol

_START_S = 120.0
_END_S = 30.0


def shipped_v0001(folder: str | Path) -> Path:
    """A registry of the shipped v0001 alone, which answers fast; made in an empty folder."""
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    shutil.copytree(Path(__file__).parent.parent / "checkpoints" / "v0001", root / "v0001")
    (root / "champion").write_text("v0001\n")
    return root


@contextlib.contextmanager
def serving(registry_root: Path, **options: Any) -> Iterator[str]:
    """The application with `Options(registry=registry_root, **options)`, on a thread; its address, with no slash."""
    app = create_app(Options(registry=registry_root, **options))
    with _free_port() as listener:
        port = listener.getsockname()[1]
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=1,
            proxy_headers=False,
        )
        server = uvicorn.Server(config)

        def serve() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(server.serve([listener]))

        thread = threading.Thread(target=serve, name="server", daemon=True)
        thread.start()
        try:
            _wait_until(lambda: server.started, lambda: not thread.is_alive(), "the server's thread ended")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(_END_S)
            assert not thread.is_alive(), "the server did not end"


@contextlib.contextmanager
def served(
    args: list[str], env: Mapping[str, str] | None = None, lines: list[str] | None = None
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`cifar-lit serve --port FREE args` in a process of its own, once it is ready; its address, and the process.

    Args:
        args: of the command, after its port.
        env: added to this process's environment.
        lines: gets those that it writes.
    """
    with _free_port() as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "cifar_lit.cli", "serve", "--port", str(port), *args]
    process = subprocess.Popen(
        command, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    url = f"http://127.0.0.1:{port}"
    lines = [] if lines is None else lines
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()), daemon=True)  # or its pipe fills up
    reader.start()

    def is_ready() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/ready").status_code == 200
        return False

    try:
        _wait_until(is_ready, lambda: process.poll() is not None, "the server ended")
        yield url, process
    except BaseException:
        sys.stderr.write("".join(lines))
        raise
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        reader.join(5)


@contextlib.contextmanager
def _free_port() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        yield listener


def _wait_until(done: Callable[[], bool], failed: Callable[[], bool], failure: str) -> None:
    until = time.monotonic() + _START_S
    while not done():
        assert not failed(), failure
        assert time.monotonic() < until, f"not ready within {_START_S:g} s"
        time.sleep(0.02)
