"""Image folders, `<class>/*` with image files: CIFAR-10 below {train,test}."""

from pathlib import Path

import torch

from cifar_lit.cifar10 import CLASS_NAMES, IMAGE_SHAPE
from cifar_lit.data.image_files import list_files, read_image
from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import DataError, ImageError


def read(root: Path, split: str) -> ImageSet:
    """Reads `root/split`. Rows are ordered by file name, then by class.

    Raises:
        DataError: a class folder is missing, unknown or empty; a file is no image that can be read, or is not 32x32.
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
    rows = [(path.name, label, path) for label, name in enumerate(CLASS_NAMES) for path in list_files(folder / name)[0]]
    labels = torch.tensor([label for _, label, _ in sorted(rows)])
    counts = torch.bincount(labels, minlength=len(CLASS_NAMES)).tolist() if rows else [0] * len(CLASS_NAMES)
    if 0 in counts:
        raise DataError(f"{folder / CLASS_NAMES[counts.index(0)]}: no image in it, expected at least one.")
    images = torch.empty((len(rows), *IMAGE_SHAPE), dtype=torch.uint8)
    for row, (_, _, path) in enumerate(sorted(rows)):
        try:
            pixels = read_image(path).pixels
        except (ImageError, OSError) as error:
            raise DataError(f"{path}: {error} Replace or remove the file.") from error
        if pixels.shape != IMAGE_SHAPE:
            height, width, _ = pixels.shape
            raise DataError(f"{path}: the image is {width}x{height}, expected 32x32. Resize or remove it.")
        images[row] = torch.from_numpy(pixels)
    return ImageSet(images, labels, f"image folder, {split}")
