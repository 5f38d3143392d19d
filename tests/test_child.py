import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from finetuning import QUICK, QUIET, SYNTHETIC

from cifar_lit.data import increment, synthetic
from cifar_lit.feedback import child


def in_group(group: int) -> set[int]:
    """Processes of a group that are alive."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, own_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(own_group) == group and state != "Z":
            found.add(int(stat.parent.name))
    return found


def wait_until_gone(group: int) -> None:
    deadline = time.monotonic() + 30
    while in_group(group) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert in_group(group) == set()


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shell script in the place of Python: it tells its process, and starts another one."""
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nsleep 600 &\necho $$ >&2\nwait\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return script


@pytest.mark.parametrize("ending", ["cancelled", "too late"])
def test_a_command_that_is_ended_takes_its_group_along(ending: str, interpreter: Path) -> None:
    told: list[str] = []

    async def test() -> None:
        timeout_s = 1.0 if ending == "too late" else None
        running = asyncio.create_task(child.run([], nice=0, on_line=told.append, timeout_s=timeout_s))
        async with asyncio.timeout(60):
            while not told:
                await asyncio.sleep(0.01)
            assert len(in_group(int(told[0]))) == 2
            if ending == "cancelled":
                running.cancel()
            with pytest.raises(TimeoutError if ending == "too late" else asyncio.CancelledError):
                await running

    asyncio.run(test())
    wait_until_gone(int(told[0]))


def test_a_command_gives_its_status_its_output_and_its_lines() -> None:
    told: list[str] = []
    ended = asyncio.run(child.run(["--version"], nice=0, on_line=told.append))
    assert (ended.status, told) == (0, [])
    assert ended.output.startswith(b"cifar-lit ")
    ended = asyncio.run(child.run(["versions", "show", "v0001", "--registry", "/none"], nice=0, on_line=told.append))
    assert (ended.status, ended.output) == (2, b"")
    assert told[0].startswith("error: no version 'v0001'")


def test_lines_are_split_wherever_they_were_cut_and_a_long_one_is_shortened() -> None:
    async def lines(*chunks: bytes) -> list[str]:
        stream = asyncio.StreamReader(limit=2**24)
        for chunk in chunks:
            stream.feed_data(chunk)
        stream.feed_eof()
        return [line async for line in child._lines(stream)]

    assert asyncio.run(lines(b"one\ntw", b"o\n\xff\nend")) == ["one", "two", "\N{REPLACEMENT CHARACTER}", "end"]
    (long,) = asyncio.run(lines(b"x" * 200_000))
    assert len(long) == 64 * 1024


SERVER = """
import asyncio, sys
from cifar_lit.feedback import child

asyncio.run(child.run(sys.argv[1:], nice=0, on_line=lambda line: print(line, flush=True)))
"""


def test_a_silent_command_ends_with_the_process_that_began_it(parents: Path, tmp_path: Path) -> None:
    shutil.copytree(parents, tmp_path / "checkpoints")
    increment.write(tmp_path / "a.npz", synthetic.draw("train", 1_000).subset(torch.arange(700, 760)))
    command = [sys.executable, "-c", SERVER, "finetune", *SYNTHETIC, *QUIET, *QUICK, "--trainer.max_epochs", "1000000"]
    command += ["--registry", str(tmp_path / "checkpoints"), "--data.increments", str(tmp_path / "a.npz")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert any("train_dataloader" in line for line in server.stdout)  # the last line before it learns
        (began,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        assert os.getpgid(int(began)) == int(began)
        server.send_signal(signal.SIGKILL)
    wait_until_gone(int(began))
