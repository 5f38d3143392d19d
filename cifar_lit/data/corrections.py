"""Corrections that people made to a model's predictions, as a folder that they are added to one by one.

    corrections.jsonl    a line a correction: {"file": "<sha256>.png", "label": "cat"}, and what else there is to say
    <sha256>.png         the 32x32 image as the model saw it; the name is the SHA-256 of the file

An image is written before the line that names it, and a line is appended whole. The last label of an image counts. A
line that a crash tore is passed over. Whoever writes holds a lock on the folder.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_lit.cifar10 import CLASS_NAMES, IMAGE_SHAPE
from cifar_lit.data.images import encode_png
from cifar_lit.errors import DataError
from cifar_lit.files import append_line, hold, replace_synced, sync_folder

LINES = "corrections.jsonl"

MAX_CORRECTIONS = 10_000
"""That wait in a folder at a time."""

FILE = re.compile(r"([0-9a-f]{64})\.png")
_NAMED = re.compile(rb'^\{"file": "([0-9a-f]{64}\.png)", "label": "\w+".*\}$', re.MULTILINE)
_LOCK_TIMEOUT_S = 10.0


def add(folder: Path, pixels: NDArray[np.uint8], label: str, **details: Any) -> None:
    """Adds a correction and makes it durable; a failure leaves the corrections as they were.

    Args:
        folder: made if it is missing.
        pixels: uint8 (32, 32, 3), RGB: what the model saw.
        label: name of the class that it is.
        details: what else to say of it, as JSON values.

    Raises:
        DataError: another shape, dtype or class; too many corrections wait; or the folder can't be written.
    """
    image = np.asarray(pixels)
    if image.shape != IMAGE_SHAPE or image.dtype != np.uint8:
        raise DataError(f"the image is {image.dtype} {image.shape}, expected uint8 {IMAGE_SHAPE}.")
    if label not in CLASS_NAMES:
        raise DataError(f"the label is {label!r}, expected one of {', '.join(CLASS_NAMES)}.")
    png = encode_png(image)
    file = f"{hashlib.sha256(png).hexdigest()}.png"
    line = json.dumps({"file": file, "label": label, **details}).encode()
    with _locked(folder):
        if _read_lines(folder).count(b"\n") >= MAX_CORRECTIONS:
            raise DataError(
                f"{MAX_CORRECTIONS:,} corrections wait to be learned, and no more are collected. Start a fine-tuning "
                "with them first."
            )
        replace_synced(folder / file, png)
        append_line(folder / LINES, line)
        sync_folder(folder)


def count(folder: Path) -> int:
    """How many images `add` has added; the images are not looked at."""
    try:
        return len(_named(_read_lines(folder)))
    except OSError:
        return 0


def copy(folder: Path, into: Path) -> None:
    """Copies all corrections as they are at one moment into a new folder.

    Raises:
        DataError: the folder can't be read, or the copy can't be written.
    """
    with _locked(folder):
        lines = _read_lines(folder)
        into.mkdir(parents=True)
        for file in _named(lines):
            with suppress(FileNotFoundError):  # `read` says which one is missing
                _link(folder / file, into / file)
        replace_synced(into / LINES, lines)


def settle(folder: Path, copied: Path, into: Path) -> None:
    """Puts corrections away that were learned: `copied` becomes `into`, and `folder` keeps what was added since.

    A crash at any moment loses none; it may leave some both put away and waiting.

    Args:
        folder: the corrections.
        copied: what `copy` made of them. No other corrections may have been put away since.
        into: a folder that does not exist yet, on the same file system.

    Raises:
        DataError: it can't be done.
    """
    with _locked(folder):
        lines, used = _read_lines(folder), _read_lines(copied)
        if not lines.startswith(used):
            raise DataError(f"{folder / LINES} was changed meanwhile: the corrections are left where they are.")
        into.parent.mkdir(parents=True, exist_ok=True)
        os.rename(copied, into)
        sync_folder(into.parent)
        rest = lines[len(used) :]
        replace_synced(folder / LINES, rest)
        for file in _named(used) - _named(rest):
            (folder / file).unlink(missing_ok=True)


def bring_back(used: Path, folder: Path) -> None:
    """Undoes `settle`: what was put away waits again, before what was added since. A crash loses none.

    Args:
        used: what `settle` made; gone afterwards.
        folder: the corrections.

    Raises:
        DataError: it can't be done.
    """
    with _locked(folder):
        lines = _read_lines(used)
        for file in _named(lines):
            with suppress(FileExistsError, FileNotFoundError):  # `read` says which one is missing
                _link(used / file, folder / file)
        closed = lines if lines.endswith(b"\n") else lines + b"\n"  # a crash may have torn the last line
        replace_synced(folder / LINES, closed + _read_lines(folder))
        shutil.rmtree(used)


def sweep(folder: Path) -> None:
    """Removes what a crash left: half-written files, and images that no line names.

    Raises:
        DataError: the folder can't be read or written.
    """
    if not folder.is_dir():
        return
    with _locked(folder):
        lines = _read_lines(folder).decode(errors="replace")
        named = {match[0] for match in FILE.finditer(lines)}
        for path in folder.iterdir():
            orphan = FILE.fullmatch(path.name) and path.name not in named
            if orphan or path.name.endswith(".tmp"):
                path.unlink(missing_ok=True)


def _read_lines(folder: Path) -> bytes:
    try:
        return (folder / LINES).read_bytes()
    except FileNotFoundError:
        return b""


def _named(lines: bytes) -> set[str]:
    return {file.decode() for file in _NAMED.findall(lines)}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, and says in words what the system refuses inside."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with hold(folder, _LOCK_TIMEOUT_S, DataError):
            yield
    except OSError as error:
        raise DataError(
            f"{error.filename or folder} can't be read or written: {error.strerror}. Free space, or change the "
            "permissions."
        ) from error


def _link(path: Path, other: Path) -> None:
    try:
        os.link(path, other)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError:  # a file system without hard links
        shutil.copyfile(path, other)
