"""From the bytes of an image file to the 32x32 RGB pixels a network sees. Knows nothing of models or of HTTP.

Pillow decodes, with the plugins of the accepted formats only; the content decides which, never a name.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    PngImagePlugin,
    WebPImagePlugin,
)

from cifar_lit.cifar10 import IMAGE_SIZE
from cifar_lit.data import jpeg_segments, png_chunks
from cifar_lit.data.colour import to_rgb
from cifar_lit.data.formats import Format, format_of
from cifar_lit.data.jpeg_pixels import load_jpeg
from cifar_lit.data.orientation import orientation
from cifar_lit.errors import ImageError

Pixels = NDArray[np.uint8]

MAX_BYTES = 25 * 2**20
MAX_PIXELS, MAX_JPEG_PIXELS = 50_000_000, 100_000_000
"""A JPEG is decoded at a part of its size, so more of its pixels fit into the memory that there is."""
REDUCED_SIDE = 256
"""Of a large image the shorter side is brought down to this or up to twice as much, before all else. Of 1,000
photographs 3 got another prediction, at 128 it were 29, at 64 it were 72."""

_ADVICE = "Save it again as JPEG or PNG."
_FIRST_FRAME = "only the first frame of the animation was looked at"
_MAIN_IMAGE = "only the main image of the file was looked at; it holds others"
_PLUGINS: dict[Format, type[ImageFile.ImageFile]] = {
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a stored image of each orientation into the scene that was taken."""


@dataclass(frozen=True)
class Decoded:
    """An image.

    Attributes:
        image: RGB.
        note: what of the file was not looked at; empty if nothing was left.
    """

    image: Image.Image
    note: str = ""

    @property
    def pixels(self) -> Pixels:
        """uint8 (height, width, 3), RGB, 0..255."""
        return np.array(self.image)

    @property
    def network_pixels(self) -> Pixels:
        """uint8 (32, 32, 3), as `to_network_size` makes it."""
        return to_network_size(self.image)


@dataclass(frozen=True)
class _Loaded:
    """An image as Pillow decodes it, of mode 1, L, LA, P, RGB, RGBA, CMYK or I;16."""

    image: Image.Image
    orientation: int = 1
    profile: bytes = b""
    note: str = ""


def decode(data: bytes) -> Decoded:
    """Decodes an image file.

    Grey and palette become RGB, 16 bits become 8, transparency is laid over white, colours are brought to sRGB, and
    the image is turned upright. Of an animation the first frame is taken, of a file with several images the main one.

    Args:
        data: the content of the file.

    Returns:
        The image. One whose shorter side has at least 512 pixels comes reduced, to 256 to 511.

    Raises:
        ImageError: `too_large`: more than 25 MiB, or more than 100 megapixels (JPEG) or 50 (others), which is read
            from the header before anything is allocated; `unsupported`: none of the accepted formats; `malformed`:
            damaged or cut off.
        MemoryError: there is not enough.
    """
    kind = format_of(data)
    if len(data) > MAX_BYTES:
        raise ImageError(
            f"the file has more than {MAX_BYTES:,} bytes, at most {MAX_BYTES >> 20} MiB are accepted. Make the image "
            "smaller, or save it as JPEG.",
            "too_large",
        )
    try:
        loaded = _LOADERS.get(kind, _load_other)(data, kind)
        image = to_rgb(_reduced(loaded.image), loaded.profile)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise whatever the libraries and their own mistakes raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ImageError(f"the {kind} can't be decoded ({reason}). {_ADVICE}", "malformed") from error
    turn = _TURNS.get(loaded.orientation)
    return Decoded(image if turn is None else image.transpose(turn), loaded.note)


def to_network_size(image: Image.Image) -> Pixels:
    """uint8 (32, 32, 3): an RGB image's central square, scaled with antialiasing; all of a 32x32 image as it is."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    if side != IMAGE_SIZE:
        square = square.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.array(square)


def encode_png(pixels: Pixels) -> bytes:
    """A PNG file of an image, uint8 (height, width, 3), RGB."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _check_size(kind: Format, width: int, height: int) -> None:
    most = MAX_JPEG_PIXELS if kind == "JPEG" else MAX_PIXELS
    if width * height > most:
        raise ImageError(
            f"the {kind} is {width}x{height}, at most {most:,} pixels are accepted. Make it smaller"
            f"{'' if kind == 'JPEG' else ', or save it as JPEG'}.",
            "too_large",
        )


def _load_jpeg(data: bytes, kind: Format) -> _Loaded:
    parts = jpeg_segments.parse(data, lambda width, height: _check_size(kind, width, height))
    image = load_jpeg(parts, REDUCED_SIDE)
    note = _MAIN_IMAGE if parts.has_others else ""
    return _Loaded(image, orientation(parts.exif, parts.xmp), parts.profile, note)


