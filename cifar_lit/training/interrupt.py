"""Ctrl-C and SIGTERM as a wish to stop training, not as an accident."""

import signal
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_info


class StopOnInterrupt(Callback):
    """The first Ctrl-C or SIGTERM ends training after the current step (with several processes, after the epoch),
    validates and goes on as if the last epoch were done. The second ends the program at once.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self.signal: signal.Signals | None = None
        """What ended the training; None if nothing did."""
        self._before: dict[signal.Signals, Any] = {}

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_train_start(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # After Lightning has set its own, which would end the program with the epoch unfinished and status 0.
        if not self._before:
            self._before = {each: signal.signal(each, self._handle) for each in (signal.SIGINT, signal.SIGTERM)}

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

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
        self.signal = signal.Signals(signum)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        rank_zero_info(
            "\nStopping: the best epoch so far will be kept. Ctrl-C again stops at once and makes no version."
        )
