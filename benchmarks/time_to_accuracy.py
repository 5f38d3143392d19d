"""Seconds until a test accuracy is reached, from the start of training and of the process.

    python benchmarks/time_to_accuracy.py --root DIR [--seeds 0 1 2 3 4] [--accelerator cpu] [CONFIG:TARGET ...]

Each seed of each config is a `cifar-lit fit` of its own, run to its end; it counts as having reached the target if the
version it makes has that test accuracy (full precision, single view, CIFAR-10 as found under --root). Training seconds
are those of all epochs with their validation; compile seconds, where a step is compiled, stand apart. From process
start includes imports, reading the images, and publishing the version. Ends with a table, and keeps all runs in
benchmarks/results/.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from train import processor

HERE = Path(__file__).parent
GOALS = ["quick:0.682", "default:0.85"]
"""What the original reached on these files, and what default.yaml reaches safely."""


def run(config: Path, root: Path, seed: int, accelerator: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cifar_lit.cli", "fit", "--config", str(config), "--data.root", str(root)]
        command += ["--seed_everything", str(seed), "--registry", f"{folder}/registry"]
        command += ["--trainer.accelerator", accelerator, "--trainer.enable_progress_bar", "false"]
        began = time.perf_counter()
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        whole = time.perf_counter() - began
        version = Path(folder, "registry/v0001")
        manifest = json.loads((version / "manifest.json").read_text())
        history = json.loads((version / "report/metrics.json").read_text())["history"]
    return {
        "seed": seed,
        "test_acc": manifest["metrics"]["test/acc"],
        "training_seconds": sum(row["seconds"] for row in history),
        "compile_seconds": manifest["training"]["compile_seconds"],
        "process_seconds": whole,
        "epochs": len(history),
        "network": manifest["network"]["name"],
        "precision": manifest["training"]["precision"],
    }


def row(config: str, target: float, runs: list[dict[str, Any]], machine: str) -> str:
    accuracies = [each["test_acc"] for each in runs]
    spread = f" +- {statistics.stdev(accuracies):.4f}" if len(runs) > 1 else ""
    reached = sum(accuracy >= target for accuracy in accuracies)
    training = [each["training_seconds"] for each in runs]
    process = statistics.median(each["process_seconds"] for each in runs)
    return (
        f"| {config} ({runs[0]['network']}, {runs[0]['epochs']} epochs) | {machine} | {target:.1%} | "
        f"{reached} of {len(runs)} | {statistics.mean(accuracies):.4f}{spread} | "
        f"{statistics.median(training):.1f} ({max(training):.1f}) | {process:.1f} | "
        f"{statistics.median(each['compile_seconds'] for each in runs):.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("goals", nargs="*", default=GOALS, metavar="CONFIG:TARGET", help=f"default: {' '.join(GOALS)}")
    parser.add_argument("--root", type=Path, required=True, help="CIFAR-10, as cifar_lit reads it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--accelerator", default="cpu", help="cpu or gpu")
    arguments = parser.parse_args()
    machine = torch.cuda.get_device_name() if arguments.accelerator == "gpu" else f"{os.cpu_count()} x {processor()}"
    table = [
        "| Config | Hardware | Target | Reached | Test accuracy | Training seconds, median (longest) "
        "| From process start | Compile seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    goals: list[dict[str, Any]] = []
    for goal in arguments.goals:
        name, target = goal.split(":")
        goals.append({"config": name, "target": float(target), "runs": []})
        for seed in arguments.seeds:
            config = HERE.parent / "configs" / f"{name}.yaml"
            goals[-1]["runs"].append(run(config, arguments.root.absolute(), seed, arguments.accelerator))
            print(goals[-1]["runs"][-1], flush=True)
        table.append(row(name, float(target), goals[-1]["runs"], machine))
        result = {
            "benchmark": "seconds to a test accuracy",
            "machine": machine,
            "torch": torch.__version__,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "goals": goals,
            "table": table,
        }
        path = HERE / "results" / f"time_to_accuracy_{arguments.accelerator}.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
    print("\n".join(table))


if __name__ == "__main__":
    main()
