"""CIFAR-10 for a Lightning Trainer."""

import math
import os
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from cifar_lit.data.augment import Augmentation
from cifar_lit.data.image_set import ImageSet, stratified_split
from cifar_lit.data.loader import DeviceLoader
from cifar_lit.data.sources import Source, Split, class_names, download_if_absent, read_split, resolve_root
from cifar_lit.errors import DataError, SettingError
from cifar_lit.seeding import global_seed

_MOST_OF_FREE = 0.5
"""Of a device's free memory, that images may take; the rest is the training's."""

_GROUP = 65_536
"""Training images that a GPU moves at once, 200 MB: an epoch of CIFAR-10 is one gather."""

_GROUP_INTERPOLATED = 4_096
"""Training images that a GPU interpolates at once, 20 kB each; an operation on fewer takes hardly longer than starting
it."""


class CIFAR10DataModule(pl.LightningDataModule):
    """CIFAR-10 as uint8 tensors on the training device.

    Args:
        root: folder with the official files of CIFAR-10 or CIFAR-100 (Python or binary version, Keras's cache), an
            image folder `{train,test}/<class>/*`, Kaggle's `train/` and `trainLabels.csv`, an `.npz` with x_train,
            y_train, x_test, y_test, or Hugging Face's parquet files. Default: the environment's CIFAR_LIT_DATA, else
            `data`.
        source: "auto" reads what lies under root, "synthetic" draws a learnable ten-class set and needs no files, the
            others insist on one kind.
        download: fetch the official archive into root if root holds no data set.
        mirror: address of the archive, or of the folder it lies in, to download from instead of the official host.
        batch_size: training images a step on each device.
        eval_batch_size: images a step in validation and test.
        val_fraction: share of each class of the training set that is held out for validation; 0 trains on all images,
            and then the last epoch is kept.
        split_seed: decides which images those are. Keep it: versions can only be compared on images neither has seen.
        augment: how training images are varied.
        num_synthetic: images in each split of the synthetic source.
        verify: refuse files in the official form whose content is another one, by their MD5.
        resident: keep all images in the device's memory, 3,080 bytes each. "auto" does so if they take no more than
            half of what is free there; else they stay in the host's memory and batches are copied ahead of need.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        source: Source = "auto",
        download: bool = False,
        mirror: str | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 500,
        val_fraction: float = 0.2,
        split_seed: int = 0,
        augment: Augmentation = Augmentation(),  # noqa: B008 (frozen)
        num_synthetic: int = 5_000,
        verify: bool = True,
        resident: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        if not 0 <= val_fraction < 1:
            raise SettingError(f"val_fraction is {val_fraction}, expected 0 <= val_fraction < 1.")
        if min(batch_size, eval_batch_size, num_synthetic) < 1:
            raise SettingError("batch_size, eval_batch_size and num_synthetic must be 1 or more.")
        self.root = resolve_root(root)
        self.source = source
        self.download = download
        self.mirror = mirror
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.augment = augment
        self.num_synthetic = num_synthetic
        self.verify = verify
        self.resident = resident
        self._splits: dict[Split, ImageSet] = {}
        self._on_device: dict[ImageSet, ImageSet | None] = {}

    def prepare_data(self) -> None:
        """Downloads the official archive if that was asked for and nothing is there."""
        if self.download and self.source in ("auto", "official"):
            download_if_absent(self.root, self.mirror)

    def split(self, name: Split) -> ImageSet:
        """The whole "train" or "test" split on the CPU, read at its first use."""
        if name not in self._splits:
            self._splits[name] = read_split(
                name, self.root, self.source, num_synthetic=self.num_synthetic, verify=self.verify
            )
        return self._splits[name]

    @property
    def class_names(self) -> list[str]:
        """Of the data, in label order."""
        if self._splits:
            return list(next(iter(self._splits.values())).class_names)
        return list(class_names(self.root, self.source, verify=self.verify))

    def setup(self, stage: str) -> None:
        """Reads what the stage needs; before `fit` the test split too, so that its damage is known before training."""
        if stage in ("fit", "validate"):
            data = self.split("train")
            rows, val_rows = stratified_split(data.labels, self.val_fraction, self.split_seed)
            if not len(rows) or (self.val_fraction and not len(val_rows)):
                raise DataError(
                    f"val_fraction {self.val_fraction} of {len(data)} images leaves {len(rows)} for training and "
                    f"{len(val_rows)} for validation, which decides what is kept. Change --data.val_fraction."
                )
            self._train_rows, self._val_rows = rows, val_rows
        if stage in ("fit", "test", "predict"):
            self.test_set = self.split("test")

    @property
    def train_set(self) -> ImageSet:
        """A copy of the images to train on; the loader takes them from the whole split without one."""
        return self.split("train").subset(self._train_rows)

    @property
    def val_set(self) -> ImageSet:
        """A copy of the images held out for validation."""
        return self.split("train").subset(self._val_rows)

    def train_dataloader(self) -> DeviceLoader:
        data, rows = self.split("train"), self._train_rows
        return self._loader(data, self.batch_size, rows=rows, shuffle=True, augmentation=self.augment)

    def val_dataloader(self) -> DeviceLoader | list[None]:
        if not len(self._val_rows):
            return []
        return self._loader(self.split("train"), self.eval_batch_size, rows=self._val_rows)

    def test_dataloader(self) -> DeviceLoader:
        return self._loader(self.test_set, self.eval_batch_size)

    predict_dataloader = test_dataloader

    def teardown(self, stage: str) -> None:
        self._on_device.clear()

    def fingerprint(self) -> dict[str, Any]:
        """What a model was made from, for its manifest: source, counts and digests, and the split."""
        train = self.split("train")
        return {
            "source": train.source,
            "train": {"count": len(train), "sha256": train.sha256},
            "test": {"count": len(self.split("test")), "sha256": self.split("test").sha256},
            "split": {"seed": self.split_seed, "val_fraction": self.val_fraction},
        }

    def _loader(self, data: ImageSet, batch_size: int, *, rows: Tensor | None = None, **options: Any) -> DeviceLoader:
        strategy = self.trainer.strategy if self.trainer is not None else None
        device = strategy.root_device if strategy is not None else torch.device("cpu")
        if data not in self._on_device:
            self._on_device[data] = self._moved(data, device)
        on_device = self._on_device[data]
        group = _GROUP_INTERPOLATED if self.augment.interpolates else _GROUP
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return DeviceLoader(
            data if on_device is None else on_device,
            batch_size,
            rows=rows,
            seed=global_seed(),
            rank=rank,
            world_size=world_size,
            stream_to=device if on_device is None else None,
            steps_augmented=max(1, group // batch_size) if device.type == "cuda" else 1,
            **options,
        )

    def _moved(self, data: ImageSet, device: torch.device) -> ImageSet | None:
        """The images on the device, or None if they are to be streamed."""
        resident = self.resident
        if resident == "auto":
            free = math.inf if device.type != "cuda" else torch.cuda.mem_get_info(device)[0]
            resident = data.num_bytes <= _MOST_OF_FREE * free
            if not resident:
                rank_zero_info(
                    f"{len(data):,} images take {data.num_bytes / 1e9:.2f} GB, more than half of the {free / 1e9:.2f} "
                    f"GB that are free on {device}: they stay in the host's memory, and batches are copied ahead of "
                    "need (--data.resident true keeps them on the device all the same)."
                )
        return data.to(device) if resident else None
