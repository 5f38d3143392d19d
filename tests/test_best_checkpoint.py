from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, EMAWeightAveraging, StochasticWeightAveraging
from torch.optim import AdamW

from cifar_lit.cifar10 import MEAN, STD
from cifar_lit.data.augment import Augmentation
from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.errors import SettingError
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.models.classifier import Classifier
from cifar_lit.models.networks import Network, ThreeBlockCNN
from cifar_lit.training.best_checkpoint import BestCheckpoint, SyncedCheckpointIO, mode_of


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


class Flat(Network):
    """A network without batch norm."""

    def __init__(self) -> None:
        super().__init__({}, MEAN, STD)
        self.head = torch.nn.Linear(3 * 32 * 32, 10)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(images.flatten(1))
        return logits


class Recorder(Callback):
    """The head's weights at the start of each epoch, before any other callback changes them."""

    def __init__(self) -> None:
        self.heads: list[torch.Tensor] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.heads.append(pl_module.network.head.weight.detach().clone())


def make(seed: int = 0) -> tuple[Classifier, CIFAR10DataModule]:
    torch.manual_seed(seed)
    classifier = Classifier(ThreeBlockCNN(width=4, hidden=16, dropout=0.3, bn_momentum=0.1), partial(AdamW, lr=3e-3))
    augment = Augmentation(flip=True, shift=2)
    return classifier, CIFAR10DataModule(source="synthetic", num_synthetic=200, batch_size=32, augment=augment)


def train(
    classifier: Classifier,
    data: CIFAR10DataModule,
    folder: Path,
    *callbacks: Callback,
    epochs: int,
    every_n_seconds: float = 0.0,
    **fit: Any,
) -> BestCheckpoint:
    best = BestCheckpoint("val/loss", dirpath=str(folder), every_n_seconds=every_n_seconds)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        callbacks=[*callbacks, best],
        num_sanity_val_steps=0,
        plugins=[SyncedCheckpointIO()],
        **quiet,
    )
    trainer.fit(classifier, data, **fit)
    return best


def val_loss(classifier: Classifier, data: CIFAR10DataModule) -> float:
    return evaluate(classifier.network, data.val_set).metrics["loss"]


def test_the_best_epoch_is_restored_after_the_last_one(tmp_path: Path) -> None:
    classifier, data = make()
    best = train(classifier, data, tmp_path, SpoilFrom(3), epochs=6)
    assert best.best_epoch == 2
    assert val_loss(classifier, data) == pytest.approx(classifier.history[2]["val/loss"], abs=1e-5)
    assert classifier.history[5]["val/loss"] > classifier.history[2]["val/loss"]


def test_the_best_epoch_is_restored_after_early_stopping(tmp_path: Path) -> None:
    classifier, data = make()
    best = train(classifier, data, tmp_path, SpoilFrom(3), EarlyStopping("val/loss", patience=2), epochs=50)
    assert len(classifier.history) == 5
    assert best.best_epoch == 2
    assert val_loss(classifier, data) == pytest.approx(classifier.history[2]["val/loss"], abs=1e-5)


def test_the_best_epoch_is_restored_after_an_error(tmp_path: Path) -> None:
    classifier, data = make()
    with pytest.raises(RuntimeError, match="power cut"):
        train(classifier, data, tmp_path, SpoilFrom(3, RuntimeError("power cut")), epochs=6)
    assert val_loss(classifier, data) == pytest.approx(classifier.history[2]["val/loss"], abs=1e-5)


def test_averaged_weights_are_restored_where_weights_are_averaged(tmp_path: Path) -> None:
    classifier, data = make()
    best = train(classifier, data, tmp_path, SpoilFrom(3), EMAWeightAveraging(decay=0.5), epochs=5)
    assert best.best_epoch == 2
    assert val_loss(classifier, data) == pytest.approx(classifier.history[2]["val/loss"], abs=1e-5)
    kept = torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(kept["network.head.weight"], classifier.network.get_parameter("head.weight"))


@pytest.mark.parametrize("use_batch_norm", [True, False])
def test_the_average_of_the_last_epochs_is_kept_in_place_of_the_best(use_batch_norm: bool, tmp_path: Path) -> None:
    classifier, data = make()
    if not use_batch_norm:
        classifier.network = Flat()
    seen = Recorder()
    average = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2, annealing_epochs=1)
    best = train(classifier, data, tmp_path, SpoilFrom(2), average, seen, epochs=4)
    mean = torch.stack(seen.heads[1:4]).mean(0)
    torch.testing.assert_close(classifier.network.head.weight.detach(), mean)
    assert best.best_epoch == (4 if use_batch_norm else 3)
    if use_batch_norm:  # what was validated last is the average
        assert val_loss(classifier, data) == pytest.approx(classifier.history[4]["val/loss"], abs=1e-5)
    kept = torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(kept["network.head.weight"], classifier.network.get_parameter("head.weight"))


