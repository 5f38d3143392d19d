"""Test accuracy of a config over several seeds, each by a `cifar-lit fit` of its own.

    CIFAR_LIT_DATA=dir python benchmarks/accuracy.py configs/default.yaml [--seeds 0 1 2] [--registry DIR]

A seed that has a version in the registry already is not run again. The figures are those of the versions' manifests:
full precision, single view. Ends with one JSON line, and keeps it in benchmarks/results/.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from cifar_lit.registry.registry import Registry

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--registry", type=Path, help="keeps the versions; a temporary folder if left out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry((arguments.registry or Path(folder, "registry")).absolute())
        for seed in arguments.seeds:
            if seed not in {version.manifest.seed for version in registry.versions()}:
                command = [sys.executable, "-m", "cifar_lit.cli", "fit", "--config", str(arguments.config.absolute())]
                environment = {**os.environ, "CIFAR_LIT_REGISTRY": str(registry.root)}
                subprocess.run([*command, "--seed_everything", str(seed)], check=True, cwd=folder, env=environment)
        manifests = [version.manifest for version in registry.versions() if version.manifest.seed in arguments.seeds]
    accuracies = [manifest.metrics["test/acc"] for manifest in manifests]
    result = {
        "benchmark": f"test accuracy of {arguments.config.name}, single view",
        "mean": statistics.mean(accuracies),
        "standard_deviation": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "runs": [
            {
                "seed": manifest.seed,
                "metrics": manifest.metrics,
                "training": manifest.training,
                "data": manifest.data,
                "code": manifest.code,
                "created_at": manifest.created_at,
            }
            for manifest in manifests
        ],
    }
    (HERE / "results" / f"accuracy_{arguments.config.stem}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: result[name] for name in ("benchmark", "mean", "standard_deviation")}))


if __name__ == "__main__":
    main()
