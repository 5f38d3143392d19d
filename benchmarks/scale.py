"""What an epoch costs, and what memory a fit takes, as images become more: `cifar-lit fit` on 10k, 50k and 500k.

    python benchmarks/scale.py [--sizes 10000 50000 500000] [--epochs 2]

Each size is a process of its own: configs/smoke.yaml's small network, synthetic images, batches of 1,000. The peak is
VmHWM of that process when the version is published. Arithmetic: there are as many test images as training images, and
each is 3,072 bytes and a label of 8; everything else is what a fit of 5,000 images takes. Ends with one JSON line, and
keeps it in benchmarks/results/.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
from train import processor

HERE = Path(__file__).absolute().parent
IMAGE_BYTES = 3072 + 8
BASE = 5_000

CODE = """
import json, sys
from cifar_lit.cli import main
status = main(sys.argv[2:])
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
with open(sys.argv[1], "w") as file:
    json.dump({"peak_bytes": peak}, file)
sys.exit(status)
"""


def measure(num_images: int, epochs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        options = ["fit", "--config", str(HERE.parent / "configs/smoke.yaml"), "--registry", f"{folder}/registry"]
        options += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
        options += ["--data.num_synthetic", str(num_images), "--data.batch_size", "1000"]
        options += ["--data.eval_batch_size", "1000", "--trainer.max_epochs", str(epochs)]
        began = time.perf_counter()
        out = Path(folder, "peak.json")
        subprocess.run([sys.executable, "-c", CODE, str(out), *options], check=True, cwd=folder, stdout=sys.stderr)
        whole = time.perf_counter() - began
        history = json.loads(Path(folder, "registry/v0001/report/metrics.json").read_text())["history"]
        last = history[-1]
        return {
            "num_images": num_images,
            "trained_on": last["images"],
            "epoch_seconds": last["seconds"],
            "microseconds_an_image": last["seconds"] / last["images"] * 1e6,
            "whole_seconds": whole,
            **json.loads(out.read_text()),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 50_000, 500_000])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "scale.json")
    arguments = parser.parse_args()
    base = measure(BASE, arguments.epochs)
    rows = []
    for size in arguments.sizes:
        row = measure(size, arguments.epochs)
        expected = base["peak_bytes"] + 2 * (size - BASE) * IMAGE_BYTES
        rows.append({**row, "expected_bytes": expected, "peak_over_expected": row["peak_bytes"] / expected})
        print(json.dumps(rows[-1]), flush=True)
    result = {
        "benchmark": "cifar-lit fit, smoke.yaml's network, synthetic images, batch 1,000, an epoch with validation",
        "base": base,
        "sizes": rows,
        "cpu": processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "pytorch_lightning": pytorch_lightning.__version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
