"""Compiles the training step: network, loss and their derivative as a few kernels, or as CUDA graphs.

Validation, the checkpoints and the registry see the network as it is.
"""

import time
from collections.abc import Callable
from typing import Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from cifar_lit.errors import SettingError
from cifar_lit.models.classifier import Classifier

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
"""As `torch.compile` takes it."""

_WITH_GRAPHS = ("reduce-overhead", "max-autotune")
_ROUNDS = 3
"""A CUDA graph is warmed up in the first, recorded in the second and played in the third."""


class CompileStep(Callback):
    """Compiles `Classifier.step_loss` before the first step, for each size of batch that an epoch has.

    Only the training step: validation runs once an epoch and would pay for kernels of its own. Batches differ by one
    image at most, so there are two sizes, each with its own kernels, rather than slower ones for any size.

    Args:
        mode: as `torch.compile` takes it. "reduce-overhead" and "max-autotune" replay the kernels of a step as CUDA
            graphs, which is what small batches need; "max-autotune" also tries several kernels for each product.
    """

    def __init__(self, mode: CompileMode = "default") -> None:
        self.mode: CompileMode = mode
        self.seconds = 0.0
        """What compiling took."""
        self.cudagraph_skips = 0
        """Parts of the step that `torch.compile` left out of its CUDA graphs."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what would fail in the middle of the training."""
        if self.mode not in _WITH_GRAPHS:
            return
        if trainer.accumulate_grad_batches != 1:
            # A graph's next replay overwrites the gradients of the one before (pytorch/pytorch#169545).
            raise SettingError(
                f"compile is {self.mode!r}, whose CUDA graphs can't accumulate gradients over "
                f"{trainer.accumulate_grad_batches} batches. Use --compile default, or "
                "--trainer.accumulate_grad_batches 1."
            )
        if trainer.strategy.root_device.type != "cuda":
            rank_zero_warn(
                f"compile is {self.mode!r}, but {trainer.strategy.root_device} has no CUDA graphs: it is compiled "
                "without."
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        began = time.perf_counter()
        weights = [weight for weight in pl_module.parameters() if weight.requires_grad]
        # fullgraph: what can't be compiled is an error, and not run uncompiled.
        compiled = torch.compile(_counted(pl_module.step_loss), mode=self.mode, dynamic=False, fullgraph=True)
        step = _Compiled(compiled, weights, replayed=self.mode in _WITH_GRAPHS)
        skips = _graphs_skipped()
        buffers = [(buffer, buffer.clone()) for buffer in pl_module.buffers()]
        device = pl_module.device
        devices = [device] if device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices), trainer.precision_plugin.train_step_context():
                for _ in pl_module.phases():
                    trained = [weight for weight in weights if weight.requires_grad]
                    for batch in trainer.train_dataloader.examples():  # type: ignore[union-attr]
                        batch = trainer.precision_plugin.convert_input(batch)
                        for _ in range(_ROUNDS):
                            loss, _totals = step(*batch)
                            # Neither gradients nor what waits for them (DDP) are touched.
                            torch.autograd.grad(loss, trained, allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # of which torch's many compilation errors are kinds
            raise SettingError(
                f"The training step can't be compiled: {first_line(error)} Compiling needs a C++ compiler (g++ in "
                "PATH, or CXX) and, on a GPU, Triton and a C compiler; or train without it: --compile null."
            ) from error
        with torch.no_grad():
            for buffer, before in buffers:  # batch norm's statistics took part; graphs hold on to their place
                buffer.copy_(before)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.seconds = time.perf_counter() - began
        rank_zero_info(f"Compiled the training step ({self.mode}) in {self.seconds:.1f} s.")
        self.cudagraph_skips = _graphs_skipped() - skips
        if self.cudagraph_skips:
            rank_zero_warn(
                f"{self.cudagraph_skips} parts of the training step are not replayed as CUDA graphs and take longer. "
                "TORCH_LOGS=perf_hints says why; --compile default does without graphs."
            )
        pl_module.step_loss = step  # type: ignore[method-assign]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        pl_module.__dict__.pop("step_loss", None)


Result = tuple[Tensor, Tensor]


def _counted(step_loss: Callable[[Tensor, Tensor], Result]) -> Callable[[Tensor, Tensor, int], Result]:
    """The step, compiled anew for each number of trained weights: torch 2.11's `torch.compile` does not check whether a
    weight still requires a gradient, and would go on computing it."""

    def step(images: Tensor, labels: Tensor, num_trained: int) -> Result:
        assert num_trained > 0  # only a number that is looked at is checked for
        return step_loss(images, labels)

    return step


class _Compiled:
    """The compiled step. Where CUDA graphs are replayed it is in the memory of the step before, whose gradients must be
    gone by then."""

    def __init__(self, step: Callable[[Tensor, Tensor, int], Result], weights: list[nn.Parameter], *, replayed: bool):
        self._step = step
        self._weights = weights
        self._replayed = replayed

    def __call__(self, images: Tensor, labels: Tensor) -> Result:
        if self._replayed:
            for weight in self._weights:
                weight.grad = None
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return self._step(images, labels, sum(weight.requires_grad for weight in self._weights))


def _graphs_skipped() -> int:
    return int(torch._dynamo.utils.counters["inductor"]["cudagraph_skips"])


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".!") + "." if lines else f"{type(error).__name__}."
