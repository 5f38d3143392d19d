"""The header of an array in .npy format: what the file claims of it, compared with its size before it is read."""

import io
import math
import warnings
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format

from cifar_lit.errors import NpzError

MAX_HEADER = 10_000
"""Bytes: NumPy's own limit; a plain array's header has 128."""
ADVICE = "Write it with np.savez(path, key=array, ...)."


@dataclass(frozen=True)
class ArrayHeader:
    """What a file says of an array, known before the array is read.

    Attributes:
        shape: its dimensions.
        dtype: bool, integer, float, complex or, where asked for, text; in the byte order of the file.
        fortran_order: whether the file holds it column by column.
        start: bytes before its values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    start: int

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def read_header(stream: IO[bytes], name: str, size: int, max_bytes: int) -> ArrayHeader:
    """Reads a header in format 1.0 or 2.0; at most `MAX_HEADER` bytes are looked at.

    Args:
        stream: at the array's first byte.
        name: what to call the array in an error.
        size: bytes of header and values.
        max_bytes: accepted for the values.

    Raises:
        NpzError: no such header, Python objects, or a shape that does not go with the size or the limit.
    """
    head = io.BytesIO(stream.read(min(size, MAX_HEADER + 12)))
    readers = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
    try:
        version = npy_format.read_magic(head)
    except ValueError:
        version = (0, 0)
    if version not in readers:  # 3.0 is for names of fields in a structured array
        raise NpzError(f"{name} is no array in .npy format 1.0 or 2.0. {ADVICE}", "malformed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            shape, fortran_order, dtype = readers[version](head, max_header_size=MAX_HEADER)
        if len(shape) > 32 or not all(0 <= length < 2**63 for length in shape):
            raise ValueError(f"shape {shape}")
    except Exception as error:  # ast, tokenize and np.dtype each raise their own kinds
        raise NpzError(f"the header of {name} is no valid .npy header. {ADVICE}", "malformed") from error
    header = ArrayHeader(shape, dtype, fortran_order, head.tell())
    _check(header, name, size, max_bytes)
    return header


def _check(header: ArrayHeader, name: str, size: int, max_bytes: int) -> None:
    if header.dtype.hasobject:
        raise NpzError(
            f"{name} holds Python objects, which are stored as pickles and can run code: they are never read. "
            "Save an array of numbers.",
            "malformed",
        )
    # Zeros do not shrink it: NumPy can't make an array of shape (0, 2**40, 2**40) either.
    if math.prod(max(1, length) for length in header.shape) * header.dtype.itemsize > max_bytes:
        raise NpzError(
            f"{name} claims shape {header.shape} and dtype {header.dtype}, at most {max_bytes:,} bytes are accepted. "
            "Divide it into several files.",
            "too_large",
        )
    if header.start + header.num_bytes != size:
        raise NpzError(
            f"{name} holds {size - header.start:,} bytes of data, but its shape {header.shape} and dtype "
            f"{header.dtype} make {header.num_bytes:,}. {ADVICE}",
            "malformed",
        )
