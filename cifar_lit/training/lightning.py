"""What `fit` and `finetune` share of Lightning's set-up: precision, threads, its messages, and less work in a step."""

import contextlib
import gc
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, WeightAveraging
from pytorch_lightning.profilers import Profiler

from cifar_lit.memory import keep_freed_memory

_NOTHING = contextlib.nullcontext()
_CUDA_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"
_NOISE = (
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own affair
    r"Found \d+ module\(s\) in eval mode",  # where batch norm is frozen they are meant to be
    r"LightningCLI's args parameter is intended to run from within Python",  # so it is
    r"\s*(By default only one JsonargparseDeprecationWarning|``instantiate_classes``|skip_none parameter)",  # its use
    r"The number of training batches .* is smaller than the logging interval",  # metrics are logged once an epoch
)


def uses_cuda(accelerator: str) -> bool:
    """Whether training will run on a CUDA device.

    Args:
        accelerator: "cpu", "gpu", "cuda" or "auto", as Lightning's Trainer takes it.
    """
    return accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available()


def best_precision(accelerator: str) -> str:
    """Lightning's name of the precision to train in: "bf16-mixed" where the device has bfloat16 units, else "32-true".

    Args:
        accelerator: "cpu", "gpu", "cuda" or "auto", as Lightning's Trainer takes it.
    """
    if uses_cuda(accelerator):
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif accelerator in ("cpu", "auto"):
        # AMX tiles or AVX-512 BF16 instructions; without them bfloat16 is emulated and slower than float32.
        fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    else:
        fast = False
    return "bf16-mixed" if fast else "32-true"


def free_cores() -> int:
    """Cores that this process may use and that nothing has used during the last minute, at least 1.

    Threads that wait for a busy core at every operation make training slower than fewer would.
    """
    return max(1, len(os.sched_getaffinity(0)) - round(os.getloadavg()[0]))


@contextmanager
def use_threads(number: int) -> Iterator[None]:
    """Has PyTorch work with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def speed_up(accelerator: str) -> None:
    """Sets this process up for training: keeps freed memory, flushes denormal numbers, lets a GPU use TF32.

    Args:
        accelerator: "cpu", "gpu", "cuda" or "auto", as Lightning's Trainer takes it.
    """
    keep_freed_memory()
    # Adam's means decay towards 0 where nothing moves, and a CPU takes 100 times as long for the smallest numbers.
    torch.set_flush_denormal(True)
    if uses_cuda(accelerator):
        torch.set_float32_matmul_precision("high")  # TF32, as cuDNN's convolutions have it without being asked


def hush_lightning() -> None:
    """Silences what Lightning says of its own code and of its makers' other products."""
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_no_advertisement)


def _no_advertisement(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("\N{ELECTRIC LIGHT BULB} Tip:")


def hardware(trainer: pl.Trainer) -> dict[str, Any]:
    """What a training ran on and in which precision, as a manifest says it."""
    return {
        "precision": trainer.precision,
        "device": str(trainer.strategy.root_device),
        "num_devices": trainer.world_size,
    }


class NoProfiler(Profiler):
    """In place of Lightning's own default, which makes a new context for each of some fifty actions in a step, and then
    throws it away: a tenth of what Lightning costs.
    """

    def start(self, action_name: str) -> None:
        pass

    def stop(self, action_name: str) -> None:
        pass

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # type: ignore[override]
        return _NOTHING


class ReduceStepOverhead(Callback):
    """Takes three costs out of each step.

    Objects from before the training are not searched for garbage. Averaged weights lie on the training device, where
    Lightning, which copies the module before it moves it, would copy every weight to the host. Without a GPU, torch's
    optimizers, which look for one at each step, do not ask the driver, as Lightning has them do (0.03 ms).
    """

    def __init__(self) -> None:
        self._cuda_check: str | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":  # before training begins and is timed: collecting takes as long as a short epoch on a GPU
            gc.collect()
            gc.freeze()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for each in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(each, WeightAveraging) and each._device is None and each._average_model is not None:
                # Its counter stays on the CPU, where reading it does not make the host wait.
                each._average_model.module.to(pl_module.device)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if pl_module.device.type == "cpu":
            self._cuda_check = os.environ.pop(_CUDA_CHECK, None)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        gc.unfreeze()
        if self._cuda_check is not None:
            os.environ[_CUDA_CHECK] = self._cuda_check
            self._cuda_check = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)
