"""Precision and threads that suit the machine; and what training leaves out of a step, it gives back when it ends."""

import gc
import os
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.models.classifier import Classifier
from cifar_lit.models.finetuner import AverageWeights
from cifar_lit.models.networks import ThreeBlockCNN
from cifar_lit.training.lightning import (
    NoProfiler,
    ReduceStepOverhead,
    best_precision,
    free_cores,
    use_threads,
    uses_cuda,
)

Stub: Any = SimpleNamespace
CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"


class Look(pl.Callback):
    def __init__(self) -> None:
        self.frozen: list[int] = []
        self.checks: list[str | None] = []

    def on_train_batch_end(self, *arguments: object) -> None:
        self.frozen.append(gc.get_freeze_count())
        self.checks.append(os.environ.get(CHECK))


@pytest.mark.usefixtures("unabridged")
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
    lean, module = ReduceStepOverhead(), Stub(device=torch.device("cuda"))
    try:
        lean.on_train_start(Stub(), module)
        assert os.environ[CHECK] == "1"
    finally:
        lean.on_train_end(Stub(), module)
    assert os.environ[CHECK] == "1"


@pytest.mark.parametrize("average", [AverageWeights(), pl.callbacks.EMAWeightAveraging()])
def test_averaged_weights_move_to_the_training_device(average: pl.callbacks.WeightAveraging) -> None:
    classifier = Classifier(ThreeBlockCNN(width=4, hidden=8))
    average.setup(Stub(), classifier, "fit")  # before Lightning moves the module
    module = Stub(device=torch.device("meta"))
    ReduceStepOverhead().on_fit_start(Stub(callbacks=[average]), module)
    assert average._average_model is not None
    assert {weight.device.type for weight in average._average_model.module.parameters()} == {"meta"}
    assert average._average_model.n_averaged.device.type == "cpu"


def test_averaged_weights_stay_where_they_were_asked_for() -> None:
    average = pl.callbacks.WeightAveraging(device="cpu")
    average.setup(Stub(), Classifier(ThreeBlockCNN(width=4, hidden=8)), "fit")
    ReduceStepOverhead().on_fit_start(Stub(callbacks=[average]), Stub(device=torch.device("meta")))
    assert average._average_model is not None
    assert {weight.device.type for weight in average._average_model.module.parameters()} == {"cpu"}


@pytest.mark.parametrize(
    ("accelerator", "at_hand", "used"),
    [("gpu", True, True), ("cuda", True, True), ("auto", True, True), ("cpu", True, False), ("auto", False, False)],
)
def test_a_gpu_is_used_if_it_is_there_and_wanted(
    accelerator: str, at_hand: bool, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: at_hand)
    assert uses_cuda(accelerator) == used


@pytest.mark.parametrize(("has_units", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_bfloat16_is_used_where_the_device_has_it(
    has_units: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_units)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert best_precision("cpu") == precision
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_units)
    assert best_precision("auto") == best_precision("gpu") == precision


def test_an_unknown_accelerator_gets_full_precision() -> None:
    assert best_precision("tpu") == "32-true"


@pytest.mark.parametrize(
    ("cores", "load", "free"), [(8, 0.1, 8), (8, 3.4, 5), (8, 7.6, 1), (8, 40.0, 1), (2, 1.0, 1), (1, 0.0, 1)]
)
def test_cores_are_free_that_nothing_has_used(
    cores: int, load: float, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr("os.getloadavg", lambda: (load, 99.0, 99.0))
    assert free_cores() == free


def test_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    with use_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
