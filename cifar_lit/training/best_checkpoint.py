"""Keeps the best epoch and gives its weights back at the end; keeps the last epoch to resume from."""

import io
import os
import time
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from cifar_lit.errors import SettingError
from cifar_lit.files import replace_synced
from cifar_lit.training.averaging import ends_with_average

BEST = "best.ckpt"
LAST = "last.ckpt"

METRICS = ("train/loss", "train/acc", "val/loss", "val/acc", "val/precision", "val/recall", "val/f1")

Mode = Literal["min", "max"]


def mode_of(monitor: str) -> Mode:
    """Whether the smallest or the largest value of a metric is best: its name tells."""
    return "min" if monitor.endswith("loss") else "max"


class BestCheckpoint(Checkpoint):
    """Puts the best epoch's weights into the model when training ends, whatever ended it: the last epoch, early
    stopping, Ctrl-C or an error.

    The best weights are those that were validated, so an average where weights are averaged. The average that a
    `StochasticWeightAveraging` ends with is kept in place of the best epoch. They stay in memory, on
    the training device, and are written once, as `best.ckpt`, when training ends. `last.ckpt` holds the state after a
    whole epoch and the best weights so far, for resuming: it is written after the first epoch, after the last one, and
    in between after each epoch that ends `every_n_seconds` or more after the last writing.

    Args:
        monitor: the metric that decides; absent if there is no validation, and then the last epoch is kept.
        mode: whether the smallest or the largest is best. Default: the smallest loss, the largest of the other metrics.
        dirpath: folder for the `.ckpt` files. Default: `checkpoints/` in the run's own folder.
        every_n_seconds: least seconds between two writings of `last.ckpt`; 0 writes it after every epoch.
        write: whether `.ckpt` files are written at all.
    """

    def __init__(
        self,
        monitor: str | None = "val/loss",
        mode: Mode | None = None,
        dirpath: str | None = None,
        every_n_seconds: float = 10.0,
        write: bool = True,
    ) -> None:
        if monitor is not None and monitor not in METRICS:
            raise SettingError(f"best.monitor is {monitor!r}, expected one of: {', '.join(METRICS)}.")
        if every_n_seconds < 0:
            raise SettingError(f"every_n_seconds is {every_n_seconds}, expected 0 or more.")
        self.monitor = monitor
        self.mode: Mode = mode or mode_of(monitor or "loss")
        self.dirpath = dirpath
        self.every_n_seconds = every_n_seconds
        self.write = write
        self.best_epoch: int | None = None
        """Epoch (from 0) whose weights the model holds after training; None before, and if no epoch was finished."""
        self._best: dict[str, Any] | None = None
        """`epoch`, `score` and `state_dict` of the best epoch so far."""
        self._validated: dict[str, Tensor] = {}
        self._last_epoch: int | None = None
        self._written_at = -float("inf")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        folder = self.dirpath or os.path.join(trainer.log_dir or trainer.default_root_dir, "checkpoints")
        self.dirpath = trainer.strategy.broadcast(folder)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Callbacks that swap in averaged weights have done so: checkpoint callbacks come last.
        if not trainer.sanity_checking:
            self._validated = _copy(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._last_epoch = trainer.current_epoch
        if self.monitor is not None and (score := self._score(trainer)) is not None:
            self._best = {"epoch": trainer.current_epoch, "score": score, "state_dict": self._validated}
        if self.write and _is_whole(trainer) and self._is_due(trainer):
            trainer.save_checkpoint(os.path.join(self._folder, LAST), weights_only=False)
            self._written_at = time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if ends_with_average(trainer):
            self._best = None
            rank_zero_info("Kept the average of the last epochs' weights (StochasticWeightAveraging).")
        self._restore(pl_module)
        if self.write and self.best_epoch is not None:
            trainer.save_checkpoint(os.path.join(self._folder, BEST), weights_only=True)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore(pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best = state_dict["best"]

    @property
    def _folder(self) -> str:
        assert self.dirpath is not None
        return self.dirpath

    def _score(self, trainer: pl.Trainer) -> float | None:
        """The epoch's value of the monitored metric if it is the best so far; None if it ended before validation."""
        value = trainer.callback_metrics.get(str(self.monitor))
        if value is None:
            return None
        score = float(value)
        if self._best is None:
            return score
        before: float = self._best["score"]
        better = score < before if self.mode == "min" else score > before
        return score if better or before != before else None  # anything is better than NaN

    def _is_due(self, trainer: pl.Trainer) -> bool:
        """Whether `last.ckpt` is to be written after this epoch; all processes write together."""
        is_last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs or _has_made_all_steps(trainer)
        due = is_last or time.monotonic() - self._written_at >= self.every_n_seconds
        return trainer.strategy.broadcast(due)

    def _restore(self, pl_module: pl.LightningModule) -> None:
        if self.best_epoch is not None:
            return
        if self._best is None:
            self.best_epoch = self._last_epoch
            return
        pl_module.load_state_dict(self._best["state_dict"])
        self.best_epoch = int(self._best["epoch"])
        rank_zero_info(f"Kept the weights of epoch {self.best_epoch + 1} ({self.monitor} {self._best['score']:.4f}).")


class SyncedCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint in one step, on the disk when it returns; Lightning's own way may cross file systems and
    takes some failures for success (Lightning-AI/pytorch-lightning#21253, #21800)."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        replace_synced(target, content.getvalue())


def _copy(pl_module: pl.LightningModule) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in pl_module.state_dict().items()}


def _is_whole(trainer: pl.Trainer) -> bool:
    """Whether the epoch was trained to its end: a run can't be resumed in the middle of one."""
    return bool(trainer.fit_loop.epoch_loop.batch_progress.current.completed >= trainer.num_training_batches)


def _has_made_all_steps(trainer: pl.Trainer) -> bool:
    return 0 <= trainer.max_steps <= trainer.global_step
