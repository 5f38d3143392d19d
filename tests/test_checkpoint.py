"""A Lightning checkpoint says all that is needed to build its classifier again, as plain values."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.errors import SettingError
from cifar_lit.models.classifier import Classifier
from cifar_lit.models.finetuner import FineTuner
from cifar_lit.models.networks import ThreeBlockCNN
from cifar_lit.models.optimizers import Muon
from cifar_lit.models.schedules import OneCycle

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


def data() -> CIFAR10DataModule:
    return CIFAR10DataModule(source="synthetic", num_synthetic=100)


def saved(classifier: Classifier, path: Path) -> pl.Trainer:
    trainer = pl.Trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0, **QUIET)
    trainer.fit(classifier, datamodule=data())
    trainer.save_checkpoint(path)
    return trainer


def tiny() -> ThreeBlockCNN:
    return ThreeBlockCNN(width=2, depth=2, hidden=4, mean=(0.1, 0.2, 0.3))


def test_it_is_loaded_without_being_told_anything(tmp_path: Path) -> None:
    optimizer, schedule = partial(Muon, lr=0.25, betas=(0.8, 0.9)), partial(OneCycle, warmup=0.5)
    classifier = Classifier(tiny(), optimizer, schedule, label_smoothing=0.25, tta_flip=True)
    saved(classifier, tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert content["hyper_parameters"]["label_smoothing"] == 0.25
    assert content["hyper_parameters"]["optimizer"]["init_args"] == {"lr": 0.25, "betas": (0.8, 0.9)}
    loaded = Classifier.load_from_checkpoint(tmp_path / "a.ckpt")
    assert loaded.network.args == classifier.network.args
    assert (loaded.network.mean, loaded.label_smoothing, loaded.tta_flip) == ((0.1, 0.2, 0.3), 0.25, True)
    assert all(map(torch.equal, loaded.state_dict().values(), classifier.state_dict().values()))
    assert loaded.optimizer.func is Muon
    assert loaded.lr_scheduler.keywords == {"warmup": 0.5}
    assert Classifier.load_from_checkpoint(tmp_path / "a.ckpt", label_smoothing=0.0).label_smoothing == 0.0


def test_what_is_no_class_is_left_out(tmp_path: Path) -> None:
    saved(Classifier(tiny(), lambda weights: torch.optim.SGD(weights, 0.1)), tmp_path / "a.ckpt")
    assert Classifier.load_from_checkpoint(tmp_path / "a.ckpt").optimizer is torch.optim.Adam


@pytest.mark.parametrize("path", ["builtins.eval", "os.system", "nowhere.SGD", "SGD"])
def test_only_optimizers_and_schedules_are_imported(path: str, tmp_path: Path) -> None:
    saved(Classifier(tiny()), tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    content["hyper_parameters"]["optimizer"] = {"class_path": path, "init_args": {}}
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(SettingError, match=path):
        Classifier.load_from_checkpoint(tmp_path / "a.ckpt")


def test_an_older_checkpoint_is_loaded(tmp_path: Path) -> None:
    classifier = Classifier(tiny())
    saved(classifier, tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    del content["hyper_parameters"]
    network = classifier.network
    content["network_description"] = {
        "name": "ThreeBlockCNN",
        "args": network.args,
        "mean": network.mean,
        "std": network.std,
    }
    torch.save(content, tmp_path / "a.ckpt")
    assert Classifier.load_from_checkpoint(tmp_path / "a.ckpt").network.args == network.args


def test_a_fine_tuners_too(tmp_path: Path) -> None:
    saved(FineTuner(tiny(), distill=0.5, temperature=3.0), tmp_path / "a.ckpt")
    loaded = FineTuner.load_from_checkpoint(tmp_path / "a.ckpt")
    assert (loaded.distill, loaded.temperature, loaded.label_smoothing) == (0.5, 3.0, 0.1)


def test_the_trainer_predicts_probabilities(tmp_path: Path) -> None:
    classifier = Classifier(tiny())
    trainer = saved(classifier, tmp_path / "a.ckpt")
    probs = torch.cat(trainer.predict(classifier, datamodule=data()))  # type: ignore[arg-type]
    assert probs.shape == (100, 10)
    assert torch.allclose(probs.sum(1), torch.ones(100))
    images = data().split("test").images.permute(0, 3, 1, 2)
    loader: Any = torch.utils.data.DataLoader(images, batch_size=50)  # type: ignore[arg-type]
    alone = torch.cat(trainer.predict(classifier, loader))  # type: ignore[arg-type]
    assert torch.allclose(alone, probs, atol=1e-6)


def test_a_plain_module_is_refused_with_the_way_to_make_a_network_of_it() -> None:
    with pytest.raises(SettingError, match=r"network is a Linear, expected a Network: .*as_network\(Linear\)"):
        Classifier(torch.nn.Linear(3, 4))


def test_a_network_with_another_number_of_outputs_than_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"ThreeBlockCNN gives logits \(1, 7\) of one image, expected \(1, 10\)"):
        saved(Classifier(ThreeBlockCNN(num_classes=7, width=2, hidden=4)), tmp_path / "a.ckpt")
