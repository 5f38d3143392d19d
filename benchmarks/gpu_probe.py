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
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile

from cifar_lit.training.compilation import CompileStep
from cifar_lit.training.step_graph import StepGraph

STARTED = "GPU_BENCHMARK_STARTED"
"""When the process was started, in the environment: seconds since the epoch."""
_PROFILED_STEPS = 20


class Probe(Callback):
    """Times the training part of each epoch, counts skipped CUDA graphs, and measures the same steps without Lightning.

    Args:
        bare: after the training, measure a bare loop and its parts.
        profiled: profile the first steps of the last epoch; that epoch's time is not comparable then.
        out: file to write; none if absent.
    """

    def __init__(self, bare: bool = False, profiled: bool = False, out: str | None = None) -> None:
        self.bare = bare
        self.profiled = profiled
        self.out = out
        self.result: dict[str, Any] = {"train_seconds": []}
        self._profile: KernelProfile | None = None
        self._skips_before = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.began_fit = now(pl_module.device)
        self.result["process_seconds"] = time.time() - float(os.environ.get(STARTED, time.time()))
        self._skips_before = cudagraph_skips()
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.profiled and trainer.current_epoch + 1 == trainer.max_epochs:
            self._profile = KernelProfile(trainer)
        self._ended = False
        self.began = now(pl_module.device)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._profile is not None:
            self._profile.step_ended(batch_idx)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._end(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end(pl_module)

    def _end(self, pl_module: pl.LightningModule) -> None:
        if not self._ended:  # at the start of validation, if there is one
            self.result["train_seconds"].append(now(pl_module.device) - self.began)
            self._ended = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        compiled = [each for each in trainer.callbacks if isinstance(each, CompileStep | StepGraph)]
        compile_seconds = sum(each.seconds for each in compiled)
        loader = trainer.train_dataloader
        self.result |= {
            "whole_seconds": now(pl_module.device) - self.began_fit - compile_seconds,
            "prepare_seconds": pl_module.prepare_seconds,
            "compile_seconds": compile_seconds,
            "compile_mode": getattr(compiled[0], "mode", "step-graph") if compiled else None,
            "cudagraph_skips": cudagraph_skips() - self._skips_before,
            "epoch_seconds": [row["seconds"] for row in pl_module.history],
            "val_acc": [row["val/acc"] for row in pl_module.history if "val/acc" in row],
            "steps": len(loader),
            "batch_size": loader.batch_size,
            "images": pl_module.history[-1]["images"],
            "precision": trainer.precision,
            "device": str(pl_module.device),
        }
        if pl_module.device.type == "cuda":
            self.result["peak_bytes"] = torch.cuda.max_memory_allocated(pl_module.device)
            self.result["reserved_bytes"] = torch.cuda.max_memory_reserved(pl_module.device)
        if self._profile is not None:
            self.result |= self._profile.result
        if self.bare:  # BestCheckpoint restores the weights after this
            pl_module.network.train()
            self.result["bare_seconds"] = [timed_epoch(trainer, pl_module) for _ in range(3)]
            self.result["part_seconds"] = parts(trainer, pl_module)
        if self.out:
            Path(self.out).write_text(json.dumps(self.result))


class KernelProfile:
    """How long at least one kernel or copy runs on the device, in the first steps of an epoch. If the profiler fails,
    its error is the result.

    The first steps of an epoch augment for many others; an epoch of groups is profiled in proportion.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self.result: dict[str, Any] = {"kernel_ms_a_step": None}
        loader = trainer.train_dataloader
        self._device = trainer.strategy.root_device
        self._count = min(len(loader), max(_PROFILED_STEPS, loader.steps_augmented))
        self._profiler: Any = None
        if self._device.type != "cuda":
            self.result["profile_skipped"] = "kernels are those of a GPU"
            return
        try:
            now(self._device)
            self._profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
            self._profiler.start()
        except Exception as error:
            self._failed(error)

    def step_ended(self, batch_idx: int) -> None:
        if self._profiler is None or batch_idx + 1 < self._count:
            return
        profiler, self._profiler = self._profiler, None
        try:
            now(self._device)
            profiler.stop()
            self.result["kernel_ms_a_step"] = busy_ms(profiler.events()) / self._count
            self.result["profiled_steps"] = self._count
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._profiler = None
        self.result["profile_error"] = repr(error)[:500]


def busy_ms(events: Any) -> float:
    """Milliseconds in which at least one kernel or copy runs on the device.

    Raises:
        RuntimeError: no event is one of the device.
    """
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type == torch.autograd.DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    )
    if not spans:
        raise RuntimeError("the profiler saw no kernel")
    busy, until = 0.0, 0.0
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy / 1e3


def cudagraph_skips() -> int:
    """CUDA graphs that torch.compile gave up in this process."""
    return int(counters["inductor"]["cudagraph_skips"])


def now(device: torch.device) -> float:
    """Seconds, when all that the device was given is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def steps(trainer: pl.Trainer, module: Any, done: Callable[[str], None] = lambda part: None) -> Iterator[None]:
    """The same pieces as in a fit, without Lightning. A step graph's forward is the whole step."""
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
