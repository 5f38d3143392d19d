"""New images beside the old ones, for fine-tuning: what is learned, what is replayed, and what judges the result."""

import functools
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data import increment, similar
from cifar_lit.data.augment import Augmentation
from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.data.image_set import ImageSet, hold_out
from cifar_lit.data.loader import DeviceLoader
from cifar_lit.data.replay import ReplayLoader, Sampling
from cifar_lit.data.sources import is_at_hand
from cifar_lit.errors import IncrementError, SettingError

_LEAST_SHARE, _MOST_SHARE = 0.1, 0.5
"""Of new images in a batch, if nothing else is asked for."""

_Path = str | os.PathLike[str]


class FinetuneDataModule(CIFAR10DataModule):
    """Increments to learn, and CIFAR-10 to replay beside them.

    Args:
        increments: `.npz` files to learn from, with `x_new` and `y_new`.
        old_increments: increments that the parent has learned already: replayed with the old images, never new.
        replay: share of old images in each batch, 0 to learn from new ones only. Default: as many as there are of each,
            but no less than half and no more than nine tenths.
        replay_sampling: draw every old image equally often ("uniform") or every class ("balanced").
        holdout: share of the increments that is not learned but judges the result. None is held out of fewer than
            1/holdout images.
        min_new: a smaller set of new images is repeated until an epoch shows at least this many.
        batch_size: training images a step, old and new together.
        augment: how training images are varied.
        kwargs: where the old images are and how they are split; keep the parent's split.
    """

    def __init__(
        self,
        increments: Sequence[_Path],
        old_increments: Sequence[_Path] = (),
        replay: float | None = None,
        replay_sampling: Sampling = "uniform",
        holdout: float = 0.2,
        min_new: int = 320,
        batch_size: int = 256,
        augment: Augmentation = Augmentation(flip=True, shift=3),  # noqa: B008 (frozen)
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, augment=augment, **kwargs)
        if not increments:
            raise SettingError("increments is empty, expected one .npz file or more.")
        if replay is not None and not 0 <= replay < 1:
            raise SettingError(f"replay is {replay}, expected 0 <= replay < 1.")
        if not 0 <= holdout <= 0.5:
            raise SettingError(f"holdout is {holdout}, expected 0 <= holdout <= 0.5.")
        if batch_size < 2 or min_new < 1:
            raise SettingError(f"batch_size is {batch_size} and min_new {min_new}, expected 2 or more and 1 or more.")
        self.increments = [Path(path) for path in increments]
        self.old_increments = [Path(path) for path in old_increments]
        self.replay = replay
        self.replay_sampling = replay_sampling
        self.holdout = holdout
        self.min_new = min_new
        self.notes: list[str] = []
        """What was left out of the increments, and why, in sentences."""
        self.learned: list[dict[str, Any]] = []
        """Name, sha256 and count of each increment, for the manifest."""
        self.replayed: list[dict[str, Any]] = []
        """The same of the old increments."""
        self.parent_classes = CLASS_NAMES
        """What the increments' labels mean: the classes of the network that is fine-tuned."""
        self.num_given = 0
        self.has_test = False
        """Whether the old data set is at hand, with its test images."""
        self.old_train: ImageSet | None = None
        """Images to replay; none if there are no old images at hand."""
        self.old_val: ImageSet | None = None
        """Old images that neither parent nor child learns from."""
        self._ready = False

    @property
    def class_names(self) -> list[str]:
        """In label order; the old images', if there are any."""
        return super().class_names if is_at_hand(self.root, self.source) else list(self.parent_classes)

    def setup(self, stage: str) -> None:
        """Reads increments and old images.

        Raises:
            IncrementError: a file is no increment, most of them are copies of test images, or nothing is left to learn.
            DataError: the old images are damaged.
        """
        if self._ready:
            return
        new = functools.reduce(operator.add, self._read(self.increments, self.learned))
        test_copies = torch.zeros(len(new), dtype=torch.bool)
        self.num_given = len(new)
        if is_at_hand(self.root, self.source):
            super().setup("fit")
            self.has_test = True
            self.old_train, self.old_val = self.train_set, self.val_set if self.val_fraction else None
            test_copies = similar.matches(new.images, self.test_set.images) >= 0
            self._refuse_test_images(test_copies)
        else:
            rank_zero_warn(
                f"There are no old images under {self.root.absolute()}: nothing is replayed, and nothing tells what is "
                "forgotten, so the result will not be promoted. Name the training set with --data.root "
                "(or CIFAR_LIT_DATA)."
            )
        self._add_old_increments()
        new = self._usable(new, test_copies)
        rows, held = hold_out(new.labels, self.holdout, self.split_seed)
        self.new_train, self.new_val = new.subset(rows), new.subset(held)
        if self.old_train is not None and len(held):
            # What judges the result must not be learned from the old images either.
            copies = similar.matches(self.old_train.images, self.new_val.images) >= 0
            self.old_train = self.old_train.subset((~copies).nonzero().squeeze(1))
        self._ready = True

    @property
    def share_of_old(self) -> float:
        """Of each batch, 0..1."""
        if self.old_train is None:
            return 0.0
        if self.replay is not None:
            return self.replay
        share = len(self.new_train) / (len(self.new_train) + len(self.old_train))
        return 1 - min(max(share, _LEAST_SHARE), _MOST_SHARE)

    def train_dataloader(self) -> DeviceLoader | ReplayLoader:  # type: ignore[override]
        num_new = max(1, round(self.batch_size * (1 - self.share_of_old)))
        times = -(-self.min_new // len(self.new_train))
        repeated = self.new_train.subset(torch.arange(len(self.new_train)).repeat(times))
        new = self._loader(repeated, num_new, shuffle=True, augmentation=self.augment)
        if self.old_train is None or num_new == self.batch_size:
            return new
        return ReplayLoader(new, self.old_train.to(new.device), self.batch_size - num_new, self.replay_sampling)

    def _read(self, paths: Sequence[Path], records: list[dict[str, Any]]) -> list[ImageSet]:
        sets = [increment.read(path, self.parent_classes) for path in paths]
        for path, each in zip(paths, sets, strict=True):
            records.append({"name": path.name, "sha256": each.sha256, "count": len(each)})
        return sets

    def _add_old_increments(self) -> None:
        for old in self._read(self.old_increments, self.replayed):
            self.old_train = old if self.old_train is None else self.old_train + old

    def _refuse_test_images(self, copies: Tensor) -> None:
        rows = copies.nonzero().squeeze(1)
        if 2 * len(rows) > len(copies):
            raise IncrementError(
                f"{self._where(rows)}: {len(rows):,} of {len(copies):,} images are copies of test images, and what "
                "measures the result can't be learned. Give other images."
            )

    def _usable(self, new: ImageSet, test_copies: Tensor) -> ImageSet:
        """The images that can teach something: one of each, none that shows nothing, none that judges."""
        first = similar.duplicates(new.images)
        shows = ~similar.flat(new.images)
        contradicted = torch.zeros(len(new), dtype=torch.bool)
        contradicted[first[new.labels != new.labels[first]]] = True
        contradicted = contradicted[first]
        is_copy = first != torch.arange(len(new))
        judges = torch.zeros(len(new), dtype=torch.bool)
        if self.old_val is not None:
            judges = similar.matches(new.images, self.old_val.images) >= 0
        keep = torch.ones(len(new), dtype=torch.bool)
        for flags, why in (
            (~shows, "show nothing"),
            (contradicted, "are copies of each other with different labels"),
            (is_copy, "are copies of others"),
            (judges, "are copies of validation images"),
            (test_copies, "are copies of test images"),
        ):
            dropped = (keep & flags).nonzero().squeeze(1)
            if len(dropped):
                self.notes.append(f"{len(dropped):,} of {len(new):,} new images {why} ({self._where(dropped)})")
            keep &= ~flags
        if not keep.any():
            raise IncrementError(f"Nothing is left to learn: {'; '.join(self.notes)}. Give other images.")
        return new.subset(keep.nonzero().squeeze(1))

    def _where(self, rows: Tensor) -> str:
        """File and row of the first few rows of all increments together."""
        names, starts, start = [], [], 0
        for each in self.learned:
            names.append(each["name"])
            starts.append(start)
            start += each["count"]
        found = []
        for row in rows[:5].tolist():
            index = max(place for place, begin in enumerate(starts) if begin <= row)
            found.append(f"{names[index]}#{row - starts[index]}")
        return ", ".join(found) + (", ..." if len(rows) > 5 else "")
