"""What only a GPU can show: run `pytest -m gpu` where there is one; without one every test is skipped.

`CIFAR_LIT_GPU_TESTS=cpu` runs on the CPU whatever can run there, to try the tests themselves. Nothing is imported that
training on a GPU does not need.
"""

import importlib.util
import math
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, WeightAveraging
from torch import Tensor

from cifar_lit.cli import main
from cifar_lit.data import increment, synthetic
from cifar_lit.registry.registry import Registry
from cifar_lit.training.compilation import CompileStep
from cifar_lit.training.fit import FitCLI
from cifar_lit.training.step_graph import StepGraph

CONFIGS = Path(__file__).parent.parent / "configs"
RECIPES = sorted({path.stem for path in CONFIGS.glob("*.yaml")} - {"finetune", "ray"})
ON_CPU = os.environ.get("CIFAR_LIT_GPU_TESTS") == "cpu"
DEVICE = "cpu" if ON_CPU else "cuda"
QUIET = ["--trainer.accelerator", "cpu" if ON_CPU else "gpu", "--trainer.enable_progress_bar", "false"]
DATA = ["--data.source", "synthetic", "--data.num_synthetic", "600"]
DETERMINISTIC = ["--trainer.deterministic", "true"]
EXACT = ["--trainer.precision", "64-true", "--model.network.init_args.dropout", "0.0", "--data.val_fraction", "0"]
"""Rounding can't hide a step too many, no compiled dropout draws other numbers, and the last epoch is kept."""
BFLOAT16 = ("cifar_lit.models.optimizers.Muon", "cifar_lit.models.optimizers.MuonSGD")
"""Optimizers that orthogonalise in bfloat16, whatever the weights are."""

needs_graphs = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs exist only on a GPU")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (ON_CPU or torch.cuda.is_available()), reason="no CUDA device is at hand"),
]


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A temporary folder, nothing in the environment, and torch's global settings as they were."""
    for name in ("CIFAR_LIT_REGISTRY", "CIFAR_LIT_DATA"):
        monkeypatch.delenv(name, raising=False)
    # cuBLAS reads it once in a process, before the first test that asks for determinism.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.chdir(tmp_path)
    precision = torch.get_float32_matmul_precision()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision(precision)
    torch.compiler.reset()


class FitOnly(FitCLI):
    """`cifar-lit fit` without the version at the end."""

    def after_fit(self) -> None:
        pass


class StopAfterTwo(Callback):
    """Ends the training after its second epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch == 1


class NoteDevices(Callback):
    """Notes where the averaged weights are after each step."""

    seen: set[str] = set()

    def on_train_batch_end(self, trainer: Any, *_: object) -> None:
        averages = [each for each in trainer.callbacks if isinstance(each, WeightAveraging)]
        self.seen.update(weight.device.type for each in averages for weight in each._average_model.parameters())


def command(config: str, *options: str, epochs: int = 2) -> list[str]:
    path = str(CONFIGS / f"{config}.yaml")
    return ["fit", "--config", path, *DATA, *QUIET, "--trainer.max_epochs", str(epochs), *options]


def train(config: str, *options: str, epochs: int = 2) -> FitOnly:
    return FitOnly(command(config, *options, "--trainer.logger", "false", epochs=epochs))


def weights(cli: FitCLI) -> dict[str, Tensor]:
    return {name: value.cpu().clone() for name, value in cli.model.network.state_dict().items()}


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def distance(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Of all values, as a share of their length."""
    flat = [torch.cat([each[name].double().flatten() for name in left]) for each in (left, right)]
    return float((flat[0] - flat[1]).norm() / flat[0].norm())


@pytest.mark.parametrize("config", RECIPES)
def test_every_recipe_trains_and_is_judged_on_the_gpu(config: str) -> None:
    assert main(command(config)) == 0
    manifest = Registry("checkpoints").resolve("latest").manifest
    assert manifest.training["device"].startswith(DEVICE)
    assert all(math.isfinite(value) for value in manifest.metrics.values())


