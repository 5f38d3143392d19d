"""A server of its own, and what is left of an increment that it never got whole: by a sender who leaves, or a kill."""

import io
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from finetuning import tree
from raw_http import Connection, connected, head
from servers import served

from cifar_lit.data import corrections
from cifar_lit.page.receive import PATH

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
PASSWORD = "open sesame"
GONE_WITHIN_S = 5.0
FORM = "Content-Type: multipart/form-data; boundary=x"
BEGIN = b'--x\r\nContent-Disposition: form-data; name="files"; filename="new.npz"\r\n\r\n'


def npz() -> bytes:
    """A sound increment of 3 MB."""
    drawn = np.random.default_rng(0)
    file = io.BytesIO()
    images = drawn.integers(0, 256, (1_000, 32, 32, 3), dtype=np.uint8)
    np.savez(file, x_new=images, y_new=drawn.integers(0, 10, 1_000))
    return file.getvalue()


def send_half(connection: Connection, content: bytes) -> None:
    length = len(BEGIN) + len(content) + len(b"\r\n--x--\r\n")
    connection.send(head(f"POST {PATH}", FORM, f"Content-Length: {length}", host="127.0.0.1"))
    connection.send(BEGIN + content[: len(content) // 2])


def files(*folders: Path) -> set[Path]:
    return {path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def coming(pid: int, folder: Path) -> bool:
    """Whether a process has a file without a name open in a folder: an upload that is on its way."""
    links = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()]
    return any(link.startswith(str(folder)) and link.endswith(" (deleted)") for link in links)


def soon(done: Callable[[], Any], within_s: float = GONE_WITHIN_S) -> bool:
    until = time.monotonic() + within_s
    while not done() and time.monotonic() < until:
        time.sleep(0.02)
    return bool(done())


@pytest.mark.slow
def test_half_an_increment_is_never_taken_for_one_and_nothing_of_it_stays(tmp_path: Path) -> None:
    gradio, teach = tmp_path / "gradio", tmp_path / "teach"
    corrections.add(
        teach / "corrections",
        np.zeros((32, 32, 3), np.uint8),
        "cat",
        said="dog",
        version="v0001",
        time="2026-01-01T00:00:00Z",
    )
    before = (tree(CHECKPOINTS), tree(teach / "corrections"))
    args = ["--registry", str(CHECKPOINTS), "--teach", str(teach)]
    env = {"GRADIO_TEMP_DIR": str(gradio), "CIFAR_LIT_PASSWORD": PASSWORD}
    content = npz()

    def unchanged() -> bool:
        return (tree(CHECKPOINTS), tree(teach / "corrections")) == before and not files(
            teach / "uploads", teach / "jobs"
        )

    with served(args, env) as (url, server):
        with connected(url) as connection:  # the sender leaves
            send_half(connection, content)
            assert soon(lambda: coming(server.pid, gradio), 20), "nothing was written"
        assert soon(lambda: not coming(server.pid, gradio))
        assert not files(gradio)
        assert unchanged()
        assert httpx.get(f"{url}/ready").status_code == 200

        whole = httpx.post(f"{url}{PATH}", files={"files": ("whole.npz", content)})
        assert Path(whole.json()[0]).read_bytes() == content
        with connected(url) as connection:  # the server is killed
            send_half(connection, content)
            assert soon(lambda: coming(server.pid, gradio), 20), "nothing was written"
            server.send_signal(signal.SIGKILL)
            server.wait(20)
        assert len(files(gradio)) == 1, "nobody was there to remove the whole one; half of one has no name"
        assert unchanged()

    with served(args, env) as (url, server):
        assert soon(lambda: not files(gradio))
        assert soon(unchanged)
        login = httpx.post(f"{url}/login", data={"password": PASSWORD})
        assert login.status_code == 303
        config = httpx.get(f"{url}/config").json()
        ids = {each["props"].get("elem_id"): each["id"] for each in config["components"]}
        (check,) = (each for each in config["dependencies"] if [ids["teach-increment"], "change"] in each["targets"])
        named = {"path": whole.json()[0], "orig_name": "whole.npz", "meta": {"_type": "gradio.FileData"}}
        order = {"data": [named, None], "fn_index": check["id"], "session_hash": "after"}
        joined = httpx.post(f"{url}/gradio_api/queue/join", json=order, cookies=login.cookies)
        assert joined.status_code == 200
        told = httpx.get(f"{url}/gradio_api/queue/data", params={"session_hash": "after"}, timeout=30).text
        assert "a file that was not uploaded here" in told
        assert unchanged()
    assert files(gradio) == set()
