"""Increments: labelled images that arrived later, as an `.npz` with `x_new` and `y_new`."""

import logging
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cifar_lit.cifar10 import CLASS_NAMES, IMAGE_SHAPE
from cifar_lit.data.array_file import ArrayFile
from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.npz import NpzFile
from cifar_lit.errors import DataError, IncrementError, NpzError
from cifar_lit.files import sync_folder

PIXEL_KEY, LABEL_KEY = KEYS = ("x_new", "y_new")

MAX_ROWS = 60_000
MAX_BYTES = 200 * 2**20
"""Of the file, and of its arrays once inflated."""
MAX_MEMBERS = 4

_log = logging.getLogger(__name__)

_CONVERT = "`cifar-lit increment make --arrays FILE --out NEW.npz` converts what is clear."
_FORM = f"{PIXEL_KEY}: uint8 (n, 32, 32, 3), and {LABEL_KEY}: integers 0..9, (n,)"


def read(path: Path, class_names: tuple[str, ...] = CLASS_NAMES) -> ImageSet:
    """Reads an increment of these classes.

    Labels may have any integer dtype and byte order, and the shape (n,) or (n, 1). Other arrays in the file are left
    out, and a warning is logged.

    Raises:
        IncrementError: not a sound `.npz`, or other contents. The message begins with the path and names the key, the
            shape, the dtype or the first bad row, and how to fix it.
    """
    try:
        with NpzFile(path, max_bytes=MAX_BYTES, max_members=MAX_MEMBERS) as file:
            _check_keys(file)
            images = _images(file)
            labels = _labels(file, len(images), len(class_names))
    except NpzError as error:
        form = f" An increment holds {_FORM}. {_CONVERT}" if error.fault in ("unsupported", "too_large") else ""
        raise IncrementError(f"{error}{form}", error.fault) from error
    return ImageSet(images, labels, f"increment {path.name}", class_names)


def write(path: Path, data: ImageSet) -> None:
    """Writes an increment in one step: a reader sees the old file or the new one, whole. Equal data gives equal bytes.

    Raises:
        IncrementError: `data` has no row, or more than are accepted in one file.
        DataError: the file can't be written.
    """
    if not 0 < len(data) <= MAX_ROWS:
        raise IncrementError(
            f"{path}: {len(data):,} rows, expected 1..{MAX_ROWS:,} in an increment. Write several, or give it images."
        )
    arrays = {PIXEL_KEY: data.images.contiguous().cpu().numpy(), LABEL_KEY: data.labels.cpu().numpy()}
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                np.savez(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise DataError(f"{path} can't be written: {error.strerror}. Name another file.") from error


def _check_keys(file: ArrayFile) -> None:
    found = [file.header(key, text=True) for key in KEYS if key in file.keys]
    if len(found) < len(KEYS):
        raise NpzError(f"{file.path}: it has {_listed(file.keys)}, expected {_listed(KEYS)}. {_CONVERT}", "invalid")
    extra = [key for key in file.keys if key not in KEYS]
    if extra:
        _log.warning("warning: %s: %s left out: an increment is %s.", file.path, _listed(extra), _listed(KEYS))


def _images(file: ArrayFile) -> Tensor:
    header = file.header(PIXEL_KEY)
    shown = f"{file.path}: {PIXEL_KEY!r} is {header}"
    if header.dtype != np.uint8 or header.shape[1:] != IMAGE_SHAPE:
        raise NpzError(f"{shown}, expected uint8 (n, 32, 32, 3) in 0..255. {_CONVERT}")
    if not header.shape[0]:
        raise NpzError(f"{shown}: it has no row, expected at least one.")
    if header.shape[0] > MAX_ROWS:
        raise NpzError(
            f"{shown}: {header.shape[0]:,} rows, at most {MAX_ROWS:,} are accepted. Divide it into several files.",
            "too_large",
        )
    return torch.from_numpy(file.read(PIXEL_KEY))


def _labels(file: ArrayFile, num_rows: int, num_classes: int) -> Tensor:
    header = file.header(LABEL_KEY, text=True)
    shown = f"{file.path}: {LABEL_KEY!r} is {header}"
    if header.dtype.kind not in "iu" or header.shape not in ((num_rows,), (num_rows, 1)):
        raise NpzError(
            f"{shown}, expected integers 0..{num_classes - 1}, one for each of the {num_rows:,} rows of "
            f"{PIXEL_KEY!r}. {_CONVERT}"
        )
    labels = file.read(LABEL_KEY).reshape(-1)
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(bad):
        raise NpzError(
            f"{shown}: row {bad[0]} is {labels[bad[0]]} (of {len(bad):,} such rows), expected 0..{num_classes - 1}. "
            f"Correct these labels or leave the rows out; if classes are counted from 1: {_CONVERT}"
        )
    return torch.from_numpy(labels.astype(np.int64))


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(map(repr, keys))
