"""Labelled images in memory, and how they are divided into training and validation parts."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from cifar_lit.cifar10 import CLASS_NAMES, IMAGE_SHAPE


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their labels, in a fixed order.

    Attributes:
        images: uint8 (N, 32, 32, 3), RGB, 0..255. Channels lie last, so that a batch permuted to (N, 3, 32, 32) is
            already in PyTorch's channels-last memory format.
        labels: int64 (N,), 0..K-1 for K classes.
        source: where they came from, in words a person can read.
        class_names: in label order.

    Raises:
        ValueError: shapes or dtypes differ from the above.
    """

    images: Tensor
    labels: Tensor
    source: str
    class_names: tuple[str, ...] = CLASS_NAMES

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or tuple(self.images.shape[1:]) != IMAGE_SHAPE:
            raise ValueError(
                f"images: {self.images.dtype} {tuple(self.images.shape)}, expected torch.uint8 (N, 32, 32, 3)"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels: {self.labels.dtype} {tuple(self.labels.shape)}, expected torch.int64 ({len(self.images)},)"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __add__(self, other: "ImageSet") -> "ImageSet":
        """Both, one after the other."""
        images, labels = torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels])
        return replace(self, images=images, labels=labels, source=f"{self.source} + {other.source}")

    def subset(self, indices: Tensor) -> "ImageSet":
        """The images at `indices` (int64), in that order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def to(self, device: torch.device) -> "ImageSet":
        """The same on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    @property
    def num_bytes(self) -> int:
        """Of images and labels in memory: 3,080 an image."""
        return self.images.nbytes + self.labels.nbytes

    @cached_property
    def sha256(self) -> str:
        """Hex digest of pixels, labels and their order: equal digests mean equal data, wherever it was read from."""
        digest = hashlib.sha256(self.images.contiguous().cpu().numpy().data)
        kind = torch.uint8 if len(self.class_names) <= 256 else torch.int32
        digest.update(self.labels.to(kind).contiguous().cpu().numpy().data)
        return digest.hexdigest()


def stratified_split(labels: Tensor, val_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Divides rows into training and validation so that every class keeps its share in both.

    A smaller fraction with the same seed always gives a subset of the larger one's validation rows. So two models that
    were split with different fractions can still be compared on rows that neither has seen.

    Args:
        labels: int64 (N,).
        val_fraction: share of each class for validation, 0 <= val_fraction < 1.
        seed: decides which rows, whatever the machine.

    Returns:
        Indices (int64, ascending) of the training rows and of the validation rows.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction is {val_fraction}, expected 0 <= val_fraction < 1")
    generator = torch.Generator().manual_seed(seed)
    is_val = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1 if len(labels) else 0):
        rows = (labels == label).nonzero().squeeze(1)
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
        is_val[shuffled[: round(len(rows) * val_fraction)]] = True
    return (~is_val).nonzero().squeeze(1), is_val.nonzero().squeeze(1)


def hold_out(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Divides a set of any size: the number held out is exact, each class's part in it nearly so.

    `stratified_split` rounds in each class, and so would hold out nothing of ten images of ten classes.

    Args:
        labels: int64 (N,).
        fraction: share to hold out, 0 <= fraction < 1, rounded down.
        seed: decides which rows, whatever the machine.

    Returns:
        Indices (int64, ascending) of the rows to learn and of the rows held out.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction is {fraction}, expected 0 <= fraction < 1")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = order[labels[order].argsort(stable=True)]
    filled = (torch.arange(len(labels) + 1, dtype=torch.float64) * fraction + 1e-9).floor()
    is_held = torch.zeros(len(labels), dtype=torch.bool)
    is_held[by_class[filled.diff() > 0]] = True
    return (~is_held).nonzero().squeeze(1), is_held.nonzero().squeeze(1)