def _load_png(data: bytes, kind: Format) -> _Loaded:
    parts = png_chunks.parse(data, lambda width, height: _check_size(kind, width, height))
    image: Image.Image = PngImagePlugin.PngImageFile(io.BytesIO(parts.content))
    key = image.info.get("transparency")
    image.load()
    if image.mode == "I;16":
        image = _from_16_bits(image, key)
    elif isinstance(key, int) and image.mode in ("1", "L"):
        image = image.convert("L")
        image.info["transparency"] = key * (255 // (2**parts.depth - 1)) if parts.depth < 8 else key
    elif isinstance(key, tuple) and parts.depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)  # as Pillow has taken the pixels
    note = _FIRST_FRAME if parts.is_animated else ""
    return _Loaded(image, orientation(parts.exif, parts.xmp), parts.profile, note)


def _from_16_bits(image: Image.Image, key: int | None) -> Image.Image:
    numbers = np.asarray(image)
    grey = Image.fromarray((numbers >> 8).astype(np.uint8))
    if key is not None:
        grey.putalpha(Image.fromarray((numbers != key).astype(np.uint8) * np.uint8(255)))
    return grey


def _load_webp(data: bytes, kind: Format) -> _Loaded:
    _check_size(kind, *_webp_size(data))
    return _load_other(data, kind)


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height as the first chunk claims them; to open a WebP is to allocate it."""
    name, head = data[12:16], data[20:30]
    if len(head) < (5 if name == b"VP8L" else 10) or name not in (b"VP8 ", b"VP8L", b"VP8X"):
        raise ImageError(f"the WebP ends inside its header, or it is not valid. {_ADVICE}", "malformed")
    if name == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    bits = int.from_bytes(head[1:5] if name == b"VP8L" else head[6:10], "little")
    return (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)) if name == b"VP8L" else (bits & 0x3FFF, bits >> 16 & 0x3FFF)


def _load_gif(data: bytes, kind: Format) -> _Loaded:
    loaded = _load_other(data, kind)
    image = loaded.image
    place = getattr(image, "dispose_extent", None) or (0, 0, *image.size)
    if place == (0, 0, *image.size):
        return loaded
    whole = Image.new("RGBA", image.size)  # the frame is smaller than the image; the rest is transparent
    whole.paste(image.convert("RGBA").crop(place), place)
    return _Loaded(whole, note=loaded.note)


def _load_heic(data: bytes, kind: Format) -> _Loaded:
    try:
        import pi_heif
    except ImportError as error:
        raise ImageError(
            "this is a HEIC, and pi-heif, which reads it, is not installed. Install cifar-lit[serve], or save it as "
            "JPEG.",
            "unsupported",
        ) from error
    pi_heif.options.DECODE_THREADS = 1
    image = pi_heif.HeifImageFile(io.BytesIO(data))
    _check_size(kind, *image.size)
    image.load()  # libheif turns it
    return _Loaded(image, profile=image.info.get("icc_profile") or b"", note=_note(image, kind))


def _load_other(data: bytes, kind: Format) -> _Loaded:
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # the server's workers may not start any
    image = _PLUGINS[kind](io.BytesIO(data))
    _check_size(kind, *image.size)
    image.load()
    info = image.info
    # An AVIF's EXIF is what Pillow has made of the AVIF's own turn; another note of it is not meant.
    turn = orientation(info.get("exif") or b"", b"" if kind == "AVIF" else info.get("xmp") or b"")
    return _Loaded(image, turn, info.get("icc_profile") or b"", _note(image, kind))


def _note(image: Image.Image, kind: Format) -> str:
    try:
        several = bool(getattr(image, "is_animated", False))
    except Exception:  # a GIF's next frame may be damaged
        several = False
    if not several:
        return ""
    return _MAIN_IMAGE if kind == "HEIC" else _FIRST_FRAME


def _reduced(image: Image.Image) -> Image.Image:
    """An image of mode L, LA, RGB, RGBA or CMYK, not much larger than is needed."""
    if "transparency" in image.info and image.mode in ("1", "L", "P", "RGB"):
        image = image.convert("RGBA")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        image = image.convert("RGBA" if image.mode in ("PA", "La", "RGBa") else "L" if image.mode == "1" else "RGB")
    factor = min(image.size) // REDUCED_SIDE
    return image.reduce(factor) if factor > 1 else image


_LOADERS: dict[Format, Callable[[bytes, Format], _Loaded]] = {
    "JPEG": _load_jpeg,
    "PNG": _load_png,
    "WebP": _load_webp,
    "GIF": _load_gif,
    "HEIC": _load_heic,
}
