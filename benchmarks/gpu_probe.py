"""Measures a fit from inside, as a callback: `--trainer.callbacks+=gpu_probe.Probe`."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from cifar_lit.training.compilation import CompileStep

STARTED = "GPU_BENCHMARK_STARTED"
"""When the process was started, in the environment: seconds since the epoch."""
_PROFILED_STEPS = 20


class Probe(Callback):
    """Times the epochs of a fit, then the same work without Lightning.

    Args:
        bare: measure a bare loop too, its parts and its kernels.
        out: file to write; none if absent.
    """

    def __init__(self, bare: bool = False, out: str | None = None) -> None:
        self.bare = bare
        self.out = out
        self.result: dict[str, Any] = {"train_seconds": []}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.began_fit = self.began = now(pl_module.device)
        self.result["process_seconds"] = time.time() - float(os.environ.get(STARTED, time.time()))
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.result["train_seconds"]:  # compiling, and the layers that are computed from images
            self.result["compile_seconds"] = sum(each.seconds for each in of_kind(trainer, CompileStep))
            self.result["prepare_seconds"] = now(pl_module.device) - self.began_fit - self.result["compile_seconds"]
        self.began = now(pl_module.device)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.result["train_seconds"].append(now(pl_module.device) - self.began)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        whole = now(pl_module.device) - self.began_fit - self.result["compile_seconds"]
        steps = len(trainer.train_dataloader)
        self.result |= {
            "whole_seconds": whole,
            "epoch_seconds": [row["seconds"] for row in pl_module.history],
            "val_acc": [row["val/acc"] for row in pl_module.history],
            "steps": steps,
            "images": pl_module.history[-1]["images"],
            "precision": trainer.precision,
            "device": str(pl_module.device),
        }
        if pl_module.device.type == "cuda":
            self.result["peak_bytes"] = torch.cuda.max_memory_allocated(pl_module.device)
            self.result["reserved_bytes"] = torch.cuda.max_memory_reserved(pl_module.device)
        if self.bare:  # BestCheckpoint restores the weights after this
            pl_module.network.train()
            bare = [timed_epoch(trainer, pl_module) for _ in range(3)]
            self.result["bare_seconds"] = bare
            self.result["part_seconds"] = parts(trainer, pl_module)
            self.result["kernel_ms_a_step"] = kernel_ms(trainer, pl_module)
        if self.out:
            Path(self.out).write_text(json.dumps(self.result))


def of_kind(trainer: pl.Trainer, kind: type) -> list[Any]:
    return [each for each in trainer.callbacks if isinstance(each, kind)]


def now(device: torch.device) -> float:
    """Seconds, when all that the device was given is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def steps(trainer: pl.Trainer, module: Any, done: Callable[[str], None] = lambda part: None) -> Iterator[None]:
    """The same pieces as in a fit, without Lightning."""
    optimizer = trainer.optimizers[0]
    for batch in trainer.train_dataloader:
        done("data and augmentation")
        with trainer.precision_plugin.train_step_context():
            loss, _totals = module.step_loss(*batch)
        done("forward")
        optimizer.zero_grad()
        loss.backward()
        done("backward")
        optimizer.step()
        done("optimizer")
        yield


def timed_epoch(trainer: pl.Trainer, module: Any) -> float:
    began = now(module.device)
    for _ in steps(trainer, module):
        pass
    return now(module.device) - began


def parts(trainer: pl.Trainer, module: Any) -> dict[str, float]:
    """Seconds an epoch by part, each waited for; so they are together more than an epoch."""
    seconds = dict.fromkeys(["data and augmentation", "forward", "backward", "optimizer"], 0.0)
    began = now(module.device)

    def done(part: str) -> None:
        nonlocal began
        ended = now(module.device)
        seconds[part] += ended - began
        began = ended

    for _ in steps(trainer, module, done):
        pass
    return seconds


def kernel_ms(trainer: pl.Trainer, module: Any) -> float | None:
    """Milliseconds of a step in which at least one kernel or copy runs on the device; None without a GPU."""
    if module.device.type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    # The first steps of an epoch augment for many others; an epoch of groups is profiled in proportion.
    going, per_group = steps(trainer, module), trainer.train_dataloader.steps_augmented
    count = min(len(trainer.train_dataloader), max(_PROFILED_STEPS, per_group))
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(count):
            next(going)
        now(module.device)
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    )
    busy, until = 0.0, 0.0
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy / count / 1e3
