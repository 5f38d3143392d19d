"""Checks a PNG completely and rebuilds it from its checked parts, before libpng sees it.

torchvision does not survive an error that libpng meets among the rows of a picture: a wrong checksum or filter byte
ends the whole process. It also gives the indices of a palette for colours, and does not look at the transparent colour.
So libpng gets nothing but a header and rows that can't fail, and colours are looked up here.
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cifar_lit.data import exif
from cifar_lit.errors import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_MAX_CHUNKS = 10_000
_ADVICE = "Save it again as PNG or JPEG."
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")  # without knowing these a PNG can't be understood
_GREY, _RGB, _PALETTE = 0, 2, 3
_CHANNELS = {_GREY: 1, _RGB: 3, _PALETTE: 1, 4: 2, 6: 4}
_BIT_DEPTHS = {_GREY: (1, 2, 4, 8, 16), _RGB: (8, 16), _PALETTE: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# First column, first row, step between columns, step between rows of each pass over the picture.
_WHOLE = ((0, 0, 1, 1),)
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@dataclass(frozen=True)
class CheckedPNG:
    """A PNG without a flaw.

    Attributes:
        rebuilt: a PNG of the same picture, for libpng. A palette picture has become the grey picture of its indices.
        transparent: the colour (one number a channel, as stored) that is transparent, if there is one.
        palette: uint8 (4, 256), the RGBA colours, if the picture has a palette.
        depth: bits a channel.
        orientation: as EXIF says, 1..8.
    """

    rebuilt: bytearray
    transparent: tuple[int, ...] | None
    palette: Tensor | None
    depth: int
    orientation: int

    def colours(self, image: Tensor) -> Tensor:
        """What libpng made of `rebuilt`, (channels, height, width), with palette and transparent colour applied."""
        stretch = 255 // (2**self.depth - 1) if self.depth < 8 else 1  # libpng spreads grey over 0..255
        if self.palette is not None:
            return self.palette[:, (image[0] // stretch).long()]
        if self.transparent is None:
            return image
        numbers = image.to(torch.int32)  # PyTorch compares no uint16
        opaque = torch.zeros_like(image[:1], dtype=torch.bool)
        for channel, number in enumerate(self.transparent):  # faster than `any` over them
            opaque |= numbers[channel] != number * stretch
        alpha = opaque * (65535 if self.depth == 16 else 255)
        return torch.cat([numbers, alpha]).to(image.dtype)


def size(data: bytes) -> tuple[int, int]:
    """Width and height as the header claims them; nothing after it is read.

    Raises:
        ImageError: it is no header.
    """
    if not data.startswith(SIGNATURE[: len(data)]):
        raise ImageError(f"the PNG's signature is damaged, as by a transfer as text. {_ADVICE}", "malformed")
    if len(data) < 24:
        raise ImageError(f"the PNG ends inside its header. {_ADVICE}", "malformed")
    if data[12:16] != b"IHDR":
        raise ImageError(f"the PNG's header is not valid: another chunk comes first. {_ADVICE}", "malformed")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def check(data: bytes) -> CheckedPNG:
    """Reads every chunk of a PNG; its size must have been found acceptable before.

    Raises:
        ImageError: a chunk is missing, cut off or damaged, the pixels are incomplete, or it holds several frames.
    """
    chunks = _read_chunks(data)
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    if not (width and height and depth in _BIT_DEPTHS.get(colour, ())) or compression or filtering or interlace > 1:
        raise ImageError(
            f"the PNG's header is not valid ({width}x{height}, depth {depth}, type {colour}). {_ADVICE}", "malformed"
        )
    rows = _inflate(chunks[b"IDAT"], _row_places(width, height, depth * _CHANNELS[colour], interlace))

    header = struct.pack(">IIBBBBB", width, height, depth, _GREY if colour == _PALETTE else colour, 0, 0, interlace)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, level=0)), (b"IEND", b"")]
    rebuilt = bytearray(SIGNATURE)
    for name, body in parts:
        rebuilt += struct.pack(">I", len(body)) + name
        rebuilt += body  # by itself: the pixels may be many
        rebuilt += struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))
    transparency, orientation = chunks.get(b"tRNS", b""), exif.orientation(chunks.get(b"eXIf", b""))
    if colour == _PALETTE:
        return CheckedPNG(rebuilt, None, _palette(chunks.get(b"PLTE", b""), transparency), depth, orientation)
    if colour in (_GREY, _RGB) and len(transparency) == 2 * _CHANNELS[colour]:
        return CheckedPNG(rebuilt, struct.unpack(f">{_CHANNELS[colour]}H", transparency), None, depth, orientation)
    return CheckedPNG(rebuilt, None, None, depth, orientation)


def _read_chunks(data: bytes) -> dict[bytes, bytes]:
    """The first chunk of each name, and all IDAT chunks as one."""
    chunks: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    position = len(SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if len(data) < position + 12:
            raise ImageError(f"the PNG is cut off after {len(data):,} bytes. {_ADVICE}", "malformed")
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if len(data) < end + 4:
            raise ImageError(f"the PNG is cut off after {len(data):,} bytes. {_ADVICE}", "malformed")
        if zlib.crc32(data[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ImageError(
                f"the PNG is damaged: its chunk at byte {position:,} has a wrong checksum. {_ADVICE}", "malformed"
            )
        if name == b"acTL":
            raise ImageError("the PNG holds several frames, expected one. Save one of them as a picture of its own.")
        body = data[position + 8 : end]
        if not name[0] & 0x20 and name not in _CRITICAL:
            raise ImageError(f"the PNG has a chunk {name!r}, which is not read. {_ADVICE}", "malformed")
        if (name == b"IHDR") != (not chunks) or (name == b"IHDR" and length != 13):
            raise ImageError(f"the PNG's header is not valid. {_ADVICE}", "malformed")
        if name == b"IDAT":
            pixels.append(body)
        if name == b"IEND":
            return {**chunks, b"IDAT": b"".join(pixels)}
        chunks.setdefault(name, body)
        position = end + 4
    raise ImageError(f"the PNG has more than {_MAX_CHUNKS:,} chunks. {_ADVICE}", "malformed")


def _row_places(width: int, height: int, bits: int, interlace: int) -> list[tuple[int, int]]:
    """Number of rows in each pass and bytes in each of its rows, of which the first names the row's filter."""
    places = []
    for left, top, step_x, step_y in _ADAM7 if interlace else _WHOLE:
        columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if columns > 0 and rows > 0:
            places.append((rows, 1 + (columns * bits + 7) // 8))
    return places


def _inflate(compressed: bytes, places: list[tuple[int, int]]) -> bytes:
    size = sum(rows * stride for rows, stride in places)
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(compressed, size)
        # The stream's checksum comes after its last byte; whether there is one more tells if it was that.
        more = b"" if stream.eof else stream.decompress(stream.unconsumed_tail, 1)
    except zlib.error as error:
        raise ImageError(f"the PNG's pixels are damaged ({error}). {_ADVICE}", "malformed") from error
    if len(data) < size:
        raise ImageError(f"the PNG ends after {len(data):,} of {size:,} bytes of pixels. {_ADVICE}", "malformed")
    if more or not stream.eof:
        what = "holds more pixels than its header says" if more else "ends before the checksum of its pixels"
        raise ImageError(f"the PNG {what}. {_ADVICE}", "malformed")
    start = 0
    for rows, stride in places:
        filters = np.frombuffer(data, np.uint8, rows * stride, start)[::stride]
        if filters.max() > 4:
            raise ImageError(f"the PNG's pixels are damaged (a row has filter {filters.max()}). {_ADVICE}", "malformed")
        start += rows * stride
    return data


def _palette(colours: bytes, alphas: bytes) -> Tensor:
    if not colours or len(colours) % 3 or len(colours) > 768 or len(alphas) > 256:
        raise ImageError(f"the PNG's palette is missing or not valid. {_ADVICE}", "malformed")
    palette = np.zeros((256, 4), np.uint8)
    palette[: len(colours) // 3, :3] = np.frombuffer(colours, np.uint8).reshape(-1, 3)
    palette[:, 3] = 255
    palette[: len(alphas), 3] = np.frombuffer(alphas, np.uint8)
    return torch.from_numpy(palette).T
