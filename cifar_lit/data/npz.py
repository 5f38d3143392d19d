"""Reads `.npz` files of plain arrays without trusting them. Knows nothing of what the arrays mean.

NumPy's own reader allocates the shape that a file claims before it looks at the file's size. Here sizes are compared
first, memory grows with what is really there, and nothing is ever unpickled.
"""

import math
import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cifar_lit.data import zip_members
from cifar_lit.data.zip_members import Content, Member, read_exactly, read_members
from cifar_lit.errors import NpzError

SUFFIX = ".npy"

_MAGIC = b"\x93NUMPY"
_LENGTH_FORMATS = {b"\x01\x00": "<H", b"\x02\x00": "<I", b"\x03\x00": "<I"}
_MAX_HEADER = 65_536
_MAX_DIMENSIONS = 32
_ITEM = re.compile(
    r"""\s*(?P<quote>['"])(?P<key>descr|fortran_order|shape)(?P=quote)\s*:\s*
    (?: '(?P<single>[^'\\]*)' | "(?P<double>[^"\\]*)" | (?P<fields>\[.*\]) | (?P<flag>True|False)
      | \((?P<shape>(?:\s*\d{1,20}\s*,)*(?:\s*\d{1,20}\s*)?)\) )
    \s*(?:,|\Z)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_PLAIN_TYPE = re.compile(r"[<>=|]?(?:\?|b1|[iu][1248]|f[248]|c8|c16)")
_OBJECT_TYPE = re.compile(r"[<>=|]?O\d*")
_OTHER_TYPE = re.compile(r"[<>=|]?[SaUVMmfcTb]\d*(?:\[\w{1,8}\])?")
_KINDS = {
    _MAGIC: "a single array (.npy)",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89HDF": "an HDF5 file (.h5)",
    b"\x80": "a pickle",
    b"\x1f\x8b": "a gzip file",
}
_ADVICE = "Write it with np.savez(path, key=array, ...)."


@dataclass(frozen=True)
class ArrayHeader:
    """What a file says of an array, known before the array is read.

    Attributes:
        shape: its dimensions.
        dtype: bool, integer, float or complex, in the byte order of the file.
        fortran_order: whether the file holds it column by column.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class NpzFile:
    """An open `.npz` file whose structure and array headers have been checked; use it in a `with` statement.

    Args:
        path: a regular file; a link to one is followed.
        max_bytes: accepted for the file, and for all arrays together once inflated.
        max_members: accepted number of arrays.

    Attributes:
        headers: of every array, by key, in the order of the file's directory.

    Raises:
        NpzError: it can't be read, is not such a file, is damaged or claims more than is accepted. The message begins
            with the path.
    """

    headers: dict[str, ArrayHeader]

    def __init__(self, path: Path, *, max_bytes: int, max_members: int) -> None:
        self.path = path
        with _naming(path):
            self._file = _open(path)
            try:
                self._places: dict[str, tuple[Member, int]] = {}
                self.headers = {}
                _check_kind(self._file, max_bytes)
                for member in read_members(self._file, max_bytes=max_bytes, max_members=max_members):
                    key = _key(member.name)
                    content = Content(self._file, member)
                    self.headers[key], length = _read_header(content, member, max_bytes)
                    self._places[key] = (member, length)
            except BaseException:
                self._file.close()
                raise

    def read(self, key: str) -> NDArray[Any]:
        """Reads an array and checks all of its bytes.

        Returns:
            A new writable array in C order, in the byte order of the file.

        Raises:
            NpzError: its content is damaged.
            KeyError: `key` is not in `headers`.
        """
        header = self.headers[key]
        member, length = self._places[key]
        with _naming(self.path):
            content = Content(self._file, member)
            content.take(length)
            data = content.take_all(header.num_bytes)
        array: NDArray[Any] = np.ndarray(
            header.shape, header.dtype, buffer=data, order="F" if header.fortran_order else "C"
        )
        return np.asarray(array, order="C")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "NpzFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Puts the path before the message of whatever goes wrong."""
    try:
        yield
    except NpzError as error:
        raise NpzError(f"{path}: {error}", error.fault) from error
    except OSError as error:
        raise NpzError(f"{path}: it can't be read ({error.strerror}). Check the name and its permissions.") from error
    except ValueError as error:  # a NUL in the path
        raise NpzError(f"{path}: it can't be read ({error}). Check the name.") from error


def _open(path: Path) -> BinaryIO:
    # Without O_NONBLOCK, opening a named pipe waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NpzError("it is a folder or another special file, expected a regular one. Name an .npz file.")
    return os.fdopen(descriptor, "rb")


def _check_kind(file: BinaryIO, max_bytes: int) -> None:
    """Tells files of other kinds apart from zips of arrays that are damaged."""
    size = file.seek(0, 2)
    if size > max_bytes:
        raise NpzError(
            f"it has {size:,} bytes, at most {max_bytes:,} are accepted. Divide it into several files.", "too_large"
        )
    if not size:
        raise NpzError(f"it is empty, expected arrays. {_ADVICE}", "malformed")
    start = read_exactly(file, 0, min(size, zip_members.LOCAL.size + zip_members.MAX_NAME))
    if start.startswith(zip_members.LOCAL_SIGNATURE):
        length = int.from_bytes(start[26:28], "little")
        name = start[zip_members.LOCAL.size :][:length].decode("utf-8", "replace")
        if len(start) >= zip_members.LOCAL.size + length and zip_members.is_harmless(name):
            _key(name)
    elif start.startswith(zip_members.END_SIGNATURE) or zip_members.LOCAL_SIGNATURE.startswith(start):
        pass
    elif read_exactly(file, max(0, size - zip_members.END.size), min(4, size)) == zip_members.END_SIGNATURE:
        raise NpzError(f"it is a zip with something else before it. {_ADVICE}", "malformed")
    else:
        kind = next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), "no zip of arrays")
        raise NpzError(f"its content is {kind}, expected an .npz file. {_ADVICE}", "unsupported")


