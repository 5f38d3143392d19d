"""Decodes the picture of a JPEG with Pillow, at a part of its size, and tells one that is not all there.

libjpeg paints over what is missing and only warns, which Pillow does not pass on. But what it paints comes after the
end marker, and what it reads depends on the data: so it shows by what changes when these are changed.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from cifar_lit.data.jpeg_segments import JPEG
from cifar_lit.errors import ImageError

Pixels = NDArray[np.uint8]

_LAST_ROWS = 12
"""At most one of so many rows may be missing, at the lower end."""
_END = b"\xff\xd9"
_LOOKAHEAD = b"\xff\0" * 8
"""libjpeg decodes nothing before it has so many bits more. Ones are no code, so few pixels are made of them."""
_JUNK = bytes.fromhex("5ac3961e78a5d23b4d87b05f29e16c94") * 64
_FINE_PIXELS = 16_000_000
_LEAST_SPARE = 64
_ADVICE = "Send the whole file again, or save the picture again."


def load_jpeg(jpeg: JPEG, least_side: int) -> Image.Image:
    """Decodes a picture, at 1/2, 1/4 or 1/8 of its size if its shorter side is at least `least_side` long then.

    Raises:
        ImageError: more than the last rows are missing, or there are more data than pixels.
        OSError, SyntaxError: libjpeg or Pillow refuse it.
    """
    if jpeg.is_streamed:
        return _streamed(jpeg, least_side)
    _check_means(jpeg)
    if not jpeg.ended:  # it may have lost details too, which show at full size only
        side = 1 if jpeg.width * jpeg.height > _FINE_PIXELS else max(jpeg.width, jpeg.height)
        _check_rows(*(np.asarray(_loaded(jpeg.content(junk=junk), side)) for junk in (b"", _JUNK)))
    return _loaded(jpeg.content(), least_side)


def _streamed(jpeg: JPEG, least_side: int) -> Image.Image:
    """Feeds the decoder by hand, and looks at what is there before the last data and before the end marker."""
    data = jpeg.content(end=b"")
    feeds = [data[: -jpeg.spare], data[-jpeg.spare :] + _LOOKAHEAD, _JUNK + _END]
    image = _opened(data, least_side)
    width, height = image.size
    last, needed = ((0, top, width, top + 1) for top in (height - 1, height - 1 - height // _LAST_ROWS))
    seen: list[Any] = []

    def read(read_bytes: int) -> bytes:
        if len(feeds) == 2:
            seen.append(image.im.crop(last))
        elif len(feeds) == 1:
            seen.extend((image.im.crop(last), image.im.crop(needed)))
        return feeds.pop(0) if feeds else b""

    image.load_read = read  # type: ignore[method-assign]
    image.load()
    if len(seen) == 3:
        last_row, needed_row = image.im.crop(last), image.im.crop(needed)
        if seen[0].getbbox() and _equal(seen[0], last_row):
            raise _too_much()
        if not _equal(seen[2], needed_row):
            raise _cut_off()
        if not _equal(seen[1], last_row):  # no junk in the last rows
            return _loaded(jpeg.content(), least_side)
    return image


def _equal(one: Any, other: Any) -> bool:
    """Whether two images have the same pixels; Pillow's core images, for which a comparison costs little."""
    return one.chop_difference(other).getbbox() is None


def _check_means(jpeg: JPEG) -> None:
    """Looks at the mean colours of a picture whose rows come at the very end."""
    plain, mixed = (np.asarray(_loaded(jpeg.content(means_only=True, junk=junk), 1)) for junk in (b"", _JUNK))
    _check_rows(plain, mixed)
    if jpeg.spare >= _LEAST_SPARE:
        short = _loaded(jpeg.content(means_only=True, cut=jpeg.spare, junk=_JUNK), 1)
        if np.array_equal(plain, np.asarray(short)):
            raise _too_much()


def _check_rows(plain: Pixels, mixed: Pixels) -> None:
    needed = len(plain) - len(plain) // _LAST_ROWS
    if not np.array_equal(plain[:needed], mixed[:needed]):
        raise _cut_off()


def _opened(data: bytes, least_side: int) -> JpegImagePlugin.JpegImageFile:
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    image.draft(None, (least_side, least_side))
    return image


def _loaded(data: bytes, least_side: int) -> Image.Image:
    image = _opened(data, least_side)
    image.load()
    return image


def _cut_off() -> ImageError:
    return ImageError(f"the JPEG's data end before its picture does. {_ADVICE}", "malformed")


def _too_much() -> ImageError:
    return ImageError(f"the JPEG's data are those of a larger picture than its header says. {_ADVICE}", "malformed")
