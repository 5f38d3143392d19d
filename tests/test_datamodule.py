import os
from pathlib import Path

import pytest
import torch

from cifar_lit.data import datamodule as module
from cifar_lit.data.augment import Augmentation
from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.errors import DataError, SettingError


def synthetic(**options: object) -> CIFAR10DataModule:
    return CIFAR10DataModule(source="synthetic", num_synthetic=200, **options)  # type: ignore[arg-type]


def test_batches_are_channels_last_pixels_and_labels() -> None:
    data = synthetic(batch_size=64, augment=Augmentation(flip=True, shift=2))
    data.setup("fit")
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape[1:] == (3, 32, 32)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64


def test_training_and_validation_share_no_row_and_leave_none_out() -> None:
    data = synthetic(val_fraction=0.3)
    data.setup("fit")
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (140, 60, 200)
    assert torch.bincount(data.val_set.labels).tolist() == [6] * 10


def test_training_images_are_shuffled_and_evaluation_images_are_not() -> None:
    data = synthetic()
    data.setup("fit")
    train = torch.cat([labels for _, labels in data.train_dataloader()])
    assert not torch.equal(train, data.train_set.labels)
    val = torch.cat([images for images, _ in filter(None, data.val_dataloader())])
    assert torch.equal(val.permute(0, 2, 3, 1), data.val_set.images)


def test_testing_reads_the_test_split_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    original = module.read_split
    monkeypatch.setattr(
        module, "read_split", lambda name, *args, **kw: read.append(name) or original(name, *args, **kw)
    )
    synthetic().setup("test")
    assert read == ["test"]


def test_a_missing_test_split_is_found_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_train(name: str, *args: object, **options: object) -> object:
        if name == "test":
            raise DataError("no test split")
        return images

    data = synthetic()
    images = data.split("train")
    data._splits.clear()
    monkeypatch.setattr(module, "read_split", only_train)
    with pytest.raises(DataError, match="no test split"):
        data.setup("fit")


def test_fingerprint_tells_equal_data_from_other_data() -> None:
    same, also, other = synthetic(), synthetic(), CIFAR10DataModule(source="synthetic", num_synthetic=100)
    assert same.fingerprint() == also.fingerprint()
    assert same.fingerprint()["train"]["sha256"] != other.fingerprint()["train"]["sha256"]
    assert synthetic(split_seed=3).fingerprint()["split"] == {"seed": 3, "val_fraction": 0.2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": -0.1}, "val_fraction is -0.1"),
        ({"val_fraction": 1.0}, "expected 0 <= val_fraction < 1"),
        ({"batch_size": 0}, "must be 1 or more"),
        ({"eval_batch_size": -1}, "must be 1 or more"),
    ],
)
def test_senseless_settings_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        synthetic(**options)


def test_a_split_without_validation_images_is_refused() -> None:
    with pytest.raises(DataError, match="leaves 200 for training and 0 for validation.*--data.val_fraction"):
        synthetic(val_fraction=0.001).setup("fit")


@pytest.mark.parametrize(
    ("source", "download", "called"), [("auto", True, 1), ("auto", False, 0), ("synthetic", True, 0)]
)
def test_downloads_only_when_asked(source: str, download: bool, called: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(module, "download_if_absent", lambda *args: calls.append(args))
    CIFAR10DataModule(source=source, download=download, mirror="http://x/").prepare_data()  # type: ignore[arg-type]
    assert len(calls) == called


@pytest.mark.skipif("CIFAR_LIT_DATA" not in os.environ, reason="CIFAR_LIT_DATA names no CIFAR-10")
def test_real_cifar10_is_split_evenly() -> None:
    data = CIFAR10DataModule()
    data.setup("fit")
    assert torch.bincount(data.train_set.labels).tolist() == [4000] * 10
    assert torch.bincount(data.val_set.labels).tolist() == [1000] * 10
    assert torch.bincount(data.test_set.labels).tolist() == [1000] * 10


def batches(data: CIFAR10DataModule) -> list[torch.Tensor]:
    data.setup("fit")
    return [each for loader in (data.train_dataloader(), data.val_dataloader()) for batch in loader for each in batch]


def test_batches_are_the_same_wherever_the_images_are_kept() -> None:
    options = {"augment": Augmentation(flip="alternating", shift=2, zoom=0.1), "batch_size": 30}
    resident, streamed = batches(synthetic(**options)), batches(synthetic(**options, resident=False))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(resident, streamed, strict=True))


def test_training_and_validation_read_one_copy_of_the_images() -> None:
    data = synthetic()
    data.setup("fit")
    places = {loader.data.images.data_ptr() for loader in (data.train_dataloader(), data.val_dataloader())}
    assert places == {data.split("train").images.data_ptr()}


@pytest.mark.parametrize(("free", "is_resident"), [(2 * 200 * 3080, True), (2 * 200 * 3080 - 1, False)])
def test_images_that_would_fill_half_of_the_device_stay_in_the_hosts_memory(
    free: int, is_resident: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    data = synthetic()
    images = data.split("train")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**9))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self)
    monkeypatch.setattr(module, "rank_zero_info", told.append)
    moved = data._moved(images, torch.device("cuda:1"))
    assert (moved is not None) == is_resident
    assert bool(told) != is_resident
    assert all(
        "200 images take 0.00 GB, more than half of the 0.00 GB that are free on cuda:1" in line for line in told
    )


def test_a_set_that_must_be_on_the_device_is_put_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: pytest.fail("it was not to be asked"))
    data = synthetic(resident=True)
    assert data._moved(data.split("train"), torch.device("cpu")) is not None


def test_without_a_validation_share_all_images_are_trained_on() -> None:
    data = synthetic(val_fraction=0.0)
    data.setup("fit")
    assert len(data.train_set) == 200
    assert data.val_dataloader() == []
