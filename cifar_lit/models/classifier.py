"""The LightningModule around a network."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Self

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import CatMetric

from cifar_lit.cifar10 import CLASS_NAMES, IMAGE_SIZE
from cifar_lit.errors import DataError, SettingError
from cifar_lit.evaluation.evaluation import Evaluation, classify
from cifar_lit.models.hyperparameters import factory, plain
from cifar_lit.models.network import check_outputs
from cifar_lit.models.networks import Network
from cifar_lit.models.own_network import build, describe
from cifar_lit.models.schedules import OneCycle
from cifar_lit.seeding import derive_seed, global_seed

Batch = tuple[Tensor, Tensor]
OptimizerFactory = Callable[[Any], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]


class Classifier(pl.LightningModule):
    """Trains a network by cross-entropy and measures it.

    Logged once an epoch: `train/loss`, `train/acc` (on augmented images, while the weights change) and, for `val` and
    `test`, `loss` (plain cross-entropy in nats), `acc`, and `precision`, `recall`, `f1` averaged over the classes.

    Args:
        network: any `Network`, or any module from normalised images (B, 3, 32, 32) to logits, by class path and
            arguments; in a script, `as_network(MyNet)(width=3)`.
        optimizer: any torch optimizer, by class path and arguments; `torch.optim.Adam` if absent. Its weight decay
            spares biases and batch norm.
        lr_scheduler: any torch schedule, or `OneCycle`, which spans the whole training.
        lr_interval: when a torch schedule steps; `OneCycle` always goes by the step.
        monitor: the metric that a `ReduceLROnPlateau` watches.
        label_smoothing: share of the target spread over all classes, in training only.
        tta_flip: in validation and test, average the predictions for an image and for its mirror.
        tta_shift: in validation and test, average the predictions for an image and, with half the weight, for the image
            moved by this many pixels along the diagonal, both ways.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        monitor: str = "val/loss",
        label_smoothing: float = 0.0,
        tta_flip: bool = False,
        tta_shift: int = 0,
    ) -> None:
        if not 0 <= tta_shift < IMAGE_SIZE:
            raise SettingError(f"tta_shift is {tta_shift}, expected 0..{IMAGE_SIZE - 1} pixels.")
        if not isinstance(network, Network):
            name = type(network).__name__
            raise SettingError(
                f"network is a {name}, expected a Network: Classifier(as_network({name})(...)) makes one of any module "
                "(cifar_lit.models.own_network)."
            )
        super().__init__()
        self.network: Network = network
        self.class_names: list[str] | None = None
        """In label order; those of the data module once training or measuring begins, if they are not known before."""
        self.optimizer = optimizer or Adam
        self.lr_scheduler = lr_scheduler
        self.lr_interval = lr_interval
        self.monitor = monitor
        self.label_smoothing = label_smoothing
        self.tta_flip = tta_flip
        self.tta_shift = tta_shift
        # One mapping an epoch: `epoch` (from 0), `seconds` with validation, `images` trained on, `lr`, and the metrics.
        self.history: list[dict[str, float]] = []
        # The newest outputs for the whole "val" or "test" set, from all processes.
        self.evaluations: dict[str, Evaluation] = {}
        # Outputs are gathered over batches and processes; a NaN must stay beside its label.
        self._logits = CatMetric(nan_strategy="disable")
        self._labels = CatMetric(nan_strategy="disable")
        self._totals = torch.zeros(2)
        self._num_images = 0
        self.prepare_seconds = 0.0
        """What computing the network's first layers from images took."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":  # Lightning sets it 46 times a step, and nn.Module looks for weights each time
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, 32, 32), uint8 or float, 0..255."""
        logits: Tensor = self.network(images)
        return logits

    def setup(self, stage: str) -> None:
        """Compares the network with the classes of the data module, if there is one.

        Raises:
            DataError: the data has other classes than the network.
            SettingError: the network has another number of outputs.
        """
        names = getattr(getattr(self.trainer, "datamodule", None), "class_names", None)
        if names is None:
            return
        self.class_names = self.class_names or names
        if self.class_names != names:
            raise DataError(
                f"the data's classes are {_listed(names)}, the network's {_listed(self.class_names)}. Name other data "
                "with --data.root, or another network."
            )
        check_outputs(self.network, len(names), self.device)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        groups = [
            {"params": weights, "name": name, **({} if weights[0].ndim > 1 else {"weight_decay": 0.0})}
            for name, weights in self.network.param_groups().items()
        ]
        optimizer: Optimizer = _built("optimizer", self.optimizer, groups)
        if self.lr_scheduler is None:
            return optimizer
        scheduler = _built("lr_scheduler", self.lr_scheduler, optimizer)
        interval = self.lr_interval
        if isinstance(scheduler, OneCycle):
            interval = "step"
            if scheduler.total_steps is None:
                scheduler.total_steps = int(self.trainer.estimated_stepping_batches)
        config = {"scheduler": scheduler, "interval": interval, "monitor": self.monitor}
        return {"optimizer": optimizer, "lr_scheduler": config}  # type: ignore[return-value]

    def on_train_start(self) -> None:
        assert self.trainer.train_dataloader is not None
        began = self._now()
        self.network.prepare(images.to(self.device) for images, _ in self.trainer.train_dataloader)
        if self.trainer.world_size > 1:  # each process has seen other images
            state = {name: value.cpu() for name, value in self.network.state_dict().items()}
            self.network.load_state_dict(self.trainer.strategy.broadcast(state))
        self.prepare_seconds = self._now() - began

    def phases(self) -> Iterator[None]:
        """Goes through the parts of the training in which other weights are trained, with only those requiring
        gradients: a `OneCycle` may end early for some. Once, if it ends for all weights together."""
        shares = self._shares()
        for progress in sorted({0.0, *(share for _, share in shares)}):
            for weight, share in shares:
                weight.requires_grad_(progress < share)
            yield
        for weight, _ in shares:
            weight.requires_grad_(True)

    def _freeze_finished(self) -> None:
        """What needs no gradient any more costs none: where the first layer's shift is done, the derivative ends behind
        it."""
        scheduler = self.lr_schedulers()
        for weight, share in self._shares():
            assert isinstance(scheduler, OneCycle)
            weight.requires_grad_(scheduler.last_epoch < share * (scheduler.total_steps or 0))

    def on_train_end(self) -> None:
        for weight, _ in self._shares():
            weight.requires_grad_(True)

    def _shares(self) -> list[tuple[nn.Parameter, float]]:
        """Weights that come to their end before the training does, and the share of it after which they do; none with
        several processes, which wait for all gradients."""
        scheduler = self.lr_schedulers()
        if not isinstance(scheduler, OneCycle) or scheduler.end or self.trainer.world_size > 1:
            return []
        groups = zip(self.trainer.optimizers[0].param_groups, scheduler.shares, strict=True)
        return [(weight, share) for group, share in groups for weight in group["params"] if share < 1]

    def on_train_epoch_start(self) -> None:
        self._freeze_finished()
        # Dropout draws from torch's own generator: seeding it here makes a resumed run equal to an uninterrupted one.
        torch.manual_seed(derive_seed(global_seed(), self.current_epoch, self.global_rank, 1))
        self._totals = torch.zeros(2, device=self.device)
        self._num_images = 0
        self._epoch_began = time.perf_counter()
        self.evaluations.pop("val", None)

    def loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """What training minimises: the mean over a batch, in nats."""
        return cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def step_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss to minimise, and float32 (2,): its sum over the batch, and how many predictions are right.

        All that a step computes before its derivative, and nothing else, so that it can be compiled.
        """
        logits = self(images)
        loss = self.loss(images, logits, labels)
        correct = (logits.detach().argmax(1) == labels).sum()
        return loss, torch.stack([loss.detach().float() * len(labels), correct.float()])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, totals = self.step_loss(*batch)
        # Summed on the device and logged once an epoch: reading a value here would stall the device at each step.
        self._totals += totals
        self._num_images += len(batch[1])
        return loss

    def on_train_epoch_end(self) -> None:
        totals = torch.cat([self._totals, self._totals.new_tensor([self._num_images])])
        loss, correct, count = self.trainer.strategy.reduce(totals, reduce_op="sum").tolist()
        metrics = {"train/loss": loss / count, "train/acc": correct / count}
        self.log_dict(metrics, sync_dist=True)  # equal on all ranks already; says so to Lightning
        if "val" in self.evaluations:
            metrics |= self.evaluations["val"].named_metrics("val")
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        seconds = round(time.perf_counter() - self._epoch_began, 6)
        self.history.append(
            {"epoch": self.current_epoch, "seconds": seconds, "images": int(count), "lr": float(lr), **metrics}
        )

    def running_loss(self) -> float:
        """Mean training loss of the epoch so far; NaN before its first step. Waits for the device."""
        return float(self._totals[0]) / self._num_images if self._num_images else float("nan")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._gather(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._gather(batch)

    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> Tensor:
        """Probabilities (B, K) of images (B, 3, 32, 32), alone or with labels."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return classify(self.network, images, tta_flip=self.tta_flip, tta_shift=self.tta_shift).softmax(1)

    def on_validation_epoch_end(self) -> None:
        self._evaluate("val", prog_bar=True)

    def on_test_epoch_end(self) -> None:
        self._evaluate("test", prog_bar=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = self._hyper_parameters()
        checkpoint["network_description"] = describe(self.network) | {
            "class_names": list(self.class_names or CLASS_NAMES)
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint.get("history", [])
        self.class_names = self.class_names or checkpoint["network_description"].get("class_names")

    def _hyper_parameters(self) -> dict[str, Any]:
        """The constructor's arguments as plain values, but for the network."""
        names = ("lr_interval", "monitor", "label_smoothing", "tta_flip", "tta_shift")
        factories = {"optimizer": plain(self.optimizer), "lr_scheduler": plain(self.lr_scheduler)}
        return {name: getattr(self, name) for name in names} | factories

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """The classifier of a checkpoint, which says all that is needed.

        Args:
            checkpoint_path: a `.ckpt` file of this class, whoever trained it: the command line or a script.
            args: as of Lightning's method.
            kwargs: likewise, and arguments that take the place of the checkpoint's. An optimizer or a schedule that was
                given as a function of one's own is not in there, and is the default unless it is given here.

        Raises:
            NetworkNotFoundError: the network's class is not here, or has changed.
            SettingError: the optimizer's or the schedule's is not.
        """
        checkpoint = torch.load(checkpoint_path, map_location="cpu", weights_only=True)
        known = checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_KEY, {})
        built = {name: factory(known.get(name)) for name in ("optimizer", "lr_scheduler")}
        built["network"] = build(checkpoint["network_description"])
        return super().load_from_checkpoint(checkpoint_path, *args, **built | kwargs)

    def _now(self) -> float:
        """Seconds, when all that the device was given is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _gather(self, batch: Batch) -> None:
        images, labels = batch
        self._logits.update(classify(self.network, images, tta_flip=self.tta_flip, tta_shift=self.tta_shift))
        self._labels.update(labels)

    def _evaluate(self, split: str, *, prog_bar: bool) -> None:
        logits, labels = self._logits.compute(), self._labels.compute()
        self._logits.reset()
        self._labels.reset()
        evaluation = Evaluation(logits.cpu(), labels.cpu().to(torch.int64), self.class_names or CLASS_NAMES)
        self.evaluations[split] = evaluation
        metrics = evaluation.named_metrics(split)
        shown = {f"{split}/loss", f"{split}/acc"} if prog_bar else set()
        for name, value in metrics.items():
            self.log(name, value, prog_bar=name in shown, sync_dist=True)


def _built(option: str, make: Callable[[Any], Any], of: Any) -> Any:
    try:
        return make(of)
    except (TypeError, ValueError) as error:
        if isinstance(error, SettingError):
            raise
        raise SettingError(f"model.{option} can't be used for this network: {error}. Choose another one.") from error


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
