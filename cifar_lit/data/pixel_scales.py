"""What the values of an array of pixels mean: which scale they are on, told from their range and their grid.

Pixels were whole levels 0..255 once. On the right scale they are so again, which tells standardised ones apart too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_lit.cifar10 import MEAN, STD
from cifar_lit.errors import InputError

LEVELS, _UNIT, _SYMMETRIC, _SIXTEEN = "0..255", "0..1", "-1..1", "0..65535"
SCALES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    # Values are (pixel / 255 - mean) / std.
    LEVELS: ((0.0,), (1 / 255,)),
    _UNIT: ((0.0,), (1.0,)),
    _SYMMETRIC: ((0.5,), (0.5,)),
    "-0.5..0.5": ((0.5,), (1.0,)),
    _SIXTEEN: ((0.0,), (1 / 65_535,)),
    "cifar10": (MEAN, STD),
    "cifar10-0.2023": (MEAN, (0.2023, 0.1994, 0.2010)),
    "keras-cifar10": ((120.707 / 255,), (64.15 / 255,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""By name: mean and standard deviation that pixels 0..1 were standardised with, of all channels or of each."""
_TITLES = {
    "cifar10": "standardised by CIFAR-10's mean and std",
    "cifar10-0.2023": "standardised by CIFAR-10's mean and the std 0.2023, 0.1994, 0.2010",
    "keras-cifar10": "standardised by CIFAR-10's mean 120.707 and std 64.15",
    "imagenet": "standardised by ImageNet's mean and std",
}

_SAMPLED_ROWS = 200
_MAX_SAMPLED = 2**21
_ON_GRID = 0.98
"""Share of values that must be whole levels for a scale to be recognised by that."""

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Survey:
    """What a pass over all values found.

    Attributes:
        dtype: of the values.
        low: smallest value of each channel.
        high: largest value of each channel.
        on_grid: share of the sampled values that are whole levels, by scale.
    """

    dtype: np.dtype[Any]
    low: Pixels
    high: Pixels
    on_grid: dict[str, float]


def survey(chunks: Iterator[Pixels]) -> Survey:
    """Looks at all values once.

    Args:
        chunks: (rows, height, width, channels) each.

    Raises:
        InputError: a value is not finite.
    """
    low, high = np.array(np.inf), np.array(-np.inf)
    whole, num_sampled, first = dict.fromkeys(SCALES, 0), 0, 0
    for chunk in chunks:
        if chunk.dtype.kind == "f":
            bad = ~np.isfinite(chunk).all(axis=(1, 2, 3))
            if bad.any():
                raise InputError(
                    f"row {first + int(bad.argmax())} holds a value that is not finite. Correct it, or leave the row "
                    "out."
                )
            if num_sampled < _MAX_SAMPLED:
                sample = chunk[:_SAMPLED_ROWS]
                num_sampled += sample.size
                tolerance = 0.2 if chunk.dtype.itemsize == 2 else 0.05
                for name in SCALES:
                    if _has_channels(name, sample.shape[-1]):
                        levels = to_levels(sample, name)
                        whole[name] += int((np.abs(levels - levels.round()) < tolerance).sum())
        low, high = np.minimum(low, chunk.min(axis=(0, 1, 2))), np.maximum(high, chunk.max(axis=(0, 1, 2)))
        first += len(chunk)
    return Survey(chunk.dtype, low, high, {name: count / max(1, num_sampled) for name, count in whole.items()})


def recognise(found: Survey, wanted: str | None) -> str:
    """The scale that the values are on, one of `SCALES`.

    Args:
        found: from `survey`.
        wanted: the scale that the caller says they are on; values outside it are cut off.

    Raises:
        InputError: it can't be told; the message names what `--range` may say.
    """
    low, high = float(found.low.min()), float(found.high.max())
    if wanted is not None:
        if not _has_channels(wanted, found.low.size):
            raise InputError(f"--range {wanted} is for 3 channels, it has {found.low.size}. Name another.")
        return wanted
    said = f"its values are {low:.4g}..{high:.4g}"
    if found.dtype.kind in "iu":
        return _of_integers(found.dtype, low, high, said)
    fitting = [name for name in SCALES if name != _SIXTEEN and _fits(name, found)]
    on_grid = [name for name in fitting if found.on_grid[name] >= _ON_GRID]
    if len(on_grid) == 1:
        return on_grid[0]
    if not on_grid:  # resized images, say: values between the levels
        if low >= 0 and high > 32 and fitting == [LEVELS]:
            return LEVELS
        if low >= 0 and high > 0.5 and _UNIT in fitting:
            return _UNIT
        if low < -0.95 and high > 0.95 and _SYMMETRIC in fitting:
            return _SYMMETRIC
    if not fitting:
        raise InputError(
            f"{said}, which is no scale known here. Undo what was done to the pixels, or say which scale it is with "
            f"--range {' | '.join(SCALES)}: values outside are cut off."
        )
    others = [name for name in SCALES if name not in fitting]
    raise InputError(
        f"{said}, their scale can't be told. Say which it is with --range {' | '.join(fitting)} (or "
        f"{' | '.join(others)}, which cut values off)."
    )


def describe(scale: str, dtype: np.dtype[Any]) -> str:
    """What will be done to the values, in words; empty if nothing."""
    if scale == LEVELS:
        return "" if dtype == np.uint8 else f"{dtype} values {scale} are rounded to uint8"
    return f"{dtype} values, {_TITLES.get(scale, scale)}, become uint8 0..255"


def to_levels(values: Pixels, scale: str) -> Pixels:
    """Floats 0..255, neither rounded nor cut off, of values (..., channels) on a scale."""
    mean, std = SCALES[scale]
    wide: type[np.floating[Any]] = np.float64 if values.dtype.itemsize > 4 else np.float32
    factor, offset = (np.asarray([255 * each for each in values_of], wide) for values_of in (std, mean))
    levels: Pixels = values.astype(wide) * factor + offset
    return levels


def _of_integers(dtype: np.dtype[Any], low: float, high: float, said: str) -> str:
    if low < 0 or (high > 255 and (dtype != np.uint16 or high < 2**15)):
        raise InputError(f"{said}, expected 0..255. Undo what was done to the pixels, or say --range {_SIXTEEN}.")
    if high <= 1:
        raise InputError(
            f"{said}: pixels 0..1 were cut down to integers, or all is black. If it is black, say --range {LEVELS}."
        )
    return LEVELS if high <= 255 else _SIXTEEN


def _fits(scale: str, found: Survey) -> bool:
    """Whether all values lie on a scale, but for half a level."""
    if not _has_channels(scale, found.low.size):
        return False
    return bool((to_levels(found.low, scale) > -0.5).all() and (to_levels(found.high, scale) < 255.5).all())


def _has_channels(scale: str, num_channels: int) -> bool:
    return len(SCALES[scale][0]) in (1, num_channels)
