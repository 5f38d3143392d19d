"""The corrections of a folder as images and labels to learn from; how they are kept is in `corrections`."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from cifar_lit.cifar10 import CLASS_NAMES, IMAGE_SHAPE
from cifar_lit.data.corrections import FILE, LINES
from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.images import decode
from cifar_lit.errors import DataError, ImageError


def read(folder: Path) -> tuple[ImageSet, list[str]]:
    """Reads all corrections, a row an image, in the order in which the images were first corrected.

    Returns:
        The images with their last labels, and which lines were passed over, in words.

    Raises:
        DataError: no such folder, no correction in it, a line that says something else, or an image that is missing,
            damaged or not 32x32.
    """
    path = folder / LINES
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(
            f"{path} can't be read: {error.strerror}. Name the folder that the page collects corrections in."
        ) from error
    labels: dict[str, int] = {}
    torn = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except ValueError:  # not JSON, or not even UTF-8
            if line.strip():
                torn.append(f"{path}, line {number}: it is torn, and was passed over.")
            continue
        file, label = _checked(entry, f"{path}, line {number}")
        labels[file] = label
    if not labels:
        raise DataError(f"{path}: there is no correction in it, expected at least one.")
    images = torch.stack([_image(folder / file) for file in labels])
    return ImageSet(images, torch.tensor(list(labels.values())), f"corrections, {folder.name}"), torn


def _checked(entry: Any, place: str) -> tuple[str, int]:
    file, label = (entry.get("file"), entry.get("label")) if isinstance(entry, dict) else (None, None)
    if not isinstance(file, str) or not FILE.fullmatch(file):
        raise DataError(f"{place}: its file is {file!r}, expected '<sha256>.png'. Fix or remove the line.")
    if label not in CLASS_NAMES:
        raise DataError(
            f"{place}: its label is {label!r}, expected one of {', '.join(CLASS_NAMES)}. Fix or remove the line."
        )
    return file, CLASS_NAMES.index(label)


def _image(path: Path) -> torch.Tensor:
    advice = f"Restore it from a copy, or remove its lines from {LINES}."
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != path.stem:
            raise DataError(f"{path}: the content has another SHA-256 than its name: it was changed. {advice}")
        image = decode(data).pixels
    except (ImageError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path} can't be read: {reason} {advice}") from error
    if tuple(image.shape) != IMAGE_SHAPE:
        height, width, _ = image.shape
        raise DataError(f"{path}: the image is {width}x{height}, expected 32x32. {advice}")
    return torch.from_numpy(image)
