"""Where images come from: decides which kind of data set a folder holds and reads a split of it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data import binary, image_folder, kaggle, npz_set, official, parquet, synthetic
from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import DataError

Source = Literal["auto", "official", "cifar100", "binary", "kaggle", "folder", "npz", "parquet", "synthetic"]
Split = Literal["train", "test"]

ROOT_VARIABLE = "CIFAR_LIT_DATA"
DEFAULT_ROOT = "data"

_SHOWN = 8


@dataclass(frozen=True)
class _Kind:
    """A form of data set.

    Attributes:
        looks_like: in words, for a person who looks for it.
        find: where it lies at or under a folder; none if there is none.
        class_names: of what was found, in label order.
        read: a split of what was found.
    """

    looks_like: str
    find: Callable[[Path], Path | None]
    class_names: Callable[[Path], tuple[str, ...]]
    read: Callable[[Path, str], ImageSet]


def _kinds(verify: bool) -> dict[str, _Kind]:
    """In the order in which they are looked for."""

    def of_official(files: official.Files) -> _Kind:
        names, read = partial(files.class_names, verify=verify), partial(files.read, verify=verify)
        return _Kind(f"{files.folder}/ or {files.archive}", files.find, names, read)

    def of(module: Any, looks_like: str) -> _Kind:
        return _Kind(looks_like, module.find, module.class_names, module.read)

    return {
        "official": of_official(official.CIFAR10),
        "cifar100": of_official(official.CIFAR100),
        "binary": of(binary, "cifar-10-batches-bin/ or cifar-100-binary/ (unpacked)"),
        "kaggle": of(kaggle, "train/ with trainLabels.csv (Kaggle)"),
        "folder": of(image_folder, "an image folder {train,test}/<class>/*"),
        "npz": of(npz_set, f"an .npz with {', '.join(npz_set.KEYS)}"),
        "parquet": of(parquet, "train*.parquet and test*.parquet (Hugging Face)"),
    }


def resolve_root(root: str | os.PathLike[str] | None) -> Path:
    """The data folder: `root` if given, else `CIFAR_LIT_DATA`, else `data/`."""
    return Path(root or os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT).expanduser()


def download_if_absent(root: Path, mirror: str | None) -> None:
    """Downloads the official archive into `root` unless `root` holds a data set already."""
    if not is_at_hand(root):
        official.download(root, mirror)


def is_at_hand(root: Path, source: Source = "auto") -> bool:
    """Whether there is a data set to read: synthetic, or some files under `root`, be they whole or not."""
    return source == "synthetic" or any(kind.find(root) is not None for kind in _kinds(verify=True).values())


def class_names(root: Path, source: Source = "auto", *, verify: bool = True) -> tuple[str, ...]:
    """Of a data set in label order; no image is read.

    Raises:
        DataError: no such data under `root`, or it is damaged.
    """
    if source == "synthetic":
        return CLASS_NAMES
    kind, path = _found(root, source, verify)
    return kind.class_names(path)


def read_split(
    split: Split, root: Path, source: Source = "auto", *, num_synthetic: int = 5_000, verify: bool = True
) -> ImageSet:
    """Reads one split.

    Args:
        split: "train" or "test".
        root: the data folder; not looked at when `source` is "synthetic".
        source: "auto" takes the first that is there, in the order of `Source`.
        num_synthetic: how many images "synthetic" draws.
        verify: refuse files in the official form whose content is another one.

    Raises:
        DataError: no such data under `root`, or it is damaged. The message names the ways out.
    """
    if source == "synthetic":
        return synthetic.draw(split, num_synthetic)
    kind, path = _found(root, source, verify)
    return kind.read(path, split)


def _found(root: Path, source: Source, verify: bool) -> tuple[_Kind, Path]:
    if source not in get_args(Source):
        raise DataError(f"data source {source!r} is unknown, expected one of {', '.join(get_args(Source))}.")
    kinds = _kinds(verify)
    for kind in kinds.values() if source == "auto" else [kinds[source]]:
        if (path := kind.find(root)) is not None:
            return kind, path
    wanted = "; ".join(kind.looks_like for kind in (kinds.values() if source == "auto" else [kinds[source]]))
    raise DataError(
        f"no data set under {root.absolute()} ({_listing(root)}), expected {wanted}. Name the right folder with "
        "--data.root (or CIFAR_LIT_DATA), fetch CIFAR-10 with --data.download true, or try without data by "
        "--data.source synthetic."
    )


def _listing(root: Path) -> str:
    """What is there instead."""
    if not root.exists():
        return "there is no such folder"
    if not root.is_dir():
        return "it is a file"
    names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir() if not path.name.startswith("."))
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"found {', '.join(names[:_SHOWN])}{more}" if names else "it is empty"
