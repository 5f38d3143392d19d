"""An increment that was learned before, as it is kept: which of its images were learned, and which judge."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cifar_lit.data import increment, similar
from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import IncrementError

TRAINING = "training"
"""Origin of an image that is in the training set; the other origins are the versions that learned an image."""


@dataclass(frozen=True)
class Remembered:
    """An increment that the parent's line has learned.

    Attributes:
        name: of the file that it came as.
        sha256: of pixels, labels and their order.
        version: id of the version that learned it first.
        path: where it is kept; none if it is not.
        learned: rows to replay; none for all.
        held_out: rows that were held out, and judge.
    """

    name: str
    sha256: str
    version: str
    path: Path | None = None
    learned: tuple[int, ...] | None = None
    held_out: tuple[int, ...] = ()

    def read(self, class_names: tuple[str, ...]) -> tuple[ImageSet, ImageSet]:
        """The images to replay and those that judge.

        Args:
            class_names: what its labels mean, in label order.

        Raises:
            IncrementError: the file is damaged, or not the increment that its name says.
        """
        assert self.path is not None
        data = increment.read(self.path, class_names)
        rows = [row for row in [*(self.learned or ()), *self.held_out] if not 0 <= row < len(data)]
        if data.sha256 != self.sha256 or rows:
            raise IncrementError(
                f"{self.path}: it is not the increment that {self.version} learned (its SHA-256 is {data.sha256}). "
                f"Restore it from a copy, or remove it: `cifar-lit versions increments --drop {self.sha256[:16]}`."
            )
        learned = range(len(data)) if self.learned is None else self.learned
        return data.subset(torch.tensor(learned)), data.subset(torch.tensor(self.held_out, dtype=torch.int64))


def why_known(origins: Iterable[str]) -> str:
    """Says of images that were all learned before where: "all 500 are training images".

    Args:
        origins: of each image, `TRAINING` or a version's id; empty where an image is new.

    Returns:
        Nothing if an image is new.
    """
    counts = Counter(origins)
    if not counts or "" in counts:
        return ""
    total = sum(counts.values())
    kinds = {each: "training images" if each == TRAINING else f"already learned by {each}" for each in counts}
    if len(counts) == 1:
        (kind,) = kinds.values()
        return f"all {total:,} are {kind}"
    return f"of {total:,} new images " + ", ".join(f"{count:,} are {kinds[each]}" for each, count in counts.items())


def copies(new: ImageSet, old: ImageSet) -> tuple[Tensor, Tensor]:
    """int64: new images that are copies of old ones with the same label; old images whose copies have another."""
    copy_of = similar.matches(new.images, old.images)
    rows = (copy_of >= 0).nonzero().squeeze(1)
    same = new.labels[rows] == old.labels[copy_of[rows]]
    return rows[same], copy_of[rows[~same]]


def without(data: ImageSet, rows: Tensor) -> ImageSet:
    """The images but those at `rows` (int64)."""
    if not len(rows):
        return data
    keep = torch.ones(len(data), dtype=torch.bool)
    keep[rows] = False
    return data.subset(keep.nonzero().squeeze(1))