def _key(name: str) -> str:
    """The key of the array in member `name`."""
    if name.endswith(SUFFIX):
        return name.removesuffix(SUFFIX)
    if name.endswith(".npz"):
        raise NpzError(f"it holds another npz, {name!r}, expected arrays. Take that one out and use it.", "malformed")
    kind = "a PyTorch file" if name.endswith("/data.pkl") else "a zip of other things"
    raise NpzError(f"its content is {kind} (with {name!r}), expected arrays (.npy). {_ADVICE}", "unsupported")


def _read_header(content: Content, member: Member, max_bytes: int) -> tuple[ArrayHeader, int]:
    """The header of an array, its claims compared with the member's size; and the length of the header in bytes."""
    start = content.take(len(_MAGIC) + 2)
    length_format = _LENGTH_FORMATS.get(start[len(_MAGIC) :])
    if not start.startswith(_MAGIC) or length_format is None:
        raise NpzError(f"{member.name} is no array in .npy format 1.0 to 3.0. {_ADVICE}", "malformed")
    packed_length = content.take(struct.calcsize(length_format))
    (length,) = struct.unpack(length_format, packed_length)
    if length > _MAX_HEADER:
        raise NpzError(
            f"{member.name} claims a header of {length:,} bytes, at most {_MAX_HEADER:,} are accepted. {_ADVICE}",
            "malformed",
        )
    header = _parse_header(content.take(length), member.name)
    # Zeros do not shrink it: NumPy can't make an array of shape (0, 2**40, 2**40) either.
    if math.prod(max(1, size) for size in header.shape) * header.dtype.itemsize > max_bytes:
        raise NpzError(
            f"{member.name} claims shape {header.shape} and dtype {header.dtype}, at most {max_bytes:,} bytes are "
            "accepted. Divide it into several files.",
            "too_large",
        )
    length += len(start) + len(packed_length)
    if length + header.num_bytes != member.size:
        raise NpzError(
            f"{member.name} holds {member.size - length:,} bytes of data, but its shape {header.shape} and dtype "
            f"{header.dtype} make {header.num_bytes:,}. {_ADVICE}",
            "malformed",
        )
    return header, length


def _parse_header(data: bytes, name: str) -> ArrayHeader:
    """Reads the literal of a dict with three known keys; no expression is evaluated."""
    malformed = NpzError(f"the header of {name} is no valid .npy header. {_ADVICE}", "malformed")
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise malformed from error
    if not (text.startswith("{") and text.endswith("}")):
        raise malformed
    text = text[1:-1].rstrip()
    items: dict[str, re.Match[str]] = {}
    position = 0
    while position < len(text):
        item = _ITEM.match(text, position)
        if item is None or item["key"] in items:
            raise malformed
        items[item["key"]] = item
        position = item.end()
    if len(items) < 3 or items["fortran_order"]["flag"] is None or items["shape"]["shape"] is None:
        raise malformed
    descr = items["descr"]
    if descr["fields"] is not None:
        raise _wrong_type(name, "structured")
    dtype = _plain_dtype(descr["single"] or descr["double"] or "", name)
    if dtype is None:
        raise malformed
    shape = items["shape"]["shape"]
    numbers = [int(number) for number in shape.split(",") if number.strip()]
    if len(numbers) > _MAX_DIMENSIONS or (len(numbers) == 1 and "," not in shape):
        raise malformed
    return ArrayHeader(tuple(numbers), dtype, items["fortran_order"]["flag"] == "True")


def _plain_dtype(descr: str, name: str) -> np.dtype[Any] | None:
    if _PLAIN_TYPE.fullmatch(descr):
        return np.dtype(descr)
    if _OBJECT_TYPE.fullmatch(descr):
        raise NpzError(
            f"{name} holds Python objects, which are stored as pickles and can run code: they are never read. "
            "Save an array of numbers.",
            "malformed",
        )
    if _OTHER_TYPE.fullmatch(descr):
        raise _wrong_type(name, descr)
    return None


def _wrong_type(name: str, dtype: str) -> NpzError:
    return NpzError(
        f"{name} has dtype {dtype}, expected bool, integer, float or complex numbers. Save plain numbers.", "invalid"
    )
