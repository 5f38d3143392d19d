"""Random augmentation of a batch on the device it lives on, random for each image.

Shapes: B batch, N images in the set, H = W = 32, C = 3 channels. Beyond its edge an image goes on as
its own mirror image.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from cifar_lit.cifar10 import IMAGE_SIZE
from cifar_lit.errors import SettingError
from cifar_lit.native import warp
from cifar_lit.seeding import derive_seed


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied. Each image draws its own variation.

    Attributes:
        flip: mirror left to right with probability 1/2; "alternating" draws once for the first epoch and from then on
            mirrors each image in every other epoch, so that two epochs always show both sides (Jordan, "94% on
            CIFAR-10 in 3.29 Seconds on a Single GPU", 2024).
        shift: move by up to this many whole pixels, each direction on its own.
        rotation: turn by up to this many degrees, either way.
        zoom: scale by up to this share, in or out (0.1 is 10 %).
        cutout: blank a square of this many pixels a side with grey, at a random place; 0 for none.
    """

    flip: bool | Literal["alternating"] = False
    shift: int = 0
    rotation: float = 0.0
    zoom: float = 0.0
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.flip not in (False, True, "alternating"):
            raise SettingError(f"flip is {self.flip!r}, expected true, false or alternating.")
        if not (0 <= self.shift <= IMAGE_SIZE and 0 <= self.cutout <= IMAGE_SIZE):
            raise SettingError(f"shift is {self.shift} and cutout {self.cutout}, expected 0..{IMAGE_SIZE} pixels.")
        if not (0 <= self.rotation <= 180 and 0 <= self.zoom < 1):
            raise SettingError(
                f"rotation is {self.rotation} and zoom {self.zoom}, expected 0..180 degrees and 0 <= zoom < 1."
            )

    @property
    def interpolates(self) -> bool:
        """Whether pixels are mixed, or only moved."""
        return bool(self.rotation or self.zoom)

    def sample(
        self,
        images: Tensor,
        indices: Tensor,
        generator: torch.Generator,
        *,
        epoch: int = 0,
        seed: int = 0,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Takes the rows `indices` of `images` and varies them.

        Args:
            images: uint8 (N, H, W, C).
            indices: int64 (B,), on the same device.
            generator: source of all random choices, on the same device.
            epoch: counted from 0, for the alternating flip.
            seed: of the alternating flip's first epoch, in which an image's side depends on it and the row alone.
            rows: int64 (B,), what tells an image from others in all epochs, where `images` are only a part of the set;
                `indices` if absent.

        Returns:
            (B, C, H, W) in channels-last memory, 0..255: uint8 if only whole pixels moved, float32 if they were
            interpolated.
        """
        flipped = self._flipped(indices if rows is None else rows, generator, epoch, seed)
        vary = self._warped if self.interpolates else self._moved
        batch = vary(images, indices, flipped, generator)
        return self._cut(batch, generator) if self.cutout else batch

    def _flipped(self, rows: Tensor, generator: torch.Generator, epoch: int, seed: int) -> Tensor:
        """bool (B,): which images are mirrored."""
        if self.flip == "alternating":
            return (_coin(rows, seed) + epoch) % 2 == 1
        if not self.flip:
            return torch.zeros(len(rows), dtype=torch.bool, device=generator.device)
        return torch.rand(len(rows), generator=generator, device=generator.device) < 0.5

    def _shifts(self, num: int, generator: torch.Generator) -> Tensor:
        """int64 (2, B): rows and columns that each image moves by."""
        if not self.shift:
            return torch.zeros(2, num, dtype=torch.int64, device=generator.device)
        return torch.randint(-self.shift, self.shift + 1, (2, num), generator=generator, device=generator.device)

    def _moved(self, images: Tensor, indices: Tensor, flipped: Tensor, generator: torch.Generator) -> Tensor:
        """Flip and shift as one gather from the whole set: no batch is copied first."""
        if not (self.flip or self.shift):
            return images[indices].permute(0, 3, 1, 2)
        shift_rows, shift_columns = self._shifts(len(indices), generator)
        places = torch.arange(IMAGE_SIZE, device=indices.device)
        rows = _mirrored(places - shift_rows[:, None])
        columns = _mirrored(torch.where(flipped[:, None], IMAGE_SIZE - 1 - places, places) - shift_columns[:, None])
        return images[indices[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def _warped(self, images: Tensor, indices: Tensor, flipped: Tensor, generator: torch.Generator) -> Tensor:
        """Flip, shift, rotation and zoom as one bilinear sampling, so that pixels are interpolated once."""
        num, device = len(indices), indices.device
        shifts = self._shifts(num, generator)
        angle, scale = 2 * torch.rand(2, num, generator=generator, device=device) - 1
        angle, scale = angle * math.radians(self.rotation), 1 + scale * self.zoom
        mirror = torch.where(flipped, -1.0, 1.0)
        cos, sin = angle.cos() * scale, angle.sin() * scale
        offset_rows, offset_columns = shifts * (-2 / IMAGE_SIZE)
        # Where on the source (-1..1) a target place takes its colour from: a share for its column and one for its row.
        x = mirror * cos, -mirror * sin, offset_columns
        y = sin, cos, offset_rows
        if warp.fits(images):
            return warp.warp(images, indices, torch.stack([*x, *y], dim=1).view(-1, 2, 3))
        places = (2 * torch.arange(IMAGE_SIZE, device=device) + 1) / IMAGE_SIZE - 1
        grid = torch.stack([_plane(places, *x), _plane(places, *y)], dim=-1)
        batch = images[indices].permute(0, 3, 1, 2).to(torch.float32)
        batch = grid_sample(batch, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        return batch.contiguous(memory_format=torch.channels_last)

    def _cut(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        num, device = len(batch), batch.device
        top, left = torch.randint(0, IMAGE_SIZE - self.cutout + 1, (2, num, 1), generator=generator, device=device)
        places = torch.arange(IMAGE_SIZE, device=device)
        in_rows = (places >= top) & (places < top + self.cutout)
        in_columns = (places >= left) & (places < left + self.cutout)
        return batch.masked_fill_(in_rows[:, None, :, None] & in_columns[:, None, None, :], 128)


def _plane(places: Tensor, by_column: Tensor, by_row: Tensor, offset: Tensor) -> Tensor:
    """(B, H, W): for each image the sum of its shares of a place's column and row, and its offset."""
    along_row = by_column[:, None] * places + offset[:, None]
    return along_row[:, None, :] + (by_row[:, None] * places)[:, :, None]


def _mirrored(places: Tensor) -> Tensor:
    """Places up to one image width outside 0..31, folded back at the edges: -1 becomes 0, 32 becomes 31."""
    places = torch.where(places < 0, -1 - places, places)
    return torch.where(places >= IMAGE_SIZE, 2 * IMAGE_SIZE - 1 - places, places)


def _coin(rows: Tensor, seed: int) -> Tensor:
    """int64 (B,), 0 or 1 for each row, the same whenever and wherever it is asked for: a hash in 32 bits."""
    bits = rows ^ (derive_seed(seed, 2) & 0xFFFFFFFF)
    for factor in (0x7FEB352D, 0x1B873593):
        bits = (bits ^ (bits >> 16)) * factor & 0xFFFFFFFF
    return bits >> 31
