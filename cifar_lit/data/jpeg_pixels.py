"""Decodes the image of a JPEG with Pillow, at a part of its size, and tells one that is not all there.

libjpeg paints over what is missing and only warns, which Pillow does not pass on. But what it paints comes after the
end marker, and what it reads depends on the data: so it shows by what changes when these are changed. Pillow's own
decoder is fed by hand for this; its plugin, which reads the parts of the file once more, is left out.
"""

from typing import Any

from PIL import Image

from cifar_lit.data.jpeg_segments import JPEG
from cifar_lit.errors import ImageError

_CORE: Any = Image.core  # type: ignore[attr-defined]
_MODES = {1: ("L", "L"), 3: ("RGB", "RGB"), 4: ("CMYK", "CMYK;I")}
"""Of a number of components Pillow's mode, and that of the data: Adobe's programs invert CMYK, and all follow them."""
_LAST_ROWS = 12
"""At most one of so many rows may be missing, at the lower end."""
_END = b"\xff\xd9"
_LOOKAHEAD = b"\xff\0" * 8
"""libjpeg decodes nothing before it has so many bits more. Ones are no code, so few pixels are made of them."""
_NOISE = bytes.fromhex("5ac3961e78a5d23b4d87b05f29e16c94") * 16
_JUNK = b"".join(_NOISE + bytes([0xFF, marker]) for marker in range(0xD0, 0xD8)) + _NOISE
"""With restart markers: a decoder that waits for one passes over all else."""
_FINE_PIXELS = 16_000_000
_LEAST_SPARE = 64
_ADVICE = "Send the whole file again, or save the image again."


def load_jpeg(jpeg: JPEG, least_side: int) -> Image.Image:
    """Decodes an image, at 1/2, 1/4 or 1/8 of its size if its shorter side is at least `least_side` long then.

    Returns:
        Of mode L, RGB or CMYK.

    Raises:
        ImageError: more than the last rows are missing, or there are more data than pixels.
        OSError: libjpeg refuses it.
    """
    part = min(jpeg.width, jpeg.height) // least_side
    scale = next(scale for scale in (8, 4, 2, 1) if scale <= max(1, part))
    if jpeg.is_streamed:
        image = _streamed(jpeg, scale)
        if jpeg.ended:
            return image
    else:
        _check_means(jpeg)
    if not jpeg.ended:  # a progressive one may have lost details too, which show at full size only
        fine = scale if jpeg.is_streamed else 1 if jpeg.width * jpeg.height <= _FINE_PIXELS else 2
        plain, mixed = (_decoded(jpeg, fine, jpeg.content(junk=junk)) for junk in (b"", _JUNK))
        _check_rows(plain, mixed)
    return _decoded(jpeg, scale, jpeg.content())


def _streamed(jpeg: JPEG, scale: int) -> Image.Image:
    """Looks at what is there before the last data, and before the end marker."""
    data = jpeg.content(end=b"")
    feed = _Feed(jpeg, scale)
    needed_row = -1 - feed.image.height // _LAST_ROWS
    feed(data[: -jpeg.spare])
    early_last = feed.row(-1)
    feed(data[-jpeg.spare :] + _LOOKAHEAD)
    last, needed = feed.row(-1), feed.row(needed_row)
    feed(_JUNK + _END)
    if early_last.getbbox() and _equal(early_last, feed.row(-1)):
        raise _too_much()
    if not _equal(needed, feed.row(needed_row)):
        raise _cut_off()
    if not _equal(last, feed.row(-1)):  # no junk in the last rows
        return _decoded(jpeg, scale, jpeg.content())
    return feed.image


def _check_means(jpeg: JPEG) -> None:
    """Looks at the mean colours of an image whose rows come at the very end."""
    plain, mixed = (_decoded(jpeg, 8, jpeg.content(means_only=True, junk=junk)) for junk in (b"", _JUNK))
    _check_rows(plain, mixed)
    if jpeg.spare >= _LEAST_SPARE:
        short = _decoded(jpeg, 8, jpeg.content(means_only=True, cut=jpeg.spare, junk=_JUNK))
        if _equal(plain.im, short.im):
            raise _too_much()


def _check_rows(plain: Image.Image, mixed: Image.Image) -> None:
    box = (0, 0, plain.width, plain.height - plain.height // _LAST_ROWS)
    if not _equal(plain.im.crop(box), mixed.im.crop(box)):
        raise _cut_off()


class _Feed:
    """Pillow's decoder, and the image that it fills."""

    def __init__(self, jpeg: JPEG, scale: int) -> None:
        mode, data_mode = _MODES[jpeg.num_components]
        self.image = Image.new(mode, (-(-jpeg.width // scale), -(-jpeg.height // scale)))
        self._decoder = _CORE.jpeg_decoder(mode, data_mode, "", scale, 0)
        self._decoder.setimage(self.image.im, (0, 0, *self.image.size))
        self._rest = b""
        self.ended = False

    def __call__(self, data: bytes) -> None:
        if self.ended:
            return
        self._rest += data
        taken, status = self._decoder.decode(self._rest)
        self._rest = self._rest[max(taken, 0) :]
        if taken < 0:
            self.ended = True
            self._decoder.cleanup()
            if status < 0:
                raise OSError(_CORE.getcodecstatus(status))

    def row(self, number: int) -> Any:
        """A row, as Pillow's core has images: they cost little to compare."""
        top = self.image.height + number
        return self.image.im.crop((0, top, self.image.width, top + 1))


def _decoded(jpeg: JPEG, scale: int, data: bytes) -> Image.Image:
    feed = _Feed(jpeg, scale)
    feed(data)
    if not feed.ended:
        raise _cut_off()
    return feed.image


def _equal(one: Any, other: Any) -> bool:
    return one.chop_difference(other).getbbox() is None


def _cut_off() -> ImageError:
    return ImageError(f"the JPEG's data end before its image does. {_ADVICE}", "malformed")


def _too_much() -> ImageError:
    return ImageError(f"the JPEG's data are those of a larger image than its header says. {_ADVICE}", "malformed")
