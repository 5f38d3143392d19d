"""Checks the structure of a JPEG and rebuilds it from the parts that make the picture, before libjpeg sees it.

libjpeg fills what is missing: rows with grey, tables with common ones. So the parts have to be there, and nothing that
could make it warn is left but damage of the coded data (see `jpeg_warnings`).
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cifar_lit.data import exif
from cifar_lit.errors import ImageError

SIGNATURE = b"\xff\xd8"

_MAX_SEGMENTS = 2_000
_MAX_SCANS = 50  # each costs a pass over the whole picture, however little it says; encoders write some ten
_ADVICE = "Save it again as PNG or JPEG."

_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_HUFFMAN_TABLES, _END, _SCAN, _QUANTISATION, _RESTART_INTERVAL = 0xC4, 0xD9, 0xDA, 0xDB, 0xDD
_JFIF, _EXIF, _MPF, _ADOBE, _COMMENT = 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
# C8 is reserved, CC belongs to arithmetic coding, which no common encoder writes.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {_HUFFMAN_TABLES, 0xC8, 0xCC}
_KEPT = (_HUFFMAN_TABLES, _QUANTISATION, _RESTART_INTERVAL)
_WITHOUT_EFFECT = frozenset({*range(0xE0, 0xF0), _COMMENT})

_MARKER = re.compile(rb"\xff++(.)", re.DOTALL)
# Stuffed bytes and restarts are a part of coded data, but not two restarts with nothing in between.
_END_OF_CODED = re.compile(rb"\xff(?:[^\x00\xd0-\xd7\xff]|[\xd0-\xd7]\xff[\xd0-\xd7])")


@dataclass(frozen=True)
class CheckedJPEG:
    """A JPEG with all its parts.

    Attributes:
        rebuilt: a JPEG of the same picture, for libjpeg.
        orientation: as EXIF says, 1..8.
    """

    rebuilt: bytearray
    orientation: int


@dataclass(frozen=True)
class _Frame:
    marker: int
    width: int
    height: int
    components: frozenset[int]


def size(data: bytes) -> tuple[int, int]:
    """Width and height as the frame's header claims them; nothing after it is read.

    Raises:
        ImageError: there is no such header.
    """
    for marker, body, _ in _segments(data):
        if marker in _FRAMES and len(body) >= 5:
            height, width = struct.unpack_from(">HH", body, 1)
            return width, height
        if marker == _SCAN:
            break
    raise ImageError(f"the JPEG has no frame header before its coded data or its end. {_ADVICE}", "malformed")


def check(data: bytes) -> CheckedJPEG:
    """Walks through a JPEG to its end; its size must have been found acceptable before.

    Raises:
        ImageError: a part is missing, there twice or cut off; it is coded in a rare way; or it holds several frames.
    """
    parts, tables, coded_components = [SIGNATURE], set[int](), set[int]()
    frame: _Frame | None = None
    orientation, num_scans = None, 0
    for marker, body, coded in _segments(data):
        if marker in _FRAMES:
            if frame is not None:
                raise ImageError(f"the JPEG has two frame headers, expected one. {_ADVICE}", "malformed")
            frame = _frame(marker, body)
            parts.append(_segment(marker, body))
        elif marker == _SCAN:
            if frame is None:
                raise ImageError(f"the JPEG has coded data before its frame header. {_ADVICE}", "malformed")
            num_scans += 1
            if num_scans > _MAX_SCANS:
                raise ImageError(f"the JPEG has more than {_MAX_SCANS} scans. {_ADVICE}", "malformed")
            coded_components |= _checked_scan(frame, body, tables)
            if frame.marker != _PROGRESSIVE:
                body = body[:-3] + b"\0\x3f\0"  # has no effect here, but libjpeg warns of anything else
            parts.append(_segment(marker, body) + coded)
        elif marker in _KEPT:
            tables |= _huffman_tables(body) if marker == _HUFFMAN_TABLES else set()
            parts.append(_segment(marker, body))
        elif marker == _JFIF and body.startswith(b"JFIF\0"):
            parts.append(_segment(marker, b"JFIF\0\1\1\0\0\1\0\1\0\0"))  # says that three components are YCbCr
        elif marker == _ADOBE and body.startswith(b"Adobe") and len(body) >= 12:
            parts.append(_segment(marker, body[:12]))  # says which colours components are
        elif marker == _EXIF and body.startswith(b"Exif\0\0") and orientation is None:
            orientation = exif.orientation(body)
        elif marker == _MPF and body.startswith(b"MPF\0"):
            raise ImageError(
                "the JPEG holds several frames (it is an MPO), expected one. Save one as a picture of its own."
            )
        elif marker not in _WITHOUT_EFFECT:
            raise ImageError(f"the JPEG has a part (marker {marker:02X}) that is not read. {_ADVICE}", "malformed")
    if frame is None or coded_components != frame.components:
        raise ImageError(f"the JPEG has no coded data for some of its components. {_ADVICE}", "malformed")
    return CheckedJPEG(bytearray().join([*parts, b"\xff\xd9"]), orientation or 1)


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Marker, content and the coded data after it (of a scan) of each segment; comes to its end only with an EOI."""
    position = len(SIGNATURE)
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.match(data, position)
        if found is None and data[position : position + 1] not in (b"", b"\xff"):
            raise ImageError(f"the JPEG has no marker at byte {position:,}. {_ADVICE}", "malformed")
        if found is None:
            raise _cut(data)
        marker, start = found[1][0], found.end() + 2
        if marker == _END:
            return
        if marker <= 0x01 or 0xD0 <= marker <= 0xD8:  # these have no length and belong elsewhere
            raise ImageError(f"the JPEG has a marker {marker:02X} out of place. {_ADVICE}", "malformed")
        if len(data) < start:
            raise _cut(data)
        (length,) = struct.unpack_from(">H", data, start - 2)
        position = start - 2 + length
        if length < 2:
            raise ImageError(f"the JPEG has a part of {length} bytes, expected at least 2. {_ADVICE}", "malformed")
        if len(data) < position:
            raise _cut(data)
        body, coded = data[start:position], b""
        if marker == _SCAN:
            following = _END_OF_CODED.search(data, position)
            if following is None:
                raise _cut(data)
            coded = data[position : following.start()]
            position = following.start()
        yield marker, body, coded
    raise ImageError(f"the JPEG has more than {_MAX_SEGMENTS:,} parts. {_ADVICE}", "malformed")


