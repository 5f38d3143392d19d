"""`cifar-lit sweep`: which runs there are, that a stopped sweep goes on, and the table. Trainings are played here by a
fake `cifar-lit fit` that publishes at once; one slow test has real ones."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import SMOKE

from cifar_lit.cli import main
from cifar_lit.errors import SettingError
from cifar_lit.registry.manifest import About
from cifar_lit.registry.registry import Registry
from cifar_lit.training import sweep as module
from cifar_lit.training.sweep import parse_axis, parse_seeds

ABOUT = About(
    network={"name": "ThreeBlockCNN", "args": {}},
    class_names=[],
    mean=[],
    std=[],
    metrics={},
    data={},
    seed=0,
    code={},
    training={"seconds": 2.0},
)


class FakeFit:
    """In place of a process of `cifar-lit fit`: publishes a version whose accuracy follows from its options."""

    calls: list[dict[str, str]] = []
    failing: set[str] = set()
    stop_before: str | None = None

    def __init__(self, command: list[str], *, stdout: Any, env: dict[str, str], **_: Any) -> None:
        assert command[:4] == [sys.executable, "-m", "cifar_lit.cli", "fit"]
        self.options = dict(re.findall(r"--([\w.]+)=(\S+)", " ".join(command)))
        self.options["gpu"] = env.get("CUDA_VISIBLE_DEVICES", "")
        self.log = stdout
        self.ended = threading.Event()

    def wait(self) -> int:
        seed = self.options["seed_everything"]
        if seed == self.stop_before:
            os.kill(os.getpid(), signal.SIGINT)
            self.ended.wait(10)
            return 130
        self.calls.append(self.options)
        if seed in self.failing:
            self.log.write(b"some line\nerror: the training diverged\n")
            self.log.flush()
            return 2
        acc = 0.5 + float(self.options.get("model.label_smoothing", 0)) + int(seed) / 100
        metrics = {"val/acc": acc, "val/loss": 1 - acc, "test/acc": acc - 0.1, "test/loss": 1.0, "test/ece": 0.1}
        Registry(self.options["registry"]).publish({"config.yaml": b"mine"}, replace(ABOUT, metrics=metrics))
        return 0

    def terminate(self) -> None:
        self.ended.set()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeFit]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module.subprocess, "Popen", FakeFit)
    FakeFit.calls, FakeFit.failing, FakeFit.stop_before = [], set(), None
    return FakeFit


GRID = ["--grid", "--model.label_smoothing=0.1,0.2"]


def sweep(*options: str) -> int:
    return main(["sweep", "--config", "mine.yaml", "--out", "out", *options])


def table() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(Path("out/table.json").read_text())
    return rows


def test_each_setting_runs_with_each_seed_and_the_best_comes_first(
    fake: type[FakeFit], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("--seeds", "0..2", *GRID, "--trainer.max_epochs=3") == 0
    ran = [(each["seed_everything"], each["model.label_smoothing"]) for each in fake.calls]
    assert ran == [(seed, value) for seed in "012" for value in ("0.1", "0.2")]
    assert {each["trainer.max_epochs"] for each in fake.calls} == {"3"}
    assert len({each["trainer.default_root_dir"] for each in fake.calls}) == 6
    assert [row["setting"] for row in table()] == [{"--model.label_smoothing": value} for value in ("0.2", "0.1")]
    assert table()[0]["val/acc"] == {"mean": pytest.approx(0.71), "sd": pytest.approx(0.01)}
    printed = capsys.readouterr().out
    line = "| --model.label_smoothing=0.2 | 0, 1, 2 | 0.7100 ± 0.0100 | 0.6100 ± 0.0100 | 1.0000 ± 0.0000 |"
    assert line in printed
    assert line in Path("out/table.md").read_text()


def test_without_a_grid_the_seeds_alone_are_compared(fake: type[FakeFit]) -> None:
    assert sweep("--seeds", "7") == 0
    assert [(row["setting"], row["seeds"], row["val/acc"]["sd"]) for row in table()] == [({}, [7], 0.0)]


def test_a_loss_is_best_when_it_is_least(fake: type[FakeFit]) -> None:
    assert sweep("--seeds", "0", *GRID, "--metric", "val/loss") == 0
    assert [row["val/loss"]["mean"] for row in table()] == pytest.approx([0.3, 0.4])


def test_a_stopped_sweep_goes_on_where_it_was(fake: type[FakeFit]) -> None:
    fake.stop_before = "1"
    assert sweep("--seeds", "0..2") == 130
    assert [each["seed_everything"] for each in fake.calls] == ["0"]
    last = Path("out/setting0_seed1/version_0/checkpoints/last.ckpt")
    last.parent.mkdir(parents=True)
    last.touch()
    fake.stop_before = None
    assert sweep("--seeds", "0..2") == 0
    assert [each["seed_everything"] for each in fake.calls] == ["0", "1", "2"]
    assert [each.get("ckpt_path") for each in fake.calls] == [None, "last", None]
    assert sweep("--seeds", "0..2") == 0
    assert len(fake.calls) == 3
    assert sweep("--seeds", "0..3") == 0
    assert [each["seed_everything"] for each in fake.calls[3:]] == ["3"]


def test_a_run_that_fails_is_told_and_tried_again(fake: type[FakeFit], capsys: pytest.CaptureFixture[str]) -> None:
    fake.failing = {"1"}
    assert sweep("--seeds", "0..2") == 1
    assert "failed: seed 1: exit status 2, error: the training diverged (out/setting0_seed1/log.txt)" in (
        capsys.readouterr().err
    )
    assert table()[0]["seeds"] == [0, 2]
    fake.failing = set()
    assert sweep("--seeds", "0..2") == 0
    assert table()[0]["seeds"] == [0, 1, 2]


def test_where_every_run_fails_there_is_one_line_and_no_table(
    fake: type[FakeFit], capsys: pytest.CaptureFixture[str]
) -> None:
    fake.failing = {"0", "1"}
    assert sweep("--seeds", "0..1") == 2
    assert "error: No run was done: seed 0: exit status 2, error: the training diverged" in capsys.readouterr().err
    assert not Path("out/table.md").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trainer.max_epochs=4"], "error: out holds a sweep with other options: "),
        (GRID, "error: out holds a sweep with other options: "),
        (["--metric", "val/auc"], "error: --metric is 'val/auc', which these runs have not measured. Expected one of"),
        (["--seeds", "4..0"], "error: --seeds is '4..0', expected FIRST..LAST"),
        (["--seed_everything=3"], "error: --seed_everything differs between the runs of a sweep."),
        (["--grid", "model.lr=0.1"], "error: --grid is 'model.lr=0.1', expected an option with its values"),
    ],
)
def test_what_can_not_be_is_one_line(
    options: list[str], words: str, fake: type[FakeFit], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep("--seeds", "0")
    assert sweep(*(options if "--seeds" in options else ["--seeds", "0", *options])) == 2
    assert words in capsys.readouterr().err
    assert len(fake.calls) == 1


def test_the_best_run_becomes_a_version_if_asked(fake: type[FakeFit], capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("--seeds", "0..2", *GRID, "--publish", "--registry", "mine") == 0
    first = Registry("mine").resolve("latest")
    assert first.manifest.metrics["val/acc"] == pytest.approx(0.72)
    assert first.read("config.yaml") == b"mine"
    assert sweep("--seeds", "0..2", *GRID, "--publish", "--registry", "mine") == 0
    assert "`cifar-lit versions promote v0002` makes it the champion." in capsys.readouterr().out
    assert Registry("mine").resolve("latest").id == "v0001"
    assert Registry("mine").verify() == {"v0001": None, "v0002": None}


def test_each_gpu_has_a_run_at_a_time(fake: type[FakeFit], monkeypatch: pytest.MonkeyPatch) -> None:
    busy: set[str] = set()
    wait = FakeFit.wait

    def exclusive(self: FakeFit) -> int:
        assert self.options["gpu"] not in busy
        busy.add(self.options["gpu"])
        time.sleep(0.02)
        busy.remove(self.options["gpu"])
        return wait(self)

    monkeypatch.setattr(FakeFit, "wait", exclusive)
    assert sweep("--seeds", "0..5", "--gpus", "1,3") == 0
    assert {each["gpu"] for each in fake.calls} == {"1", "3"}
    assert table()[0]["seeds"] == list(range(6))


@pytest.mark.parametrize(
    ("text", "seeds"), [("0..4", [0, 1, 2, 3, 4]), ("3", [3]), ("0,7,3", [0, 7, 3]), ("1,1", [1]), ("2..2", [2])]
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "4..0", "-1", "a", "1..", "1,", "0...4", "1.5"])
def test_no_seeds(text: str) -> None:
    with pytest.raises(SettingError):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("--a=0.1,0.2", ["0.1", "0.2"]),
        ("--a=x", ["x"]),
        ("--a=[0.9,0.99],[0.9,0.999]", ["[0.9,0.99]", "[0.9,0.999]"]),
        ("--a={class_path: SGD, init_args: {lr: 1}},Muon", ["{class_path: SGD, init_args: {lr: 1}}", "Muon"]),
        ("--a=b=c,d", ["b=c", "d"]),
    ],
)
def test_values_of_an_option(text: str, values: list[str]) -> None:
    assert parse_axis(text) == ("--a", values)


@pytest.mark.slow
def test_a_sweep_that_was_ended_goes_on_with_real_trainings(tmp_path: Path) -> None:
    options = ["--data.num_synthetic=200", "--trainer.max_epochs=2", "--trainer.enable_progress_bar=false"]
    command = [sys.executable, "-m", "cifar_lit.cli", "sweep", "--config", SMOKE, "--seeds", "0..1", "--out", "out"]
    process = subprocess.Popen([*command, *options], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "2 runs, 0 done before.\n"
    process.stdout.readline()  # the first is done
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    done = len(list((tmp_path / "out").glob("*/result.json")))  # the second may have ended before the signal came
    assert done in (1, 2)
    ended = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert f"2 runs, {done} done before." in ended.stdout
    assert "| as configured | 0, 1 |" in ended.stdout
