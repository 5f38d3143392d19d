"""`cifar-lit increment make`: puts an increment together from arrays, images, a slice of CIFAR-10 or corrections."""

import argparse
import re
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from cifar_lit.cifar10 import CLASS_NAMES, NUM_CLASSES
from cifar_lit.commands.data_options import read_data
from cifar_lit.commands.options import refuse_to_replace
from cifar_lit.data import corrected_images, increment
from cifar_lit.data.arrays import Form, open_labelled
from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.labelled_files import read_labelled_files
from cifar_lit.errors import IncrementError, NpzError, SettingError

_CHOOSING = ("rows", "classes", "count")
_FORM = ("x", "y", "layout", "range", "first_label")


def make(namespace: argparse.Namespace) -> int:
    refuse_to_replace(namespace.out, "--out", namespace.force)
    _check_options(namespace)
    data, is_whole = _gather(namespace)
    increment.write(namespace.out, data)
    print(f"Wrote {namespace.out}: {len(data):,} image{'' if len(data) == 1 else 's'} ({data.source})")
    counts = torch.bincount(data.labels, minlength=NUM_CLASSES).tolist()
    for name, count in zip(CLASS_NAMES, counts, strict=True):
        if count:
            print(f"  {name:10}  {count:6,}")
    print(f"Next: cifar-lit increment check {namespace.out}")
    return 0 if is_whole else 1


def _check_options(namespace: argparse.Namespace) -> None:
    given = [name for name in (*_CHOOSING, *_FORM) if getattr(namespace, name) is not None]
    if namespace.arrays is not None and len(namespace.arrays) > 2:
        raise SettingError(f"--arrays names {len(namespace.arrays)} files, expected FILE, or images and labels.")
    fit = {*_CHOOSING, *_FORM} if namespace.arrays else set(_CHOOSING) if namespace.split else set()
    unfit = [f"--{name.replace('_', '-')}" for name in given if name not in fit]
    if unfit:
        raise SettingError(
            f"{', '.join(unfit)} can't be used here: --rows, --classes and --count choose from --split or --arrays, "
            "--x, --y, --layout, --range and --first-label say what --arrays holds."
        )


def _gather(namespace: argparse.Namespace) -> tuple[ImageSet, bool]:
    """The images, and whether they are all that were given."""
    if namespace.images is not None:
        return _from_images(namespace)
    return _from_arrays(namespace) if namespace.arrays is not None else _from_own(namespace), True


def _from_own(namespace: argparse.Namespace) -> ImageSet:
    if namespace.corrections is not None:
        data, torn = corrected_images.read(namespace.corrections)
        for each in torn:
            print(f"warning: {each}", file=sys.stderr)
        return data
    if namespace.split == "test":
        print("warning: whoever learns test images makes every test figure too good.", file=sys.stderr)
    data = read_data(namespace, namespace.split)
    return data.subset(_choose(data.labels, namespace))


def _from_images(namespace: argparse.Namespace) -> tuple[ImageSet, bool]:
    found = read_labelled_files(namespace.images, increment.MAX_ROWS)
    for each in found.notes:
        print(each, file=sys.stderr)
    left_out = [f"left out, it can't be read: {each}" for each in found.failures]
    confirm([*found.guesses, *left_out], namespace.yes)
    return found.data, not found.failures


def _from_arrays(namespace: argparse.Namespace) -> ImageSet:
    form = Form(namespace.x, namespace.y, namespace.layout, namespace.range, namespace.first_label)
    try:
        with open_labelled(namespace.arrays, form) as arrays:
            rows = slice(0, len(arrays.labels))
            if namespace.rows is not None:
                rows, namespace.rows = _slice(namespace.rows, len(arrays.labels)), None
            if rows.stop - rows.start > increment.MAX_ROWS:
                raise SettingError(
                    f"{len(arrays.labels):,} images, at most {increment.MAX_ROWS:,} go into an increment. Take some "
                    f"with --rows 0:{increment.MAX_ROWS}."
                )
            for note in arrays.notes:
                print(note, file=sys.stderr)
            confirm(arrays.words, namespace.yes)
            data = arrays.convert(rows)
    except NpzError as error:
        raise IncrementError(str(error), error.fault) from error
    return data.subset(_choose(data.labels, namespace))


def confirm(words: Sequence[str], yes: bool) -> None:
    """Prints what will be done and, if there is anything, goes on only when a person says so.

    Raises:
        SettingError: nobody does.
    """
    for each in words:
        print(f"convert: {each}", file=sys.stderr)
    if not words or yes:
        return
    if not sys.stdin.isatty():
        raise SettingError("nothing was written: look at what will be converted, then add --yes.")
    print("Is that right? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise SettingError("nothing was written.")


def _choose(labels: Tensor, namespace: argparse.Namespace) -> Tensor:
    """int64: the rows that --rows, --classes and --count leave, ascending."""
    rows = torch.arange(len(labels))
    if namespace.rows is not None:
        rows = rows[_slice(namespace.rows, len(labels))]
    wanted = sorted(set(labels[rows].tolist()))
    if namespace.classes is not None:
        wanted = sorted({CLASS_NAMES.index(name) for name in namespace.classes})
        rows = rows[torch.isin(labels[rows], torch.tensor(wanted))]
    if not len(rows):
        raise SettingError("there is no image of these --classes in these --rows. Choose others.")
    if namespace.count is None:
        return rows
    if namespace.count < 1:
        raise SettingError(f"--count is {namespace.count}, expected 1 or more.")
    generator = torch.Generator().manual_seed(namespace.seed)
    sampled = []
    for place, label in enumerate(wanted):
        own = rows[labels[rows] == label]
        share = namespace.count // len(wanted) + (place < namespace.count % len(wanted))
        if share > len(own):
            raise SettingError(
                f"--count {namespace.count} takes {share:,} of {CLASS_NAMES[label]}, there are {len(own):,}. Ask for "
                "fewer, or of other --classes or --rows."
            )
        sampled.append(own[torch.randperm(len(own), generator=generator)[:share]])
    return torch.cat(sampled).sort().values


def _slice(text: str, length: int) -> slice:
    match = re.fullmatch(r"(\d*):(\d*)", text)
    if match:
        start, stop = int(match[1] or 0), int(match[2] or length)
        if start < stop <= length:
            return slice(start, stop)
    raise SettingError(f"--rows is {text!r}, expected FROM:TO with 0 <= FROM < TO <= {length}.")
