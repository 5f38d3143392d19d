"""Image folders, `<class>/*` with image files: CIFAR-10 below {train,test}, or images of any size."""

from pathlib import Path

import numpy as np
import torch

from cifar_lit.cifar10 import CLASS_NAMES, IMAGE_SHAPE
from cifar_lit.data.image_files import Skipped, list_files, read_image, skipped
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


def read_pictures(folder: Path, max_images: int) -> tuple[ImageSet, list[Skipped]]:
    """Reads `folder/<class>/*`: some or all of the ten classes, images of any size, cropped to their central square.

    Returns:
        The images, and the files that are none.

    Raises:
        DataError: no image can be read, or there are more than `max_images` files; a folder or an image belongs to no
            class.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, expected one with <class>/* inside.")
    files, _ = list_files(folder)
    unknown = [path.name for path in folder.iterdir() if path.is_dir() and path.name not in CLASS_NAMES]
    unknown = sorted(name for name in unknown if not name.startswith("."))
    if unknown:
        raise _no_class(folder, f"the folder {unknown[0]!r} is none")
    if len(files) > max_images:
        raise DataError(f"{folder}: {len(files):,} files in <class>/*, expected 1..{max_images:,}. Divide the folder.")
    images, labels, left = [], [], []
    for path in files:
        try:
            pixels = read_image(path).network_pixels
        except (ImageError, OSError) as error:
            left.append(skipped(path, error))
            continue
        name = path.relative_to(folder).parts[0]
        if name not in CLASS_NAMES:
            raise _no_class(folder, f"{path.name} lies in none")
        images.append(pixels)
        labels.append(CLASS_NAMES.index(name))
    if not images:
        if not files:
            raise DataError(f"{folder}: no file in it, expected images in <class>/*. Put some in.")
        more = f" And {len(left) - 3:,} more." if len(left) > 3 else ""
        raise DataError(f"{' '.join(map(str, left[:3]))}{more} No image is left of {folder}: put some in.")
    order = np.argsort(labels, kind="stable")
    return ImageSet(
        torch.from_numpy(np.stack(images)[order]), torch.tensor(labels)[order], f"image folder, {folder.name}"
    ), left


def _no_class(folder: Path, what: str) -> DataError:
    return DataError(
        f"{folder}: {what} of the ten classes, expected images in {', '.join(CLASS_NAMES)}. Rename, move or remove it."
    )
