import warnings

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import EMAWeightAveraging

from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.models.classifier import Classifier
from cifar_lit.models.finetuner import AverageWeights
from cifar_lit.models.networks import ThreeBlockCNN
from cifar_lit.training import averaging
from cifar_lit.training.averaging import WarnOfSlowAverage


def warned(average: pl.Callback) -> list[str]:
    """What is warned of before two epochs of five steps."""
    data = CIFAR10DataModule(source="synthetic", num_synthetic=100, batch_size=16)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        limit_train_batches=5,
        callbacks=[average, WarnOfSlowAverage()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(Classifier(ThreeBlockCNN(width=4, depth=2, hidden=8)), data)
    return [str(each.message) for each in caught if "EMAWeightAveraging" in str(each.message)]


def test_an_average_that_is_too_slow_is_warned_of_with_a_decay_that_fits() -> None:
    (message,) = warned(EMAWeightAveraging(decay=0.99))
    assert "too slow for 10 updates: with decay 0.99 the average would still hold 91% of the first weights" in message
    assert "Set its decay to 0.368," in message
    (message,) = warned(EMAWeightAveraging(decay=0.99, update_every_n_steps=5, update_starting_at_epoch=1))
    assert "too slow for 3 updates" in message  # steps 0 and 5, and the second epoch


@pytest.mark.parametrize("average", [EMAWeightAveraging(decay=0.5), AverageWeights(0.2)], ids=["quick", "mean"])
def test_an_average_that_has_time_is_not(average: pl.Callback) -> None:
    assert warned(average) == []


def test_the_decay_that_is_named_is_one_that_is_not_warned_of() -> None:
    for updates in (20, 400, 10_000):
        decay = averaging._fitting_decay(updates)
        assert decay ** (updates - 1) < averaging._MOST_OF_START
        assert averaging._decay(EMAWeightAveraging(decay=decay)) == pytest.approx(decay, abs=1e-6)
