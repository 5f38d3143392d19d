"""What training leaves out, it gives back when it ends."""

import gc
import os
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.models.classifier import Classifier
from cifar_lit.models.finetuner import AverageWeights
from cifar_lit.models.networks import ThreeBlockCNN
from cifar_lit.training.step_overhead import NoProfiler, ReduceStepOverhead

CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"


class Look(pl.Callback):
    def __init__(self) -> None:
        self.frozen: list[int] = []
        self.checks: list[str | None] = []

    def on_train_batch_end(self, *arguments: object) -> None:
        self.frozen.append(gc.get_freeze_count())
        self.checks.append(os.environ.get(CHECK))


@pytest.mark.parametrize("fails", [False, True])
def test_garbage_collection_and_environment_are_as_before_after_a_training(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CHECK, "1")
    look = Look()
    if fails:
        monkeypatch.setattr(Look, "on_train_epoch_end", lambda *arguments: 1 / 0)
    classifier = Classifier(ThreeBlockCNN(width=4, hidden=8))
    data = CIFAR10DataModule(source="synthetic", num_synthetic=200)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[ReduceStepOverhead(), look],
        profiler=NoProfiler(),
    )
    if fails:
        with pytest.raises(ZeroDivisionError):
            trainer.fit(classifier, data)
    else:
        trainer.fit(classifier, data)
    assert min(look.frozen) > 1000
    assert set(look.checks) == {None}
    assert gc.get_freeze_count() == 0
    assert os.environ[CHECK] == "1"


def test_a_gpu_is_asked_as_lightning_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHECK, "1")
    lean, module = ReduceStepOverhead(), SimpleNamespace(device=torch.device("cuda"))
    try:
        lean.on_train_start(SimpleNamespace(), module)
        assert os.environ[CHECK] == "1"
    finally:
        lean.on_train_end(SimpleNamespace(), module)
    assert os.environ[CHECK] == "1"


@pytest.mark.parametrize("average", [AverageWeights(), pl.callbacks.EMAWeightAveraging()])
def test_averaged_weights_move_to_the_training_device(average: pl.callbacks.WeightAveraging) -> None:
    classifier = Classifier(ThreeBlockCNN(width=4, hidden=8))
    average.setup(SimpleNamespace(), classifier, "fit")  # before Lightning moves the module
    module = SimpleNamespace(device=torch.device("meta"))
    ReduceStepOverhead().on_fit_start(SimpleNamespace(callbacks=[average]), module)
    assert average._average_model is not None
    assert {weight.device.type for weight in average._average_model.module.parameters()} == {"meta"}
    assert average._average_model.n_averaged.device.type == "cpu"


def test_averaged_weights_stay_where_they_were_asked_for() -> None:
    average = pl.callbacks.WeightAveraging(device="cpu")
    average.setup(SimpleNamespace(), Classifier(ThreeBlockCNN(width=4, hidden=8)), "fit")
    ReduceStepOverhead().on_fit_start(
        SimpleNamespace(callbacks=[average]), SimpleNamespace(device=torch.device("meta"))
    )
    assert average._average_model is not None
    assert {weight.device.type for weight in average._average_model.module.parameters()} == {"cpu"}
