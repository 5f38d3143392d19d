"""Takes from a PNG file what makes its image, and leaves the rest. Decodes nothing.

Pillow refuses a whole image for a damaged note or one that inflates far; libpng's rule, which viewers follow, is to
leave what is damaged and not critical.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from cifar_lit.errors import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_MAX_CHUNKS = 10_000
_MAX_NOTE_BYTES = 4 * 2**20
"""Of a colour profile or an XMP packet, inflated."""
_ADVICE = "Save it again as PNG or JPEG."
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_NOTES = (b"tRNS", b"eXIf", b"iCCP", b"acTL")
_XMP = b"XML:com.adobe.xmp\0"
_BIT_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


@dataclass(frozen=True)
class PNG:
    """The image of a PNG file.

    Attributes:
        content: a file with this image alone.
        depth: bits a channel.
        exif: its EXIF block; empty if there is none.
        xmp: its XMP packet; empty if there is none.
        profile: its ICC profile; empty if there is none.
        is_animated: it is the first frame of several.
    """

    content: bytes
    depth: int
    exif: bytes
    xmp: bytes
    profile: bytes
    is_animated: bool


def parse(data: bytes, check_size: Callable[[int, int], None]) -> PNG:
    """Finds the image.

    Args:
        data: the content of the file.
        check_size: is told width and height before anything behind the header is looked at.

    Raises:
        ImageError: the header or the palette is damaged or cut off, or there are too many chunks.
    """
    header = _header(data, check_size)
    notes: dict[bytes, bytes] = {}
    palette, xmp, pixels = b"", b"", list[bytes]()
    position = 33
    for _ in range(_MAX_CHUNKS):
        if len(data) < position + 8:  # cut off, perhaps behind the pixels
            break
        length, name = struct.unpack_from(">I4s", data, position)
        body, crc = data[position + 8 : position + 8 + length], data[position + 8 + length : position + 12 + length]
        sound = len(body) == length and crc == struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))
        position += 12 + length
        if name == b"IEND":
            break
        if name == b"IDAT":  # their own checksum tells whether they are whole
            pixels.append(body)
        elif name == b"IHDR":
            raise ImageError(f"the PNG has two headers, expected one. {_ADVICE}", "malformed")
        elif name == b"PLTE" and not pixels:
            if not sound or length % 3 or not length:
                raise ImageError(f"the PNG's palette is damaged. {_ADVICE}", "malformed")
            palette = palette or body
        elif not name[0] & 0x20 and name not in _CRITICAL:
            if sound:
                raise ImageError(f"the PNG has a chunk {name!r}, which is not read. {_ADVICE}", "malformed")
            break  # no chunk at all
        elif sound and name in _NOTES:
            notes.setdefault(name, body)
        elif sound and name == b"iTXt" and body.startswith(_XMP):
            xmp = xmp or _xmp(body)
    else:
        raise ImageError(f"the PNG has more than {_MAX_CHUNKS:,} chunks. {_ADVICE}", "malformed")
    kept = {b"IHDR": header, b"PLTE": palette, b"tRNS": notes.get(b"tRNS", b""), b"IDAT": b"".join(pixels)}
    if header[9] == 3 and not palette:
        raise ImageError(f"the PNG's palette is missing. {_ADVICE}", "malformed")
    chunks = [_chunk(name, body) for name, body in kept.items() if body]
    content = b"".join([SIGNATURE, *chunks, _chunk(b"IEND", b"")])
    profile = _inflated(notes.get(b"iCCP", b"").partition(b"\0")[2][1:])
    is_animated = int.from_bytes(notes.get(b"acTL", b"")[:4], "big") > 1
    return PNG(content, header[8], notes.get(b"eXIf", b""), xmp, profile, is_animated)


def _header(data: bytes, check_size: Callable[[int, int], None]) -> bytes:
    if not data.startswith(SIGNATURE[: len(data)]):
        raise ImageError(f"the PNG's signature is damaged, as by a transfer as text. {_ADVICE}", "malformed")
    if len(data) < 33:
        raise ImageError(f"the PNG ends inside its header. {_ADVICE}", "malformed")
    header = data[16:29]
    if data[8:16] != b"\0\0\0\x0dIHDR" or zlib.crc32(data[12:29]) != struct.unpack_from(">I", data, 29)[0]:
        raise ImageError(f"the PNG's header is missing or damaged. {_ADVICE}", "malformed")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", header)
    if not (width and height and depth in _BIT_DEPTHS.get(colour, ())) or compression or filtering or interlace > 1:
        raise ImageError(
            f"the PNG's header is not valid ({width}x{height}, depth {depth}, type {colour}). {_ADVICE}", "malformed"
        )
    check_size(width, height)
    return header


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


def _xmp(body: bytes) -> bytes:
    is_compressed = body[len(_XMP) : len(_XMP) + 1] == b"\1"
    packet = body[len(_XMP) + 2 :].split(b"\0", 2)[-1]
    return _inflated(packet) if is_compressed else packet


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _MAX_NOTE_BYTES)
    except zlib.error:
        return b""
