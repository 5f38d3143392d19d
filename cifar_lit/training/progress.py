"""What one sees of a training: a bar in a terminal, a line an epoch elsewhere, JSON lines for a program, the rate for
loggers."""

import json
import math
import time
from collections.abc import Callable
from typing import Any, Literal, TextIO

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Checkpoint, ProgressBar, TQDMProgressBar
from pytorch_lightning.utilities import rank_zero_info
from tqdm import tqdm

from cifar_lit.models.classifier import Classifier
from cifar_lit.training.best_checkpoint import BestCheckpoint, Mode

Stage = Literal["reading data", "learning", "judging", "publishing"]

Tell = Callable[[Stage, float], None]
"""Gets a stage and which share of it is done, 0..1."""

_SPANS: dict[Stage, tuple[float, float]] = {
    "reading data": (0.0, 0.2),
    "learning": (0.2, 0.75),
    "judging": (0.75, 0.9),
    "publishing": (0.9, 1.0),
}
"""Roughly the share of the time, with CIFAR-10 and 500 new images."""


class OneBar(TQDMProgressBar):
    """Lightning's bar without a second one for validation, with the training loss of the epoch so far and the learning
    rate, and updated rarely, since a step takes milliseconds."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=20)

    def init_validation_tqdm(self) -> tqdm:
        return tqdm(disable=True)

    init_sanity_tqdm = init_validation_tqdm

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        shown: dict[str, Any] = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        if isinstance(pl_module, Classifier):
            shown["train/loss"] = pl_module.running_loss()
        return shown | {"lr": f"{learning_rate(trainer):.3g}"}


class LogRate(Callback):
    """Logs the learning rate at the end of each epoch, beside the metrics, as `lr`."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("lr", learning_rate(trainer))


class EpochLine(Checkpoint):
    """Tells of each epoch in one line, unless a bar does. Lightning calls checkpoint callbacks last, when
    the epoch's metrics are known."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        has_bar = any(isinstance(each, ProgressBar) for each in trainer.callbacks)  # type: ignore[attr-defined]
        if has_bar or not isinstance(pl_module, Classifier) or not pl_module.history:
            return
        best = next(each for each in trainer.callbacks if isinstance(each, BestCheckpoint))  # type: ignore[attr-defined]
        rank_zero_info(epoch_line(pl_module.history, trainer.max_epochs, best.monitor, best.mode))


def epoch_line(history: list[dict[str, float]], max_epochs: int | None, monitor: str | None, mode: Mode) -> str:
    """The newest epoch in words: losses, accuracies, rate, seconds, and which epoch is the best so far.

    Args:
        history: the classifier's, with one epoch or more.
        max_epochs: of the training; None or negative if it goes on until it is stopped.
        monitor: the metric that decides what is best; None if nothing does.
        mode: whether its smallest or its largest value is.
    """
    row = history[-1]
    of = f"/{max_epochs}" if max_epochs is not None and max_epochs > 0 else ""
    parts = [f"epoch {int(row['epoch']) + 1}{of}"]
    for split in ("train", "val"):
        if f"{split}/loss" in row:
            parts.append(f"{split} loss {row[f'{split}/loss']:.4f} acc {row[f'{split}/acc']:.4f}")
    parts += [f"lr {row['lr']:.3g}", f"{row['seconds']:.1f} s"]
    known = [(each[monitor], int(each["epoch"]) + 1) for each in history if monitor is not None and monitor in each]
    if finite := [(value, epoch) for value, epoch in known if not math.isnan(value)]:
        sign = 1 if mode == "min" else -1
        value, epoch = min(finite, key=lambda each: sign * each[0])
        parts.append(f"best {monitor} {value:.4f} in epoch {epoch}")
    return ", ".join(parts)


def learning_rate(trainer: pl.Trainer) -> float:
    """Of the first group of weights."""
    return float(trainer.optimizers[0].param_groups[0]["lr"])


class ProgressLines:
    """Writes `{"stage": "learning", "done": 0.37}`, where `done` is the share of the whole.

    Args:
        stream: is flushed after each line.
        interval_s: least time between two lines of one stage.
    """

    def __init__(self, stream: TextIO, interval_s: float = 0.2) -> None:
        self._stream = stream
        self._interval_s = interval_s
        self._stage: Stage | None = None
        self._next = 0.0

    def __call__(self, stage: Stage, share: float) -> None:
        now = time.monotonic()
        if stage == self._stage and now < self._next and share < 1:
            return
        self._stage, self._next = stage, now + self._interval_s
        start, end = _SPANS[stage]
        done = round(start + (end - start) * share, 4)
        print(json.dumps({"stage": stage, "done": done}), file=self._stream, flush=True)


class TellProgress(Callback):
    """Tells after each training step how much of the learning is done.

    Args:
        tell: is called from the training loop, so it must be quick.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._num_steps = math.inf

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._num_steps = trainer.estimated_stepping_batches  # infinite if it goes on until it is stopped
        self._tell("learning", 0.0)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._tell("learning", min(trainer.global_step / self._num_steps, 1.0))


def tell_nobody(stage: Stage, share: float) -> None:
    """For those who do not ask."""
