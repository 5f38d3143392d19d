"""Arrays of pixels in an `.npz` file, checked; what is wrong with one is said together with the way to mend it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cifar_lit.cifar10 import IMAGE_SHAPE, IMAGE_SIZE
from cifar_lit.data.npz import ArrayHeader, NpzFile
from cifar_lit.errors import NpzError

KEYS = ("x", "x_new", "x_test")
"""An `.npz` of images to classify has one of these."""

MAX_BYTES = 200 * 2**20
MAX_MEMBERS = 64

_EXPECTED = "uint8 (n, 32, 32, 3) in 0..255"


def read(path: Path) -> Tensor:
    """Reads the images of an `.npz` that has one of `KEYS`; its other arrays are not looked at.

    Returns:
        uint8 (n, 32, 32, 3), n >= 1.

    Raises:
        NpzError: no such file, none or several of the keys, or not such images. The message begins with the path.
    """
    with NpzFile(path, max_bytes=MAX_BYTES, max_members=MAX_MEMBERS) as file:
        found = [key for key in file.headers if key in KEYS]
        if len(found) != 1:
            have = ", ".join(map(repr, found or file.headers))
            raise NpzError(
                f"{path}: it has {have}, expected exactly one of {', '.join(map(repr, KEYS))}. "
                "Save the images under one of these."
            )
        return read_pixels(file, found[0])


def read_pixels(file: NpzFile, key: str) -> Tensor:
    """Reads one array of images.

    Returns:
        uint8 (n, 32, 32, 3), n >= 1.

    Raises:
        NpzError: another dtype or shape, no row, or damaged. The message begins with the path.
    """
    header = file.headers[key]
    advice = []
    if header.dtype != np.uint8:
        advice.append(_dtype_advice(file.read(key), key))
    if header.shape[1:] != IMAGE_SHAPE:
        advice.append(_shape_advice(header, key))
    if advice:
        raise NpzError(
            f"{file.path}: {key!r} is {header.dtype} {header.shape}, expected {_EXPECTED}. {' '.join(advice)}"
        )
    if not header.shape[0]:
        raise NpzError(f"{file.path}: {key!r} is {header.dtype} {header.shape}: it has no row, expected at least one.")
    return torch.from_numpy(file.read(key))


def first_row(flags: NDArray[np.bool_]) -> int | None:
    """The first row of `flags` in which one is set."""
    return int(np.argmax(flags)) // (flags.size // len(np.atleast_1d(flags))) if flags.any() else None


def _dtype_advice(array: NDArray[Any], key: str) -> str:
    kind = array.dtype.kind
    if kind == "b":
        return f"Multiply by 255 and cast: ({key} * 255).astype(np.uint8)."
    if kind == "c":
        return "Save the real pixels."
    if kind == "f" and (row := first_row(~np.isfinite(array))) is not None:
        return f"Row {row} holds a value that is not finite. Mend it, then save numbers 0..255 as uint8."
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if kind == "f" and low >= 0 and high <= 1:
        return f"Multiply by 255, round and cast: ({key} * 255).round().astype(np.uint8)."
    if low >= 0 and high <= 255:
        return f"{'Round and cast' if kind == 'f' else 'Cast'}: {key}{'.round()' * (kind == 'f')}.astype(np.uint8)."
    row = first_row((array < 0) | (array > 255))
    return f"Its values are {low:g}..{high:g} (row {row} is outside first). Undo any normalisation, then cast to uint8."


def _shape_advice(header: ArrayHeader, key: str) -> str:
    size = IMAGE_SIZE
    match header.shape:
        case (_, 3, 32, 32):
            return f"Move the channels last: {key}.transpose(0, 2, 3, 1)."
        case (32, 32, 3):
            return f"Add an axis for the rows: {key}[None]."
        case (3, 32, 32):
            return f"Move the channels last and add an axis for the rows: {key}.transpose(1, 2, 0)[None]."
        case (32, 32, 3, _):
            return f"Move the rows first: {key}.transpose(3, 0, 1, 2)."
        case (_, 32, 32, 4):
            return f"Leave out transparency: {key}[..., :3]."
        case (_, 32, 32, 1):
            return f"Repeat grey for three channels: {key}.repeat(3, axis=3)."
        case (_, 32, 32):
            return f"Repeat grey for three channels: {key}[..., None].repeat(3, axis=3)."
        case (_, 3072):
            return (
                f"Give it its axes back: {key}.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) if a row is all red, then "
                f"all green, then all blue, as in the official files; else {key}.reshape(-1, 32, 32, 3)."
            )
        case (_, height, width, 1 | 3 | 4) if (height, width) != (size, size):
            return f"Resize its {width}x{height} pictures to {size}x{size} RGB."
        case shape if tuple(length for length in shape[1:] if length != 1) == IMAGE_SHAPE:
            return f"Leave out its axes of length 1: {key}.reshape(-1, 32, 32, 3)."
    return "Bring it to rows, height, width and channels (RGB), in this order."
