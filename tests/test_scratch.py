"""The folder of a server for what is temporary: its own, swept by age, and removed by the next one."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cifar_lit.errors import SettingError
from cifar_lit.page import scratch as module
from cifar_lit.page.scratch import VARIABLE, scratch

OTHER = """
import time
from cifar_lit.page.scratch import scratch
with scratch() as folder:
    (folder / "upload").mkdir()
    (folder / "upload" / "half").write_bytes(b"half")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path / "cifar_lit"


def soon(done: Callable[[], bool]) -> bool:
    until = time.monotonic() + 5
    while not done() and time.monotonic() < until:
        time.sleep(0.02)
    return done()


def test_a_server_has_a_folder_of_its_own_as_long_as_it_lives(base: Path) -> None:
    elsewhere = tempfile.gettempdir()
    with scratch() as folder:
        assert os.environ[VARIABLE] == tempfile.gettempdir() == str(folder)
        assert folder.parent == base
        (folder / "upload").mkdir()
    assert not folder.exists()
    assert os.environ[VARIABLE] == str(base.parent)
    assert tempfile.gettempdir() == elsewhere


def test_folders_of_servers_that_live_are_left_alone_and_the_others_are_removed(base: Path) -> None:
    command = [sys.executable, "-c", OTHER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        try:
            module._remove_abandoned(base)
            assert (theirs / "upload" / "half").is_file()
        finally:
            other.send_signal(signal.SIGKILL)
    assert (theirs / "upload" / "half").is_file(), "nobody was there to remove it"
    with scratch() as ours:
        assert soon(lambda: not theirs.exists())
        assert ours.is_dir()


def test_what_is_old_is_swept_while_the_server_runs(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SWEEP_S", 0.05)
    with scratch() as folder:
        for name in ("old", "new"):
            (folder / name).mkdir()
            (folder / name / "file").write_bytes(b"hello")
        os.utime(folder / "old", (0, 0))
        assert soon(lambda: not (folder / "old").exists())
        assert (folder / "new" / "file").is_file()


def test_the_end_does_not_wait_for_deletion(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(module, "_END_S", 0.05)
    monkeypatch.setattr(module.shutil, "rmtree", lambda *args, **options: never.wait(20))
    with scratch() as folder:
        pass
    assert folder.is_dir()
    never.set()


def test_a_folder_that_can_not_be_written_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    with pytest.raises(SettingError, match=f"can't be written .* Name another folder in {VARIABLE}"), scratch():
        pass
