"""Batches from images that live on the device: indexed and augmented there, with no worker processes and no copies."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from cifar_lit.data.augment import Augmentation
from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import SettingError
from cifar_lit.seeding import derive_seed


class DeviceLoader:
    """An iterable of batches, one pass over the data an epoch; a drop-in for a DataLoader in a Lightning Trainer.

    An epoch is cut into `ceil(N / (batch_size * world_size))` steps of nearly equal size (they differ by at most one
    image), and each step among the ranks. So every image is seen exactly once an epoch, whatever the number of ranks,
    all ranks take equally many steps, and there is no small last batch.

    Random choices come from generators seeded by (seed, epoch, rank), so an epoch can be repeated on its own.

    Args:
        data: images and labels, on the device where batches are wanted.
        batch_size: largest number of images in a batch of one rank (1 may become 2, so that no rank's batch is empty).
        shuffle: a new order each epoch, the same on every rank.
        augmentation: how images are varied; the plain images if absent.
        seed: base of all random choices.
        rank: this process among `world_size`.
        world_size: number of processes that share the data.

    Yields:
        (images, labels): images (B, 3, 32, 32) in channels-last memory, 0..255, uint8 or float32; labels int64 (B,).
    """

    batch_sampler = None  # Lightning asks for it where there is a `sampler`

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        *,
        shuffle: bool = False,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if len(data) < world_size:
            raise SettingError(f"{len(data)} images can't be shared by {world_size} processes. Use fewer devices.")
        self.data = data
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.augmentation = augmentation or Augmentation()
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    @property
    def sampler(self) -> "DeviceLoader":
        """Lightning looks here for the `set_epoch` that it calls before each epoch, a resumed one too."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order and the variations of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        steps = math.ceil(len(self.data) / (self.batch_size * self.world_size))
        return min(steps, len(self.data) // self.world_size)  # every rank has an image in every step

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.data.labels.device
        generator = torch.Generator(device).manual_seed(derive_seed(self.seed, self.epoch, self.rank))
        for step in self._order().to(device).tensor_split(len(self)):  # moved once: each move would stall a GPU
            indices = step.tensor_split(self.world_size)[self.rank]
            yield self.augmentation.sample(self.data.images, indices, generator), self.data.labels[indices]

    def _order(self) -> Tensor:
        """int64 (N,) on the CPU, so that it is the same on every rank and every kind of device."""
        if not self.shuffle:
            return torch.arange(len(self.data))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        return torch.randperm(len(self.data), generator=generator)
