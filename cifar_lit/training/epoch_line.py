"""What one sees of a training while it runs: a bar in a terminal, a line an epoch elsewhere; the rate for loggers."""

import math
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Checkpoint, ProgressBar, TQDMProgressBar
from pytorch_lightning.utilities import rank_zero_info
from tqdm import tqdm

from cifar_lit.models.classifier import Classifier
from cifar_lit.training.best_checkpoint import BestCheckpoint, Mode


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