def test_averaging_that_was_cut_short_keeps_the_best_epoch(tmp_path: Path) -> None:
    classifier, data = make()
    average = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=4)
    best = train(classifier, data, tmp_path, SpoilFrom(2), average, EarlyStopping("val/loss", patience=1), epochs=9)
    assert best.best_epoch == 1


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
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


def test_a_resumed_run_keeps_the_best_epoch_from_before_it(tmp_path: Path) -> None:
    classifier, data = make()
    train(classifier, data, tmp_path / "first", epochs=2)
    resumed, data = make(seed=9)
    best = train(
        resumed, data, tmp_path / "second", SpoilFrom(2), epochs=4, ckpt_path=str(tmp_path / "first" / "last.ckpt")
    )
    assert best.best_epoch == 1
    assert val_loss(resumed, data) == pytest.approx(resumed.history[1]["val/loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [("val/loss", "min"), ("train/loss", "min"), ("val/acc", "max"), ("val/f1", "max"), ("val/recall", "max")],
)
def test_the_mode_follows_the_metric(monitor: str, mode: str) -> None:
    assert mode_of(monitor) == mode
    assert BestCheckpoint(monitor).mode == mode


def test_the_epoch_of_the_highest_accuracy_is_kept_where_accuracy_is_monitored(tmp_path: Path) -> None:
    classifier, data = make()
    best = BestCheckpoint("val/acc", dirpath=str(tmp_path))
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    pl.Trainer(accelerator="cpu", max_epochs=4, callbacks=[SpoilFrom(3), best], **quiet).fit(classifier, data)
    accuracies = [row["val/acc"] for row in classifier.history]
    assert accuracies[3] < max(accuracies)
    assert best.best_epoch == accuracies.index(max(accuracies))


def test_a_metric_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(SettingError, match=r"best.monitor is 'val/auc', expected one of: .*val/loss, val/acc"):
        BestCheckpoint("val/auc")


class CountWrites(Callback):
    """Lists the epochs after which `last.ckpt` is new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.epochs: list[int] = []
        self._seen: int | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.path.exists() and self.path.stat().st_mtime_ns != self._seen:
            self._seen = self.path.stat().st_mtime_ns
            self.epochs.append(trainer.current_epoch - 1)


def test_between_the_first_epoch_and_the_last_the_state_is_written_as_often_as_asked(tmp_path: Path) -> None:
    classifier, data = make()
    every, seldom = CountWrites(tmp_path / "every/last.ckpt"), CountWrites(tmp_path / "seldom/last.ckpt")
    train(classifier, data, tmp_path / "every", every, epochs=4)
    assert every.epochs == [0, 1, 2]
    classifier, data = make()
    train(classifier, data, tmp_path / "seldom", seldom, epochs=4, every_n_seconds=3600.0)
    assert seldom.epochs == [0]
    for folder in ("every", "seldom"):
        assert torch.load(tmp_path / folder / "last.ckpt", weights_only=True)["epoch"] == 3
        assert {path.name for path in (tmp_path / folder).iterdir()} == {"best.ckpt", "last.ckpt"}


def test_an_epoch_that_was_cut_short_does_not_replace_the_state_to_resume_from(tmp_path: Path) -> None:
    class StopInTheMiddle(Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
            trainer.should_stop = trainer.current_epoch == 2

    whole, data = make()
    train(whole, data, tmp_path / "whole", epochs=4)
    first, data = make()
    train(first, data, tmp_path / "first", StopInTheMiddle(), epochs=4)
    assert len(first.history) == 3
    resumed, data = make(seed=9)
    train(resumed, data, tmp_path / "second", epochs=4, ckpt_path=str(tmp_path / "first" / "last.ckpt"))
    left, right = whole.network.state_dict(), resumed.network.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_checkpoint_that_can_not_be_written_is_an_error_and_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "last.ckpt"
    SyncedCheckpointIO().save_checkpoint({"epoch": 1}, target)

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr("cifar_lit.files.os.replace", denied)
    with pytest.raises(PermissionError):
        SyncedCheckpointIO().save_checkpoint({"epoch": 2}, target)
    assert torch.load(target, weights_only=True) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
