from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, EMAWeightAveraging
from torch.optim import AdamW

from cifar_lit.data.augment import Augmentation
from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.models.classifier import Classifier
from cifar_lit.models.networks import ThreeBlockCNN
from cifar_lit.training.best_checkpoint import BestCheckpoint


class SpoilFrom(Callback):
    """Ruins the weights at the start of an epoch, so that the epoch before it is the best; or ends the run there."""

    def __init__(self, epoch: int, error: BaseException | None = None) -> None:
        self.epoch = epoch
        self.error = error

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch < self.epoch:
            return
        for weight in pl_module.parameters():
            weight.data.normal_()
        if self.error is not None:
            raise self.error


def make(seed: int = 0) -> tuple[Classifier, CIFAR10DataModule]:
    torch.manual_seed(seed)
    classifier = Classifier(ThreeBlockCNN(width=4, hidden=16, dropout=0.3, bn_momentum=0.1), partial(AdamW, lr=3e-3))
    augment = Augmentation(flip=True, shift=2)
    return classifier, CIFAR10DataModule(source="synthetic", num_synthetic=200, batch_size=32, augment=augment)


def train(
    classifier: Classifier, data: CIFAR10DataModule, folder: Path, *callbacks: Callback, epochs: int, **fit: Any
) -> BestCheckpoint:
    best = BestCheckpoint("val/loss", "min", dirpath=str(folder))
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, callbacks=[*callbacks, best], num_sanity_val_steps=0, **quiet
    )
    trainer.fit(classifier, data, **fit)
    return best


def val_loss(classifier: Classifier, data: CIFAR10DataModule) -> float:
    return evaluate(classifier.network, data.val_set).metrics["loss"]


def test_the_best_epoch_is_restored_after_the_last_one(tmp_path: Path):
    classifier, data = make()
    best = train(classifier, data, tmp_path, SpoilFrom(3), epochs=6)
    assert best.best_epoch == 2
    assert val_loss(classifier, data) == pytest.approx(classifier.history[2]["val/loss"], abs=1e-5)
    assert classifier.history[5]["val/loss"] > classifier.history[2]["val/loss"]


def test_the_best_epoch_is_restored_after_early_stopping(tmp_path: Path):
    classifier, data = make()
    best = train(classifier, data, tmp_path, SpoilFrom(3), EarlyStopping("val/loss", patience=2), epochs=50)
    assert len(classifier.history) == 5
    assert best.best_epoch == 2
    assert val_loss(classifier, data) == pytest.approx(classifier.history[2]["val/loss"], abs=1e-5)


def test_the_best_epoch_is_restored_after_an_error(tmp_path: Path):
    classifier, data = make()
    with pytest.raises(RuntimeError, match="power cut"):
        train(classifier, data, tmp_path, SpoilFrom(3, RuntimeError("power cut")), epochs=6)
    assert val_loss(classifier, data) == pytest.approx(classifier.history[2]["val/loss"], abs=1e-5)


def test_the_best_epoch_is_restored_even_if_its_file_is_gone(tmp_path: Path):
    class Remove(Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            for path in tmp_path.glob("*.ckpt"):
                path.unlink()

    classifier, data = make()
    train(classifier, data, tmp_path, SpoilFrom(2), Remove(), epochs=3)
    assert val_loss(classifier, data) == pytest.approx(classifier.history[1]["val/loss"], abs=1e-5)


def test_averaged_weights_are_restored_where_weights_are_averaged(tmp_path: Path):
    classifier, data = make()
    best = train(classifier, data, tmp_path, SpoilFrom(3), EMAWeightAveraging(decay=0.5), epochs=5)
    assert best.best_epoch == 2
    assert val_loss(classifier, data) == pytest.approx(classifier.history[2]["val/loss"], abs=1e-5)
    raw = torch.load(best.best_model_path, weights_only=True)["current_model_state"]
    assert not torch.equal(raw["network.head.weight"], classifier.network.state_dict()["head.weight"])


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path):
    whole, data = make()
    train(whole, data, tmp_path / "whole", epochs=4)
    first, data = make()
    train(first, data, tmp_path / "first", epochs=2)
    second, data = make(seed=9)
    train(second, data, tmp_path / "second", epochs=4, ckpt_path=str(tmp_path / "first" / "last.ckpt"))
    left, right = whole.network.state_dict(), second.network.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    names = ("epoch", "train/loss", "val/loss")
    assert [[row[name] for name in names] for row in whole.history] == [
        [row[name] for name in names] for row in second.history
    ]


def test_a_resumed_run_keeps_the_best_epoch_from_before_it(tmp_path: Path):
    classifier, data = make()
    train(classifier, data, tmp_path / "first", epochs=2)
    resumed, data = make(seed=9)
    best = train(
        resumed, data, tmp_path / "second", SpoilFrom(2), epochs=4, ckpt_path=str(tmp_path / "first" / "last.ckpt")
    )
    assert best.best_epoch == 1
    assert val_loss(resumed, data) == pytest.approx(resumed.history[1]["val/loss"], abs=1e-5)
