"""Where the time of a training goes: `cifar-lit fit` beside plain Lightning, a bare loop, and the arithmetic's limit.

    python benchmarks/train.py --root DIR [--config configs/seed.yaml] [--rounds 2] [--epochs 3] [-- MORE FIT OPTIONS]

Each round starts, one after the other and as processes of their own, `cifar-lit fit` and plain Lightning (the seed
recipe with torchvision's transforms in 2 workers). The first epoch of each process warms up and is left out; the rest
are compared by their medians. After its last epoch the process of `fit` also measures, with the very network, loader
and optimizer it trained with:

- a bare loop: the same steps without Lightning, the loss and the right predictions summed up. What `fit` takes longer
  is Lightning's share.
- its parts, with the device waited for after each: data and augmentation, forward, backward, optimizer.
- the arithmetic's limit: the multiplications of a step (convolutions and matrix products, forward and backward), first
  at the speed of a large matrix product, then by the library's own kernels at the network's shapes, nothing else.

Ends with one JSON line, and keeps it in benchmarks/results/.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from products import step_products
from pytorch_lightning.callbacks import Callback

HERE = Path(__file__).parent
GEMM_SIZE = 4096


class Measure(Callback):
    """Times the epochs of a fit, then the same work without Lightning; writes both as JSON.

    Args:
        out: file to write.
    """

    def __init__(self, out: str) -> None:
        self.out = Path(out)
        self.train_seconds: list[float] = []
        self.epoch_seconds: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        wait(pl_module.device)
        self.began = time.perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            wait(pl_module.device)
            self.train_seconds.append(time.perf_counter() - self.began)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epoch_seconds = [row["seconds"] for row in pl_module.history]
        pl_module.network.train()
        result = {
            "epoch_seconds": self.epoch_seconds,
            "train_seconds": self.train_seconds,
            "steps": len(trainer.train_dataloader),
            "precision": trainer.precision,
            "device": str(pl_module.device),
            "bare_seconds": [bare_epoch(trainer, pl_module) for _ in range(2)],
            "part_seconds": parts_of_epoch(trainer, pl_module),
            "limit": limit(trainer, pl_module),
        }
        self.out.write_text(json.dumps(result))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bare_epoch(trainer: pl.Trainer, module: Any) -> float:
    loader, optimizer = trainer.train_dataloader, trainer.optimizers[0]
    wait(module.device)
    began = time.perf_counter()
    totals = torch.zeros(2, device=module.device)
    for images, labels in loader:
        with trainer.precision_plugin.train_step_context():
            loss, step_totals = module.step_loss(images, labels)
            totals += step_totals
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    wait(module.device)
    return time.perf_counter() - began


def parts_of_epoch(trainer: pl.Trainer, module: Any) -> dict[str, float]:
    loader, optimizer = trainer.train_dataloader, trainer.optimizers[0]
    seconds = dict.fromkeys(["data and augmentation", "forward", "backward", "optimizer"], 0.0)
    began = time.perf_counter()

    def done(part: str) -> None:
        nonlocal began
        wait(module.device)
        now = time.perf_counter()
        seconds[part] += now - began
        began = now

    for images, labels in loader:
        done("data and augmentation")
        with trainer.precision_plugin.train_step_context():
            loss = module.loss(images, module.network(images), labels)
        done("forward")
        loss.backward()
        done("backward")
        optimizer.step()
        optimizer.zero_grad()
        done("optimizer")
    return seconds


def limit(trainer: pl.Trainer, module: Any) -> dict[str, Any]:
    """Milliseconds a step would take if it did nothing but multiply."""
    dtype = torch.bfloat16 if "bf16" in str(trainer.precision) else torch.float32
    images, _ = next(iter(trainer.train_dataloader))
    square = torch.randn(GEMM_SIZE, GEMM_SIZE, device=module.device, dtype=dtype)
    rate = 2 * GEMM_SIZE**3 / seconds_of(lambda: square @ square, 5, module.device)
    flop, calls = step_products(module.network, images, dtype)
    seconds = sum(seconds_of(call, 30, module.device) for call in calls)
    return {
        "dtype": str(dtype),
        "gflop_a_step": flop / 1e9,
        "gflops_of_large_product": rate / 1e9,
        "ms_a_step_at_that_speed": flop / rate * 1e3,
        "ms_a_step_of_own_products": seconds * 1e3,
    }


def seconds_of(call: Callable[[], object], times: int, device: torch.device) -> float:
    """The median of some calls."""
    seconds = []
    for _ in range(times + 3):
        wait(device)
        began = time.perf_counter()
        call()
        wait(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[3:])


def ours(root: Path, config: Path, epochs: int, *options: str) -> dict[str, Any]:
    """Runs `cifar-lit fit` with `Measure` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "measured.json")
        code = "import sys; from cifar_lit.cli import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, "fit", "--config", str(config), "--data.root", str(root)]
        command += ["--trainer.max_epochs", str(epochs), "--registry", f"{folder}/registry"]
        command += ["--trainer.enable_progress_bar", "false", "--early_stopping.patience", "1000", *options]
        command += ["--trainer.callbacks+=train.Measure", f"--trainer.callbacks.out={out}"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, env=environment)
        return json.loads(out.read_text())


