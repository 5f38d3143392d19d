"""How a camera was held, as EXIF or XMP note it. Knows nothing of image formats.

Pillow reads EXIF too, but follows a damaged block round in circles (CVE-2026-96643, fixed in 13.0, which Gradio
does not allow).
"""

import re
import struct

_ORIENTATION = 0x0112
_FORMATS = {3: "H", 4: "I"}
"""The types of a short and of a long number."""
_XMP = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])\s*[\"'<]")


def orientation(exif: bytes, xmp: bytes = b"") -> int:
    """Reads the orientation of an image.

    Args:
        exif: a TIFF header and what follows it, with or without the `Exif` before it; empty if there is none.
        xmp: an XMP packet, which is asked where EXIF says nothing; empty if there is none.

    Returns:
        1..8; 1, which means upright, where both are damaged or say nothing: an image is not lost for its notes.
    """
    found = _of_exif(exif.removeprefix(b"Exif\0\0"))
    if found is None and (match := _XMP.search(xmp)):
        found = int(match[1])
    return found or 1


def _of_exif(block: bytes) -> int | None:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return None
    try:
        (place,) = struct.unpack_from(f"{order}I", block, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", block, place)
        for entry in range(place + 2, place + 2 + 12 * num_entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", block, entry)
            if tag == _ORIENTATION and kind in _FORMATS and count == 1:
                (value,) = struct.unpack_from(order + _FORMATS[kind], block, entry + 8)
                return value if 1 <= value <= 8 else None
    except struct.error:  # it points past its own end
        pass
    return None
