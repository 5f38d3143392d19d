"""Checks the chunks of a WebP before libwebp sees it, and finds its EXIF block, which torchvision leaves aside."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cifar_lit.data import exif
from cifar_lit.errors import ImageError

_MAX_CHUNKS = 1_000
_ADVICE = "Save it again as PNG or JPEG."
_LOSSY, _LOSSLESS, _EXTENDED = b"VP8 ", b"VP8L", b"VP8X"


@dataclass(frozen=True)
class CheckedWebP:
    """A WebP with all its parts.

    Attributes:
        content: its bytes, without what follows its end.
        orientation: as EXIF says, 1..8.
    """

    content: bytes
    orientation: int


def size(data: bytes) -> tuple[int, int]:
    """Width and height as the first chunk claims them; nothing after it is read.

    Raises:
        ImageError: that chunk is missing.
    """
    return _size(data[12:16], data[20:30])


def check(data: bytes) -> CheckedWebP:
    """Walks through a WebP to its end; its size must have been found acceptable before.

    Raises:
        ImageError: a chunk is missing, there twice or cut off, or it holds several frames.
    """
    (length,) = struct.unpack_from("<I", data, 4)
    content = data[: 8 + length]
    if len(content) < 8 + length:
        raise ImageError(
            f"the WebP is cut off: it has {len(data):,} bytes and claims {8 + length:,}. {_ADVICE}", "malformed"
        )
    frames: list[tuple[int, int]] = []
    orientation = None
    for name, body in _chunks(content):
        if name in (b"ANIM", b"ANMF") or (name == _EXTENDED and body[:1] and body[0] & 0x02):
            raise ImageError("the WebP holds several frames, expected one. Save one of them as a picture of its own.")
        if name in (_LOSSY, _LOSSLESS):
            frames.append(_size(name, body))
        if name == b"EXIF" and orientation is None:
            orientation = exif.orientation(body)
    if frames != [size(data)]:
        raise ImageError(
            f"the WebP holds {len(frames)} pictures or another size than its header says, expected one. {_ADVICE}",
            "malformed",
        )
    return CheckedWebP(content, orientation or 1)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 12
    for _ in range(_MAX_CHUNKS):
        if position >= len(content):
            return
        if len(content) < position + 8:
            raise ImageError(f"the WebP's chunk at byte {position:,} is cut off. {_ADVICE}", "malformed")
        name, length = struct.unpack_from("<4sI", content, position)
        end = position + 8 + length
        if len(content) < end:
            raise ImageError(f"the WebP's chunk at byte {position:,} is cut off. {_ADVICE}", "malformed")
        yield name, content[position + 8 : end]
        position = end + length % 2
    raise ImageError(f"the WebP has more than {_MAX_CHUNKS:,} chunks. {_ADVICE}", "malformed")


def _size(name: bytes, body: bytes) -> tuple[int, int]:
    """Width and height as a chunk of this name claims them."""
    if name not in (_LOSSY, _LOSSLESS, _EXTENDED) or len(body) < (5 if name == _LOSSLESS else 10):
        raise ImageError(f"the WebP ends inside its header, or it is not valid. {_ADVICE}", "malformed")
    if name == _EXTENDED:
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if name == _LOSSLESS:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", body, 6)
    return width & 0x3FFF, height & 0x3FFF
