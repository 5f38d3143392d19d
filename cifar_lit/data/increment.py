"""Increments: labelled images that arrived later, as an `.npz` with `x_new` and `y_new`."""

import difflib
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cifar_lit.cifar10 import IMAGE_SHAPE, NUM_CLASSES
from cifar_lit.data import pixels
from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.npz import NpzFile
from cifar_lit.errors import DataError, IncrementError, NpzError
from cifar_lit.files import sync_folder

PIXEL_KEY, LABEL_KEY = KEYS = ("x_new", "y_new")

MAX_ROWS = 60_000
MAX_BYTES = pixels.MAX_BYTES
"""Of the file, and of its arrays once inflated."""
MAX_MEMBERS = 4

_FORM = f"{PIXEL_KEY}: uint8 (n, 32, 32, 3), and {LABEL_KEY}: integers 0..9, (n,)"


def read(path: Path) -> ImageSet:
    """Reads an increment.

    Labels may have any integer dtype and byte order, and the shape (n,) or (n, 1).

    Raises:
        IncrementError: not a sound `.npz`, or other contents. The message begins with the path and names the key, the
            shape, the dtype or the first bad row, and the mend.
    """
    try:
        with NpzFile(path, max_bytes=MAX_BYTES, max_members=MAX_MEMBERS) as file:
            _check_keys(file)
            _check_num_rows(file)
            images = pixels.read_pixels(file, PIXEL_KEY)
            labels = _labels(file, len(images))
    except NpzError as error:
        form = f" An increment holds {_FORM}." if error.fault == "unsupported" else ""
        raise IncrementError(f"{error}{form}", error.fault) from error
    return ImageSet(images, torch.from_numpy(labels), f"increment {path.name}")


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


def _check_keys(file: NpzFile) -> None:
    missing = [key for key in KEYS if key not in file.headers]
    extra = [key for key in file.headers if key not in KEYS]
    if not (missing or extra):
        return
    advice = []
    for key in missing:
        alike = [other for other in extra if other[:1].lower() == key[0]] or difflib.get_close_matches(key, extra, 1)
        advice.append(f"{key!r} is missing{f': did you mean {alike[0]!r}? Rename it.' if alike else '.'}")
    if not missing:
        advice.append(f"Leave out {_listed(extra)}.")
    raise NpzError(f"{file.path}: it has {_listed(file.headers)}, expected {_listed(KEYS)}. {' '.join(advice)}")


def _check_num_rows(file: NpzFile) -> None:
    shape = file.headers[PIXEL_KEY].shape
    if shape[1:] == IMAGE_SHAPE and shape[0] > MAX_ROWS:
        raise NpzError(
            f"{file.path}: {PIXEL_KEY!r} has {shape[0]:,} rows, at most {MAX_ROWS:,} are accepted. Divide it into "
            "several files.",
            "too_large",
        )


def _labels(file: NpzFile, num_rows: int) -> NDArray[np.int64]:
    header = file.headers[LABEL_KEY]
    labels = file.read(LABEL_KEY)
    shown = f"{file.path}: {LABEL_KEY!r} is {header.dtype} {header.shape}"
    advice = _labels_advice(labels)
    if advice:
        raise NpzError(f"{shown}, expected integers 0..9, (n,) or (n, 1). {advice}")
    if len(labels) != num_rows:
        raise NpzError(
            f"{shown}: {len(labels):,} labels for the {num_rows:,} rows of {PIXEL_KEY!r}, expected one for each. "
            "Save the two together again."
        )
    labels = labels.reshape(-1)
    bad = (labels < 0) | (labels >= NUM_CLASSES)
    row = pixels.first_row(bad)
    if row is not None:
        from_one = labels.min() == 1 and labels.max() == NUM_CLASSES
        raise NpzError(
            f"{shown}: row {row} is {labels[row]} (of {bad.sum():,} such rows), expected 0..9. "
            + (f"Count classes from 0: {LABEL_KEY} - 1." if from_one else "Mend these labels or leave the rows out.")
        )
    return labels.astype(np.int64)


def _labels_advice(labels: NDArray[Any]) -> str | None:
    """What is to be done about dtype and shape, if anything."""
    if labels.ndim == 2 and labels.shape[1] == NUM_CLASSES:
        return f"If it is one-hot or scores, take the class numbers: {LABEL_KEY}.argmax(axis=1)."
    advice = []
    if labels.dtype.kind == "f":
        advice.append(_float_advice(labels))
    elif labels.dtype.kind not in "iu":
        advice.append("Save class numbers.")
    if labels.ndim != 1 and labels.shape[1:] != (1,):
        advice.append(f"Make it one number a row: {LABEL_KEY}.reshape(-1).")
    return " ".join(advice) or None


def _float_advice(labels: NDArray[Any]) -> str:
    row = pixels.first_row(~np.isfinite(labels) | (labels != np.round(labels)))
    if row is not None:
        return f"Row {row} is {np.atleast_1d(labels)[row]}: save class numbers."
    return f"Cast it: {LABEL_KEY}.astype(np.int64)."


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(map(repr, keys))
