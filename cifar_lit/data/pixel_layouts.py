"""Which axes of an array of pixels are rows, height, width and channels: told from its shape."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

LAYOUTS = ("nhwc", "nchw", "hwcn")
"""Rows, height, width, channels; of flat rows (n, 3072), the order in which a row was unrolled."""

_CHANNELS = (1, 3, 4)
_MIN_SIDE = 8
"""Pixels of an image that is given as a flat row; shorter rows are something else."""
_SMOOTHER = 0.8
"""Right order of a flat row: neighbours differ by less than this part of what they differ by in the other order."""

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """How the axes of an array become (rows, height, width, channels).

    Attributes:
        name: one of `LAYOUTS`.
        num_rows: images in the whole array.
        arrange: what it does to some rows of the array.
        words: what that is, empty if nothing.
        rows_last: `arrange` needs the whole array.
    """

    name: str
    num_rows: int
    arrange: Callable[[Pixels], Pixels]
    words: str = ""
    rows_last: bool = False


def layouts_of(shape: tuple[int, ...], sample: Pixels | None, num_labels: int | None) -> list[Layout]:
    """All ways to see images in an array; more than one only if shape and values leave it open.

    Args:
        shape: of the array.
        sample: some rows of it, for the order within flat rows.
        num_labels: how many images there must be; None if that is not known.
    """
    squeezed = tuple(length for axis, length in enumerate(shape) if axis == 0 or length != 1)
    if len(shape) > 4 and len(squeezed) in (3, 4):
        found = [
            _of_squeezed(each, squeezed) for each in layouts_of(squeezed, sample, num_labels) if not each.rows_last
        ]
    elif len(shape) == 2:
        found = _of_flat_rows(shape, sample)
    else:
        found = _of_images(shape)
    return [each for each in found if num_labels is None or each.num_rows == num_labels]


def _of_squeezed(layout: Layout, shape: tuple[int, ...]) -> Layout:
    words = "axes of length 1 are dropped" + (f", {layout.words}" if layout.words else "")
    return replace(layout, arrange=lambda array: layout.arrange(array.reshape(len(array), *shape[1:])), words=words)


def _of_images(shape: tuple[int, ...]) -> list[Layout]:
    """Those with square images, if there are any, else all."""
    found: list[tuple[bool, Layout]] = []  # is it square?
    if len(shape) == 4:
        one, two, three, four = shape
        if four in _CHANNELS:
            found.append((two == three, Layout("nhwc", one, lambda array: array)))
        if two in _CHANNELS:
            moved = Layout("nchw", one, lambda array: np.moveaxis(array, 1, -1), "channels are moved last")
            found.append((three == four, moved))
        if three in _CHANNELS and one == two:
            last = Layout("hwcn", four, lambda array: np.moveaxis(array, -1, 0), "rows are moved first", rows_last=True)
            found.append((True, last))
    elif len(shape) == 3:
        one, two, three = shape
        found.append((two == three, Layout("nhwc", one, lambda array: array[..., None])))
        if three in (3, 4):
            single = Layout("nhwc", 1, lambda array: array[None], "it is one image", rows_last=True)
            found.append((one == two, single))
        if one in (3, 4):
            words = "it is one image, channels are moved last"
            single = Layout("nchw", 1, lambda array: np.moveaxis(array, 0, -1)[None], words, rows_last=True)
            found.append((two == three, single))
    return [layout for is_square, layout in found if is_square] or [layout for _, layout in found]


def _of_flat_rows(shape: tuple[int, ...], sample: Pixels | None) -> list[Layout]:
    num_rows, length = shape
    side = math.isqrt(length)
    if side * side == length and side >= _MIN_SIDE:
        words = "flat rows become grey images"
        return [Layout("nhwc", num_rows, lambda rows: rows.reshape(-1, side, side, 1), words)]
    side = math.isqrt(length // 3)
    if 3 * side * side != length or side < _MIN_SIDE:
        return []
    planes = Layout(
        "nchw",
        num_rows,
        lambda rows: np.moveaxis(rows.reshape(-1, 3, side, side), 1, -1),
        "flat rows are all red, then all green, then all blue values, as in the official files",
    )
    pixels = Layout("nhwc", num_rows, lambda rows: rows.reshape(-1, side, side, 3), "flat rows are pixel by pixel")
    if sample is None:
        return [planes, pixels]
    as_planes, as_pixels = (_roughness(each.arrange(sample)) for each in (planes, pixels))
    if as_planes < _SMOOTHER * as_pixels:
        return [planes]
    return [pixels] if as_pixels < _SMOOTHER * as_planes else [planes, pixels]


def _roughness(images: Pixels) -> float:
    """How much neighbours differ."""
    values = images.astype(np.float32)
    return float(np.abs(np.diff(values, axis=1)).mean() + np.abs(np.diff(values, axis=2)).mean())
