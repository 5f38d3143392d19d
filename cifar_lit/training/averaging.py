"""What averaged weights need around them: that the average has time to form, and that it is what is kept."""

import math

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, StochasticWeightAveraging
from pytorch_lightning.utilities import rank_zero_warn

_MOST_OF_START = 0.01
"""Share of the untrained weights that an average may hold in the end."""
_WINDOWS = 10
"""Time constants of a fitting average in the training: it spans the last tenth or so."""


class WarnOfSlowAverage(Callback):
    """Warns before training of an exponential average that would still hold much of the untrained weights at its end,
    and names a decay that fits."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        steps = trainer.estimated_stepping_batches
        for each in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(each, EMAWeightAveraging) and math.isfinite(steps):
                updates = sum(each.should_update(step_idx=step) for step in range(int(steps)))
                updates += sum(each.should_update(epoch_idx=epoch) for epoch in range(trainer.max_epochs or 0))
                decay = _decay(each)
                # The first update copies the weights.
                if updates and decay ** (updates - 1) > _MOST_OF_START:
                    rank_zero_warn(
                        f"EMAWeightAveraging is too slow for {updates:,} updates: with decay {decay:g} the average "
                        f"would still hold {decay ** (updates - 1):.0%} of the first weights. Set its decay to "
                        f"{_fitting_decay(updates):.3g}, or train for longer."
                    )


def ends_with_average(trainer: pl.Trainer) -> bool:
    """Whether training has just ended with the average of a `StochasticWeightAveraging` in the module.

    It averages the last epochs' weights, and where there is batch norm it then goes through the training images once
    more for the statistics: one epoch more than was asked for, whose validation is that of the average.
    """
    epoch = trainer.current_epoch - 1  # Lightning counts on before training ends
    return any(
        isinstance(each, StochasticWeightAveraging) and epoch == each.swa_end + bool(each._model_contains_batch_norm)
        for each in trainer.callbacks  # type: ignore[attr-defined]
    )


def _decay(average: EMAWeightAveraging) -> float:
    """What is left of the old average after an update; Lightning keeps it inside a function."""
    one, zero = torch.ones(()), torch.zeros(())
    return float(average._kwargs["avg_fn"](one, zero, one))


def _fitting_decay(updates: int) -> float:
    return math.exp(-_WINDOWS / updates)
