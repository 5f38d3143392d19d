"""Where images come from: decides which kind of data set a folder holds and reads a split of it."""

import os
from pathlib import Path
from typing import Literal, get_args

from cifar_lit.data import image_folder, official, synthetic
from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import DataError

Source = Literal["auto", "official", "folder", "synthetic"]
Split = Literal["train", "test"]

ROOT_VARIABLE = "CIFAR_LIT_DATA"
DEFAULT_ROOT = "data"


def resolve_root(root: str | os.PathLike[str] | None) -> Path:
    """The data folder: `root` if given, else `CIFAR_LIT_DATA`, else `data/`."""
    return Path(root or os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT).expanduser()


def download_if_absent(root: Path, mirror: str | None) -> None:
    """Downloads the official archive into `root` unless `root` holds a data set already."""
    if _detect(root) is None:
        official.download(root, mirror)


def is_at_hand(root: Path, source: Source = "auto") -> bool:
    """Whether there is a data set to read: drawn, or some files under `root`, be they whole or not."""
    return source == "synthetic" or _detect(root) is not None


def read_split(split: Split, root: Path, source: Source = "auto", *, num_synthetic: int = 5_000) -> ImageSet:
    """Reads one split.

    Args:
        split: "train" or "test".
        root: the data folder; not looked at when `source` is "synthetic".
        source: "auto" takes the official files if they are there, else an image folder.
        num_synthetic: how many images "synthetic" draws.

    Raises:
        DataError: no such data under `root`, or it is damaged. The message names the ways out.
    """
    if source not in get_args(Source):
        raise DataError(f"data source {source!r} is unknown, expected one of {', '.join(get_args(Source))}.")
    if source == "synthetic":
        return synthetic.draw(split, num_synthetic)
    kind = _detect(root) if source == "auto" else source
    if kind == "folder":
        return image_folder.read(root, split)
    path = official.find(root)
    if kind is None or path is None:
        raise DataError(
            f"no CIFAR-10 under {root.absolute()}: expected {official.FOLDER_NAME}/, {official.ARCHIVE_NAME} or an "
            "image folder {train,test}/<class>/*. Name the right folder with --data.root (or CIFAR_LIT_DATA), fetch "
            "the official files with --data.download true, or try without data by --data.source synthetic."
        )
    return official.read(path, split)


def _detect(root: Path) -> Source | None:
    if official.find(root) is not None:
        return "official"
    return "folder" if (root / "train").is_dir() or (root / "test").is_dir() else None
