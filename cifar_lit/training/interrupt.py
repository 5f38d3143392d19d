"""Ctrl-C as a wish to stop training, not as an accident."""

import signal
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_info


class StopOnInterrupt(Callback):
    """The first Ctrl-C ends training after the current step (with several processes, after the epoch), validates and
    goes on as if the last epoch were done. The second ends the program at once.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._before: Any = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._before = signal.signal(signal.SIGINT, self._handle)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        # Processes must leave the epoch together, and they learn of a Ctrl-C at different steps.
        if self.interrupted and trainer.world_size == 1:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.strategy.reduce_boolean_decision(self.interrupted, all=False):
            self.interrupted = True
            trainer.should_stop = True

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        rank_zero_info(
            "\nStopping: the best epoch so far will be kept. Ctrl-C again stops at once and makes no version."
        )
