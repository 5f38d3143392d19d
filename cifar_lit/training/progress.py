"""How far a fine-tuning is, for a program that waits for it: JSON lines. Knows nothing of who reads them."""

import json
import math
import time
from collections.abc import Callable
from typing import Any, Literal, TextIO

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

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
