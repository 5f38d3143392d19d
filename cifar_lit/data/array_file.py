"""A file of plain arrays, `.npz` or `.npy`: what can be asked of it and how its arrays are read. Nothing is unpickled.

numpy.lib.format does the reading. Before it does, the sizes that a file claims are compared with each other and with
the limits: NumPy alone allocates the shape that a header claims.
"""

import io
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from cifar_lit.data import zips
from cifar_lit.errors import InputError, NpzError

MAX_HEADER = 10_000
"""Bytes: NumPy's own limit; a plain array's header has 128."""
ADVICE = "Write it with np.savez(path, key=array, ...)."
SUFFIX = ".npy"

_MAX_WHOLE_BYTES = 200 * 2**20
_NUMBERS, _TEXT = "biufc", "US"


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


class ArrayFile(ABC):
    """An open file of arrays; use it in a `with` statement.

    Attributes:
        path: of the file.
        keys: of its arrays, in the file's order. An array's own header is looked at when it is asked for.
    """

    keys: tuple[str, ...]

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._headers: dict[str, ArrayHeader] = {}

    @abstractmethod
    def _open(self, key: str) -> IO[bytes]:
        """The array in .npy format, header included."""

    @abstractmethod
    def _size(self, key: str) -> int:
        """Bytes that `_open` gives."""

    @abstractmethod
    def close(self) -> None:
        """Nothing can be read afterwards."""

    def header(self, key: str, *, text: bool = False) -> ArrayHeader:
        """What is said of an array, its claims compared with each other; no value is read.

        Args:
            key: one of `keys`.
            text: whether an array of text will do.

        Raises:
            NpzError: it is damaged, or holds something else than numbers.
            KeyError: there is no such array.
        """
        if key not in self._headers:
            with naming(self.path), zips.reading(self._shown(key)), self._open(key) as stream:
                self._headers[key] = read_header(stream, self._shown(key), self._size(key), self._max_bytes)
        header = self._headers[key]
        if header.dtype.kind not in _NUMBERS + _TEXT * text:
            dtype = "structured" if header.dtype.names else header.dtype.str
            raise NpzError(
                f"{self.path}: {self._shown(key)} has dtype {dtype}, expected bool, integer, float or complex numbers. "
                "Save plain numbers.",
                "invalid",
            )
        return header

    def read(self, key: str, *, text: bool = False) -> NDArray[Any]:
        """Reads an array and checks all of its bytes.

        Returns:
            A new writable array in C order, in the byte order of the file.

        Raises:
            NpzError, KeyError: as `header`, or its content is damaged.
        """
        self.header(key, text=text)
        name = self._shown(key)
        with naming(self.path), zips.reading(name), self._open(key) as stream:
            array = npy_format.read_array(stream, allow_pickle=False, max_header_size=MAX_HEADER)
            _check_end(stream, name)
        return np.asarray(array, order="C")

    def chunks(self, key: str, chunk_bytes: int) -> Iterator[NDArray[Any]]:
        """Reads an array of numbers some rows at a time: (rows, ...), at least one row each.

        Raises:
            NpzError, KeyError: as `read`; or the array is in Fortran order and larger than 200 MiB.
        """
        header = self.header(key)
        name = self._shown(key)
        if header.fortran_order and len(header.shape) > 1:  # rows lie apart: it takes the whole array to read one
            if header.num_bytes > _MAX_WHOLE_BYTES:
                raise NpzError(f"{self.path}: {name} is large and in Fortran order. Save it as C-ordered.", "too_large")
            yield self.read(key)
            return
        num_rows, *rest = header.shape
        row_bytes = math.prod(rest) * header.dtype.itemsize
        step = max(1, chunk_bytes // max(1, row_bytes))
        with naming(self.path), zips.reading(name), self._open(key) as stream:
            zips.read_exactly(stream, header.start, name)
            for first in range(0, num_rows, step):
                count = min(step, num_rows - first)
                data = zips.read_exactly(stream, count * row_bytes, name)
                yield np.frombuffer(data, header.dtype).reshape(count, *rest)
            _check_end(stream, name)

    def __enter__(self) -> "ArrayFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _shown(self, key: str) -> str:
        return f"{key}{SUFFIX}"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts the path before the message of whatever goes wrong."""
    try:
        yield
    except InputError as error:
        if isinstance(error, NpzError) and str(error).startswith(f"{path}: "):
            raise
        raise NpzError(f"{path}: {error}", error.fault) from error
    except OSError as error:
        raise NpzError(f"{path}: it can't be read ({error.strerror}). Check the name and its permissions.") from error
    except ValueError as error:  # a NUL in the path
        raise NpzError(f"{path}: it can't be read ({error}). Check the name.") from error


def _check_end(stream: IO[bytes], name: str) -> None:
    if stream.read(1):  # zipfile compares the checksum when it comes to the end
        raise zips.malformed(f"{name} holds more than its header claims")
