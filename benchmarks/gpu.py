"""Every figure of one GPU, in one call of under eight minutes; `gpu_once.sh` makes it where little is installed.

    python benchmarks/gpu.py --root DIR|ARCHIVE [--airbench FOLDER] [--seeds 20] [--seconds 440] [--out FILE]
    python benchmarks/gpu.py --tiny --accelerator cpu    # tries all of it on synthetic images; no figure means anything

Needs an environment in which `cifar-lit fit` runs: torch, torchvision, pytorch-lightning, torchmetrics, safetensors,
matplotlib, tensorboard and jsonargparse[signatures]; for Triton, a C compiler. The repository need not be installed.
`--root` may be a tar archive with one folder, the data set. `--airbench` is a folder with airbench's published scripts
(airbench94_muon.py, airbench95.py, airbench96.py). `--stages accurate airbench95 --out FILE` makes a second call.

Stages, in this order, each a process with a time limit of its own. The file is written after each stage, with what a
failed stage had measured and its error; the exit status is 1 if a stage failed.

- data: unpacks and reads the images.
- seed64, seed1024: epochs of the seed recipe by `cifar-lit fit`: eager, as one graph of the whole step, and with
  torch.compile's CUDA graphs; beside each a bare loop with the same pieces, its parts, and how long kernels run in a
  step (torch.profiler).
- fast: configs/fast.yaml by `cifar-lit fit` over many seeds. airbench: the published airbench94_muon.py over as many.
  Both have the same 50,000 images in batches of 2,000 and the same compile mode. Both times include the whitening layer
  and classifying the test images with test-time augmentation, which is compiled too; they exclude compiling and what
  lies between two epochs. `whole_seconds` is all of a fit's training.
- fast_step_graph: fast.yaml with the whole step in one CUDA graph.
- reach: `cifar-lit fit` with fast, seed, quick and default.yaml from the start of a process: seconds to an accuracy.
- limits: a large product in bfloat16 and in float32 (TF32), and the products of each network at its own shapes.
- kernels: a step on one batch, eager, compiled and as CUDA graphs, in each precision and memory format.
- plain: plain Lightning with torchvision's transforms.
- accurate, airbench95, accurate_large, airbench96: the larger recipes beside the published scripts, as fast is.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).absolute().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

STAGES = {  # name: (least seconds worth beginning it with, most seconds)
    "seed64": (25, 90),
    "seed1024": (20, 60),
    "fast": (40, 170),
    "airbench": (60, 260),
    "fast_step_graph": (35, 80),
    "reach": (30, 110),
    "limits": (15, 40),
    "kernels": (20, 150),
    "plain": (35, 80),
    "accurate": (35, 120),
    "airbench95": (25, 90),
    "accurate_large": (60, 240),
    "airbench96": (45, 150),
}
_DATA_S = 90
_GPU_ONLY = {"fast_step_graph": "CUDA graphs exist only on a GPU"}
_TEST_IMAGES = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="CIFAR-10 as cifar_lit reads it, or a tar archive of it")
    parser.add_argument("--accelerator", default="gpu", choices=["gpu", "cpu"])
    parser.add_argument("--airbench", type=Path, help="folder with airbench's published scripts")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument(
        "--mode", default=None, help="of compiling configs/fast.yaml; default on a GPU: max-autotune, as airbench's"
    )
    parser.add_argument("--seconds", type=float, default=440.0, help="for all stages together")
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--tiny", action="store_true", help="synthetic images, tiny sizes")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu.json")
    arguments = parser.parse_args()
    if not (arguments.root or arguments.tiny):
        parser.error("--root is needed, or --tiny")
    deadline = time.monotonic() + arguments.seconds
    with tempfile.TemporaryDirectory(prefix="gpu-benchmark-") as folder:
        sys.exit(run(arguments, Path(folder), deadline))


def run(arguments: argparse.Namespace, folder: Path, deadline: float) -> int:
    result = about(arguments)
    stages: dict[str, Any] = result["stages"]
    settings = {
        "root": str(arguments.root.absolute()) if arguments.root and not arguments.tiny else None,
        "accelerator": arguments.accelerator,
        "airbench": str(arguments.airbench.absolute()) if arguments.airbench else None,
        "seeds": min(arguments.seeds, 2) if arguments.tiny else arguments.seeds,
        "mode": arguments.mode or ("max-autotune" if arguments.accelerator == "gpu" else None),
        "tiny": arguments.tiny,
        "folder": str(folder),
    }
    for name in ["data", *arguments.stages]:
        least, most = STAGES.get(name, (0, _DATA_S))
        left = deadline - time.monotonic()
        if reason := skipped(name, settings, left, least):
            stages[name] = {"skipped": reason}
        else:
            stages[name] = stage(name, settings, folder, min(left, most if arguments.accelerator == "gpu" else left))
        result["summary"] = summary(stages)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
        print(
            f"[{arguments.seconds - deadline + time.monotonic():.0f} s]",
            name,
            json.dumps(stages[name])[:600],
            flush=True,
        )
        if name == "data":
            if "error" in stages[name]:
                break
            settings["root"] = stages[name]["root"]
    print(json.dumps(result["summary"], indent=1))
    failed = list(errors(stages))
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def errors(figures: Any, place: str = "") -> Iterator[str]:
    """Where in the stages' figures something failed."""
    for name, each in figures.items() if isinstance(figures, dict) else enumerate(figures):
        if name == "error":
            yield place
        elif isinstance(each, dict | list):
            yield from errors(each, f"{place}/{name}" if place else str(name))


