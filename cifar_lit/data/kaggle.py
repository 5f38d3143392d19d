"""Kaggle's CIFAR-10: `train/<id>.png` and `trainLabels.csv`. Its test images have no labels, so a sixth of the labelled
images is the test split: of each class, always the same ones.
"""

import csv
from pathlib import Path

import torch

from cifar_lit.cifar10 import IMAGE_SHAPE
from cifar_lit.data.image_files import read_image
from cifar_lit.data.image_set import ImageSet, stratified_split
from cifar_lit.errors import DataError, ImageError

TABLE = "trainLabels.csv"
_TEST_FRACTION = 1 / 6
_TEST_SEED = 10


def find(root: Path) -> Path | None:
    """The root itself if it holds the table of labels."""
    return root if (root / TABLE).is_file() else None


def class_names(root: Path) -> tuple[str, ...]:
    """In alphabetical order, which is CIFAR-10's.

    Raises:
        DataError: the table can't be read.
    """
    return tuple(sorted({name for _, name in _rows(root)}))


def read(root: Path, split: str) -> ImageSet:
    """Reads the "train" or the "test" split, in the table's order.

    Raises:
        DataError: the table or an image of it can't be read.
    """
    rows, names = _rows(root), class_names(root)
    labels = torch.tensor([names.index(name) for _, name in rows])
    chosen = stratified_split(labels, _TEST_FRACTION, _TEST_SEED)[split == "test"]
    images = torch.empty((len(chosen), *IMAGE_SHAPE), dtype=torch.uint8)
    for place, row in enumerate(chosen.tolist()):
        path = root / "train" / f"{rows[row][0]}.png"
        try:
            images[place] = torch.from_numpy(read_image(path).network_pixels)
        except (ImageError, OSError) as error:
            raise DataError(f"{path}: {error} Unpack train.7z beside {TABLE} again.") from error
    return ImageSet(images, labels[chosen], f"Kaggle's labelled images, {split} part", names)


def _rows(root: Path) -> list[tuple[str, str]]:
    """Id and class of each image."""
    path = root / TABLE
    try:
        with path.open(newline="") as file:
            rows = [(row["id"], row["label"]) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise DataError(
            f"{path}: it can't be read ({error!r}), expected the columns id,label. Fetch it again."
        ) from error
    if not rows:
        raise DataError(f"{path}: it has no row, expected id,label. Fetch it again.")
    return rows
