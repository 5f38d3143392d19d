"""Test accuracy of configs over several seeds, and the seconds until they have it.

    python benchmarks/accuracy.py CONFIG[:TARGET] ... [--seeds 0 1 2] [--root DIR] [--accelerator cpu] [--registry DIR]

CONFIG is a file, or a name in configs/. Each seed is a `cifar-lit fit` of its own, run to its end; a seed that has a
version in the registry already is not run again. Accuracy is that of the version: full precision, single view; with a
TARGET, the table tells how many seeds reached it. Training seconds are those of all epochs with their validation;
compile seconds, where a step is compiled, stand apart. From process start includes imports, reading the images, and
publishing the version. Ends with a table, and keeps all runs in benchmarks/results/accuracy_CONFIG.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from train import processor

from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version

HERE = Path(__file__).parent
TABLE = (
    "| Config | Hardware | Target | Reached | Test accuracy | Training seconds, median (longest) | From process start "
    "| Compile seconds |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def fit(config: Path, seed: int, registry: Registry, accelerator: str) -> float:
    """Seconds of the process."""
    command = [sys.executable, "-m", "cifar_lit.cli", "fit", "--config", str(config), "--seed_everything", str(seed)]
    command += ["--registry", str(registry.root), "--trainer.accelerator", accelerator]
    command += ["--trainer.enable_progress_bar", "false"]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def figures(version: Version, process_seconds: float | None) -> dict[str, Any]:
    manifest = version.manifest
    history = json.loads(version.read("report/metrics.json"))["history"]
    return {
        "seed": manifest.seed,
        "metrics": manifest.metrics,
        "network": manifest.network["name"],
        "training": manifest.training,
        "training_seconds": sum(row["seconds"] for row in history),
        "process_seconds": process_seconds,
        "data": manifest.data,
        "code": manifest.code,
        "created_at": manifest.created_at,
    }


def measure(config: Path, seeds: list[int], root: Path | None, accelerator: str) -> list[dict[str, Any]]:
    """The figures of each seed; versions are kept below `root`, or nowhere."""
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry((root or Path(folder)).absolute() / config.stem)
        seconds: dict[int | None, float] = {}
        for seed in seeds:
            if seed not in {version.manifest.seed for version in registry.versions()}:
                seconds[seed] = fit(config.absolute(), seed, registry, accelerator)
        versions = [version for version in registry.versions() if version.manifest.seed in seeds]
        return [figures(version, seconds.get(version.manifest.seed)) for version in versions]


def row(config: str, target: float | None, runs: list[dict[str, Any]], machine: str) -> str:
    accuracies = [each["metrics"]["test/acc"] for each in runs]
    spread = f" +- {statistics.stdev(accuracies):.4f}" if len(runs) > 1 else ""
    reached = "" if target is None else f"{sum(accuracy >= target for accuracy in accuracies)} of {len(runs)}"
    training = [each["training_seconds"] for each in runs]
    process = [each["process_seconds"] for each in runs if each["process_seconds"] is not None]
    return (
        f"| {config} ({runs[0]['network']}, {runs[0]['training']['epochs']} epochs) | {machine} | "
        f"{'' if target is None else f'{target:.1%}'} | {reached} | {statistics.mean(accuracies):.4f}{spread} | "
        f"{statistics.median(training):.1f} ({max(training):.1f}) | "
        f"{f'{statistics.median(process):.1f}' if process else ''} | "
        f"{statistics.median(each['training']['compile_seconds'] for each in runs):.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("goals", nargs="+", metavar="CONFIG[:TARGET]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--root", type=Path, help="CIFAR-10, as cifar_lit reads it; default: CIFAR_LIT_DATA")
    parser.add_argument("--accelerator", default="cpu", help="cpu or gpu")
    parser.add_argument("--registry", type=Path, help="keeps the versions, in a registry for each config")
    arguments = parser.parse_args()
    if arguments.root:
        os.environ["CIFAR_LIT_DATA"] = str(arguments.root.absolute())
    machine = torch.cuda.get_device_name() if arguments.accelerator == "gpu" else f"{os.cpu_count()} x {processor()}"
    table = TABLE
    for goal in arguments.goals:
        name, _, target = goal.partition(":")
        config = Path(name) if Path(name).exists() else HERE.parent / "configs" / f"{name}.yaml"
        runs = measure(config, arguments.seeds, arguments.registry, arguments.accelerator)
        accuracies = [each["metrics"]["test/acc"] for each in runs]
        result = {
            "benchmark": f"test accuracy of {config.name}, single view",
            "machine": machine,
            "mean": statistics.mean(accuracies),
            "standard_deviation": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
            "runs": runs,
        }
        (HERE / "results" / f"accuracy_{config.stem}.json").write_text(json.dumps(result, indent=2) + "\n")
        table += "\n" + row(config.stem, float(target) if target else None, runs, machine)
    print(table)


if __name__ == "__main__":
    main()
