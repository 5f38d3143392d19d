"""Learning-rate schedules that run over the whole of a training, step by step."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cifar_lit.errors import SettingError


class OneCycle(LRScheduler):
    """Warms up linearly to the optimizer's own rate, then falls, once over the whole training.

    Smith & Topin, "Super-Convergence" (2018), with the cosine of Loshchilov & Hutter, "SGDR" (2017).

    Args:
        optimizer: its `lr` is the peak.
        warmup: share of the training spent warming up.
        start: first rate, as a share of the peak.
        end: last rate, as a share of the peak.
        shape: of the fall: half a cosine, or a straight line.
        until: share of the training after which a group of weights has come to its end, by the group's name; its
            cycle is as much shorter. The network names its groups.
        total_steps: optimizer steps of the whole training. The classifier fills it in when training begins.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: float = 0.25,
        start: float = 0.04,
        end: float = 0.0,
        shape: Literal["cosine", "linear"] = "cosine",
        until: Mapping[str, float] | None = None,
        total_steps: int | None = None,
    ) -> None:
        if not 0 <= warmup < 1:
            raise SettingError(f"warmup is {warmup}, expected 0 <= warmup < 1.")
        until = until or {}
        if not all(0 < share <= 1 for share in until.values()):
            raise SettingError(f"until is {dict(until)}, expected a share of the training for each name, 0..1.")
        names = [group.get("name") for group in optimizer.param_groups]
        if unknown := sorted(set(until) - set(names)):
            raise SettingError(
                f"until has {', '.join(unknown)}, expected names of this network's groups of weights: "
                f"{', '.join(map(str, names))}."
            )
        self.warmup = warmup
        self.start = start
        self.end = end
        self.shape = shape
        self.shares = [until.get(str(name), 1.0) for name in names]
        self.total_steps = total_steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        return [self._factor(share) * base_lr for share, base_lr in zip(self.shares, self.base_lrs, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Without `total_steps`: a run that is resumed for more epochs goes through the rest of a longer cycle."""
        return {name: value for name, value in super().state_dict().items() if name != "total_steps"}

    def _factor(self, share: float) -> float:
        """What the peak rate is multiplied by, for a group that is trained for a share of the training."""
        progress = min(self.last_epoch / (share * self.total_steps), 1.0) if self.total_steps else 0.0
        if progress < self.warmup:
            return self.start + (1 - self.start) * progress / self.warmup
        fall = (progress - self.warmup) / (1 - self.warmup)
        height = 1 - fall if self.shape == "linear" else 0.5 * (1 + math.cos(math.pi * fall))
        return self.end + (1 - self.end) * height
