"""Hugging Face's parquet files: a column of images, `img` or `image`, and one of labels, `label` or `fine_label`."""

import json
from pathlib import Path
from typing import Any

import torch

from cifar_lit.cifar10 import IMAGE_SHAPE
from cifar_lit.data.class_names import names_of
from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.images import decode
from cifar_lit.errors import DataError, ImageError
from cifar_lit.extras import missing

_PLACES = ("", "*/", "*/*/")
_IMAGES, _LABELS = ("img", "image"), ("label", "fine_label", "labels")


def find(root: Path) -> Path | None:
    """The folder at or below `root` that holds `train*.parquet`, as a clone of a data set has it."""
    found = [path for place in _PLACES for path in sorted(root.glob(f"{place}train*.parquet"))]
    return found[0].parent if found else None


def class_names(folder: Path) -> tuple[str, ...]:
    """In label order: as Hugging Face's metadata has them, else CIFAR-10's if there are ten, else numbers.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: a file can't be read, or has no column of labels.
    """
    table, _, column = _table(folder, "train", with_images=False)
    about = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    names = about.get("info", {}).get("features", {}).get(column, {}).get("names")
    if names:
        return tuple(names)
    num_classes = max(table[column].to_pylist()) + 1
    return names_of(num_classes)


def read(folder: Path, split: str) -> ImageSet:
    """Reads the "train" or the "test" split, in the files' order.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: a file or an image in it can't be read, or columns are missing.
    """
    names = class_names(folder)
    table, image_column, label_column = _table(folder, split, with_images=True)
    labels = torch.tensor(table[label_column].to_pylist(), dtype=torch.int64)
    if not len(labels) or not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
        raise DataError(f"{folder}: the labels of {split} are not 0..{len(names) - 1}. Fetch it again.")
    images = torch.empty((len(labels), *IMAGE_SHAPE), dtype=torch.uint8)
    for row, value in enumerate(table[image_column]):
        try:
            images[row] = torch.from_numpy(decode(value.as_py()["bytes"]).network_pixels)
        except (ImageError, KeyError, TypeError) as error:
            raise DataError(f"{folder}: image {row} of {split} can't be read ({error}). Fetch it again.") from error
    return ImageSet(images, labels, f"parquet, {split}", names)


def _table(folder: Path, split: str, *, with_images: bool) -> tuple[Any, str, str]:
    """The columns that are needed, and the names of those of images and labels."""
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as error:
        raise missing(error.name, f"{folder}: a data set in parquet files") or error from error
    files = sorted(folder.glob(f"{split}*.parquet"))
    if not files:
        raise DataError(f"{folder}: no {split}*.parquet. Fetch it again.")
    try:
        columns = parquet.read_schema(files[0]).names
        image, label = (next((name for name in wanted if name in columns), "") for wanted in (_IMAGES, _LABELS))
        if not image or not label:
            raise DataError(
                f"{files[0]}: its columns are {', '.join(columns)}, expected {' or '.join(_IMAGES)} and "
                f"{' or '.join(_LABELS)}. Name them so."
            )
        return parquet.read_table(files, columns=[image, label] if with_images else [label]), image, label
    except (ArrowException, OSError) as error:
        raise DataError(f"{files[0]}: it can't be read ({error}). Fetch it again.") from error
