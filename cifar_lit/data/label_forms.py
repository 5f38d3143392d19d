"""Arrays of labels as people save them, to int64 (n,), 0..9: recognised from the values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_lit.cifar10 import CLASS_NAMES, NUM_CLASSES
from cifar_lit.data.array_file import ArrayFile
from cifar_lit.data.class_names import meaning_of
from cifar_lit.errors import NpzError


def read_labels(file: ArrayFile, key: str, first_label: int | None = None) -> tuple[NDArray[np.int64], list[str]]:
    """Reads an array of labels.

    Args:
        file: holds the array.
        key: its name there.
        first_label: the number of the first class, 0 or 1, if the caller knows it.

    Returns:
        int64 (n,), 0..9; and each conversion that was made, in words.

    Raises:
        NpzError: they are no labels of ten classes, or it can't be told which; the message names the option that
            decides, if one does.
    """
    shown = f"{file.path}: {key!r} is {file.header(key, text=True)}"
    array = file.read(key, text=True)
    words: list[str] = []
    if array.dtype.kind in "US":
        array, words = _of_names(array, shown)
    if array.ndim == 2 and array.shape[1] == NUM_CLASSES and array.shape[0] != 1:
        array, words = _of_one_hot(array, shown)
    if array.dtype.kind not in "iuf":
        raise NpzError(f"{shown}, expected class numbers 0..9. Save the numbers.")
    if array.size != max(array.shape, default=1):
        raise NpzError(f"{shown}, expected one class number an image, (n,), (n, 1) or one-hot (n, {NUM_CLASSES}).")
    if array.ndim > 2 or array.shape[:1] != (array.size,):
        words = [*words, "axes of length 1 are dropped"]
    array = array.reshape(-1)
    if array.dtype.kind == "f":
        _check_rows(~np.isfinite(array) | (array != np.round(array)), array, shown, "whole numbers")
        words = [*words, f"{array.dtype} becomes integers"]
    if _first_label(array, first_label, shown):
        array, words = array.astype(np.float64) - 1, [*words, "classes are counted from 1 (airplane) to 10 (truck)"]
    _check_rows((array < 0) | (array >= NUM_CLASSES), array, shown, "class numbers 0..9")
    return array.astype(np.int64), words


def _of_names(array: NDArray[Any], shown: str) -> tuple[NDArray[Any], list[str]]:
    names = [each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in array.reshape(-1)]
    labels = {name: meaning_of(name) for name in sorted(set(names))}
    unknown = [name for name, meaning in labels.items() if meaning is None]
    if unknown:
        raise NpzError(
            f"{shown}: {', '.join(map(repr, unknown[:10]))} {'is no class' if len(unknown) == 1 else 'are no classes'} "
            f"of {', '.join(CLASS_NAMES)}. Rename them, or leave these rows out."
        )
    known = {name: meaning.label for name, meaning in labels.items() if meaning is not None}
    words = [
        f"{name!r} is taken for {CLASS_NAMES[label]}" for name, label in known.items() if name != CLASS_NAMES[label]
    ]
    return np.array([known[name] for name in names], np.int64), ["class names become numbers", *words]


def _of_one_hot(array: NDArray[Any], shown: str) -> tuple[NDArray[Any], list[str]]:
    if array.dtype.kind not in "biuf" or not ((array == 0) | (array == 1)).all() or (array.sum(1) != 1).any():
        raise NpzError(
            f"{shown}, which is not one-hot: a row must hold a single 1 and nine 0. If it holds scores, save "
            "scores.argmax(axis=1)."
        )
    return array.argmax(1), ["one-hot rows become class numbers"]


def _first_label(labels: NDArray[Any], wanted: int | None, shown: str) -> int:
    """Number of the first class."""
    if wanted is not None:
        return wanted
    low, high = labels.min(initial=0 if not labels.size else labels[0]), labels.max(initial=0)
    if low == 1 and high == NUM_CLASSES - 1 and len(np.unique(labels)) == NUM_CLASSES - 1:
        raise NpzError(
            f"{shown}: its labels are 1..9. Counted from 0 there is no {CLASS_NAMES[0]}, counted from 1 there is no "
            f"{CLASS_NAMES[-1]}. Say which with --first-label 0 | 1."
        )
    return int(low >= 1 and high == NUM_CLASSES)


def _check_rows(bad: NDArray[np.bool_], labels: NDArray[Any], shown: str, expected: str) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        raise NpzError(
            f"{shown}: row {rows[0]} is {labels[rows[0]]} (of {len(rows):,} such rows), expected {expected}. Correct "
            "these labels, or leave the rows out."
        )
