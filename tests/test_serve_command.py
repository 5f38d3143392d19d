import json
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hostile_images import HOSTILE, PNG, content_of
from raw_http import connected, head
from servers import served

from cifar_lit.cli import main
from cifar_lit.commands import serve
from cifar_lit.serving.app import Options

CHECKPOINTS = str(Path(__file__).parent.parent / "checkpoints")
END_S = 20


@pytest.fixture
def _quiet_log() -> Iterator[None]:
    """The command sets up the log of its process, which is here the tests'."""
    loggers = [logging.getLogger(name) for name in ("cifar_lit", "cifar_lit.access")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def family(pid: int) -> set[int]:
    """A process and all that stem from it."""
    parents: dict[int, int] = {}
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            with suppress(OSError):
                parents[int(each.name)] = int((each / "stat").read_text().rsplit(")", 1)[1].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def all_gone(pids: set[int]) -> bool:
    until = time.monotonic() + END_S
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(is_running, pids))


def resident_bytes(pids: set[int]) -> int:
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def can_be_listened_on(url: str) -> bool:
    with suppress(OSError), socket.create_server(("127.0.0.1", urlsplit(url).port or 0)):
        return True
    return False


def open_event_stream(url: str, opened: threading.Event) -> None:
    """As an open page does; ends when the server does."""
    address = f"{url}/gradio_api/heartbeat/tests"
    with suppress(httpx.TransportError), httpx.stream("GET", address, timeout=60) as stream:
        assert stream.status_code == 200
        for _ in stream.iter_raw():
            opened.set()


def test_a_server_goes_back_to_what_it_was_and_ends_as_it_is_told() -> None:
    files = [content_of(case) for case, _ in HOSTILE.values()]
    with served(["--registry", CHECKPOINTS]) as (url, process):
        pids, sizes = family(process.pid), []
        assert len(pids) == 4, "the server, two decode workers and a spare"
        with httpx.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(4) as pool:

            def ask(data: bytes) -> int:
                return client.post("/predict", content=data).status_code

            for _ in range(3):
                assert all(400 <= status < 500 for status in pool.map(ask, files))
                assert set(pool.map(ask, [PNG] * 50)) == {200}
                sizes.append(resident_bytes(family(process.pid)))
            assert sizes[2] - sizes[0] < 32 * 2**20, sizes
            assert len(family(process.pid)) == 4
        pids = family(process.pid)

        opened = threading.Event()
        streaming = threading.Thread(target=open_event_stream, args=(url, opened))
        streaming.start()
        assert opened.wait(END_S)
        with connected(url) as idle, connected(url) as silent, connected(url) as half_sent:
            idle.send(head("POST /predict", f"Content-Length: {len(PNG)}") + PNG)
            assert idle.reply().status == 200
            half_sent.send(head("POST /predict", f"Content-Length: {len(PNG)}") + PNG[:-1])
            time.sleep(0.3)  # until the server has taken it
            process.send_signal(signal.SIGTERM)
            assert idle.is_closed_by_server()
            assert silent.is_closed_by_server()
            with pytest.raises(ConnectionRefusedError), connected(url):
                pass
            half_sent.send(PNG[-1:])
            assert half_sent.reply().status == 200
        assert process.wait(END_S) == 0
        streaming.join(END_S)
        assert not streaming.is_alive()
        assert all_gone(pids)
        assert can_be_listened_on(url)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_what_was_asked_before_a_signal_is_answered(sent: signal.Signals) -> None:
    with served(["--registry", CHECKPOINTS, "--no-page"]) as (url, process):
        pids = family(process.pid)
        connections = []
        for _ in range(60):
            with connected(url) as connection:
                connections.append(connection)
                connection.socket = connection.socket.dup()
        for connection in connections:
            connection.send(head("POST /predict", f"Content-Length: {len(PNG)}") + PNG[:-1])
        time.sleep(0.5)
        for connection in connections:
            connection.send(PNG[-1:])
        process.send_signal(sent)
        for connection in connections:
            with connection.socket:
                assert connection.reply().status == 200
        assert process.wait(END_S) == 0
        assert all_gone(pids)


@pytest.mark.slow
def test_a_server_that_is_killed_leaves_no_process_behind() -> None:
    with served(["--registry", CHECKPOINTS, "--no-page"]) as (url, process):
        pids = family(process.pid)
        assert len(pids) == 4
        process.kill()
        assert process.wait(END_S) == -signal.SIGKILL
        assert all_gone(pids)
        assert can_be_listened_on(url)


@pytest.mark.slow
def test_keys_and_hosts_are_set_from_outside() -> None:
    args = ["--registry", CHECKPOINTS, "--no-page", "--allowed-hosts", "example.org"]
    with served(args, env={"CIFAR_LIT_API_KEYS": "first, second"}) as (url, _):
        assert httpx.post(f"{url}/predict", content=PNG).status_code == 401
        assert httpx.post(f"{url}/predict", content=PNG, headers={"X-API-Key": "second"}).status_code == 200
        assert httpx.get(f"{url}/health", headers={"Host": "example.org"}).status_code == 200
        assert httpx.get(f"{url}/health", headers={"Host": "example.com"}).status_code == 400
        assert httpx.get(f"{url}/").status_code == 404


@pytest.mark.usefixtures("_quiet_log")
def test_a_port_that_is_taken_is_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--no-page", "--registry", CHECKPOINTS, "--port", str(port)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert f"127.0.0.1:{port} can't be listened on" in line
    assert line.endswith("Name another --port, or another --host.")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "anybody who reaches port 80, by any name, may have images classified by the page and REST"),
        ({"api_keys": {"x"}}, "whoever has an API key may have images classified by REST"),
        ({"api_keys": {"x"}, "public_page": True}, "anybody who reaches port 80, by any name, .* by the page;"),
        ({"has_page": False}, "anybody who reaches port 80, by any name, may have images classified by REST;"),
    ],
)
def test_a_server_that_is_open_to_others_says_who_may_do_what(options: dict[str, Any], told: str) -> None:
    has_page = options.pop("has_page", True)
    line = serve._who_may(Options(**options), 80, has_page=has_page)
    assert re.search(told, line)
    assert "nobody may teach or choose the version (CIFAR_LIT_PASSWORD is not set" in line
    assert "\n" not in line


