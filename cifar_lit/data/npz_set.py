"""A data set as one `.npz` with x_train, y_train, x_test, y_test and perhaps class_names."""

from pathlib import Path

import numpy as np
import torch

from cifar_lit.cifar10 import IMAGE_SHAPE
from cifar_lit.data.array_file import ArrayFile
from cifar_lit.data.class_names import names_of
from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.npz import NpzFile
from cifar_lit.errors import DataError

KEYS = ("x_train", "y_train", "x_test", "y_test")
NAMES = "class_names"
_MAX_BYTES = 4 * 2**30
_MAX_MEMBERS = 100


def find(root: Path) -> Path | None:
    """The root itself if it is such a file, or the only `.npz` in it."""
    found = [root] if root.suffix == ".npz" else sorted(root.glob("*.npz"))
    return found[0] if len(found) == 1 and found[0].is_file() else None


def class_names(path: Path) -> tuple[str, ...]:
    """In label order: the file's own, else CIFAR-10's if there are ten, else numbers.

    Raises:
        NpzError: the file is not an `.npz` of plain arrays.
        DataError: an array is missing, or is none of labels.
    """
    with _open(path) as file:
        labels = np.concatenate([_labels(file, key) for key in ("y_train", "y_test")])
        num_classes = int(labels.max()) + 1
        if NAMES in file.keys:
            names = tuple(str(name) for name in file.read(NAMES, text=True).reshape(-1))
            if len(names) < num_classes:
                raise DataError(f"{path}: {len(names)} {NAMES} for {num_classes} labels. Name every class.")
            return names
    return names_of(num_classes)


def read(path: Path, split: str) -> ImageSet:
    """Reads the "train" or the "test" split.

    Raises:
        NpzError: the file is not an `.npz` of plain arrays.
        DataError: an array is missing, or of another shape or dtype.
    """
    names, key = class_names(path), f"x_{split}"
    with _open(path) as file:
        labels, header = _labels(file, f"y_{split}"), file.header(key)
        if header.dtype != np.uint8 or header.shape != (len(labels), *IMAGE_SHAPE):
            raise DataError(
                f"{path}: {key!r} is {header}, expected uint8 ({len(labels)}, 32, 32, 3), as many as there are labels. "
                "Scale to 0..255, put the channels last and save it again."
            )
        images = torch.from_numpy(file.read(key))
    return ImageSet(images, torch.from_numpy(labels), f"{path.name}, {split}", names)


def _open(path: Path) -> NpzFile:
    file = NpzFile(path, max_bytes=_MAX_BYTES, max_members=_MAX_MEMBERS)
    if missing := [key for key in KEYS if key not in file.keys]:
        file.close()
        raise DataError(
            f"{path}: it lacks {', '.join(missing)} and has {', '.join(file.keys[:8])}, expected {', '.join(KEYS)}. "
            "Save it with these names."
        )
    return file


def _labels(file: ArrayFile, key: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    header = file.header(key)
    if header.dtype.kind not in "iu" or header.shape[1:] not in ((), (1,)) or not header.shape[0]:
        raise DataError(f"{file.path}: {key!r} is {header}, expected integers (n,) or (n, 1). Save class numbers.")
    labels = file.read(key).reshape(-1).astype(np.int64)
    if labels.min() < 0:
        raise DataError(f"{file.path}: {key!r} has the label {labels.min()}, expected 0 or more. Correct it.")
    return labels
