"""What is left when a process that writes the registry is killed, or when two of them write at once."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cifar_lit.registry.manifest import About
from cifar_lit.registry.registry import Registry

FILES = {"model.safetensors": bytes(50_000), "config.yaml": b"seed: 0\n", "report/metrics.json": b"{}"}
ABOUT = About(network={}, class_names=[], mean=[], std=[], metrics={}, data={}, seed=None, code={})

# A process of its own: `python -c SCRIPT root action [number]`. It needs no torch, so it starts at once.
SCRIPT = """
import os, sys
from cifar_lit.registry.manifest import About
from cifar_lit.registry.registry import Registry

files = {"model.safetensors": bytes(50_000), "config.yaml": b"seed: 0\\n", "report/metrics.json": b"{}"}
about = About(network={}, class_names=[], mean=[], std=[], metrics={}, data={}, seed=None, code={})
registry, action = Registry(sys.argv[1]), sys.argv[2]


def die_before(number):
    left = number

    def deadly(function):
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                if function.__name__ == "write":  # a line is torn
                    function(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), 9)
            return function(*args, **kwargs)

        return call

    for name in ("fsync", "mkdir", "open", "rename", "replace", "rmdir", "unlink", "write"):
        setattr(os, name, deadly(getattr(os, name)))


if action == "publish":
    for _ in range(int(sys.argv[3])):
        registry.publish(files, about)
elif action == "forever":
    print("ready", flush=True)
    while True:
        registry.promote(registry.publish(files, about).id, "newer")
elif action == "promote":
    die_before(int(sys.argv[3]))
    registry.promote(registry.publish(files, about).id, "newer")
elif action == "reject":
    die_before(int(sys.argv[3]))
    registry.publish(files, about, status="rejected", reason="it forgets")
elif action == "rollback":
    die_before(int(sys.argv[3]))
    registry.rollback("older")
"""


def start(registry: Registry, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(registry.root), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def publish(registry: Registry, *, promote: bool = False) -> str:
    version = registry.publish(FILES, ABOUT)
    return registry.promote(version.id, "newer").id if promote else version.id


def check_after_a_crash(registry: Registry, champions: set[str], taken: set[str]) -> None:
    """Every version is whole, an allowed one is served, and the next publish takes a new id and tidies up."""
    versions = registry.ids()
    assert set(registry.verify().values()) <= {None}
    assert registry.resolve("latest").id in champions
    new = publish(registry)
    assert new not in taken | set(versions)
    assert set(os.listdir(registry.root)) == {*versions, new, "champion", "history.jsonl", ".lock"}
    assert not list(registry.root.rglob("*.tmp"))
    published = [event["id"] for event in registry.history.read() if event["event"] == "publish"]
    assert len(published) == len(set(published))
    assert {*versions, new} <= set(published)


def test_two_processes_publish_at_once(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "checkpoints")
    processes = [start(registry, "publish", 20) for _ in range(2)]
    for process in processes:
        with process:
            assert process.wait(timeout=60) == 0
    assert registry.ids() == [f"v{number:04d}" for number in range(1, 41)]
    assert set(registry.verify().values()) == {None}
    assert [event["id"] for event in registry.history.read()] == registry.ids()
    assert {event["event"] for event in registry.history.read()} == {"publish"}


@pytest.mark.parametrize(
    ("action", "champions", "last"),
    [
        ("promote", {"v0002", "v0004"}, "v0004"),
        ("reject", {"v0002"}, "v0002"),
        ("rollback", {"v0001", "v0002"}, "v0001"),
    ],
)
def test_a_kill_at_any_file_operation_leaves_the_old_state_or_the_new(
    tmp_path: Path, action: str, champions: set[str], last: str
) -> None:
    before = Registry(tmp_path / "before")
    for _ in range(2):
        publish(before, promote=True)
    shutil.rmtree(before.root / publish(before))  # v0003 was there and must not come back
    for number in itertools.count(1):
        registry = Registry(shutil.copytree(before.root, tmp_path / f"killed-{number}"))
        with start(registry, action, number) as process:
            status = process.wait(timeout=30)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        if action == "reject":  # it is never seen as anything else
            assert {each.manifest.status for each in registry.versions() if each.id == "v0004"} <= {"rejected"}
        check_after_a_crash(registry, champions, {"v0003"})
    assert number > 10
    assert registry.resolve("latest").id == last


@pytest.mark.slow
def test_kills_at_random_moments_leave_the_old_state_or_the_new(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "checkpoints")
    publish(registry, promote=True)
    chance = random.Random(0)
    taken: set[str] = set()
    for _ in range(60):
        served = int(registry.resolve("latest").id[1:])
        with start(registry, "forever") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
        ids = registry.ids()
        newer = {version_id for version_id in ids if int(version_id[1:]) >= served}
        check_after_a_crash(registry, newer, taken)
        taken |= set(registry.ids())
        for version_id in ids[:-2]:  # keeps the checks quick, and no removed id may come back
            if version_id != registry.resolve("latest").id:
                shutil.rmtree(registry.root / version_id)
    assert len(taken) > 60