def _cut(data: bytes) -> ImageError:
    return ImageError(f"the JPEG is cut off after {len(data):,} bytes. {_ADVICE}", "malformed")


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(body)) + body


def _frame(marker: int, body: bytes) -> _Frame:
    if marker not in (_BASELINE, _EXTENDED, _PROGRESSIVE):
        raise ImageError(
            f"the JPEG is coded in a rare way (marker {marker:02X}: arithmetic, lossless or hierarchical), expected "
            f"baseline or progressive. {_ADVICE}",
            "malformed",
        )
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise ImageError(f"the JPEG's frame header is not valid. {_ADVICE}", "malformed")
    depth, height, width, num_components = struct.unpack_from(">BHHB", body)
    components = frozenset(body[6::3])
    if depth != 8 or not (height and width) or len(components) != num_components or num_components not in (1, 3, 4):
        raise ImageError(
            f"the JPEG's frame header is not valid ({width}x{height}, depth {depth}, {num_components} components). "
            f"{_ADVICE}",
            "malformed",
        )
    return _Frame(marker, width, height, components)


def _checked_scan(frame: _Frame, body: bytes, tables: set[int]) -> set[int]:
    """The components of which a scan has the mean colours, after a look at whether their Huffman tables are there."""
    if len(body) < 4 or len(body) != 4 + 2 * body[0]:
        raise ImageError(f"the JPEG's scan header is not valid. {_ADVICE}", "malformed")
    first, _, high_low = body[-3:]
    progressive = frame.marker == _PROGRESSIVE
    has_means = not progressive or first == 0
    needed: set[int] = set()
    for names in body[2:-3:2]:
        if not progressive or (first == 0 and high_low >> 4 == 0):
            needed.add(names >> 4)
        if not progressive or first > 0:
            needed.add(0x10 | names & 0x0F)
    if not needed <= tables:
        raise ImageError(f"the JPEG lacks a Huffman table. {_ADVICE}", "malformed")
    return set(body[1:-3:2]) if has_means else set()


def _huffman_tables(body: bytes) -> set[int]:
    """The tables that a segment defines, 0x00..0x03 for mean colours, 0x10..0x13 for the rest."""
    tables, position = set(), 0
    while position < len(body):
        tables.add(body[position])
        position += 17 + sum(body[position + 1 : position + 17])
    if position != len(body):
        raise ImageError(f"the JPEG's Huffman tables are not valid. {_ADVICE}", "malformed")
    return tables
