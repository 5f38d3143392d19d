"""Batches that are augmented on the device, from images that live there or come from the host's memory; no worker
processes."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from cifar_lit.data import feed
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
        data: images and labels, on the device where batches are wanted, or on the CPU if they are streamed.
        batch_size: largest number of images in a batch of one rank (1 may become 2, so that no rank's batch is empty).
        rows: which images of `data` an epoch goes over, int64 (N,) on the CPU; all if absent.
        shuffle: a new order each epoch, the same on every rank.
        augmentation: how images are varied; the plain images if absent.
        seed: base of all random choices.
        rank: this process among `world_size`.
        world_size: number of processes that share the data.
        stream_to: the device where batches are wanted, if `data` is not to lie there: they are copied from the host's
            memory ahead of need. The batches are the same.
        steps_augmented: this many batches are augmented together, so that small ones do not each pay for starting the
            operations on a GPU. The random variations depend on it.

    Yields:
        (images, labels): images (B, 3, 32, 32) in channels-last memory, 0..255, uint8 or float32; labels int64 (B,).
    """

    batch_sampler = None  # Lightning asks for it where there is a `sampler`

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        *,
        rows: Tensor | None = None,
        shuffle: bool = False,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        stream_to: torch.device | None = None,
        steps_augmented: int = 1,
    ) -> None:
        self.rows = torch.arange(len(data)) if rows is None else rows
        if len(self.rows) < world_size:
            raise SettingError(f"{len(self.rows)} images can't be shared by {world_size} processes. Use fewer devices.")
        self.data = data
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.augmentation = augmentation or Augmentation()
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.stream_to = stream_to
        self.steps_augmented = steps_augmented
        self.epoch = 0

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self.stream_to or self.data.labels.device

    @property
    def sampler(self) -> "DeviceLoader":
        """Lightning looks here for the `set_epoch` that it calls before each epoch, a resumed one too."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order and the variations of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        steps = math.ceil(len(self.rows) / (self.batch_size * self.world_size))
        return min(steps, len(self.rows) // self.world_size)  # every rank has an image in every step

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        steps = self._steps()
        groups = [steps[start : start + self.steps_augmented] for start in range(0, len(steps), self.steps_augmented)]
        # Nothing is chosen before the first batch is asked for: on resuming, Lightning tells the epoch after `iter`.
        yield from self._batches(groups)

    def examples(self) -> list[tuple[Tensor, Tensor]]:
        """A batch of each size that an epoch has, at most two; an epoch is not changed by it."""
        steps = {len(step): [step] for step in self._steps()}
        return list(self._batches(list(steps.values())))

    def _steps(self) -> list[Tensor]:
        """Which images each step of this rank shows: int64 (B,) each, on the CPU."""
        return [step.tensor_split(self.world_size)[self.rank] for step in self._order().tensor_split(len(self))]

    def _batches(self, groups: list[list[Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Steps one after the other, those of a group augmented together."""
        generator = torch.Generator(self.device).manual_seed(derive_seed(self.seed, self.epoch, self.rank))
        sizes = [[len(step) for step in group] for group in groups]
        rows, totals = torch.cat([step for group in groups for step in group]), [sum(each) for each in sizes]
        if self.stream_to is None:
            parts = feed.resident(self.data, rows, totals)
        else:
            parts = feed.streamed(self.data, rows, totals, self.stream_to)
        for part, each in zip(parts, sizes, strict=True):
            images = self.augmentation.sample(
                part.images, part.indices, generator, epoch=self.epoch, seed=self.seed, rows=part.rows
            )
            yield from zip(torch.split(images, each), torch.split(part.labels, each), strict=True)

    def _order(self) -> Tensor:
        """int64 (N,) on the CPU, so that it is the same on every rank and every kind of device."""
        if not self.shuffle:
            return self.rows
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        return self.rows[torch.randperm(len(self.rows), generator=generator)]
