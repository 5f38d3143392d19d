"""Arrays of pixels as people save them, to uint8 (n, 32, 32, 3): axes and scale are recognised from shape and values.

What can't be told from them is refused, with the option that says it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cifar_lit.cifar10 import IMAGE_SHAPE
from cifar_lit.data import pixel_scales
from cifar_lit.data.array_file import ArrayFile
from cifar_lit.data.colour import BACKGROUND
from cifar_lit.data.images import Pixels, to_network_size
from cifar_lit.data.pixel_layouts import Layout, layouts_of
from cifar_lit.errors import InputError, NpzError

_CHUNK_BYTES = 16 * 2**20
_MAX_WHOLE_BYTES = 200 * 2**20
_SAMPLED_ROWS = 200
_MAX_ROWS = 60_000


class PixelArray:
    """One array of images in an open file. All its values are looked at once; few rows are in memory at a time.

    Args:
        file: holds the array.
        key: its name there.
        num_labels: how many images it must have; None if that is not known.
        layout: one of `LAYOUTS`, if the caller knows it.
        scale: one of `SCALES`, likewise.

    Attributes:
        num_rows: images.
        words: each conversion that `convert` makes, in words.

    Raises:
        NpzError: it can't be understood; the message names the option that decides, if one does.
    """

    def __init__(
        self, file: ArrayFile, key: str, num_labels: int | None, layout: str | None = None, scale: str | None = None
    ) -> None:
        self._file, self._key = file, key
        self._header = file.header(key)
        self._shown = f"{file.path}: {key!r} is {self._header}"
        if self._header.dtype.kind in "bc":
            raise NpzError(f"{self._shown}, expected integers or floats. Save the pixels as numbers 0..255.")
        if not self._header.num_bytes:
            raise NpzError(f"{self._shown}: it has no image, expected at least one.")
        self._layout = self._find_layout(num_labels, layout)
        self.num_rows = self._layout.num_rows
        try:
            found = pixel_scales.survey(self._arranged())
            self._scale = pixel_scales.recognise(found, scale)
        except NpzError:
            raise
        except InputError as error:
            raise NpzError(f"{self._shown}: {error}", error.fault) from error
        self.words = self._describe()

    def convert(self, rows: slice = slice(None)) -> Pixels:
        """uint8 (n, 32, 32, 3): the images in these rows.

        Raises:
            NpzError: they are more than 60,000.
        """
        start, stop, _ = rows.indices(self.num_rows)
        if stop - start > _MAX_ROWS:
            raise NpzError(
                f"{self._shown}: {stop - start:,} images, at most {_MAX_ROWS:,} are accepted. Divide it into several "
                "files.",
                "too_large",
            )
        images, first = [], 0
        for chunk in self._arranged():
            part = chunk[max(0, start - first) : max(0, stop - first)]
            first += len(chunk)
            if len(part):
                images.append(self._to_images(part))
        return np.concatenate(images)

    def _find_layout(self, num_labels: int | None, wanted: str | None) -> Layout:
        shape = self._header.shape
        sample = None
        if len(shape) == 2 and wanted is None:
            sample = next(self._file.chunks(self._key, _CHUNK_BYTES))[:_SAMPLED_ROWS]
        found = layouts_of(shape, sample, num_labels)
        if wanted is not None:
            found = [each for each in found if each.name == wanted]
        if not found:
            rows = "" if num_labels is None else f" for {num_labels:,} labels"
            as_wanted = "" if wanted is None else f" as --layout {wanted}"
            raise NpzError(
                f"{self._shown}, which is no array of images{as_wanted}{rows}. Expected are rows, height, width and 1, "
                "3 or 4 channels in any usual order, or flat rows of 3,072 values."
            )
        if len(found) > 1:
            names = " | ".join(each.name for each in found)
            raise NpzError(
                f"{self._shown}: the order of its axes can't be told. Say which it is with --layout {names}."
            )
        if found[0].rows_last and self._header.num_bytes > _MAX_WHOLE_BYTES:
            raise NpzError(f"{self._shown}: so large an array must have its rows first. Move that axis.", "too_large")
        return found[0]

    def _arranged(self) -> Iterator[NDArray[Any]]:
        """All images as (rows, height, width, channels), some at a time."""
        if self._layout.rows_last:
            yield self._layout.arrange(self._file.read(self._key))
        else:
            for chunk in self._file.chunks(self._key, _CHUNK_BYTES):
                yield self._layout.arrange(chunk)

    def _describe(self) -> list[str]:
        _, height, width, channels = next(self._arranged()).shape
        words = [self._layout.words, pixel_scales.describe(self._scale, self._header.dtype)]
        if channels == 1:
            words.append("grey is repeated for three channels")
        if channels == 4:
            words.append("transparency is laid over white")
        if (height, width) != IMAGE_SHAPE[:2]:
            crop = "" if height == width else "the central square of "
            words.append(f"{crop}{width}x{height} pixels is resized to 32x32")
        return [each for each in words if each]

    def _to_images(self, chunk: NDArray[Any]) -> Pixels:
        levels = chunk
        if chunk.dtype != np.uint8 or self._scale != pixel_scales.LEVELS:
            levels = pixel_scales.to_levels(chunk, self._scale).round().clip(0, 255)
        if levels.shape[-1] == 4:
            alpha = levels[..., 3:].astype(np.float32) / 255
            levels = (levels[..., :3] * alpha + BACKGROUND * (1 - alpha)).round()
        if levels.shape[-1] == 1:
            levels = np.broadcast_to(levels, (*levels.shape[:-1], 3))
        images = np.array(levels, np.uint8, order="C")
        if images.shape[1:] != IMAGE_SHAPE:
            images = np.stack([to_network_size(Image.fromarray(image)) for image in images])
        return images
