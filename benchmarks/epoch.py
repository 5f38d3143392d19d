"""Seconds an epoch of the seed recipe: `cifar-lit fit` beside plain Lightning, in one run, in turn.

    python benchmarks/epoch.py --root DIR [--rounds 2] [--epochs 3]

Each round starts both as processes of their own, one after the other. The first epoch of each process is left out (it
warms up); the rest are compared by their medians. Ends with one JSON line, and keeps it in benchmarks/results/.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytorch_lightning
import torch

HERE = Path(__file__).parent


def ours(root: Path, epochs: int, *options: str) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cifar_lit.cli", "fit", "--config", str(HERE.parent / "configs/seed.yaml")]
        command += ["--data.root", str(root), "--trainer.max_epochs", str(epochs), "--registry", f"{folder}/registry"]
        command += ["--trainer.enable_progress_bar", "false", *options]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        metrics = json.loads(Path(folder, "registry/v0001/report/metrics.json").read_text())
        return [row["seconds"] for row in metrics["history"]]


def plain(root: Path, epochs: int) -> list[float]:
    command = [sys.executable, str(HERE / "plain_lightning.py"), "--root", str(root), "--epochs", str(epochs)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])["epoch_seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="CIFAR-10, as cifar_lit reads it")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    root = arguments.root.absolute()
    runs = {
        "cifar-lit fit": lambda: ours(root, arguments.epochs),
        "cifar-lit fit, float32": lambda: ours(root, arguments.epochs, "--trainer.precision", "32-true"),
        "plain Lightning": lambda: plain(root, arguments.epochs),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            seconds[name] += run()[1:]
            print(name, [round(each, 2) for each in seconds[name]], flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "benchmark": "seed recipe, 40,000 training and 10,000 validation images, batch 64, seconds an epoch",
        "seconds": seconds,
        "median_seconds": medians,
        "ratio_to_plain": {name: median / medians["plain Lightning"] for name, median in medians.items()},
        "cpu": torch.cpu.get_capabilities().get("cpu_name", platform.processor())
        if hasattr(torch.cpu, "get_capabilities")
        else platform.processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "pytorch_lightning": pytorch_lightning.__version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (HERE / "results" / "epoch.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
