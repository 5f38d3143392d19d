"""The compiled training step. Inductor takes a minute on a CPU, so most tests compile to the graph and run that."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch._dynamo.utils import counters
from torch.optim import SGD

from cifar_lit.cli import main
from cifar_lit.data.augment import Augmentation
from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.errors import SettingError
from cifar_lit.models.classifier import Classifier
from cifar_lit.models.networks import ThreeBlockCNN
from cifar_lit.models.optimizers import MuonSGD
from cifar_lit.models.schedules import OneCycle
from cifar_lit.models.whitened_cnn import WhitenedCNN
from cifar_lit.registry.registry import Registry
from cifar_lit.training import compilation
from cifar_lit.training.compilation import CompileStep

COMPILE = torch.compile


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Compiles for real up to the backend, and lists what was asked for."""
    asked: list[dict[str, Any]] = []

    def compile_to_graph(step: Callable[..., Any], *, mode: str, **options: Any) -> Callable[..., Any]:
        asked.append({"mode": mode, **options})
        return COMPILE(step, backend="aot_eager", **options)

    torch.compiler.reset()
    monkeypatch.setattr(compilation.torch, "compile", compile_to_graph)
    return asked


def classifier(**options: float) -> Classifier:
    torch.manual_seed(0)
    network = ThreeBlockCNN(width=4, depth=1, hidden=8, dropout=0.0, bn_momentum=0.3)
    return Classifier(network, partial(SGD, lr=0.1), **options)  # type: ignore[arg-type]


def data() -> CIFAR10DataModule:
    augment = Augmentation(flip=True, shift=2)
    return CIFAR10DataModule(source="synthetic", num_synthetic=200, batch_size=33, augment=augment)


def train(module: Classifier, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(module, data())
    return trainer


def test_a_compiled_training_equals_one_that_is_not(
    traced: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifar_lit.native.block.fits", lambda *_: False)  # its sums have another order
    plain, compiled = classifier(label_smoothing=0.1), classifier(label_smoothing=0.1)
    train(plain)
    step = CompileStep("default")
    train(compiled, step)
    assert traced == [{"mode": "default", "dynamic": False, "fullgraph": True}]
    assert step.seconds > 0
    for name, value in plain.network.state_dict().items():
        torch.testing.assert_close(compiled.network.state_dict()[name], value, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(compiled.history, plain.history, strict=True):
        assert {**ours, "seconds": 0} == pytest.approx({**theirs, "seconds": 0}, abs=1e-4)


def test_compiling_leaves_weights_statistics_gradients_and_random_state_alone(traced: list[dict[str, Any]]) -> None:
    module = classifier()
    seen: dict[str, Any] = {}

    class Before(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            seen["state"] = {name: value.clone() for name, value in pl_module.state_dict().items()}
            seen["random"] = torch.get_rng_state()

    class After(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            for name, value in pl_module.state_dict().items():
                assert torch.equal(value, seen["state"][name]), name
            assert torch.equal(torch.get_rng_state(), seen["random"])
            assert all(weight.grad is None for weight in pl_module.parameters())
            seen["checked"] = True

    train(module, Before(), CompileStep(), After())
    assert seen["checked"]


def test_only_training_batches_are_compiled_and_each_size_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def backend(graph: Any, inputs: list[Any]) -> Any:
        sizes.append(next(value.shape[0] for value in inputs if isinstance(value, torch.Tensor) and value.ndim == 4))
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(
        compilation.torch, "compile", lambda step, *, mode, **options: COMPILE(step, backend=backend, **options)
    )
    module = classifier()
    train(module, CompileStep())
    assert len(sizes) == 1  # 160 images are five batches of 32
    assert "step_loss" not in module.__dict__


def test_weights_that_come_to_their_end_early_leave_the_compiled_step(traced: list[dict[str, Any]]) -> None:
    counters.clear()
    network = WhitenedCNN(widths=[4])
    schedule = partial(OneCycle, warmup=0.0, until={"whitening": 0.5})
    module = Classifier(network, partial(MuonSGD, lr=0.1, head_lr=0.1, bias_lr=0.1), schedule)
    train(module, CompileStep())
    assert counters["stats"]["unique_graphs"] == 2


def test_the_state_dict_has_the_same_names_while_compiled(traced: list[dict[str, Any]]) -> None:
    names: list[set[str]] = []

    class Look(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            names.append(set(pl_module.state_dict()))

    train(classifier(), CompileStep(), Look())
    assert names == [set(classifier().state_dict())] * 2


def test_what_can_not_be_compiled_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: object, **__: object) -> Any:
        def step(*_: object) -> None:
            raise RuntimeError("No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')\nmore")

        return step

    monkeypatch.setattr(compilation.torch, "compile", no_compiler)
    with pytest.raises(
        SettingError, match=r"can't be compiled: No working C\+\+ compiler .*\. Compiling needs a C\+\+"
    ):
        train(classifier(), CompileStep())


def test_a_network_that_breaks_the_graph_is_refused_and_not_run_uncompiled(traced: list[dict[str, Any]]) -> None:
    module = classifier()

    def loss(images: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return logits.mean()

    module.loss = loss  # type: ignore[method-assign]
    with pytest.raises(SettingError, match="can't be compiled"):
        train(module, CompileStep())


def test_graphs_do_not_accumulate_gradients() -> None:
    with pytest.raises(SettingError, match="can't accumulate gradients over 2 batches. Use --compile default"):
        train(classifier(), CompileStep("reduce-overhead"), accumulate_grad_batches=2)


def test_graphs_on_a_cpu_are_warned_of(traced: list[dict[str, Any]]) -> None:
    with pytest.warns(UserWarning, match="cpu has no CUDA graphs"):
        train(classifier(), CompileStep("reduce-overhead"))
    assert traced[0]["mode"] == "reduce-overhead"


@pytest.fixture
def fit(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)
    quick = ["--data.num_synthetic", "200", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    config = str(compilation.__file__).rpartition("cifar_lit")[0] + "configs/smoke.yaml"
    return lambda *options: main(["fit", "--config", config, *quick, *options])


def test_fit_says_what_compiling_took_and_keeps_the_option(
    fit: Callable[..., int], traced: list[dict[str, Any]]
) -> None:
    assert fit("--compile", "default") == 0
    version = Registry("checkpoints").get("v0001")
    assert version.manifest.training["compile_seconds"] > 0
    assert "compile: default" in version.read("config.yaml").decode()
    assert [each["mode"] for each in traced] == ["default"]


def test_without_the_option_nothing_is_compiled(fit: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation.torch, "compile", lambda *_, **__: pytest.fail("it was not asked for"))
    assert fit() == 0
    assert Registry("checkpoints").get("v0001").manifest.training["compile_seconds"] == 0


@pytest.mark.slow
def test_the_real_compiler_trains(fit: Callable[..., int]) -> None:
    torch.compiler.reset()
    assert fit("--compile", "default") == 0
