"""A training that is ended at any step, by kill -9, SIGTERM or Ctrl-C, and resumed, ends as if nothing had been."""

import multiprocessing
import os
import random
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.optim import AdamW

from cifar_lit.data.augment import Augmentation
from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.models.classifier import Classifier
from cifar_lit.models.networks import ThreeBlockCNN
from cifar_lit.models.schedules import OneCycle
from cifar_lit.training.best_checkpoint import BestCheckpoint, SyncedCheckpointIO
from cifar_lit.training.interrupt import StopOnInterrupt

EPOCHS, STEPS_PER_EPOCH = 4, 7
STEPS = random.Random(0).sample(range(1, EPOCHS * STEPS_PER_EPOCH), 20)
KINDS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]


class EndAt(Callback):
    """Sends the process a signal after a step."""

    def __init__(self, step: int, signum: int) -> None:
        self.step = step
        self.signum = signum

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.signum)


def train(folder: Path, *callbacks: Callback) -> Classifier:
    """Trains in `folder`, from its last state if there is one."""
    pl.seed_everything(3, verbose=False)
    torch.set_num_threads(1)
    last = folder / "last.ckpt"
    network = ThreeBlockCNN(width=4, depth=2, hidden=8, dropout=0.3, bn_momentum=0.1)
    classifier = Classifier(network, partial(AdamW, lr=3e-3), OneCycle)
    data = CIFAR10DataModule(
        source="synthetic", num_synthetic=120, batch_size=16, augment=Augmentation(flip=True, shift=2)
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=EPOCHS,
        callbacks=[*callbacks, StopOnInterrupt(), BestCheckpoint(dirpath=str(folder), every_n_seconds=0)],
        plugins=[SyncedCheckpointIO()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(classifier, data, ckpt_path=str(last) if last.exists() else None)
    return classifier


def state(folder: Path) -> dict[str, Any]:
    """What a run ends with, but for the time that it took."""
    last = torch.load(folder / "last.ckpt", weights_only=True)
    history = [{name: value for name, value in row.items() if name != "seconds"} for row in last["history"]]
    names = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")
    return {name: last[name] for name in names} | {"history": history}


def assert_equal(left: Any, right: Any) -> None:
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for name in left:
            assert_equal(left[name], right[name])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_equal(one, other)
    else:
        assert left == right


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """An uninterrupted run: its state, and the weights that it gave back at the end, the best epoch's."""
    folder = tmp_path_factory.mktemp("whole")
    kept = train(folder).state_dict()
    ended = state(folder)
    assert ended["global_step"] == EPOCHS * STEPS_PER_EPOCH
    return ended, kept


def end(folder: Path, step: int, signum: int) -> None:
    """Trains until the signal comes; kill -9 in a process of its own."""
    if signum != signal.SIGKILL:
        train(folder, EndAt(step, signum))
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=train, args=(folder, EndAt(step, signum)))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_ended_at_any_of_twenty_steps_and_resumed_it_equals_the_uninterrupted_run(
    kind: signal.Signals, whole: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    for step in STEPS:
        folder = tmp_path / f"step{step}"
        end(folder, step, kind)
        assert (folder / "last.ckpt").exists() == (
            step > STEPS_PER_EPOCH or step == STEPS_PER_EPOCH and kind != signal.SIGKILL
        )
        kept = train(folder).state_dict()
        assert_equal(state(folder), whole[0])
        assert_equal(dict(kept), dict(whole[1]))


def test_a_signal_in_mid_epoch_leaves_the_state_of_the_last_whole_one(tmp_path: Path) -> None:
    end(tmp_path, STEPS_PER_EPOCH + 2, signal.SIGINT)
    assert state(tmp_path)["global_step"] == STEPS_PER_EPOCH
