"""What is left when a fine-tune is killed, wherever it is: the registry as it was, or a whole new version."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from finetuning import FASTER, QUICK, QUIET, SYNTHETIC, tree

from cifar_lit.commands.finetune import NOT_PROMOTED
from cifar_lit.data import increment, synthetic
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.weights import load_network

# A process of its own: `python -c SCRIPT root ARGUMENTS...`. Importing takes longest, so it is done once: for each line
# `SIGNAL MOMENT` it forks a child that runs the command, and sends it the signal after so many seconds, or as soon as a
# file of such a name is in the registry. It answers with the child's exit status and its seconds.
SCRIPT = """
import glob, os, signal, sys, time
import cifar_lit.commands.finetune
from cifar_lit.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background has it ignored
root = sys.argv[1]
print("ready", flush=True)
for line in sys.stdin:
    number, moment = line.split()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1), os.dup2(silence, 2)
        try:
            status = main(sys.argv[2:])
        except SystemExit as error:
            status = error.code
        os._exit(status)
    at = float(moment) if moment.replace(".", "").isdigit() else None
    sent = False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        now = glob.glob(os.path.join(root, moment)) if at is None else time.monotonic() - began > at
        if now and not sent:
            os.kill(child, int(number))
            sent = True
        time.sleep(0.0005)
    print(os.waitstatus_to_exitcode(status), time.monotonic() - began, flush=True)
