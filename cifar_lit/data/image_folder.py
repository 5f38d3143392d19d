"""Image folders, {train,test}/<class>/* with image files. The names of the class folders are the classes."""

import logging
from pathlib import Path

import torch

from cifar_lit.cifar10 import IMAGE_SHAPE
from cifar_lit.data.image_files import list_files, read_image
from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import DataError, ImageError

_log = logging.getLogger(__name__)


def find(root: Path) -> Path | None:
    """The root itself if it holds one of the splits."""
    return root if (root / "train").is_dir() or (root / "test").is_dir() else None


def class_names(root: Path) -> tuple[str, ...]:
    """The class folders in alphabetical order, which is CIFAR-10's.

    Raises:
        DataError: there are less than two, or train and test have different ones.
    """
    found = {folder: _classes(folder) for folder in (root / "train", root / "test") if folder.is_dir()}
    for folder, names in found.items():
        if len(names) < 2:
            raise DataError(
                f"{folder}: {len(names)} class folders, expected two or more, <class>/* with images. Add them, or name "
                "another data set with --data.root."
            )
    if len({tuple(names) for names in found.values()}) > 1:
        train, test = found.values()
        odd = [", ".join(sorted(names)) or "none" for names in (train - test, test - train)]
        raise DataError(
            f"{root}: train/ and test/ have different classes; only in train/: {odd[0]}; only in test/: {odd[1]}. "
            "Rename or add the folders."
        )
    return tuple(sorted(next(iter(found.values()))))


def read(root: Path, split: str) -> ImageSet:
    """Reads `root/split`. Rows are ordered by file name, then by class. Of an image of another size than 32x32 the
    central square is scaled, which is logged.

    Raises:
        DataError: the split or one of its classes is missing or empty; a file is no image that can be read.
    """
    folder = root / split
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, expected {split}/<class>/*. Add it, or name another --data.root.")
    names = class_names(root)
    rows = [(path.name, label, path) for label, name in enumerate(names) for path in list_files(folder / name)[0]]
    labels = torch.tensor([label for _, label, _ in sorted(rows)], dtype=torch.int64)
    counts = torch.bincount(labels, minlength=len(names)).tolist()
    if 0 in counts:
        raise DataError(f"{folder / names[counts.index(0)]}: no image in it, expected at least one.")
    images = torch.empty((len(rows), *IMAGE_SHAPE), dtype=torch.uint8)
    num_scaled = 0
    for row, (_, _, path) in enumerate(sorted(rows)):
        try:
            decoded = read_image(path)
        except (ImageError, OSError) as error:
            raise DataError(f"{path}: {error} Replace or remove the file.") from error
        num_scaled += decoded.image.size != IMAGE_SHAPE[:2]
        images[row] = torch.from_numpy(decoded.network_pixels)
    if num_scaled:
        _log.warning(
            "note: %s: %s of %s images are not 32x32: their central square is scaled.",
            folder,
            f"{num_scaled:,}",
            f"{len(rows):,}",
        )
    return ImageSet(images, labels, f"image folder, {split}", names)


def _classes(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
