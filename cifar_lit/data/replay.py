"""Batches in which new images are learned beside old ones, so that the old are not forgotten."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.loader import DeviceLoader
from cifar_lit.seeding import derive_seed

Sampling = Literal["uniform", "balanced"]


class ReplayLoader:
    """One pass over the new images an epoch; to each of its batches a random draw of old ones is added.

    Experience replay: Chaudhry et al., "On Tiny Episodic Memories in Continual Learning" (2019).

    Args:
        new: batches of new images, augmented and shuffled; its seed, epoch and rank decide the old images too.
        old: images to replay, on the same device.
        num_old: old images added to each batch, sampled with replacement.
        sampling: "uniform" draws every old image equally often, "balanced" every class that occurs.
        weights: float64 (N,), how often each old image is sampled beside the others of its class ("balanced") or beside
            all others ("uniform"), on the device of the old images; equally often if left out.

    Yields:
        (images, labels) as `new` does, the new images first.
    """

    batch_sampler = None  # Lightning asks for it where there is a `sampler`

    def __init__(
        self,
        new: DeviceLoader,
        old: ImageSet,
        num_old: int,
        sampling: Sampling = "uniform",
        weights: Tensor | None = None,
    ) -> None:
        self.new = new
        self.old = old
        self.num_old = num_old
        if sampling == "balanced":
            weights = torch.ones_like(old.labels, dtype=torch.float64) if weights is None else weights
            weights = weights / torch.bincount(old.labels, weights)[old.labels]
        self._weights = weights

    @property
    def sampler(self) -> DeviceLoader:
        """Lightning looks here for the `set_epoch` that it calls before each epoch."""
        return self.new

    def __len__(self) -> int:
        return len(self.new)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.old.labels.device
        seed = derive_seed(self.new.seed, self.new.epoch, self.new.rank, len(self.old))
        generator = torch.Generator(device).manual_seed(seed)
        for images, labels in self.new:
            rows = self._draw(generator)
            replayed = self.new.augmentation.sample(
                self.old.images, rows, generator, epoch=self.new.epoch, seed=self.new.seed
            )
            yield torch.cat([images, replayed]), torch.cat([labels, self.old.labels[rows]])

    def _draw(self, generator: torch.Generator) -> Tensor:
        if self._weights is None:
            return torch.randint(len(self.old), (self.num_old,), generator=generator, device=generator.device)
        return torch.multinomial(self._weights, self.num_old, replacement=True, generator=generator)
