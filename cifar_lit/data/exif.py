"""EXIF's note of how a camera was held, and the turning of a picture by it. Knows nothing of image formats."""

import struct

from torch import Tensor

_ORIENTATION = 0x0112
_FORMATS = {3: "H", 4: "I"}  # the types a short and a long number are stored as


def orientation(block: bytes) -> int:
    """Reads the orientation from an EXIF block.

    Args:
        block: a TIFF header and what follows it, with or without the `Exif` before it.

    Returns:
        1..8; 1, which means upright, where the block is damaged or says nothing: a picture is not lost for its notes.
    """
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 1
    try:
        (place,) = struct.unpack_from(f"{order}I", block, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", block, place)
        for entry in range(place + 2, place + 2 + 12 * num_entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", block, entry)
            if tag == _ORIENTATION and kind in _FORMATS and count == 1:
                (value,) = struct.unpack_from(order + _FORMATS[kind], block, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:  # it points past its own end
        pass
    return 1


def upright(image: Tensor, orientation: int) -> Tensor:
    """Turns and mirrors a stored picture (..., height, width) into the scene that was taken."""
    if orientation >= 5:
        image = image.transpose(-1, -2)
    mirrored = {2: (-1,), 3: (-1, -2), 4: (-2,), 6: (-1,), 7: (-1, -2), 8: (-2,)}.get(orientation, ())
    return image.flip(mirrored) if mirrored else image
