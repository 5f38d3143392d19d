"""The recorded training step. Without a GPU, what records it runs the step at each replay: all but CUDA's part."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, RMSprop

from cifar_lit.data.augment import Augmentation
from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.errors import SettingError
from cifar_lit.models.classifier import Classifier
from cifar_lit.models.networks import ThreeBlockCNN
from cifar_lit.models.optimizers import Muon, MuonSGD
from cifar_lit.models.schedules import OneCycle
from cifar_lit.models.whitened_cnn import WhitenedCNN
from cifar_lit.training.step_graph import StepGraph


def run_at_each_replay(step: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Callable[[], None], tuple[Tensor, Tensor]]:
    result = torch.zeros(()), torch.zeros(2)

    def replay() -> None:
        for place, value in zip(result, step(), strict=True):
            place.copy_(value)

    return replay, result


def graph() -> StepGraph:
    return StepGraph(run_at_each_replay)


def classifier(optimizer: Any, network: Any = None, **schedule: Any) -> Classifier:
    torch.manual_seed(0)
    network = network or ThreeBlockCNN(width=4, depth=1, hidden=8, dropout=0.3, bn_momentum=0.3)
    return Classifier(network, optimizer, partial(OneCycle, **schedule), label_smoothing=0.1)


def train(module: Classifier, *callbacks: pl.Callback, epochs: int = 3, **options: Any) -> pl.Trainer:
    fit = {name: options.pop(name) for name in ("ckpt_path",) if name in options}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=any(isinstance(each, pl.callbacks.Checkpoint) for each in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )
    augment = Augmentation(flip=True, shift=2)
    trainer.fit(module, CIFAR10DataModule(source="synthetic", num_synthetic=203, batch_size=33, augment=augment), **fit)
    return trainer


def assert_same(left: Classifier, right: Classifier) -> None:
    for name, value in left.state_dict().items():
        torch.testing.assert_close(right.state_dict()[name], value, atol=1e-4, rtol=1e-3)  # Muon rounds to bfloat16
    for ours, theirs in zip(left.history, right.history, strict=True):
        assert {**ours, "seconds": 0} == pytest.approx({**theirs, "seconds": 0}, abs=1e-4)


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(Adam, lr=3e-3),
        partial(AdamW, lr=3e-3, fused=True),
        partial(SGD, lr=0.1, momentum=0.9, nesterov=True, fused=True),
        partial(Muon, lr=0.01),
        partial(MuonSGD, lr=0.1, head_lr=0.1, bias_lr=0.1),
    ],
    ids=lambda optimizer: optimizer.func.__name__,
)
def test_a_recorded_training_equals_one_that_is_not(optimizer: Any) -> None:
    plain, recorded = classifier(optimizer), classifier(optimizer)
    train(plain)
    step = graph()
    trainer = train(recorded, step)
    assert step.seconds > 0
    assert trainer.global_step == 3 * 5
    assert_same(plain, recorded)
    assert plain.history[0]["train/loss"] != plain.history[2]["train/loss"]


def test_weights_that_come_to_their_end_early_are_recorded_without() -> None:
    optimizer = partial(MuonSGD, lr=0.1, head_lr=0.1, bias_lr=0.1)
    runs = [classifier(optimizer, WhitenedCNN(widths=[4, 8]), warmup=0.0, until={"whitening": 0.5}) for _ in range(2)]
    runs[1].network.load_state_dict(runs[0].network.state_dict())
    train(runs[0], epochs=4)
    seen: list[bool] = []

    class Look(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            seen.append(runs[1].network.get_parameter("whitening.bias").requires_grad)

    step = graph()
    train(runs[1], step, Look(), epochs=4)
    assert seen == [True, True, False, False]
    assert runs[1].network.get_parameter("whitening.bias").requires_grad
    assert_same(*runs)


def test_recording_leaves_weights_statistics_optimizer_and_random_state_alone() -> None:
    module = classifier(partial(Adam, lr=3e-3))
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
            states = trainer.optimizers[0].state.values()
            assert not any(value.any() for state in states for value in state.values())
            seen["checked"] = True

    train(module, Before(), graph(), After())
    assert seen["checked"]


@pytest.mark.parametrize("resumed_with", [[], [graph]], ids=["without", "with"])
@pytest.mark.parametrize("optimizer", [partial(Adam, lr=3e-3), partial(Muon, lr=0.01)], ids=["Adam", "Muon"])
def test_a_recorded_training_can_be_resumed_with_and_without_graphs(
    optimizer: Any, resumed_with: Any, tmp_path: Path
) -> None:
    class Save(pl.callbacks.Checkpoint):  # comes after all that an epoch ends with
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=False)

    whole = classifier(optimizer)
    train(whole, graph(), Save())
    group = torch.load(tmp_path / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"][0]
    assert isinstance(group["lr"], float)
    assert not group.get("fused")
    resumed = classifier(optimizer)
    train(resumed, *(make() for make in resumed_with), ckpt_path=str(tmp_path / "last.ckpt"))
    assert_same(whole, resumed)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches 1"),
        ({"gradient_clip_val": 1.0}, "gradient_clip_val null"),
    ],
)
def test_what_a_recorded_step_would_leave_out_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=f"Set --trainer.{words}, or use --compile reduce-overhead"):
        train(classifier(Adam), graph(), **options)


def test_an_optimizer_whose_state_can_not_be_put_back_is_refused() -> None:
    with pytest.raises(SettingError, match="can't record RMSprop, expected one of Adam, AdamW, SGD, Muon, MuonSGD"):
        train(classifier(RMSprop), graph())


def test_a_step_that_can_not_be_recorded_is_refused_with_the_way_out() -> None:
    def fails(step: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(SettingError, match=r"can't be recorded as a CUDA graph: operation not permitted .* --compile"):
        train(classifier(Adam), StepGraph(fails))


def test_without_a_gpu_it_warns_and_the_step_runs_as_usual() -> None:
    plain, other = classifier(partial(Adam, lr=3e-3)), classifier(partial(Adam, lr=3e-3))
    train(plain)
    with pytest.warns(UserWarning, match="cpu has no CUDA graphs: the step runs as usual"):
        train(other, StepGraph())
    assert_same(plain, other)
