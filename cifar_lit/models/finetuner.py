"""A classifier that learns new images without leaving too far what it knew."""

import copy
import math
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from cifar_lit.errors import SettingError
from cifar_lit.models.classifier import Classifier, OptimizerFactory, SchedulerFactory
from cifar_lit.models.networks import Network

_DISTILL_WITHOUT_REPLAY = 0.9
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class FineTuner(Classifier):
    """Trains a network further, with a fresh optimizer and a schedule of its own.

    Args:
        network: the parent's, which is not changed; a copy of it learns.
        optimizer: any torch optimizer, by class path and arguments; `torch.optim.Adam` if absent. Its weight decay
            spares biases and batch norm.
        lr_scheduler: any torch schedule, or `OneCycle`, which spans the whole training.
        label_smoothing: share of the target spread over all classes.
        batch_norm: "train" normalises by each batch and moves the running statistics, "frozen" leaves the parent's
            statistics and uses them; the scales and shifts are trained in both.
        distill: weight of staying close to the parent's predictions, 0..1; the labels have the rest. Hinton et al.,
            "Distilling the Knowledge in a Neural Network" (2015), as in Li & Hoiem, "Learning without Forgetting"
            (2016). Default: 0 beside replayed old images, 0.9 without.
        temperature: by which logits are divided before the predictions are compared.
    """

    def __init__(
        self,
        network: Network,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
        label_smoothing: float = 0.1,
        batch_norm: Literal["train", "frozen"] = "frozen",
        distill: float | None = None,
        temperature: float = 2.0,
    ) -> None:
        if not (0 <= (distill or 0) <= 1 and temperature > 0):
            raise SettingError(f"distill is {distill} and temperature {temperature}, expected 0..1 and more than 0.")
        super().__init__(copy.deepcopy(network).train(), optimizer, lr_scheduler, label_smoothing=label_smoothing)
        self.batch_norm = batch_norm
        self.distill = distill or 0.0
        self.temperature = temperature
        self.parent = copy.deepcopy(network).eval().requires_grad_(False)
        self._distill_is_given = distill is not None

        if batch_norm == "frozen":  # Lightning leaves each module in the mode it has when training begins
            for module in self.network.modules():
                if isinstance(module, _NORMS):
                    module.eval()

    def _hyper_parameters(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("batch_norm", "distill", "temperature")}
        return super()._hyper_parameters() | own

    def without_replay(self) -> None:
        """Prepares for learning without old images: the parent's predictions are what is left of them."""
        if not self._distill_is_given:
            self.distill = _DISTILL_WITHOUT_REPLAY

    def loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        loss = cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        if not self.distill:
            return loss
        with torch.no_grad():
            target = self.parent(images)
        close = kl_div(
            (logits / self.temperature).log_softmax(1),
            (target / self.temperature).log_softmax(1),
            log_target=True,
            reduction="batchmean",
        )
        return (1 - self.distill) * loss + self.distill * self.temperature**2 * close


class AverageWeights(WeightAveraging):
    """Ends with the mean of the weights over the end of the training rather than the last ones.

    Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization" (2018).

    Args:
        start: share of the training after which averaging begins.
    """

    def __init__(self, start: float = 0.9) -> None:
        if not 0 <= start < 1:
            raise SettingError(f"start is {start}, expected 0 <= start < 1.")
        super().__init__(use_buffers=True, avg_fn=_mean)
        self.start = start
        self._first_step = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        steps = trainer.estimated_stepping_batches
        self._first_step = int(self.start * steps) if math.isfinite(steps) else 0  # endless: until it is stopped

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step > self._first_step:  # else it was stopped before there was anything to average
            super().on_train_end(trainer, pl_module)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx >= self._first_step


def _mean(average: Tensor, current: Tensor, num_averaged: Tensor) -> Tensor:
    """The running mean; counters of batches, whole numbers, are taken as they are."""
    return average.lerp(current, 1 / (num_averaged + 1)) if average.is_floating_point() else current
