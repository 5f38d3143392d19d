"""Image folders, `<class>/*` with PNG, JPEG or WebP files: CIFAR-10 below {train,test}."""

from pathlib import Path

import torch

from cifar_lit.cifar10 import CLASS_NAMES, IMAGE_SHAPE
from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.images import decode
from cifar_lit.errors import DataError, ImageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


def list_images(folder: Path) -> list[Path]:
    """Image files anywhere below `folder`, in the order of their paths."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def read(root: Path, split: str) -> ImageSet:
    """Reads `root/split`. Rows are ordered by file name, then by class.

    Raises:
        DataError: a class folder is missing, unknown or empty; an image can't be read or is not 32x32.
    """
    folder = root / split
    found = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    if found != set(CLASS_NAMES):
        missing = ", ".join(name for name in CLASS_NAMES if name not in found) or "none"
        unknown = ", ".join(sorted(found - set(CLASS_NAMES))) or "none"
        raise DataError(
            f"{folder}: expected one folder for each of the ten classes; missing: {missing}; unknown: {unknown}. "
            "Rename or add the folders, or name another data set with --data.root."
        )
    rows = [(path.name, label, path) for label, name in enumerate(CLASS_NAMES) for path in list_images(folder / name)]
    labels = torch.tensor([label for _, label, _ in sorted(rows)])
    counts = torch.bincount(labels, minlength=len(CLASS_NAMES)).tolist() if rows else [0] * len(CLASS_NAMES)
    if 0 in counts:
        raise DataError(
            f"{folder / CLASS_NAMES[counts.index(0)]}: no PNG, JPEG or WebP image in it, expected at least one."
        )
    images = torch.empty((len(rows), *IMAGE_SHAPE), dtype=torch.uint8)
    for row, (_, _, path) in enumerate(sorted(rows)):
        try:
            image = decode(path.read_bytes(), max_bytes=None)
        except (ImageError, OSError) as error:
            raise DataError(f"{path}: {error} Replace or remove the file.") from error
        if tuple(image.shape) != IMAGE_SHAPE:
            height, width, _ = image.shape
            raise DataError(f"{path}: the image is {width}x{height}, expected 32x32. Resize or remove it.")
        images[row] = image
    return ImageSet(images, labels, f"image folder, {split}")