@pytest.mark.slow
def test_it_believes_the_proxies_that_are_named_and_logs_as_it_is_told(tmp_path: Path) -> None:
    forged = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    for proxy, client in (([], "127.0.0.1"), (["--proxy", "127.0.0.1"], "192.0.2.7")):
        args = ["--registry", CHECKPOINTS, "--no-page", "--access-log", "--log-json", *proxy]
        lines: list[str] = []
        with served(args, lines=lines) as (url, _):
            assert httpx.get(f"{url}/health", headers=forged).status_code == 200
        messages = [json.loads(line)["message"] for line in lines if line.startswith("{")]
        assert any(each.startswith(f"{client} GET /health 200") for each in messages)


@pytest.mark.parametrize("args", [["--port", "x"], ["--prot", "1"], ["--allowed-hosts"]])
def test_an_option_that_makes_no_sense_ends_it(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", *args])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: cifar-lit serve")


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: cifar-lit serve")
    assert "Serve the page and REST from the champion" in text
    options = set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", text, re.MULTILINE))
    assert {"--host", "--port", "--allowed-hosts", "--no-page", "--access-log", "--registry"} <= options
    for option in options - {"--help"}:
        described = re.search(rf"^  {option}[^\n]*?(?:  |\n +)(\S.{{10,}})", text, re.MULTILINE)
        assert described, option
    assert "7860" in text
    assert "CIFAR_LIT_API_KEYS" in text
    assert max(map(len, text.splitlines())) <= 120
