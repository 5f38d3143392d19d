"""Takes from a JPEG file what makes its first image, and knows whether a scan of it is missing. Decodes nothing.

libjpeg fills what is missing with grey and decodes any number of scans, and Pillow passes its warnings on to nobody. So
what is handed on has one frame, a bounded number of scans, an end, and nothing that is no part of the image.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from cifar_lit.errors import ImageError

_MAX_SEGMENTS = 2_000
_MAX_SCANS, _MAX_SCANNED_PIXELS = 50, 2_000_000_000
"""A scan costs a pass over the whole image, however little it says; encoders write some ten."""
_ADVICE = "Save it again as JPEG or PNG."

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE, _READ_FRAMES = 0xC2, (0xC0, 0xC1, 0xC2)
_END, _SCAN = 0xD9, 0xDA
_KEPT = (0xC4, 0xDB, 0xDD)
"""Huffman tables, quantisation tables, the restart interval."""
_RARE = (0xCC, 0xDC, 0xDE, 0xDF)
"""Arithmetic coding, a number of lines that comes late, hierarchical coding: no common encoder writes them."""
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_EXIF, _XMP, _ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"

# A literal first: a repetition there makes the search fifteen times as slow.
_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
# Stuffed bytes and restarts are a part of coded data, but not two restarts with nothing in between.
_END_OF_CODED = re.compile(rb"\xff(?:[^\x00\xd0-\xd7\xff]|[\xd0-\xd7]\xff[\xd0-\xd7])")


@dataclass(frozen=True)
class _Scan:
    before: bytes
    header: bytes
    coded: bytes

    @property
    def has_means(self) -> bool:
        """The mean colours of blocks, in whole or in part; else it refines a progressive JPEG."""
        return self.header[-3] == 0


@dataclass(frozen=True)
class JPEG:
    """The first image of a JPEG file.

    Attributes:
        width: in pixels.
        height: in pixels.
        num_components: 1, 3 or 4.
        is_streamed: rows can be decoded as the file comes, and need not wait for its end.
        ended: the file goes on behind the image, or ends as it should.
        exif: its EXIF block; empty if there is none.
        xmp: its XMP packet; empty if there is none.
        profile: its ICC profile; empty if there is none.
        has_others: the file holds other images besides (MPO, a gain map).
        scans: of the image.
    """

    width: int
    height: int
    num_components: int
    is_streamed: bool
    ended: bool
    exif: bytes
    xmp: bytes
    profile: bytes
    has_others: bool
    scans: tuple[_Scan, ...]

    def content(self, *, cut: int = 0, junk: bytes = b"", end: bytes = b"\xff\xd9", means_only: bool = False) -> bytes:
        """A file with this image alone.

        Args:
            cut: so many bytes are taken from the end of each scan.
            junk: comes behind each scan; it makes no difference to one that is whole.
            end: the end marker.
            means_only: without the scans that refine a progressive JPEG.
        """
        parts = [b"\xff\xd8"]
        for scan in self.scans:
            parts.append(scan.before)
            if scan.has_means or not means_only:
                parts += [scan.header, scan.coded[:-cut] if cut else scan.coded, junk]
        return b"".join([*parts, end])

    @property
    def spare(self) -> int:
        """Bytes at the end without which the image can't be whole, unless its data are those of another one."""
        coded = max((scan.coded for scan in self.scans if scan.has_means), key=len)
        num_zeros = len(coded) - len(coded.rstrip(b"\0"))  # some cameras put them before the end
        return num_zeros + max(16, (len(coded) - num_zeros) // 32)


def parse(data: bytes, check_size: Callable[[int, int], None]) -> JPEG:
    """Finds the first image of a file.

    Args:
        data: the content of the file.
        check_size: is told width and height before anything behind the frame's header is looked at.

    Raises:
        ImageError: a part is missing, cut off or there twice; it is coded in a rare way, or in too many parts.
    """
    image = _FirstImage(check_size)
    position = 2
    try:
        for _ in range(_MAX_SEGMENTS):
            marker, body, position = _segment(data, position)
            if marker == _END:
                image.ended = True
                break
            if marker != _SCAN:
                image.add(marker, body)
                continue
            end = _END_OF_CODED.search(data, position)
            image.add_scan(body, data[position : end.start() if end else len(data)])
            if end is None:
                break
            if image.is_whole and not image.is_progressive:
                image.ended = True
                break
            position = end.start()
        else:
            raise ImageError(f"the JPEG has more than {_MAX_SEGMENTS:,} parts. {_ADVICE}", "malformed")
    except EOFError:
        pass
    if not image.is_whole:
        what = "lacks a part of its image" if image.ended else f"is cut off after {len(data):,} bytes"
        raise ImageError(f"the JPEG {what}. Send the whole file again, or save the image again.", "malformed")
    return image.found()


class _FirstImage:
    """What was found so far."""

    def __init__(self, check_size: Callable[[int, int], None]) -> None:
        self.ended = False
        self.is_progressive = False
        self._check_size = check_size
        self._size: tuple[int, int] | None = None
        self._stages: dict[int, list[int | None]] = {}
        """Of each component the lowest bit that is known of each of its 64 coefficients: 0 if that is whole."""
        self._before: list[bytes] = []
        self._scans: list[_Scan] = []
        self._notes: dict[bytes, bytes] = {}
        self._profile: dict[int, bytes] = {}

    @property
    def is_whole(self) -> bool:
        """No scan is missing: no coefficient is half known, each component has means and the first all the rest."""
        stages = list(self._stages.values())
        return bool(stages) and all(each[0] == 0 and not any(each) for each in stages) and None not in stages[0]

    def add(self, marker: int, body: bytes) -> None:
        if marker in _FRAMES:
            self._add_frame(marker, body)
        elif self._scans and self.is_whole:  # of no use any more
            return
        if marker in _RARE:
            raise ImageError(f"the JPEG has a part (marker {marker:02X}) that is not read. {_ADVICE}", "malformed")
        if marker == 0xE2 and body.startswith(_ICC):
            self._profile[body[12] if len(body) > 12 else 0] = body[14:]
        for start in (_EXIF, _XMP, b"MPF\0"):
            if 0xE1 <= marker <= 0xE2 and body.startswith(start):
                self._notes.setdefault(start, body)
        # JFIF says that three components are YCbCr, Adobe which colours components are.
        says_colours = (marker == 0xE0 and body[:5] == b"JFIF\0") or (marker == 0xEE and body[:5] == b"Adobe")
        if marker in _KEPT or marker in _FRAMES or says_colours:
            self._before.append(_packed(marker, body))

    def add_scan(self, body: bytes, coded: bytes) -> None:
        if self._size is None:
            raise ImageError(f"the JPEG has coded data before its frame header. {_ADVICE}", "malformed")
        if len(body) < 6 or len(body) != 4 + 2 * body[0] or not self._stages.keys() >= set(body[1:-3:2]):
            raise ImageError(f"the JPEG's scan header is not valid. {_ADVICE}", "malformed")
        width, height = self._size
        if len(self._scans) + 1 > min(_MAX_SCANS, max(16, _MAX_SCANNED_PIXELS // (width * height))):
            raise ImageError(f"the JPEG has more than {len(self._scans)} scans. {_ADVICE}", "malformed")
        if not self.is_progressive:
            body = body[:-3] + b"\0\x3f\0"  # what stands there has no effect
        first, last, low = body[-3], min(body[-2], 63), body[-1] & 15
        for component in body[1:-3:2]:
            self._stages[component][first : last + 1] = [low] * max(0, last + 1 - first)
        self._scans.append(_Scan(b"".join(self._before), _packed(_SCAN, body), coded.rstrip(b"\xff")))
        self._before = []

    def found(self) -> JPEG:
        assert self._size is not None
        profile = b"".join(self._profile[number] for number in sorted(self._profile))
        exif, xmp = self._notes.get(_EXIF, b""), self._notes.get(_XMP, b"")
        streamed = not self.is_progressive and len(self._scans) == 1
        others = b"MPF\0" in self._notes
        return JPEG(
            *self._size, len(self._stages), streamed, self.ended, exif, xmp, profile, others, tuple(self._scans)
        )

    def _add_frame(self, marker: int, body: bytes) -> None:
        if self._size is not None:
            raise ImageError(f"the JPEG has two frame headers, expected one. {_ADVICE}", "malformed")
        if marker not in _READ_FRAMES:
            raise ImageError(
                f"the JPEG is coded in a rare way (marker {marker:02X}: arithmetic, lossless or hierarchical), "
                f"expected baseline or progressive. {_ADVICE}",
                "malformed",
            )
        if len(body) < 6 or len(body) != 6 + 3 * body[5]:
            raise ImageError(f"the JPEG's frame header is not valid. {_ADVICE}", "malformed")
        depth, height, width, num_components = struct.unpack_from(">BHHB", body)
        self._stages = {component: [None] * 64 for component in body[6::3]}
        if depth != 8 or not width * height or len(self._stages) != num_components or num_components not in (1, 3, 4):
            raise ImageError(
                f"the JPEG's frame header is not valid ({width}x{height}, {depth} bits, {num_components} components). "
                f"{_ADVICE}",
                "malformed",
            )
        self._size, self.is_progressive = (width, height), marker == _PROGRESSIVE
        self._check_size(width, height)


def _segment(data: bytes, position: int) -> tuple[int, bytes, int]:
    """Marker, content and end of the next segment; bytes before it that belong to none are passed over.

    Raises:
        EOFError: there is none, or it is cut off.
    """
    found = _MARKER.search(data, position)
    if found is None:
        raise EOFError
    marker, start = found[1][0], found.end() + 2
    if marker == _END or marker in _WITHOUT_LENGTH:
        return marker, b"", found.end()
    if len(data) < start:
        raise EOFError
    (length,) = struct.unpack_from(">H", data, start - 2)
    if length < 2:
        raise ImageError(f"the JPEG has a part of {length} bytes, expected at least 2. {_ADVICE}", "malformed")
    end = start - 2 + length
    if len(data) < end:
        raise EOFError
    return marker, data[start:end], end


def _packed(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(body)) + body
