"""Runs every benchmark with tiny sizes, to see that it still runs. Its figures mean nothing and are not kept.

    python benchmarks/smoke.py [NAME ...]

The scripts run from a copy of this folder, with synthetic images, a tiny network in place of `configs/default.yaml` and
the numbers of `SMALLER`. What needs a program, a package or a GPU that is not here is skipped, which is said. Ends with
status 1 if any other failed or took more than `LIMIT_S`.
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torchvision.io import write_png

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data import synthetic

ROOT = Path(__file__).absolute().parent.parent
LIMIT_S = 600
RUNS = {
    "accuracy": "smoke:0.1 --seeds 0 --root data",
    "copies": "--images 20",
    "endurance": "changes overload slow --requests 100 --changes 2 --seconds 1 --sockets 4 --slow-seconds 1 --rounds 1",
    "forgetting": "--work work/forgetting --seeds 0",
    "gate": "--work work/gate --seeds 0 --each 1 --processes 1 --kinds shuffled_labels two_rare_classes",
    "generations": "--work work/generations --orders 0 --systems ours replay --steps 1",
    "heat_maps": "--data data --versions v0001 --images 2",
    "interop": "--root data --version v0001",
    "loadtest": "--users 2 --rate 2 --seconds 2",
    "photographs": "--repeats 1",
    "scale": "--sizes 500 --epochs 1",
    "serving": "--seconds 1 --rounds 1 --connections 2",
    "train": "--root data --config configs/default.yaml --rounds 1 --epochs 2",
}
SMALLER = {
    "forgetting.py": {"SIZES": '{"a": 60}'},
    "gate.py": {"NUM_MEASURED": "50"},
    "generations.py": {"NUM_STEPS, NUM_MEASURED": "10, 50"},
    "parents.py": {"HELD_BACK_OF_ALL": "80", "SEEN_OF_RARE": "20", "EPOCHS": "1"},
    "photographs.py": {"SIZES": '{"1 Mpx": (1_200, 900)}'},
    "train.py": {"GEMM_SIZE": "256"},
}
NUM_IMAGES = {"train": 4_000, "test": 1_000}


def lacking(name: str) -> str:
    """What a benchmark needs that is not here; empty if it is."""
    if name == "serving" and shutil.which("wrk") is None:
        return "needs wrk"
    if name == "serving" and importlib.util.find_spec("litserve") is None:
        return "needs litserve"
    if name == "loadtest" and importlib.util.find_spec("locust") is None:
        return "needs locust"
    before = ["git", "cat-file", "-e", "e14267a"]
    if name == "photographs" and subprocess.run(before, cwd=ROOT, stderr=subprocess.DEVNULL, check=False).returncode:
        return "needs the commit that it compares with"
    return ""


def lay_out(folder: Path) -> None:
    """A copy of the repository's folders that benchmarks read, made small."""
    for name in ("benchmarks", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("results", "carried", "__pycache__"))
    for name in (".git", "checkpoints", "cifar_lit", "docs", "locustfile.py", "tests"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "benchmarks" / "results").mkdir()
    (folder / "work").mkdir()
    tiny = (folder / "configs" / "smoke.yaml").read_text()
    for name in ("smoke", "default"):
        (folder / "configs" / f"{name}.yaml").write_text(tiny.replace("source: synthetic", "source: auto"))
    for script, numbers in SMALLER.items():
        text = (folder / "benchmarks" / script).read_text()
        for name, value in numbers.items():
            text, count = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
            assert count == 1, f"{script} has {name} {count} times"
        (folder / "benchmarks" / script).write_text(text)
    for split, num_images in NUM_IMAGES.items():
        data = synthetic.draw(split, num_images)
        for number, (image, label) in enumerate(zip(data.images, data.labels.tolist(), strict=True)):
            path = folder / "data" / split / CLASS_NAMES[label] / f"{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(image.permute(2, 0, 1), str(path))


def run(name: str, folder: Path) -> bool:
    """Whether it ended well; says so."""
    if reason := lacking(name):
        print(f"{name}: skipped, {reason}", flush=True)
        return True
    command = [sys.executable, f"benchmarks/{name}.py", *RUNS[name].split()]
    log = folder / f"{name}.log"
    began = time.monotonic()
    with log.open("wb") as output:
        environment = {**os.environ, "CIFAR_LIT_DATA": str(folder / "data"), "PYTHONPATH": str(ROOT)}
        environment |= {"CIFAR_LIT_P95_LIMIT_MS": "60000", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            status: int | str = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            status = f"{process.wait()}, stopped after {LIMIT_S} s"
    print(f"{name}: {'ok' if status == 0 else f'status {status}'}, {time.monotonic() - began:.0f} s", flush=True)
    if status != 0:
        print(log.read_text(errors="replace")[-3_000:], flush=True)
    return status == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(RUNS), metavar="NAME", help=f"default: {' '.join(RUNS)}")
    names = parser.parse_args().names
    print("gpu: skipped, `make test-slow` runs it with tiny sizes", flush=True)
    with tempfile.TemporaryDirectory() as made, ThreadPoolExecutor(2) as pool:
        folder = Path(made)
        lay_out(folder)
        return 0 if all(list(pool.map(lambda name: run(name, folder), names))) else 1


if __name__ == "__main__":
    sys.exit(main())
