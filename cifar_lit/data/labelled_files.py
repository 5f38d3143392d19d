"""Labelled images of any size and kind, from a folder, a zip, a tar or a CSV, as 32x32 images."""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from cifar_lit.data.image_labels import Labelled, count_images, label_files
from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.image_sources import Source, open_source
from cifar_lit.data.image_table import read_table
from cifar_lit.data.images import decode
from cifar_lit.errors import DataError, ImageError, InputError

_TABLES = (".csv", ".tsv")
_NAMED = 20


@dataclass(frozen=True)
class LabelledFiles:
    """What was read.

    Attributes:
        data: ordered by class, then by name.
        guesses: what was taken for what, in words, for a person to confirm.
        failures: which images can't be read and why; they are not in `data`.
        notes: what else was left out, in words.
    """

    data: ImageSet
    guesses: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_labelled_files(path: Path, max_images: int) -> LabelledFiles:
    """Reads all images in class folders below `path`, or all that a table at `path` names.

    Each is cropped to its central square and scaled.

    Raises:
        DataError: no image can be read, there are more than `max_images`, or something must be fixed first. All of
            that is said together.
    """
    if path.suffix.lower() in _TABLES:
        found = read_table(path)
        with open_source(path.parent) as source:
            return _read(path, source, found, max_images)
    if not path.exists():
        raise DataError(f"{path}: no such folder or file, expected one with <class>/* inside.")
    with open_source(path) as source:
        found = label_files(source.names, path.resolve().name)
        found.notes.extend(_left_out(source.left_out))
        return _read(path, source, found, max_images)


def _left_out(names: list[str]) -> list[str]:
    """A note of hidden files, if there are any."""
    if not names:
        return []
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    kind = "hidden or system file" if len(names) == 1 else "hidden or system files or folders"
    return [f"left out {len(names):,} {kind}: {', '.join(names[:_NAMED])}{more}"]


def _read(path: Path, source: Source, found: Labelled, max_images: int) -> LabelledFiles:
    if len(found.labels) > max_images:
        found.problems.append(f"{count_images(len(found.labels))}, at most {max_images:,} are accepted. Divide them.")
    rows: list[tuple[int, PurePosixPath, Tensor]] = []
    failures = []
    for name in found.labels if not found.problems or len(found.labels) <= max_images else ():
        try:
            rows.append((found.labels[name], name, torch.from_numpy(decode(source.read(name)).network_pixels)))
        except (ImageError, InputError, OSError) as error:
            failures.append(f"{name}: {error}")
    if not rows and not found.problems:
        found.problems.append("none of its images can be read." if found.labels else "it names no image.")
    if found.problems:
        more = [f"... and {len(failures) - _NAMED:,} more"] if len(failures) > _NAMED else []
        lines = [*found.notes, *found.problems, *failures[:_NAMED], *more]
        raise DataError(f"{path}: {lines[0]}" if len(lines) == 1 else "\n  ".join([f"{path}:", *lines]))
    rows.sort(key=lambda row: row[:2])
    images = torch.stack([image for _, _, image in rows])
    data = ImageSet(images, torch.tensor([label for label, _, _ in rows]), f"images, {path.name}")
    return LabelledFiles(data, found.guesses, failures, found.notes)
