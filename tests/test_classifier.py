from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cifar_lit.data.augment import Augmentation
from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.models.classifier import Classifier
from cifar_lit.models.networks import Network, ThreeBlockCNN, WhitenedCNN
from cifar_lit.models.schedules import OneCycle


@pytest.fixture
def data() -> CIFAR10DataModule:
    return CIFAR10DataModule(source="synthetic", num_synthetic=200, batch_size=32, eval_batch_size=30)


def network(**options: float) -> ThreeBlockCNN:
    torch.manual_seed(0)
    return ThreeBlockCNN(width=4, hidden=8, **options)  # type: ignore[arg-type]


def trainer() -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_weight_decay_spares_biases_and_batch_norm(data: CIFAR10DataModule) -> None:
    classifier = Classifier(network(), optimizer=partial(AdamW, weight_decay=0.3))
    optimizer = classifier.configure_optimizers()
    assert isinstance(optimizer, AdamW)
    decay = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    for weight in classifier.parameters():
        assert decay[id(weight)] == (0.3 if weight.ndim > 1 else 0.0)


def test_one_cycle_spans_the_whole_training(data: CIFAR10DataModule) -> None:
    classifier = Classifier(network(), optimizer=partial(SGD, lr=1.0), lr_scheduler=OneCycle)
    fit = trainer()
    fit.fit(classifier, data)
    schedule = fit.lr_scheduler_configs[0]
    assert schedule.interval == "step"
    assert schedule.scheduler.total_steps == fit.global_step == 5
    assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(0)


def test_a_plateau_schedule_watches_the_monitored_metric(data: CIFAR10DataModule) -> None:
    classifier = Classifier(network(), partial(SGD, lr=1.0), ReduceLROnPlateau, monitor="val/acc")
    fit = trainer()
    fit.fit(classifier, data)
    assert fit.lr_scheduler_configs[0].monitor == "val/acc"


def test_training_loss_and_accuracy_are_means_over_all_images(data: CIFAR10DataModule) -> None:
    model = network(dropout=0.0)
    classifier = Classifier(model, partial(SGD, lr=0.0), label_smoothing=0.1)
    fit = trainer()
    fit.fit(classifier, data)
    model.train()
    losses, hits = [], []
    loader = data.train_dataloader()
    for images, labels in loader:
        logits = model(images)
        losses.append(cross_entropy(logits, labels, label_smoothing=0.1, reduction="none"))
        hits.append(logits.argmax(1) == labels)
    assert classifier.history[0]["images"] == 160
    assert classifier.history[0]["train/loss"] == pytest.approx(torch.cat(losses).mean().item(), abs=1e-5)
    assert classifier.history[0]["train/acc"] == pytest.approx(torch.cat(hits).float().mean().item(), abs=1e-6)


@pytest.mark.parametrize("tta_flip", [False, True])
def test_the_test_loop_measures_what_evaluate_measures(data: CIFAR10DataModule, tta_flip: bool) -> None:
    classifier = Classifier(network(), tta_flip=tta_flip)
    fit = trainer()
    (logged,) = fit.test(classifier, data, verbose=False)
    expected = evaluate(classifier.network, data.test_set, tta_flip=tta_flip, batch_size=200)
    assert logged == pytest.approx(expected.named_metrics("test"), abs=1e-5)
    assert torch.equal(classifier.evaluations["test"].labels, data.test_set.labels)
    assert torch.allclose(classifier.evaluations["test"].logits, expected.logits, atol=1e-5)


def test_validation_loss_has_no_label_smoothing(data: CIFAR10DataModule) -> None:
    plain, smoothed = Classifier(network()), Classifier(network(), label_smoothing=0.5)
    values = [trainer().validate(each, data, verbose=False)[0]["val/loss"] for each in (plain, smoothed)]
    assert values[0] == values[1]


def test_history_has_a_row_for_each_epoch(data: CIFAR10DataModule) -> None:
    classifier = Classifier(network())
    fit = trainer()
    fit.fit_loop.max_epochs = 2
    fit.fit(classifier, data)
    assert [row["epoch"] for row in classifier.history] == [0, 1]
    names = {"epoch", "seconds", "images", "lr", "train/loss", "train/acc", "val/loss", "val/acc", "val/f1"}
    assert names <= set(classifier.history[0])


def test_groups_are_the_networks_and_their_biases_are_spared_too(data: CIFAR10DataModule) -> None:
    torch.manual_seed(0)
    network = WhitenedCNN(widths=[4, 8])
    optimizer = Classifier(network, optimizer=partial(AdamW, weight_decay=0.3)).configure_optimizers()
    assert isinstance(optimizer, AdamW)
    found = [(group["name"], group["weight_decay"]) for group in optimizer.param_groups]
    assert found == [("filters", 0.3), ("head", 0.3), ("shifts", 0.0), ("whitening", 0.0)]
    assert [group["params"] for group in optimizer.param_groups] == list(network.param_groups().values())


class Preparing(ThreeBlockCNN):
    """Notes what it is prepared with."""

    def prepare(self, batches: Iterable[Tensor]) -> None:
        self.seen = [images for images, _ in zip(batches, range(2), strict=False)]


def test_a_network_is_prepared_with_training_images_before_the_first_step(data: CIFAR10DataModule) -> None:
    network = Preparing(width=4, hidden=8)
    fit = trainer()
    fit.fit(Classifier(network), data)
    assert [images.shape for images in network.seen] == [(32, 3, 32, 32)] * 2
    first = [images for images, _ in data.train_dataloader()][:2]
    assert all(torch.equal(one, other) for one, other in zip(network.seen, first, strict=True))


def whitening(network: Network) -> Tensor:
    return network.state_dict()["whitening.weight"].clone()


def test_a_prepared_network_stays_as_it_is_when_training_goes_on(data: CIFAR10DataModule, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = WhitenedCNN(widths=[4])
    untouched = whitening(network)
    first = trainer()
    first.fit(Classifier(network), data)
    prepared = whitening(network)
    assert not torch.equal(untouched, prepared)
    first.save_checkpoint(tmp_path / "last.ckpt")
    data.augment = Augmentation(flip=True, cutout=16)  # from other images another whitening would come
    for resumed in (WhitenedCNN(widths=[4]), network):
        fit = trainer()
        fit.fit_loop.max_epochs = 2
        fit.fit(Classifier(resumed), data, ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True)
        assert torch.equal(whitening(resumed), prepared)


def test_all_processes_take_what_the_first_has_prepared(data: CIFAR10DataModule) -> None:
    torch.manual_seed(0)
    first, second = WhitenedCNN(widths=[4]), WhitenedCNN(widths=[4])
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    first.prepare([images])
    classifier = Classifier(second)
    strategy = SimpleNamespace(broadcast=lambda state: first.state_dict())
    classifier._trainer = SimpleNamespace(  # type: ignore[assignment]
        train_dataloader=[(images[:20], torch.zeros(20))], world_size=2, strategy=strategy, barebones=False
    )
    classifier.on_train_start()
    assert torch.equal(whitening(second), whitening(first))
    assert torch.equal(second.head.weight, first.head.weight)


def test_tta_is_used_in_the_test_loop(data: CIFAR10DataModule) -> None:
    classifier = Classifier(network(), tta_flip=True, tta_shift=2)
    (logged,) = trainer().test(classifier, data, verbose=False)
    expected = evaluate(classifier.network, data.test_set, tta_flip=True, tta_shift=2)
    assert logged == pytest.approx(expected.named_metrics("test"), abs=1e-5)