"""

CHILD = "v0003"
NEVER = "10000"


def learner(parents: Path, folder: Path) -> Path:
    """A registry whose champion, v0001, has much to learn."""
    registry = Registry(shutil.copytree(parents, folder / "parents"))
    registry.promote("v0001", "for these tests")
    return registry.root


class FineTunes:
    """Runs `cifar-lit finetune --from v0001` again and again in a registry that is put back before each run."""

    def __init__(self, parents: Path, folder: Path) -> None:
        self.parents = learner(parents, folder)
        self.registry = Registry(folder / "checkpoints")
        increment.write(folder / "a.npz", synthetic.draw("train", 1_000).subset(torch.arange(700, 760)))
        arguments = ["finetune", "--from", "v0001", "--data.increments", "a.npz", *SYNTHETIC, *QUIET, *QUICK, *FASTER]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(self.registry.root), *arguments],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith(("PL_", "CIFAR_LIT_"))},
        )
        assert self._line() == "ready"

    def run(self, moment: str = NEVER, number: int = signal.SIGKILL, *, again: bool = False) -> tuple[int, float]:
        """Exit status and seconds."""
        if not again:
            shutil.rmtree(self.registry.root, ignore_errors=True)
            shutil.copytree(self.parents, self.registry.root)
        assert self.process.stdin is not None
        print(int(number), moment, file=self.process.stdin, flush=True)
        status, seconds = self._line().split()
        return int(status), float(seconds)

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture
def finetunes(parents: Path, tmp_path: Path) -> Iterator[FineTunes]:
    runs = FineTunes(parents, tmp_path)
    with runs.process:
        yield runs
        assert runs.process.stdin is not None
        runs.process.stdin.close()


def weights(registry: Registry, version_id: str) -> str:
    return registry.get(version_id).manifest.files["model.safetensors"]


def check_after_a_kill(runs: FineTunes) -> None:
    """Every version is whole, and an allowed one is served."""
    registry = runs.registry
    assert set(registry.ids()) in ({"v0001", "v0002"}, {"v0001", "v0002", CHILD})
    assert set(registry.verify().values()) == {None}
    champion = registry.resolve("latest")
    assert champion.id in {"v0001", CHILD}
    assert champion.manifest.status == "promoted"
    load_network(champion)
    before, now = tree(runs.parents), tree(registry.root)
    assert {name: now[name] for name in before if name.startswith("v")} == {
        name: digest for name, digest in before.items() if name.startswith("v")
    }
    if CHILD not in registry.ids():
        assert {name: now[name] for name in before} == before


def check_another_run(runs: FineTunes, expected: str) -> None:
    """It makes the version, and tidies up what the killed one left."""
    had = set(runs.registry.ids())
    status, _ = runs.run(again=True)
    assert status in (0, NOT_PROMOTED)  # beside a champion that learned the same already
    (new,) = set(runs.registry.ids()) - had
    assert weights(runs.registry, new) == expected
    assert set(runs.registry.verify().values()) == {None}
    assert set(os.listdir(runs.registry.root)) == {*had, new, "champion", "history.jsonl", ".lock", "increments"}
    assert len(runs.registry.increments.sizes()) == 1


@pytest.mark.slow
def test_a_fine_tune_killed_at_any_moment_leaves_the_registry_as_it_was_and_can_be_run_again(
    finetunes: FineTunes,
) -> None:
    status, seconds = finetunes.run()
    assert (status, finetunes.registry.resolve("latest").id) == (0, CHILD)
    expected = weights(finetunes.registry, CHILD)
    moments = [f"{seconds * share:.3f}" for share in (0.05, 0.3, 0.55, 0.8)]
    killed = 0
    for moment in [*moments, ".staging-*", ".staging-*/report", ".staging-*/manifest.json", CHILD]:
        status, _ = finetunes.run(moment)
        assert status in (-signal.SIGKILL, 0), moment  # 0: on a busy machine it may have been quicker
        killed += status == -signal.SIGKILL
        check_after_a_kill(finetunes)
    assert killed >= 4
    check_another_run(finetunes, expected)


@pytest.mark.slow
def test_ctrl_c_ends_a_fine_tune_without_a_version(finetunes: FineTunes) -> None:
    _, seconds = finetunes.run()
    moment, stopped = 0.7 * seconds, 0
    for _ in range(6):
        status, _ = finetunes.run(f"{moment:.3f}", signal.SIGINT)
        if status == 0:  # it was quicker, and has made its version
            assert finetunes.registry.verify() == {"v0001": None, "v0002": None, CHILD: None}
            moment *= 0.7
            continue
        assert status == 130
        now = tree(finetunes.registry.root)
        assert {name: digest for name, digest in now.items() if not name.startswith("increments")} == tree(
            finetunes.parents
        )
        stopped += 1
    assert stopped >= 2


@pytest.mark.slow
def test_two_fine_tunes_at_once_make_two_whole_versions(parents: Path, tmp_path: Path) -> None:
    shutil.copytree(learner(parents, tmp_path), tmp_path / "checkpoints")
    increment.write(tmp_path / "a.npz", synthetic.draw("train", 1_000).subset(torch.arange(700, 760)))
    command = [
        sys.executable,
        "-m",
        "cifar_lit.cli",
        "finetune",
        "--data.increments",
        "a.npz",
        *SYNTHETIC,
        *QUIET,
        *QUICK,
    ]
    command += [*SYNTHETIC, *QUIET, *QUICK, *FASTER]
    processes = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in "ab"
    ]
    for process in processes:
        printed, _ = process.communicate(timeout=120)
        assert process.returncode in (0, NOT_PROMOTED), printed
    registry = Registry(tmp_path / "checkpoints")
    assert registry.ids() == ["v0001", "v0002", "v0003", "v0004"]
    assert set(registry.verify().values()) == {None}
    assert "promoted" in {registry.get(each).manifest.status for each in ("v0003", "v0004")}


@pytest.mark.slow
def test_kills_at_random_moments_leave_the_old_state_or_the_new(finetunes: FineTunes) -> None:
    seconds = min(finetunes.run()[1] for _ in range(3))
    expected = weights(finetunes.registry, CHILD)
    chance = random.Random(0)
    killed = 0
    for number in range(60):
        # Half of them in the last fifth, where a version is written.
        share = chance.uniform(0, 1) if number % 2 else chance.uniform(0.8, 1.05)
        status, _ = finetunes.run(f"{seconds * share:.4f}")
        killed += status == -signal.SIGKILL
        check_after_a_kill(finetunes)
        if number % 10 == 0:
            time.sleep(0.1)
            check_another_run(finetunes, expected)
    assert killed > 30