@pytest.mark.parametrize("config", ["smoke", "fast"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_every_precision_learns(config: str, precision: str) -> None:
    if ON_CPU and precision == "16-mixed":
        pytest.skip("float16 with scaled gradients exists only on a GPU")
    small = ["--data.batch_size", "60"] if config == "fast" else []
    cli = train(config, "--trainer.precision", precision, *small, epochs=4)
    history = cli.model.history
    assert cli.trainer.precision == precision
    assert all(math.isfinite(row["train/loss"]) for row in history)
    assert history[-1]["train/loss"] < history[0]["train/loss"]


def test_images_in_the_hosts_memory_give_the_weights_of_images_on_the_device() -> None:
    resident = train("smoke", *DETERMINISTIC, "--data.resident", "true")
    streamed = train("smoke", *DETERMINISTIC, "--data.resident", "false")
    assert equal(weights(resident), weights(streamed))


@pytest.mark.parametrize("config", RECIPES)
def test_equal_seeds_give_equal_weights(config: str) -> None:
    seeds = [["--seed_everything", seed] for seed in ("3", "3", "4")]
    first, second, other = (weights(train(config, *DETERMINISTIC, *seed)) for seed in seeds)
    assert equal(first, second)
    assert not equal(first, other)


@pytest.mark.parametrize("config", ["smoke", "fast"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(config: str) -> None:
    whole = train(config, *DETERMINISTIC, "--best.dirpath", "whole", epochs=4)
    stop = ["--trainer.callbacks+=test_gpu.StopAfterTwo"]
    first = train(config, *DETERMINISTIC, "--best.dirpath", "first", *stop, epochs=4)
    assert len(first.model.history) == 2
    second = train(config, *DETERMINISTIC, "--best.dirpath", "second", "--ckpt_path", "first/last.ckpt", epochs=4)
    assert len(second.model.history) == 4
    assert equal(weights(whole), weights(second))


@pytest.fixture
def increments() -> Path:
    more = synthetic.draw("train", 1_000)
    increment.write(Path("new.npz"), more.subset(torch.arange(700, 800)))
    return Path("new.npz")


def test_a_fine_tune_averages_its_weights_on_the_gpu(increments: Path) -> None:
    assert main(command("smoke", "--data.val_fraction", "0.5")) == 0
    NoteDevices.seen = set()
    options = ["--data.val_fraction", "0.5", "--data.batch_size", "64", "--data.min_new", "64"]
    options += ["--trainer.max_epochs", "2", "--gate.confidence", "0.8"]
    options += ["--trainer.callbacks", '[{"class_path": "test_gpu.NoteDevices"}]']
    assert main(["finetune", *DATA, *QUIET, *options, "--data.increments", str(increments)]) in (0, 3)
    manifest = Registry("checkpoints").get("v0002").manifest
    assert manifest.training["device"].startswith(DEVICE)
    assert NoteDevices.seen == {DEVICE}


@pytest.mark.skipif(not importlib.util.find_spec("onnxscript"), reason="onnx and onnxscript are not installed")
@pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="onnxruntime is not installed")
def test_a_version_trained_on_the_gpu_is_exported() -> None:
    assert main(command("fast")) == 0
    assert main(["export", "latest", "--format", "onnx", "--out", "network.onnx", *DATA]) == 0
    assert Path("network.onnx").stat().st_size > 100_000


def test_weights_are_averaged_on_the_gpu_in_a_fit() -> None:
    NoteDevices.seen = set()
    average = ["--trainer.callbacks+=pytorch_lightning.callbacks.EMAWeightAveraging"]
    cli = train("smoke", *average, "--trainer.callbacks+=test_gpu.NoteDevices", epochs=3)
    assert NoteDevices.seen == {DEVICE}
    assert math.isfinite(cli.model.history[-1]["val/loss"])


@cache
def eager(optimizer: str) -> dict[str, Tensor]:
    """Weights after a training of eager steps."""
    return weights(train("smoke", *EXACT, *with_optimizer(optimizer)))


def with_optimizer(class_path: str) -> list[str]:
    rates = {"torch.optim.SGD": 0.1, "torch.optim.Adam": 0.01, "cifar_lit.models.optimizers.Muon": 0.01}
    rate = [f"--model.optimizer.init_args.lr={rates[class_path]}"] if class_path in rates else []
    return [f"--model.optimizer={class_path}", *rate]


@pytest.fixture
def compiled() -> Callable[[str, str], tuple[FitOnly, CompileStep | StepGraph]]:
    def fit(mode: str, optimizer: str) -> tuple[FitOnly, CompileStep | StepGraph]:
        cli = train("smoke", *EXACT, *with_optimizer(optimizer), "--compile", mode)
        (step,) = (each for each in vars(cli.trainer)["callbacks"] if isinstance(each, CompileStep | StepGraph))
        return cli, step

    return fit


@pytest.mark.parametrize(
    ("mode", "optimizer"),
    [
        pytest.param("step-graph", "torch.optim.Adam", marks=needs_graphs),
        pytest.param("step-graph", "torch.optim.SGD", marks=needs_graphs),
        pytest.param("step-graph", BFLOAT16[0], marks=needs_graphs),
        pytest.param("step-graph", BFLOAT16[1], marks=needs_graphs),
        pytest.param("reduce-overhead", "torch.optim.Adam", marks=needs_graphs),
        ("default", "torch.optim.Adam"),
        pytest.param("max-autotune", "torch.optim.SGD", marks=needs_graphs),
    ],
)
def test_compiled_steps_end_with_the_weights_of_eager_ones(
    mode: str, optimizer: str, compiled: Callable[[str, str], tuple[FitOnly, CompileStep | StepGraph]]
) -> None:
    cli, step = compiled(mode, optimizer)
    assert distance(eager(optimizer), weights(cli)) < (2e-2 if optimizer in BFLOAT16 else 1e-6)
    assert cli.trainer.global_step == 2 * cli.trainer.num_training_batches
    assert step.seconds > 0
    if isinstance(step, CompileStep):
        assert step.cudagraph_skips == 0


@needs_graphs
def test_a_step_graph_takes_images_from_the_hosts_memory() -> None:
    optimizer = "torch.optim.Adam"
    cli = train("smoke", *EXACT, *with_optimizer(optimizer), "--compile", "step-graph", "--data.resident", "false")
    assert distance(eager(optimizer), weights(cli)) < 1e-6


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=needs_graphs) for mode in ("step-graph", "reduce-overhead")])
def test_weights_that_come_to_their_end_early_leave_the_graph(mode: str) -> None:
    options = ["--data.batch_size", "60", "--trainer.precision", "32-true"]
    plain, graphed = (train("fast", *options, *compile, epochs=4) for compile in ([], ["--compile", mode]))
    losses = [[row["train/loss"] for row in cli.model.history] for cli in (plain, graphed)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert graphed.trainer.global_step == plain.trainer.global_step
