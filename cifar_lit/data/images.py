"""From the bytes of an image file to the 32x32 RGB pixels a network sees. Knows nothing of models or of HTTP.

The format is decided by content, never by name: PNG, JPEG and WebP are read, with torchvision's own decoders. Nothing
reaches Pillow and its long list of plugins.
"""

import struct

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as F

from cifar_lit.cifar10 import IMAGE_SIZE
from cifar_lit.data import png
from cifar_lit.errors import ImageError

MAX_PIXELS = 16_000_000
MAX_SIDE = 8_192
BACKGROUND = 255
"""Transparent pixels are laid over white."""

_HEADER_ADVICE = "Save it again as PNG or JPEG."


def decode(data: bytes) -> Tensor:
    """Decodes an image file.

    Grey and palette become RGB, transparency is laid over white, 16 bits become 8, and the EXIF orientation of a PNG or
    JPEG is applied.

    Returns:
        uint8 (height, width, 3), RGB, 0..255.

    Raises:
        ImageError: not a PNG, JPEG or WebP; damaged or cut off; several frames; or larger than 16 megapixels or 8,192
            pixels a side, which is read from the header before anything is allocated.
    """
    kind = _sniff(data)
    width, height = _declared_size(data, kind)
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ImageError(
            f"the {kind} is {width}x{height}, at most {MAX_PIXELS:,} pixels and {MAX_SIDE:,} a side are accepted. "
            "Make it smaller."
        )
    if kind == "PNG":
        checked = png.check(data)
        return _flatten(checked.colours(_decode(checked.rebuilt, kind, ImageReadMode.UNCHANGED))).permute(1, 2, 0)
    # Their decoders lay no alpha over a background, so a WebP is asked for its alpha; a JPEG has none.
    mode = ImageReadMode.RGB_ALPHA if kind == "WebP" else ImageReadMode.RGB
    return _flatten(_decode(data, kind, mode)).permute(1, 2, 0)


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


def _decode(data: bytes, kind: str, mode: ImageReadMode) -> Tensor:
    try:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        image: Tensor = decode_image(encoded, mode=mode, apply_exif_orientation=True)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ImageError(f"the {kind} can't be decoded ({reason}). {_HEADER_ADVICE}") from error
    return image


def _sniff(data: bytes) -> str:
    if not data:
        raise ImageError("the file is empty, expected a PNG, JPEG or WebP image.")
    if data.startswith(png.SIGNATURE):
        return "PNG"
    if data.startswith(b"\xff\xd8"):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    raise ImageError("the content is not a PNG, JPEG or WebP image. Convert it to one of these.")


def _declared_size(data: bytes, kind: str) -> tuple[int, int]:
    """Width and height as the file's header claims them."""
    try:
        if kind == "PNG":
            return struct.unpack(">II", data[16:24])
        return _webp_size(data) if kind == "WebP" else _jpeg_size(data)
    except (struct.error, IndexError) as error:
        raise ImageError(f"the {kind} ends inside its header. {_HEADER_ADVICE}") from error


def _jpeg_size(data: bytes) -> tuple[int, int]:
    position = 2
    while True:
        if data[position] != 0xFF:
            raise ImageError(f"the JPEG has no marker at byte {position}. {_HEADER_ADVICE}")
        marker = data[position + 1]
        if marker == 0xFF:  # padding before a marker
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return width, height
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers that stand alone
            position += 2
        elif marker == 0xE2 and data[position + 4 : position + 8] == b"MPF\0":
            raise ImageError(
                "the JPEG holds several frames (it is an MPO), expected one. Save one as a picture of its own."
            )
        else:
            position += 2 + struct.unpack(">H", data[position + 2 : position + 4])[0]


def _webp_size(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if chunk == b"VP8X":
        if data[20] & 0x02:
            raise ImageError("the WebP holds several frames, expected one. Save one of them as a picture of its own.")
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = struct.unpack("<I", data[21:25])[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", data[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _flatten(image: Tensor) -> Tensor:
    """Any decoded PNG (channels, height, width) as uint8 RGB over the background."""
    if image.dtype != torch.uint8:
        image = (image.to(torch.float32) / 257).round().to(torch.uint8)
    if image.shape[0] in (2, 4):
        alpha = image[-1:].to(torch.float32) / 255
        image = (image[:-1] * alpha + BACKGROUND * (1 - alpha)).round().to(torch.uint8)
    return image.expand(3, -1, -1) if image.shape[0] == 1 else image
