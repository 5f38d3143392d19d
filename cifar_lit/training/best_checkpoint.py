"""Keeps the best epoch, and gives its weights back at the end."""

from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_info


class BestCheckpoint(ModelCheckpoint):
    """Saves the best and the last epoch of a run, and puts the best epoch's weights into the model when training ends,
    whatever ended it: the last epoch, early stopping, Ctrl-C or an error.

    Args:
        monitor: the metric that decides.
        mode: whether the smallest or the largest is best.
        dirpath: folder for the `.ckpt` files. Default: `checkpoints/` in the run's own folder.
    """

    def __init__(
        self, monitor: str = "val/loss", mode: Literal["min", "max"] = "min", dirpath: str | None = None
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="epoch-{epoch:03d}",
            monitor=monitor,
            mode=mode,
            save_last=True,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=True,  # only then is the epoch's history complete
        )
        self.best_epoch: int | None = None
        """Epoch (from 0) whose weights the model holds after training; None before, and if no epoch was finished."""
        self._best: dict[str, Any] | None = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        before = self.best_model_path
        super().on_train_epoch_end(trainer, pl_module)
        if self.best_model_path != before:
            # Read back at once: a file that was cut off is found out now, and the best weights outlive their file.
            self._best = _read(self.best_model_path)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning forgets the best score when the resumed run has another folder, as it always has here.
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})
        if Path(self.best_model_path).is_file():
            self._best = _read(self.best_model_path)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._restore(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        self._restore(pl_module)

    def _restore(self, pl_module: pl.LightningModule) -> None:
        if self._best is None or self.best_epoch is not None:
            return
        pl_module.load_state_dict(self._best["state_dict"])
        self.best_epoch = int(self._best["epoch"])
        score = float("nan") if self.best_model_score is None else self.best_model_score.item()
        rank_zero_info(f"Kept the weights of epoch {self.best_epoch + 1} ({self.monitor} {score:.4f}).")


def _read(path: str) -> dict[str, Any]:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    return {"epoch": checkpoint["epoch"], "state_dict": checkpoint["state_dict"]}
