"""The parts of `benchmarks/gpu.py` that need no GPU; `--tiny --accelerator cpu` tries the rest."""

import json
import subprocess
import sys
import time
from pathlib import Path

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


def run(folder: Path, *options: str) -> dict:
    out = folder / "gpu.json"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--tiny", "--accelerator", "cpu", "--out", str(out)]
    subprocess.run([*command, *options], check=True, capture_output=True, cwd=folder)
    return json.loads(out.read_text())


def test_the_published_script_is_run_unchanged_and_ended_after_enough_seeds(tmp_path: Path):
    (tmp_path / "airbench94_muon.py").write_text(SCRIPT)
    result = run(tmp_path, "--airbench", "airbench94_muon.py", "--stages", "airbench")
    stage = result["stages"]["airbench"]
    assert "error" not in stage
    assert stage["warm_up"] == {"acc_tta": 0.94, "seconds": 2.5, "acc": 0.93}
    assert (stage["num_seeds"], stage["mean_seconds"], stage["mean_acc"]) == (2, 2.5, 0.94)
    assert result["summary"]["airbench"]["mean_acc"] == 0.94


def test_a_stage_that_fails_leaves_its_reason(tmp_path: Path):
    (tmp_path / "broken.py").write_text("raise SystemExit('no GPU here')")
    stages = run(tmp_path, "--airbench", "broken.py", "--stages", "airbench")["stages"]
    assert "finished no run: no GPU here" in stages["airbench"]["error"]


def test_what_there_is_no_time_for_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    monkeypatch.setattr(gpu, "stage", lambda name, *_: {"done": name})
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--tiny", "--accelerator", "cpu", "--seconds", "39", "--out", str(out)])
    gpu.main()
    stages = json.loads(out.read_text())["stages"]
    assert list(stages) == ["data", *gpu.STAGES]
    assert stages["limits"] == {"done": "limits"}
    assert {name for name, each in stages.items() if "s were left" in each.get("skipped", "")} == {"fast", "airbench"}


def test_a_stage_that_runs_too_long_is_ended_with_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

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
