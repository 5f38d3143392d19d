"""Images and labels from arrays as people have them: finds the two in `.npz` and `.npy` files and converts them.

Each conversion is told in words, for a person to confirm. What is not clear is refused, with the option that decides.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_lit.data.array_file import SUFFIX, ArrayFile
from cifar_lit.data.images import Pixels
from cifar_lit.data.label_forms import read_labels
from cifar_lit.data.npz import NpyFile, NpzFile
from cifar_lit.data.pixel_forms import PixelArray
from cifar_lit.data.pixel_layouts import layouts_of
from cifar_lit.errors import NpzError

if TYPE_CHECKING:
    from cifar_lit.data.image_set import ImageSet

MAX_BYTES = 2**31
"""Of each file, and of its arrays once inflated: 60,000 images of float64 have 1.5 GB. Few rows are read at a time."""
MAX_MEMBERS = 64

_PAIRS = (
    ("x_new", "y_new"),
    ("x_train", "y_train"),
    ("x_test", "y_test"),
    ("x", "y"),
    ("images", "labels"),
    ("image", "label"),
    ("data", "labels"),
    ("data", "targets"),
    ("arr_0", "arr_1"),
)
"""Names that belong together, whatever their capitals."""


@dataclass(frozen=True)
class Form:
    """What a person says of the arrays; None where the values shall tell.

    Attributes:
        x: key of the images.
        y: key of the labels.
        layout: one of `pixel_layouts.LAYOUTS`.
        scale: one of `pixel_scales.SCALES`.
        first_label: number of the first class, 0 or 1.
    """

    x: str | None = None
    y: str | None = None
    layout: str | None = None
    scale: str | None = None
    first_label: int | None = None


@dataclass(frozen=True)
class _Place:
    file: ArrayFile
    key: str

    def __str__(self) -> str:
        return repr(self.key)


class LabelledArrays:
    """Images and their labels, found in one file or two and recognised; use `open_labelled`.

    Attributes:
        labels: int64 (n,), 0..9, of all rows.
        words: each conversion, in words; empty if there is nothing to convert.
        notes: what else there is to say.
    """

    def __init__(self, files: Sequence[ArrayFile], form: Form, prefer: str | None) -> None:
        x, y = _find_pair(files, form, prefer)
        self.labels, label_words = read_labels(y.file, y.key, form.first_label)
        self._pixels = PixelArray(x.file, x.key, len(self.labels), form.layout, form.scale)
        self._name = x.file.path.name
        self.words = [f"{x} is read as images, {y} as their labels"] * ((x.key, y.key) != _PAIRS[0])
        if x.file is not y.file:
            self.words = [f"{x.file.path.name} is read as images, {y.file.path.name} as their labels"]
        self.words += [f"{x}: {each}" for each in self._pixels.words] + [f"{y}: {each}" for each in label_words]
        left_out = [repr(key) for file in files for key in file.keys if _Place(file, key) not in (x, y)]
        self.notes = [f"left out: {', '.join(left_out)}"] if left_out else []

    def convert(self, rows: slice = slice(None)) -> "ImageSet":
        """The images in these rows, with their labels."""
        import torch  # here, so that images alone are read without it

        from cifar_lit.data.image_set import ImageSet

        images, labels = torch.from_numpy(self._pixels.convert(rows)), torch.from_numpy(self.labels[rows])
        return ImageSet(images, labels, f"arrays, {self._name}")


@contextmanager
def open_labelled(paths: Sequence[Path], form: Form, *, prefer: str | None = None) -> Iterator[LabelledArrays]:
    """Finds and recognises labelled images.

    Args:
        paths: an `.npz`, or images and labels in a file each; with images in one `.npy` alone, the labels are looked
            for beside it.
        form: what a person says of them.
        prefer: key of the images that is taken if there are several ("x_test" for a test).

    Raises:
        NpzError: a file can't be read, holds no such arrays, or leaves open which they are or what they mean.
    """
    with ExitStack() as stack:
        yield LabelledArrays([stack.enter_context(each) for each in _open_all(paths)], form, prefer)


def read_images(path: Path, key: str | None = None) -> tuple[Pixels, list[str]]:
    """Images without their labels.

    Args:
        path: an `.npz` or an `.npy`.
        key: of the images, if the file leaves it open.

    Returns:
        uint8 (n, 32, 32, 3); and each conversion that was made, in words.

    Raises:
        NpzError: as `open_labelled`.
    """
    with _open(path) as file:
        if key is not None and key not in file.keys:
            raise NpzError(f"{path}: it has {', '.join(map(repr, file.keys))}, no {key!r}. Name one of these with --x.")
        found = [key] if key is not None else [each for each in file.keys if _is_images(file, each)]
        known = [each for each in found if any(each.lower() == x for x, _ in _PAIRS)]
        place = _only(
            [_Place(file, each) for each in (known or found)],
            f"{path}: it",
            "images",
            "x",
            [_Place(file, each) for each in file.keys],
        )
        pixels = PixelArray(file, place.key, None)
        return pixels.convert(), [f"{place}: {each}" for each in pixels.words]


def _open_all(paths: Sequence[Path]) -> list[ArrayFile]:
    paths = list(paths)
    if len(paths) == 1 and paths[0].suffix.lower() == SUFFIX:
        beside = _labels_beside(paths[0])
        if beside is None:
            raise NpzError(
                f"{paths[0]} is a single array, and no labels lie beside it. Name both: --arrays {paths[0]} LABELS.npy."
            )
        paths.append(beside)
    files: list[ArrayFile] = []
    try:
        files += [_open(path) for path in paths]
    except BaseException:
        for each in files:
            each.close()
        raise
    return files


def _open(path: Path) -> ArrayFile:
    if path.suffix.lower() == SUFFIX:
        return NpyFile(path, max_bytes=MAX_BYTES)
    return NpzFile(path, max_bytes=MAX_BYTES, max_members=MAX_MEMBERS)


def _labels_beside(path: Path) -> Path | None:
    """`labels.npy` as in CIFAR-10-C, or `NAME_labels.npy` for `NAME_data.npy` as in CIFAR-10.1, and the like."""
    stem = path.stem
    names = [f"{stem}_labels", "labels"]
    for word in ("data", "images", "x"):
        if stem.lower().endswith(word):
            names.insert(0, stem[: -len(word)] + {"x": "y"}.get(word, "labels"))
    return next((each for name in names if (each := path.with_name(name + SUFFIX)) != path and each.is_file()), None)


def _find_pair(files: Sequence[ArrayFile], form: Form, prefer: str | None) -> tuple[_Place, _Place]:
    places = [_Place(file, key) for file in files for key in file.keys]
    shown = " and ".join(str(file.path) for file in files) + (": it" if len(files) == 1 else ": they")
    keys = [place.key for place in places]
    for option, key in (("x", form.x), ("y", form.y)):
        if key is not None and key not in keys:
            raise NpzError(f"{shown} has {', '.join(map(repr, keys))}, no {key!r}. Name one of these with --{option}.")
    images = [each for each in places if each.key == form.x] if form.x else [each for each in places if _seems(each)]
    labels = (
        [each for each in places if each.key == form.y] if form.y else [each for each in places if _is_labels(each)]
    )
    if form.x and len(images) == 1 and not form.y:
        labels = _partners(images[0], labels) or [each for each in labels if each != images[0]]
    pairs = [(x, y) for x in images for y in labels if x != y and (len(files) == 1 or x.file is not y.file)]
    pairs = [(x, y) for x, y in pairs if _belong(x, y)] or pairs
    named = [(x, y) for x, y in pairs if (x.key.lower(), y.key.lower()) in _PAIRS]
    preferred = [(x, y) for x, y in named if x.key.lower() == prefer]
    first = [(x, y) for x, y in named if (x.key, y.key) == _PAIRS[0]]
    pairs = preferred or first or named or pairs
    if len(pairs) == 1:
        return pairs[0]
    x = _only(list(dict.fromkeys(x for x, _ in pairs)) or images, shown, "images", "x", places)
    _only([y for each, y in pairs if each == x] or labels, shown, "labels", "y", places)
    raise NpzError(f"{shown} leave open which labels are those of {x}. Say so with --y.")


def _only(found: Sequence[_Place], shown: str, what: str, option: str, all_there: Sequence[_Place]) -> _Place:
    if len(found) == 1:
        return found[0]
    if found:
        names = " | ".join(each.key for each in found)
        raise NpzError(f"{shown} has several arrays of {what}. Say which with --{option} {names}.")
    raise NpzError(
        f"{shown} has {', '.join(map(_shown, all_there))}, none of which are {what}. Expected images with 1, 3 or 4 "
        f"channels and a label for each. If one is, name it with --{option} KEY."
    )


def _shown(place: _Place) -> str:
    try:
        return f"{place} {place.file.header(place.key, text=True)}"
    except NpzError:
        return f"{place} (no numbers)"


def _partners(x: _Place, labels: Sequence[_Place]) -> list[_Place]:
    wanted = {second for first, second in _PAIRS if first == x.key.lower()}
    return [each for each in labels if each.key.lower() in wanted]


def _belong(x: _Place, y: _Place) -> bool:
    """Whether there is a label for each image."""
    num = _num_labels(y)
    header = x.file.header(x.key)
    return bool(num) and bool(layouts_of(header.shape, None, num))


def _num_labels(place: _Place) -> int:
    header = place.file.header(place.key, text=True)
    return header.shape[0] if header.shape and header.shape[0] != 1 else math.prod(header.shape[:2])


def _seems(place: _Place) -> bool:
    return _is_images(place.file, place.key)


def _is_images(file: ArrayFile, key: str) -> bool:
    """Whether it looks so, going by its header alone; what is damaged is not passed over in silence."""
    try:
        header = file.header(key)
    except NpzError as error:
        if error.fault == "invalid" or not any(key.lower() in pair for pair in _PAIRS):
            return False  # text, say, beside the images
        raise
    # 10 columns are scores; a side of 1 is a column of labels.
    return len(header.shape) > 1 and header.num_bytes > 0 and bool(layouts_of(header.shape, None, None))


def _is_labels(place: _Place) -> bool:
    try:
        header = place.file.header(place.key, text=True)
    except NpzError:
        return False
    if len(header.shape) == 2 and header.shape[1] == 10:
        return True
    return (
        0 < len(header.shape) <= 2 and max(header.shape) == math.prod(header.shape) > 0 and header.dtype.kind in "iufUS"
    )
