"""New images beside the old ones, for fine-tuning: what is learned, what is replayed, and what judges the result."""

import functools
import operator
import os
from collections.abc import Mapping, Sequence
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
from cifar_lit.data.remembered import TRAINING, Remembered, copies, why_known, without
from cifar_lit.data.replay import ReplayLoader, Sampling
from cifar_lit.data.sources import is_at_hand
from cifar_lit.errors import IncrementError, SettingError

_LEAST_SHARE, _MOST_SHARE = 0.1, 0.5
"""Of new images in a batch, if nothing else is asked for."""

_MOST_EARLIER = 0.5
"""Of replayed images, those of earlier increments, if they are not more of all."""

_Path = str | os.PathLike[str]


class FinetuneDataModule(CIFAR10DataModule):
    """Increments to learn, and CIFAR-10 to replay beside them.

    Args:
        increments: `.npz` files to learn from, with `x_new` and `y_new`.
        old_increments: increments that the parent has learned already: replayed with the old images, never new. Those
            that the registry keeps need not be named.
        corrections: the increments are corrections that a person made who saw the predictions: where the parent was
            wrong and the result is right, they are evidence for it, however few.
        replay: share of old images in each batch, 0 to learn from new ones only. Default: as many as there are of each,
            but no less than half and no more than nine tenths.
        replay_sampling: draw every old image equally often ("uniform") or every class ("balanced").
        holdout: share of the increments that is not learned but judges the result. None is held out of fewer than
            1/holdout images that are in neither the training set nor an earlier increment.
        min_new: a smaller set of new images is repeated until an epoch shows at least this many.
        batch_size: training images a step, old and new together.
        augment: how training images are varied.
        kwargs: where the old images are and how they are split; keep the parent's split.
    """

    def __init__(
        self,
        increments: Sequence[_Path],
        old_increments: Sequence[_Path] = (),
        corrections: bool = False,
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
        self.corrections = corrections
        self.replay = replay
        self.replay_sampling = replay_sampling
        self.holdout = holdout
        self.min_new = min_new
        self.notes: list[str] = []
        """What was left out of the increments, and why, in sentences."""
        self.learned: list[dict[str, Any]] = []
        """Name, sha256 and count of each increment, for the manifest."""
        self.replayed: list[dict[str, Any]] = []
        """The same of the increments that were learned before and are replayed."""
        self.parent_classes = CLASS_NAMES
        """What the increments' labels mean: the classes of the network that is fine-tuned."""
        self.remembered: Sequence[Remembered] = ()
        """Increments that the parent's line has learned, as far as that is known: to be set before `setup`."""
        self.rows: dict[str, dict[str, list[int]]] = {}
        """Which rows of each increment, by its sha256, are "learned" for the first time and which are "held_out"."""
        self.known = ""
        """Why no new image is new, in words; empty if some are."""
        self.num_given = 0
        self.has_test = False
        """Whether the old data set is at hand, with its test images."""
        self.old_train: ImageSet | None = None
        """Images to replay, those of earlier increments last; none if there are no old images at hand."""
        self.old_val: ImageSet | None = None
        """Old images that neither parent nor child learns from."""
        self.earlier_val: ImageSet | None = None
        """Images that were held out of earlier increments."""
        self._num_earlier = 0
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
        self.num_given = len(new)
        judges = dict.fromkeys(("validation images", "test images"), torch.zeros(len(new), dtype=torch.bool))
        base: ImageSet | None = None
        if is_at_hand(self.root, self.source):
            super().setup("fit")
            self.has_test = True
            base, self.old_val = self.train_set, self.val_set if self.val_fraction else None
            judges["test images"] = similar.matches(new.images, self.test_set.images) >= 0
            self._refuse_test_images(judges["test images"])
            if self.old_val is not None:
                judges["validation images"] = similar.matches(new.images, self.old_val.images) >= 0
        else:
            rank_zero_warn(
                f"There are no old images under {self.root.absolute()}: nothing is replayed, and nothing tells what is "
                "forgotten, so the result will not be promoted. Name the training set with --data.root "
                "(or CIFAR_LIT_DATA)."
            )
        earlier = self._recall()
        if self.earlier_val is not None:
            copy_of = similar.matches(new.images, self.earlier_val.images)
            if self.corrections:  # of an image that the parent still gets wrong: to be learned now
                self.earlier_val = without(self.earlier_val, copy_of[copy_of >= 0])
            else:
                judges["images held out of earlier increments"] = copy_of >= 0
        rows = self._usable(new, judges)
        old = [*([] if base is None else [(TRAINING, base)]), *earlier]
        origins, replayed = self._origins(new, rows, old)
        is_new = torch.tensor([not origin for origin in origins])
        learned, held = (
            rows[is_new][part] for part in hold_out(new.labels[rows[is_new]], self.holdout, self.split_seed)
        )
        self._note_rows(learned, held)
        self.new_train, self.new_val = new.subset(rows[~torch.isin(rows, held)]), new.subset(held)
        self.known = why_known(origins)
        self._num_earlier = sum(map(len, replayed[len(replayed) - len(earlier) :]))
        self.old_train = functools.reduce(operator.add, replayed) if replayed else None
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
        weights = self._replay_weights(num_new)
        weights = None if weights is None else weights.to(new.device)
        old = self.old_train.to(new.device)
        return ReplayLoader(new, old, self.batch_size - num_new, self.replay_sampling, weights)

    def _replay_weights(self, num_new: int) -> Tensor | None:
        """How often each old image is sampled: one of an earlier increment as often as a new one, in up to half of what
        is replayed; all equally often if there are none of either kind."""
        assert self.old_train is not None
        num_base, num_earlier = len(self.old_train) - self._num_earlier, self._num_earlier
        if not num_base or not num_earlier:
            return None
        as_new = num_new / (self.batch_size - num_new) * num_earlier / max(len(self.new_train), self.min_new)
        share = max(min(as_new, _MOST_EARLIER), num_earlier / len(self.old_train))
        each = torch.tensor([(1 - share) / num_base, share / num_earlier], dtype=torch.float64)
        return each.repeat_interleave(torch.tensor([num_base, num_earlier]))

    def _read(self, paths: Sequence[Path], records: list[dict[str, Any]]) -> list[ImageSet]:
        sets = [increment.read(path, self.parent_classes) for path in paths]
        for path, each in zip(paths, sets, strict=True):
            records.append({"name": path.name, "sha256": each.sha256, "count": len(each)})
        return sets

    def _recall(self) -> list[tuple[str, ImageSet]]:
        """Increments to replay, each with the version that learned it, oldest first; notes those that judge."""
        kept = [each for each in self.remembered if each.path is not None and each.learned != ()]
        earlier: list[tuple[str, ImageSet]] = []
        judges: list[ImageSet] = []
        for each in kept:
            learned, held_out = each.read(self.parent_classes)
            self.replayed.append({"name": each.name, "sha256": each.sha256, "count": len(learned)})
            for place, (version, data) in enumerate(earlier):  # the last label of an image counts
                earlier[place] = version, without(data, copies(learned, data)[1])
            earlier.append((each.version, learned))
            judges += [held_out] if len(held_out) else []
        versions = {each.sha256: each.version for each in self.remembered}
        is_kept = {each.sha256 for each in kept}
        named = self._read(self.old_increments, self.replayed)
        earlier += [(versions.get(old.sha256, "the parent"), old) for old in named if old.sha256 not in is_kept]
        if judges:
            held_out = functools.reduce(operator.add, judges)
            for _, data in earlier:  # what was held out first may have been corrected later
                held_out = without(held_out, (similar.matches(held_out.images, data.images) >= 0).nonzero().squeeze(1))
            self.earlier_val = held_out
        return earlier

    def _origins(
        self, new: ImageSet, rows: Tensor, old: list[tuple[str, ImageSet]]
    ) -> tuple[list[str], list[ImageSet]]:
        """Where each of the new images at `rows` was learned before with the same label, "" if nowhere; and the old
        images without those that the new ones label otherwise."""
        versions = {each.sha256: each.version for each in self.remembered}
        origins = [versions.get(self.learned[self._place(row)[0]]["sha256"], "") for row in rows.tolist()]
        usable = new.subset(rows)
        replayed = []
        for origin, data in old:
            same, relabelled = copies(usable, data)
            for place in same.tolist():
                origins[place] = origins[place] or origin
            replayed.append(without(data, relabelled))
        return origins, replayed

    def _note_rows(self, learned: Tensor, held: Tensor) -> None:
        self.rows = {each["sha256"]: {"learned": [], "held_out": []} for each in self.learned}
        for kind, rows in (("learned", learned), ("held_out", held)):
            for index, row in map(self._place, rows.tolist()):
                self.rows[self.learned[index]["sha256"]][kind].append(row)

    def _refuse_test_images(self, copies: Tensor) -> None:
        rows = copies.nonzero().squeeze(1)
        if 2 * len(rows) > len(copies):
            raise IncrementError(
                f"{self._where(rows)}: {len(rows):,} of {len(copies):,} images are copies of test images, and what "
                "measures the result can't be learned. Give other images."
            )

    def _usable(self, new: ImageSet, judges: Mapping[str, Tensor]) -> Tensor:
        """int64: rows of the images to learn from: one of each, none that shows nothing, none that judges."""
        first = similar.duplicates(new.images)
        shows = ~similar.flat(new.images)
        contradicted = torch.zeros(len(new), dtype=torch.bool)
        contradicted[first[new.labels != new.labels[first]]] = True
        contradicted = contradicted[first]
        is_copy = first != torch.arange(len(new))
        keep = torch.ones(len(new), dtype=torch.bool)
        for flags, why in (
            (~shows, "show nothing"),
            (contradicted, "are copies of each other with different labels"),
            (is_copy, "are copies of others"),
            *((flags, f"are copies of {name}") for name, flags in judges.items()),
        ):
            dropped = (keep & flags).nonzero().squeeze(1)
            if len(dropped):
                self.notes.append(f"{len(dropped):,} of {len(new):,} new images {why} ({self._where(dropped)})")
            keep &= ~flags
        if not keep.any():
            raise IncrementError(f"Nothing is left to learn: {'; '.join(self.notes)}. Give other images.")
        return keep.nonzero().squeeze(1)

    def _place(self, row: int) -> tuple[int, int]:
        """Which increment a row of all together is in, and its row there."""
        for index, each in enumerate(self.learned):
            if row < each["count"]:
                return index, row
            row -= each["count"]
        raise IndexError

    def _where(self, rows: Tensor) -> str:
        """File and row of the first few rows of all increments together."""
        places = map(self._place, rows[:5].tolist())
        found = [f"{self.learned[index]['name']}#{row}" for index, row in places]
        return ", ".join(found) + (", ..." if len(rows) > 5 else "")