def plain(root: Path, epochs: int, accelerator: str) -> list[float]:
    command = [sys.executable, str(HERE / "plain_lightning.py"), "--root", str(root), "--epochs", str(epochs)]
    command += ["--accelerator", accelerator]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])["epoch_seconds"]


def summary(runs: list[dict[str, Any]], plain_seconds: list[float]) -> dict[str, Any]:
    median = statistics.median
    epoch = median([each for run in runs for each in run["epoch_seconds"][1:]])
    train = median([each for run in runs for each in run["train_seconds"][1:]])
    bare = median([each for run in runs for each in run["bare_seconds"]])
    steps = runs[0]["steps"]
    parts = {part: median(run["part_seconds"][part] for run in runs) for part in runs[0]["part_seconds"]}
    at_speed = median(run["limit"]["ms_a_step_at_that_speed"] for run in runs)
    own = median(run["limit"]["ms_a_step_of_own_products"] for run in runs)
    step = train / steps * 1e3
    return {
        "epoch_seconds": epoch,
        "plain_epoch_seconds": median(plain_seconds),
        "times_plain": median(plain_seconds) / epoch,
        "ms_a_step": step,
        "ms_a_step_of_bare_loop": bare / steps * 1e3,
        "lightning_share": 1 - bare / train,
        "validation_seconds": epoch - train,
        "ms_a_step_by_part": {part: seconds / steps * 1e3 for part, seconds in parts.items()},
        "ms_limit_at_speed_of_large_product": at_speed,
        "ms_limit_of_own_products": own,
        "step_over_large_product": step / at_speed,
        "step_over_own_products": step / own,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="CIFAR-10, as cifar_lit reads it")
    parser.add_argument("--config", type=Path, default=HERE.parent / "configs/seed.yaml")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--accelerator", default="cpu", help="cpu or gpu")
    parser.add_argument("options", nargs="*", help="more options of fit, after --")
    arguments = parser.parse_args()
    root, config, accelerator = arguments.root.absolute(), arguments.config.absolute(), arguments.accelerator
    runs: list[dict[str, Any]] = []
    plain_seconds: list[float] = []
    for _ in range(arguments.rounds):
        options = ("--trainer.accelerator", accelerator, *arguments.options)
        runs.append(ours(root, config, arguments.epochs, *options))
        plain_seconds += plain(root, arguments.epochs, accelerator)[1:]
        result = {
            "benchmark": f"an epoch of {config.name}; plain Lightning: the seed recipe at batch 64",
            "options": arguments.options,
            "medians": summary(runs, plain_seconds),
            "fit": runs,
            "plain_epoch_seconds": plain_seconds,
            "machine": torch.cuda.get_device_name() if accelerator == "gpu" else processor(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "pytorch_lightning": pl.__version__,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        name = config.stem if not arguments.options else f"{config.stem}_with_options"
        (HERE / "results" / f"train_{name}_{accelerator}.json").write_text(json.dumps(result, indent=2) + "\n")
        print(json.dumps(result["medians"]), flush=True)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
