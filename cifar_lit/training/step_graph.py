"""The whole training step as one CUDA graph: network, loss, derivative and optimizer, played with a single call."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from cifar_lit.errors import SettingError
from cifar_lit.models.classifier import Classifier
from cifar_lit.models.optimizers import Muon, MuonSGD
from cifar_lit.training.compilation import first_line

_OPTIMIZERS = (Adam, AdamW, SGD, Muon, MuonSGD)
"""Their state is zeros before the first step, so it can be put back after warming up."""

_WARM_UPS = 3
_CAPTURED = {"fused": True, "capturable": True}
"""What torch's own optimizers need to be captured with a rate that changes."""

Result = tuple[Tensor, Tensor]
Recorder = Callable[[Callable[[], Result]], tuple[Callable[[], None], Result]]


class StepGraph(Callback):
    """Replaces each training step by the replay of a CUDA graph, recorded before the first step for each size of batch.

    Rates are tensors on the device, so a schedule goes on as without it. Where there is no CUDA device it warns, and
    the step runs as usual.

    Args:
        record: records a step without running it; gives what replays it, and the tensors that hold its result then.
            Default: a `torch.cuda.CUDAGraph`.
    """

    def __init__(self, record: Recorder | None = None) -> None:
        self.record = record or _record
        self.seconds = 0.0
        """What warming up and recording took."""
        self._plain: list[dict[str, Any]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what a recorded step would leave out."""
        for name, is_right, fix in (
            ("accumulate_grad_batches", trainer.accumulate_grad_batches == 1, "1"),
            ("gradient_clip_val", trainer.gradient_clip_val is None, "null"),
            ("precision", not str(trainer.precision).startswith("16-mixed"), "bf16-mixed"),
            ("devices", trainer.world_size == 1, "1"),
        ):
            if not is_right:
                raise SettingError(
                    f"compile is 'step-graph', which records a step without trainer.{name}. Set --trainer.{name} "
                    f"{fix}, or use --compile reduce-overhead."
                )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        device = pl_module.device
        if self.record is _record and device.type != "cuda":
            rank_zero_warn(f"compile is 'step-graph', but {device} has no CUDA graphs: the step runs as usual.")
            return
        (optimizer,) = trainer.optimizers
        if not isinstance(optimizer, _OPTIMIZERS):
            raise SettingError(
                f"compile is 'step-graph', which can't record {type(optimizer).__name__}, expected one of "
                f"{', '.join(each.__name__ for each in _OPTIMIZERS)}. Use --compile reduce-overhead."
            )
        began = time.perf_counter()
        self._plain = [_set(group, optimizer, device) for group in optimizer.param_groups]
        recorded = _Recorded(pl_module.step_loss, optimizer, trainer, self.record)
        with torch.random.fork_rng([device] if device.type == "cuda" else []), _unchanged(pl_module, optimizer):
            for _ in pl_module.phases():
                for images, labels in trainer.train_dataloader.examples():  # type: ignore[union-attr]
                    recorded.add(images, labels)
        self.seconds = time.perf_counter() - began
        rank_zero_info(f"Recorded the training step as {len(recorded)} CUDA graphs in {self.seconds:.1f} s.")
        pl_module.step_loss = recorded  # type: ignore[method-assign]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Saves rates as numbers, so that a run can be resumed without graphs."""
        for state in checkpoint["optimizer_states"] if self._plain else []:
            for group, plain in zip(state["param_groups"], self._plain, strict=True):
                group.update(plain, lr=float(group["lr"]))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        pl_module.__dict__.pop("step_loss", None)


class _Recorded:
    """Steps that were recorded, by size of batch and by the weights that are trained."""

    def __init__(
        self, step_loss: Callable[..., Result], optimizer: Optimizer, trainer: pl.Trainer, record: Recorder
    ) -> None:
        self._step_loss = step_loss
        self._optimizer = optimizer
        self._trainer = trainer
        self._record = record
        self._graphs: dict[Any, tuple[Tensor, Tensor, Callable[[], None], Result]] = {}

    def __len__(self) -> int:
        return len(self._graphs)

    def __call__(self, images: Tensor, labels: Tensor) -> Result:
        """Makes a whole step; the loss that it returns has no derivative left to compute, so that Lightning's own
        backward and optimizer step find nothing to do."""
        its_images, its_labels, replay, (loss, totals) = self._graphs[self._key(images)]
        its_images.copy_(images)
        its_labels.copy_(labels)
        replay()
        return loss.detach().requires_grad_(), totals

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Warms up a step on images like these, which moves the weights, and records it.

        Raises:
            SettingError: it can't be recorded.
        """
        images, labels = images.clone(), labels.clone()

        def step() -> Result:
            self._optimizer.zero_grad()
            with self._trainer.precision_plugin.train_step_context():
                loss, totals = self._step_loss(*self._trainer.precision_plugin.convert_input((images, labels)))
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            return loss.detach(), totals

        try:
            with _side_stream(images.device):
                for _ in range(_WARM_UPS):
                    step()
            self._optimizer.zero_grad()
            self._graphs[self._key(images)] = (images, labels, *self._record(step))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise SettingError(
                f"The training step can't be recorded as a CUDA graph: {first_line(error)} Use --compile "
                "reduce-overhead, or train without it: --compile null."
            ) from error

    def _key(self, images: Tensor) -> tuple[int, int]:
        weights = (weight for group in self._optimizer.param_groups for weight in group["params"])
        return len(images), sum(weight.requires_grad for weight in weights)


def _record(step: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    return graph.replay, result


@contextlib.contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """Warming up has to happen on another stream than the default one."""
    if device.type != "cuda":
        yield
        return
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        yield
    torch.cuda.current_stream(device).wait_stream(side)


@contextlib.contextmanager
def _unchanged(module: Classifier, optimizer: Optimizer) -> Iterator[None]:
    """Puts back the values of weights, statistics and optimizer state; graphs hold on to their places."""
    before = [(value, value.clone()) for value in [*module.parameters(), *module.buffers(), *_state(optimizer)]]
    known = {value.data_ptr() for value, _ in before}
    try:
        yield
    finally:
        with torch.no_grad():
            for value, kept in before:
                value.copy_(kept)
            for value in _state(optimizer):
                if value.data_ptr() not in known:
                    value.zero_()
        optimizer.zero_grad()


def _state(optimizer: Optimizer) -> list[Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]


def _set(group: dict[str, Any], optimizer: Optimizer, device: torch.device) -> dict[str, Any]:
    """Prepares a parameter group for being recorded; gives what it had before."""
    plain = {name: group[name] for name in _CAPTURED if name in group}
    group.update({name: _CAPTURED[name] for name in plain if name == "fused" or device.type == "cuda"})
    group["lr"] = torch.tensor(float(group["lr"]), device=device)
    for weight in group["params"]:
        state = optimizer.state.get(weight, {})
        if "step" in state:
            state["step"] = state["step"].to(device, torch.float32)
    return plain
