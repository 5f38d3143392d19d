"""Learning-rate schedules that run over the whole of a training, step by step."""

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cifar_lit.errors import SettingError


class OneCycle(LRScheduler):
    """Warms up linearly to the optimizer's own rate, then falls along half a cosine, once over the whole training.

    Smith & Topin, "Super-Convergence" (2018), with the cosine of Loshchilov & Hutter, "SGDR" (2017).

    Args:
        optimizer: its `lr` is the peak.
        warmup: share of the training spent warming up.
        start: first rate, as a share of the peak.
        end: last rate, as a share of the peak.
        total_steps: optimizer steps of the whole training. The classifier fills it in when training begins.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: float = 0.25,
        start: float = 0.04,
        end: float = 0.0,
        total_steps: int | None = None,
    ) -> None:
        if not 0 <= warmup < 1:
            raise SettingError(f"warmup is {warmup}, expected 0 <= warmup < 1.")
        self.warmup = warmup
        self.start = start
        self.end = end
        self.total_steps = total_steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        factor = self._factor()
        return [factor * base_lr for base_lr in self.base_lrs]

    def _factor(self) -> float:
        progress = min(self.last_epoch / self.total_steps, 1.0) if self.total_steps else 0.0
        if progress < self.warmup:
            return self.start + (1 - self.start) * progress / self.warmup
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))