def skipped(name: str, settings: dict[str, Any], left: float, least: float) -> str | None:
    """Why a stage is not begun; None if it is."""
    from gpu_stage import SCRIPTS

    if name in _GPU_ONLY and settings["accelerator"] != "gpu":
        return _GPU_ONLY[name]
    if name in SCRIPTS and not settings["airbench"]:
        return "no folder with airbench's scripts was given"
    if name in SCRIPTS and not Path(settings["airbench"], SCRIPTS[name]).is_file():
        return f"{SCRIPTS[name]} is not in the folder with airbench's scripts"
    return f"{left:.0f} s were left" if left < least else None


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
        printed = log.read_text(errors="replace").splitlines()
        result["error"] = f"{error}; {' | '.join(printed[-6:])[-800:]}"
        print("\n".join(printed[-60:]), flush=True)
    return result


def about(arguments: argparse.Namespace) -> dict[str, Any]:
    import pytorch_lightning
    import torch
    import torchmetrics
    import torchvision
    from train import processor

    import cifar_lit

    gpu = arguments.accelerator == "gpu"
    return {
        "benchmark": "one GPU" if gpu else "a trial without a GPU: no figure in it means anything",
        "machine": torch.cuda.get_device_name() if gpu else processor(),
        "gpu": nvidia_smi(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "data": "synthetic" if arguments.tiny else arguments.root.name,
        "cifar_lit": cifar_lit.__version__,
        "commit": commit(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "torchvision": torchvision.__version__,
        "pytorch_lightning": pytorch_lightning.__version__,
        "torchmetrics": torchmetrics.__version__,
        "python": platform.python_version(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "stages": {},
    }


def commit() -> str | None:
    """The repository's commit, with a plus if files are changed; None outside a repository."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return printed.stdout.strip() or None


def nvidia_smi() -> dict[str, str] | None:
    """Name, driver, power limit and highest clock of the GPU; None where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return None
    names = ["name", "driver_version", "memory.total", "power.limit", "clocks.max.sm"]
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader"]
    printed = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return dict(zip(names, printed[0].split(", "), strict=False)) if printed else None


def summary(stages: dict[str, Any]) -> dict[str, Any]:
    """The figures that were asked for, of the stages there are."""
    found: dict[str, Any] = {}
    asked = [
        "train_seconds",
        "epoch_seconds",
        "images_a_second",
        "lightning_share",
        "not_in_kernels",
        "cudagraph_skips",
    ]
    for name in ("seed64", "seed1024"):
        for way, figures in stages.get(name, {}).get("ways", {}).items():
            if "train_seconds" in figures:
                found[f"{name}, {way}"] = {each: figures[each] for each in asked if each in figures}
    asked = ["num_seeds", "mean_seconds", "std_seconds", "mean_acc", "std_acc", "cudagraph_skips", "compile_mode"]
    for name, each in stages.items():
        if "mean_seconds" in each:
            found[name] = {figure: each[figure] for figure in asked if figure in each}
    for ours, theirs in (
        ("fast", "airbench"),
        ("fast_step_graph", "airbench"),
        ("accurate", "airbench95"),
        ("accurate_large", "airbench96"),
    ):
        if ours in found and theirs in found:
            found[f"{ours} over {theirs}"] = beside(stages[ours], stages[theirs])
    if "epoch_seconds" in stages.get("plain", {}):
        found["plain_epoch_seconds"] = stages["plain"]["epoch_seconds"]
    found["reach"] = {name: each.get("reached") for name, each in stages.get("reach", {}).get("fits", {}).items()}
    return found


def beside(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Ratio of the times, and difference of the accuracies in standard errors, those of the test set's size included
    where a side has one seed."""
    variances = [
        (
            each["std_acc"] ** 2
            if each["std_acc"] is not None
            else each["mean_acc"] * (1 - each["mean_acc"]) / _TEST_IMAGES
        )
        / each["num_seeds"]
        for each in (ours, theirs)
    ]
    difference, error = ours["mean_acc"] - theirs["mean_acc"], sum(variances) ** 0.5
    return {
        "seconds_ratio": ours["mean_seconds"] / theirs["mean_seconds"],
        "acc_difference": difference,
        "standard_errors": difference / error if error else None,
        "equal_images": ours.get("num_train") == theirs.get("num_train"),
    }


if __name__ == "__main__":
    main()
