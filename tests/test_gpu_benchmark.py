"""The parts of `benchmarks/gpu.py` and `gpu_once.sh` that need no GPU; `--tiny --accelerator cpu` tries the rest."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

SCRIPT = """
import itertools, os, torch
data = torch.load("cifar10/train.pt", weights_only=True)
assert data["images"].shape == (600, 32, 32, 3) and data["images"].dtype == torch.uint8, "images"
assert data["labels"].shape == (600,) and len(data["classes"]) == 10, "labels"
assert os.path.exists("cifar10/test.pt")
row = "|  {}  |  {}  |  {}  |  {}  |  {}  |  {}  |"
print("-" * 30)
print(row.format("run   ", "epoch", "train_acc", "val_acc", "tta_val_acc", "time_seconds"))
for run in itertools.chain(["warmup"], itertools.count()):
    print(row.format(str(run).rjust(6), "    0", "   0.5000", " 0.4000", "           ", "      1.0000"))
    print(row.format("      ", "    1", "   0.9000", " 0.9300", "           ", "      2.0000"))
    print(row.format("      ", " eval", "   0.9000", " 0.9300", "     0.9400", "      2.5000"))
"""

LARGER_TABLE = """
|  run     |  epoch  |  train_loss  |  train_acc  |  val_acc  |  tta_val_acc  |  total_time_seconds  |
|       0  |      0  |      1.2     |     0.5     |   0.4     |               |              5.0     |
|          |   eval  |      1.0     |     0.9     |   0.9     |     0.95      |             10.4     |
|       1  |      0  |      1.2     |     0.5     |   0.6     |               |              5.0     |
|          |   eval  |      1.0     |     0.9     |   0.6     |     0.96      |             10.6     |
"""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


def run(folder: Path, *options: str, status: int = 0) -> dict[str, Any]:
    out = folder / "gpu.json"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--tiny", "--accelerator", "cpu", "--out", str(out)]
    ended = subprocess.run([*command, *options], capture_output=True, cwd=folder, text=True)
    assert ended.returncode == status, ended.stderr
    result: dict[str, Any] = json.loads(out.read_text())
    return result


@pytest.mark.slow
def test_the_published_script_is_run_unchanged_and_ended_after_enough_seeds(tmp_path: Path) -> None:
    (tmp_path / "airbench94_muon.py").write_text(SCRIPT)
    result = run(tmp_path, "--airbench", ".", "--stages", "airbench", "airbench95")
    stage = result["stages"]["airbench"]
    assert stage["warm_up"] == {"acc_tta": 0.94, "seconds": 2.5, "acc": 0.93}
    assert (stage["num_seeds"], stage["mean_seconds"], stage["mean_acc"]) == (2, 2.5, 0.94)
    assert stage["num_train"] == 600
    assert result["summary"]["airbench"]["mean_acc"] == 0.94
    assert "airbench95.py is not in the folder" in result["stages"]["airbench95"]["skipped"]


def test_the_table_of_the_larger_scripts_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from gpu_published import finished_runs

    assert list(finished_runs(LARGER_TABLE.splitlines(), [])) == [
        ("0", {"acc_tta": 0.95, "seconds": 10.4, "acc": 0.4}),
        ("1", {"acc_tta": 0.96, "seconds": 10.6, "acc": 0.6}),
    ]


@pytest.mark.slow
def test_a_stage_that_fails_leaves_its_reason_and_the_others_their_figures(tmp_path: Path) -> None:
    (tmp_path / "airbench94_muon.py").write_text("raise SystemExit('no GPU here')")
    stages = run(tmp_path, "--airbench", ".", "--stages", "airbench", "limits", status=1)["stages"]
    assert "finished no run: no GPU here" in stages["airbench"]["error"]
    assert stages["limits"]["own_products"]


def test_what_there_is_no_time_for_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: Any
) -> None:
    monkeypatch.setattr(gpu, "stage", lambda name, *_: {"done": name, "root": None})
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--tiny", "--accelerator", "cpu", "--seconds", "34", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 0
    stages = json.loads(out.read_text())["stages"]
    assert list(stages) == ["data", *gpu.STAGES]
    late = {name for name, each in stages.items() if "s were left" in each.get("skipped", "")}
    assert late == {"fast", "plain", "accurate", "accurate_large"}
    assert stages["seed64"] == {"done": "seed64", "root": None}


def test_figures_are_written_before_the_next_stage_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: Any
) -> None:
    out = tmp_path / "gpu.json"
    seen: list[list[str]] = []

    def stage(name: str, *_: object) -> dict[str, Any]:
        seen.append(list(json.loads(out.read_text())["stages"]) if out.exists() else [])
        return {"root": None}

    monkeypatch.setattr(gpu, "stage", stage)
    arguments = ["--tiny", "--accelerator", "cpu", "--stages", "seed64", "limits", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    with pytest.raises(SystemExit):
        gpu.main()
    assert seen == [[], ["data"], ["data", "seed64"]]


def test_a_stage_that_runs_too_long_is_ended_with_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: Any
) -> None:
    (tmp_path / "gpu_stages.py").write_text(
        "import json, time\ndef main(name, settings, out):\n    open(out, 'w').write(json.dumps({'kept': 1}))\n"
        "    print('began', flush=True)\n    time.sleep(600)\n"
    )
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    began = time.monotonic()
    result = gpu.stage("slow", {}, tmp_path, 3.0)
    assert result["kept"] == 1
    assert "cut off after 3 s; began" in result["error"]
    assert time.monotonic() - began < 60


def test_a_profiler_that_fails_costs_the_profile_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_probe
    import torch

    def broken(**_: object) -> None:
        raise RuntimeError("CUPTI is busy")

    monkeypatch.setattr(gpu_probe, "profile", broken)
    monkeypatch.setattr(gpu_probe, "now", lambda device: 0.0)
    loader = MagicMock(steps_augmented=1)
    loader.__len__.return_value = 5
    trainer: Any = SimpleNamespace(
        train_dataloader=loader,
        strategy=SimpleNamespace(root_device=torch.device("cuda")),
    )
    profile = gpu_probe.KernelProfile(trainer)
    for step in range(5):
        profile.step_ended(step)
    assert profile.result["kernel_ms_a_step"] is None
    assert "CUPTI is busy" in profile.result["profile_error"]


def once(folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHON": sys.executable, "TINY": "1", "ACCELERATOR": "cpu", **variables}
    return subprocess.run(
        ["bash", str(BENCHMARKS / "gpu_once.sh")], env=environment, cwd=folder, capture_output=True, text=True
    )


def test_one_command_needs_a_folder_for_its_output(tmp_path: Path) -> None:
    ended = once(tmp_path, OUT="")
    assert ended.returncode == 2
    assert "OUT is not set. Name the folder" in ended.stderr


def test_a_smoke_run_that_fails_ends_the_command_with_its_log(tmp_path: Path) -> None:
    ended = once(tmp_path, OUT="out", ACCELERATOR="abacus")
    assert ended.returncode == 2
    assert "abacus" in ended.stdout
    assert "two epochs of configs/fast.yaml failed" in ended.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"environment.txt", "smoke.log"}
