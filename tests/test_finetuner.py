from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from cifar_lit.data import synthetic
from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.loader import DeviceLoader
from cifar_lit.errors import SettingError
from cifar_lit.models.finetuner import AverageWeights, FineTuner
from cifar_lit.models.networks import Network, ThreeBlockCNN

DATA = synthetic.draw("train", 100)
State = dict[str, Tensor]


def parent(**options: float) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ThreeBlockCNN(width=4, depth=2, hidden=8, bn_momentum=0.1, **options).eval()  # type: ignore[arg-type]


def fit(tuner: FineTuner, *callbacks: pl.Callback, epochs: int = 1, data: ImageSet = DATA) -> FineTuner:
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        callbacks=[*callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(tuner, DeviceLoader(data, 20, shuffle=True))
    return tuner


def state(module: nn.Module) -> State:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def statistics(module: nn.Module) -> State:
    names = ("running_mean", "running_var", "num_batches_tracked")
    return {name: value for name, value in state(module).items() if name.endswith(names)}


@torch.inference_mode()
def probs(network: Network) -> Tensor:
    return network.eval()(DATA.images.permute(0, 3, 1, 2)).softmax(1)


@pytest.mark.parametrize("distill", [0.0, 0.5])
def test_training_changes_the_copy_and_not_the_parent(distill: float) -> None:
    network = parent()
    before = state(network)
    tuner = fit(FineTuner(network, partial(SGD, lr=0.1), distill=distill))
    assert equal(state(network), before)
    assert not network.training
    assert all(weight.requires_grad for weight in network.parameters())
    after = state(tuner.network)
    assert all(not torch.equal(after[name], before[name]) for name, _ in network.named_parameters())
    if distill:
        assert equal(state(tuner.parent), before)
        assert not tuner.parent.training


def test_the_parent_is_not_among_what_the_optimizer_trains() -> None:
    tuner = FineTuner(parent(), partial(Adam, lr=0.1), distill=0.5)
    optimizer: Any = tuner.configure_optimizers()
    trained = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert {id(weight) for weight in trained} == {id(weight) for weight in tuner.network.parameters()}


def test_frozen_batch_norm_keeps_the_running_statistics_and_trains_scale_and_shift() -> None:
    network = parent()
    tuner = fit(FineTuner(network, partial(SGD, lr=0.1), batch_norm="frozen"), epochs=2)
    assert equal(statistics(tuner.network), statistics(network))
    norms = [module for module in tuner.network.modules() if isinstance(module, nn.BatchNorm2d)]
    theirs = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for mine, other in zip(norms, theirs, strict=True):
        assert not torch.equal(mine.weight, other.weight)
        assert not torch.equal(mine.bias, other.bias)


def test_batch_norm_in_training_moves_the_running_statistics() -> None:
    network = parent()
    moved = statistics(fit(FineTuner(network, partial(SGD, lr=0.1), batch_norm="train"), epochs=2).network)
    before = statistics(network)
    assert all(not torch.equal(moved[name], before[name]) for name in before)
    assert {value.item() for name, value in moved.items() if name.endswith("num_batches_tracked")} == {10}


class SeesModes(pl.Callback):
    """The modes of the modules while a batch is learned."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        self.modes = {type(module).__name__: module.training for module in pl_module.network.modules()}


@pytest.mark.parametrize("batch_norm", ["train", "frozen"])
def test_dropout_is_active_in_training_whatever_batch_norm_does(batch_norm: Any) -> None:
    seen = SeesModes()
    fit(FineTuner(parent(dropout=0.5), partial(SGD, lr=0.1), batch_norm=batch_norm), seen)
    assert seen.modes["Dropout"]
    assert seen.modes["BatchNorm2d"] == (batch_norm == "train")


def test_distillation_holds_the_answers_against_contradicting_labels() -> None:
    network = parent(dropout=0.0)
    before = probs(network)
    wrong = ImageSet(DATA.images, before.argmin(1), "the least likely classes")

    def moved(distill: float) -> float:
        tuner = FineTuner(network, partial(Adam, lr=0.003), batch_norm="frozen", distill=distill)
        return (probs(fit(tuner, epochs=4, data=wrong).network) - before).abs().sum(1).mean().item()

    distances = [moved(distill) for distill in (0.0, 0.5, 1.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[2] < distances[0] / 5


def test_loss_is_that_of_labels_and_of_the_parents_answers_by_their_weights() -> None:
    images, labels = DATA.images[:8].permute(0, 3, 1, 2), DATA.labels[:8]
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    theirs = parent()(images)
    plain, distilled, both = (
        FineTuner(parent(), label_smoothing=0.2, distill=distill, temperature=3.0).loss(images, logits, labels)
        for distill in (0.0, 1.0, 0.25)
    )
    target = (theirs / 3).softmax(1)
    by_hand = 9 * (target * (target.log() - (logits / 3).log_softmax(1))).sum(1).mean()
    log_probs = logits.log_softmax(1)
    smooth = -(0.8 * log_probs.gather(1, labels[:, None]).mean() + 0.2 * log_probs.mean())
    assert plain.item() == pytest.approx(smooth.item(), rel=1e-5)
    assert distilled.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert both.item() == pytest.approx(0.75 * smooth.item() + 0.25 * by_hand.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distill": -0.1}, "distill is -0.1 and temperature 2.0, expected 0..1 and more than 0"),
        ({"distill": 1.1}, "distill is 1.1"),
        ({"distill": float("nan")}, "distill is nan"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"temperature": float("nan")}, "temperature nan"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        FineTuner(parent(), **settings)


# Averaging


class Keeps(pl.Callback):
    """The weights after each step."""

    def __init__(self) -> None:
        self.states: list[State] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        self.states.append(state(pl_module.get_submodule("network")))


@pytest.mark.parametrize(("start", "first"), [(0.0, 0), (0.25, 2), (0.5, 5), (0.99, 9)])
def test_averaging_ends_with_the_mean_of_the_weights_after_the_chosen_steps(start: float, first: int) -> None:
    keeps = Keeps()
    tuner = fit(FineTuner(parent(), partial(SGD, lr=0.1), batch_norm="train"), AverageWeights(start), keeps, epochs=2)
    assert len(keeps.states) == 10
    assert all(not equal(left, right) for left, right in pairwise(keeps.states))
    for name, value in state(tuner.network).items():
        each = torch.stack([kept[name] for kept in keeps.states[first:]])
        if value.is_floating_point():
            torch.testing.assert_close(value, each.mean(0), rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(value, each[-1])  # batches counted, not averaged
            assert value.dtype == torch.int64


def test_averaging_leaves_the_distilling_parent_as_it_is() -> None:
    network = parent()
    tuner = fit(FineTuner(network, partial(SGD, lr=0.1), distill=0.5), AverageWeights(0.0))
    assert equal(state(tuner.parent), state(network))


@pytest.mark.parametrize("start", [-0.1, 1.0, float("nan")])
def test_averaging_that_starts_outside_the_training_is_refused(start: float) -> None:
    with pytest.raises(SettingError, match=r"start is .*expected 0 <= start < 1"):
        AverageWeights(start)
