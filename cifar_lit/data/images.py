"""From the bytes of an image file to the 32x32 RGB pixels a network sees. Knows nothing of models or of HTTP.

The format is decided by content, never by name: PNG, JPEG and WebP are read, with torchvision's own decoders. Nothing
reaches Pillow and its long list of plugins.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as F

from cifar_lit.cifar10 import IMAGE_SIZE
from cifar_lit.data import exif, jpeg, jpeg_warnings, png, webp
from cifar_lit.errors import ImageError

MAX_BYTES = 5 * 2**20
"""Of a file that somebody sends."""
MAX_PIXELS = 16_000_000
MAX_SIDE = 8_192
BACKGROUND = 255
"""Transparent pixels are laid over white."""

_BLOCK = 2**18  # pixels
_ADVICE = "Save it again as PNG or JPEG."
_SOURCE_PLACE = re.compile(r"^\w+, \S+:\d+, ")
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


def decode(data: bytes, *, max_bytes: int | None = MAX_BYTES) -> Tensor:
    """Decodes an image file.

    Grey and palette become RGB, transparency is laid over white, 16 bits become 8, and EXIF's orientation is applied.

    Args:
        data: the content of the file.
        max_bytes: the most that are accepted, `None` for a file that the user owns.

    Returns:
        uint8 (height, width, 3), RGB, 0..255.

    Raises:
        ImageError: `too_large`: more bytes, or more than 16 megapixels or 8,192 pixels a side, which is read from the
            header before anything is allocated; `unsupported`: not a PNG, JPEG or WebP; `malformed`: damaged or cut
            off; `invalid`: several frames.
    """
    if max_bytes is not None and len(data) > max_bytes:
        raise ImageError(
            f"the file has {len(data):,} bytes, at most {max_bytes:,} are accepted. "
            "Make the picture smaller, or save it as JPEG.",
            "too_large",
        )
    kind = _sniff(data)
    if kind == "PNG":
        _check_size(kind, png.size(data))
        checked_png = png.check(data)
        image = _flat(_decode(checked_png.rebuilt, kind, ImageReadMode.UNCHANGED), checked_png.colours)
        orientation = checked_png.orientation
    elif kind == "JPEG":
        _check_size(kind, jpeg.size(data))
        checked_jpeg = jpeg.check(data)
        image, orientation = _decode_jpeg(checked_jpeg.rebuilt), checked_jpeg.orientation
    else:
        _check_size(kind, webp.size(data))
        checked_webp = webp.check(data)
        # torchvision lays no alpha over a background, so it is asked for it.
        image = _flat(_decode(bytearray(checked_webp.content), kind, ImageReadMode.RGB_ALPHA))
        orientation = checked_webp.orientation
    return exif.upright(image, orientation).permute(1, 2, 0)


def to_network_size(image: Tensor) -> Tensor:
    """Crops the central square and scales it to 32x32 with antialiasing; the identity for a 32x32 image.

    Args:
        image: uint8 (height, width, 3).

    Returns:
        uint8 (32, 32, 3).
    """
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side == IMAGE_SIZE:
        return square.contiguous()
    resized: Tensor = F.resize(square.permute(2, 0, 1), [IMAGE_SIZE, IMAGE_SIZE], antialias=True)
    return resized.permute(1, 2, 0).contiguous()


def _decode(data: bytearray, kind: str, mode: ImageReadMode) -> Tensor:
    try:
        image: Tensor = decode_image(torch.frombuffer(data, dtype=torch.uint8), mode=mode)
    except (RuntimeError, ValueError) as error:
        reason = _SOURCE_PLACE.sub("", str(error).splitlines()[0])
        raise ImageError(f"the {kind} can't be decoded ({reason}). {_ADVICE}", "malformed") from error
    return image


def _decode_jpeg(data: bytearray) -> Tensor:
    """Takes every warning for damage, but for one of zeros between the last pixel and the end."""
    with jpeg_warnings.collected() as warnings:
        image = _decode(data, "JPEG", ImageReadMode.RGB)
    for warning in warnings:
        left_over = _LEFT_OVER.search(warning)
        if left_over is None or data[:-2][-int(left_over[1]) :].strip(b"\0"):
            raise ImageError(f"the JPEG's pixels are damaged ({warning}). {_ADVICE}", "malformed")
    return image


def _sniff(data: bytes) -> str:
    if not data:
        raise ImageError("the file is empty, expected a PNG, JPEG or WebP image.", "malformed")
    if data.startswith(png.SIGNATURE[:4]):
        return "PNG"
    if data.startswith(jpeg.SIGNATURE):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if len(data) < 12 and (png.SIGNATURE.startswith(data) or data == b"\xff" or _begins_webp(data)):
        raise ImageError(f"the file is cut off after {len(data)} bytes. {_ADVICE}", "malformed")
    raise ImageError("the content is not a PNG, JPEG or WebP image. Convert it to one of these.", "unsupported")


def _begins_webp(data: bytes) -> bool:
    return b"RIFF".startswith(data[:4]) and b"WEBP".startswith(data[8:])


def _check_size(kind: str, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ImageError(
            f"the {kind} is {width}x{height}, at most {MAX_PIXELS:,} pixels and {MAX_SIDE:,} a side are accepted. "
            "Make it smaller.",
            "too_large",
        )


def _flat(image: Tensor, colours: Callable[[Tensor], Tensor] = lambda image: image) -> Tensor:
    """Any decoded picture (channels, height, width), after `colours`, as uint8 RGB over the background."""
    # A block of rows at a time: arithmetic on a whole large picture would take a gigabyte.
    _, height, width = image.shape
    num_rows = max(1, _BLOCK // width)
    pixels = torch.empty((height, width, 3), dtype=torch.uint8)
    for top in range(0, height, num_rows):
        block = _over_background(colours(image[:, top : top + num_rows]))
        pixels[top : top + num_rows] = block.permute(1, 2, 0)
    return pixels.permute(2, 0, 1)


def _over_background(image: Tensor) -> Tensor:
    if image.dtype != torch.uint8:
        image = (image.to(torch.float32) / 257).round().to(torch.uint8)
    if image.shape[0] in (2, 4):
        alpha = image[-1:].to(torch.float32) / 255
        image = (image[:-1] * alpha + BACKGROUND * (1 - alpha)).round().to(torch.uint8)
    return image.expand(3, -1, -1) if image.shape[0] == 1 else image
