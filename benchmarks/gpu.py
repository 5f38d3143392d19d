"""Everything that is said about one GPU, in one call of under nine minutes.

    python benchmarks/gpu.py --root DIR|ARCHIVE [--airbench airbench94_muon.py] [--seeds 20] [--seconds 520]
    python benchmarks/gpu.py --tiny --accelerator cpu          # tries all of it on drawn images, for nothing but errors

Needs an environment in which `cifar-lit fit` runs: torch, torchvision, pytorch-lightning, torchmetrics, safetensors,
matplotlib, tensorboard and jsonargparse[signatures] (with docstring-parser and typeshed-client); for Triton, a C
compiler. The repository need not be installed. `--root` may be a tar archive with one folder, the data set.
`--stages fast kernels --mode max-autotune --out FILE` is worth a second call.

Stages, each a process of its own with a limit, the dearest last. What is done is in the JSON at once, so a call that is
cut off keeps it; a stage that fails leaves its error there.

- limits: a large product in bfloat16 and in float32 (TF32), and the products of each network at its own shapes.
- seed64, seed1024: epochs of the seed recipe by `cifar-lit fit`, with and without CUDA graphs; beside each a bare loop
  with the same pieces, its parts, and how long kernels run in it (torch.profiler).
- fast: `cifar-lit fit` with configs/fast.yaml over many seeds; airbench: its published script over as many, on the same
  pixels. Neither time has compiling in it, nor validation after each epoch; both have the whitening layer and the
  answers to the test images with the same test-time augmentation. `whole_seconds` is all of a fit's training.
- reach: `cifar-lit fit` with seed, quick, default and fast.yaml from the start of a process: seconds to an accuracy.
- plain: plain Lightning with torchvision's transforms.
- kernels: a step on one batch, eager, compiled and as CUDA graphs, in each precision and memory format.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).absolute().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

STAGES = {  # name: (least seconds worth beginning it with, most seconds)
    "limits": (15, 60),
    "seed64": (25, 90),
    "seed1024": (20, 75),
    "fast": (40, 170),
    "airbench": (60, 150),
    "reach": (30, 110),
    "plain": (35, 80),
    "kernels": (20, 250),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="CIFAR-10 as cifar_lit reads it, or a tar archive of it")
    parser.add_argument("--accelerator", default="gpu", choices=["gpu", "cpu"])
    parser.add_argument("--airbench", type=Path, help="the published airbench94_muon.py")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument(
        "--mode", default=None, help="of compiling configs/fast.yaml on a GPU; default: reduce-overhead"
    )
    parser.add_argument("--seconds", type=float, default=520.0, help="for all stages together")
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--tiny", action="store_true", help="drawn images, tiny sizes")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu.json")
    arguments = parser.parse_args()
    if not (arguments.root or arguments.tiny):
        parser.error("--root is needed, or --tiny")
    deadline = time.monotonic() + arguments.seconds
    with tempfile.TemporaryDirectory(prefix="gpu-benchmark-") as folder:
        run(arguments, Path(folder), deadline)


def run(arguments: argparse.Namespace, folder: Path, deadline: float) -> None:
    result = about(arguments)
    stages: dict[str, Any] = result["stages"]
    root = unpacked(arguments.root, folder) if arguments.root else None
    settings = {
        "root": str(root) if root else None,
        "accelerator": arguments.accelerator,
        "airbench": str(arguments.airbench.absolute()) if arguments.airbench else None,
        "seeds": 2 if arguments.tiny else arguments.seeds,
        "mode": arguments.mode or ("reduce-overhead" if arguments.accelerator == "gpu" else None),
        "tiny": arguments.tiny,
        "folder": str(folder),
    }
    for name in ["data", *arguments.stages]:
        least, most = STAGES.get(name, (0, 90))
        left = deadline - time.monotonic()
        if left < least or (name == "airbench" and not arguments.airbench):
            stages[name] = {"skipped": "no script was given" if left >= least else f"{left:.0f} s were left"}
        else:
            stages[name] = stage(name, settings, folder, min(left, most if arguments.accelerator == "gpu" else left))
        result["summary"] = summary(stages)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
        print(name, json.dumps(stages[name])[:600], flush=True)
        if name == "data" and "error" in stages[name]:
            break
    print(json.dumps(result["summary"]))


def stage(name: str, settings: dict[str, Any], folder: Path, limit_s: float) -> dict[str, Any]:
    """Runs one stage in a process of its own; what it wrote before it failed or ran out of time counts."""
    out, log, began = folder / f"{name}.json", folder / f"{name}.log", time.monotonic()
    code = "import sys, json, gpu_stages; gpu_stages.main(*sys.argv[1:4])"
    command = [sys.executable, "-c", code, name, json.dumps({**settings, "limit_s": limit_s}), str(out)]
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    with log.open("w") as lines:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=lines, stderr=lines, start_new_session=True
        )
        try:
            code = process.wait(limit_s)
            error = f"exit status {code}" if code else None
        except subprocess.TimeoutExpired:
            error = f"cut off after {limit_s:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)  # with the processes that compile
                process.wait()
    result = json.loads(out.read_text()) if out.exists() else {}
    result["stage_seconds"] = round(time.monotonic() - began, 1)
    if error is not None:
        result["error"] = f"{error}; {' | '.join(log.read_text(errors='replace').splitlines()[-6:])[-800:]}"
    return result


def unpacked(root: Path, folder: Path) -> Path:
    if root.is_dir():
        return root.absolute()
    with tarfile.open(root) as archive:
        archive.extractall(folder / "data", filter="data")
    (inside,) = (folder / "data").iterdir()
    return inside


def about(arguments: argparse.Namespace) -> dict[str, Any]:
    import pytorch_lightning
    import torch
    from train import processor

    gpu = arguments.accelerator == "gpu"
    return {
        "benchmark": "one GPU" if gpu else "a trial without a GPU: no figure in it means anything",
        "machine": torch.cuda.get_device_name() if gpu else processor(),
        "cores": os.cpu_count(),
        "data": "drawn" if arguments.tiny else arguments.root.name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "pytorch_lightning": pytorch_lightning.__version__,
        "python": platform.python_version(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "stages": {},
    }


def summary(stages: dict[str, Any]) -> dict[str, Any]:
    """The figures that were asked for, of the stages there are."""
    found: dict[str, Any] = {}
    for name in ("seed64", "seed1024"):
        for way, figures in stages.get(name, {}).get("ways", {}).items():
            if "train_seconds" in figures:
                found[f"{name}, {way}"] = {
                    each: figures[each]
                    for each in (
                        "train_seconds",
                        "epoch_seconds",
                        "images_a_second",
                        "lightning_share",
                        "not_in_kernels",
                    )
                    if each in figures
                }
    fast, airbench = stages.get("fast", {}), stages.get("airbench", {})
    if "mean_seconds" in fast:
        found["fast"] = {each: fast[each] for each in ("num_seeds", "mean_seconds", "mean_acc", "std_acc")}
    if "mean_seconds" in airbench:
        found["airbench"] = {each: airbench[each] for each in ("num_seeds", "mean_seconds", "mean_acc", "std_acc")}
        if "mean_seconds" in fast:
            found["fast_over_airbench"] = fast["mean_seconds"] / airbench["mean_seconds"]
    if "epoch_seconds" in stages.get("plain", {}):
        found["plain_epoch_seconds"] = stages["plain"]["epoch_seconds"]
    found["reach"] = {name: each.get("reached") for name, each in stages.get("reach", {}).get("fits", {}).items()}
    return found


if __name__ == "__main__":
    main()
