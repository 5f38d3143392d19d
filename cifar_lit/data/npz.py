"""Opens `.npz` and `.npy` files without trusting them: what kind they are, how large, and what lies in the zip."""

import io
import os
import stat
import zipfile
from pathlib import Path
from typing import IO, BinaryIO

from numpy.lib import format as npy_format

from cifar_lit.data import zips
from cifar_lit.data.array_file import ADVICE, SUFFIX, ArrayFile, naming
from cifar_lit.errors import NpzError

_MAX_NAME = 255
_DIRECTORY_ENTRY = 1_024
_LOCAL_HEADER = 30 + _MAX_NAME
_KINDS = {
    npy_format.MAGIC_PREFIX: "a single array (.npy)",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89HDF": "an HDF5 file (.h5)",
    b"\x80": "a pickle",
    b"\x1f\x8b": "a gzip file",
    b"MATLAB": "a MATLAB file (.mat)",
    zips.LOCAL_SIGNATURE: "a zip",
    zips.END_SIGNATURE: "a zip",
}


class NpzFile(ArrayFile):
    """An open `.npz` file whose structure has been checked.

    Args:
        path: a regular file; a link to one is followed.
        max_bytes: accepted for the file, and for all arrays together once inflated.
        max_members: accepted number of arrays.

    Raises:
        NpzError: it can't be read, is not such a file, is damaged or claims more than is accepted. The message begins
            with the path.
    """

    def __init__(self, path: Path, *, max_bytes: int, max_members: int) -> None:
        super().__init__(path, max_bytes)
        with naming(path):
            self._file = _open(path, max_bytes)
            try:
                _check_kind(self._file)
                limit = max(max_members, 100) * _DIRECTORY_ENTRY
                self._archive = zips.open_zip(self._file, max_bytes=max_bytes, max_directory_bytes=limit)
                self._members = {_key(member): member for member in self._archive.infolist()}
                self.keys = tuple(self._members)
                if not self.keys:
                    raise NpzError(f"it is an empty zip, expected arrays. {ADVICE}", "invalid")
                if len(self.keys) > max_members:
                    raise NpzError(
                        f"it has {len(self.keys)} members, at most {max_members} are accepted. Save fewer arrays.",
                        "malformed",
                    )
            except BaseException:
                self._file.close()
                raise

    def _open(self, key: str) -> IO[bytes]:
        return self._archive.open(self._members[key])

    def _size(self, key: str) -> int:
        return self._members[key].file_size

    def close(self) -> None:
        self._archive.close()
        self._file.close()


class NpyFile(ArrayFile):
    """An open `.npy` file; its one key is the file's name without the ending.

    Args:
        path: a regular file; a link to one is followed.
        max_bytes: accepted for the file.

    Raises:
        NpzError: it can't be read, is not such a file or has more bytes. The message begins with the path.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        super().__init__(path, max_bytes)
        self.keys = (path.stem,)
        with naming(path):
            self._file = _open(path, max_bytes)
            start = self._file.read(8)
            if not start.startswith(npy_format.MAGIC_PREFIX):
                self._file.close()
                kind = _kind_of(start) or "no array"
                raise NpzError(f"its content is {kind}, expected an .npy file. Write it with np.save.", "unsupported")
            self._num_bytes = self._file.seek(0, 2)

    def _open(self, key: str) -> IO[bytes]:
        if key not in self.keys:
            raise KeyError(key)
        self._file.seek(0)
        return io.BufferedReader(io.FileIO(os.dup(self._file.fileno())))

    def _size(self, key: str) -> int:
        return self._num_bytes

    def _shown(self, key: str) -> str:
        return "the array"

    def close(self) -> None:
        self._file.close()


def _kind_of(start: bytes) -> str | None:
    """What a file is, going by its first bytes; none if that is not known."""
    return next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), None)


def _open(path: Path, max_bytes: int) -> BinaryIO:
    # Without O_NONBLOCK, opening a named pipe waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= max_bytes:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise NpzError("it is a folder or another special file, expected a regular one. Name an .npz file.")
    if not status.st_size:
        raise NpzError(f"it is empty, expected arrays. {ADVICE}", "malformed")
    raise NpzError(
        f"it has {status.st_size:,} bytes, at most {max_bytes:,} are accepted. Divide it into several files.",
        "too_large",
    )


def _check_kind(file: BinaryIO) -> None:
    """Tells files of other kinds apart from zips that are damaged."""
    file.seek(0)
    start = file.read(_LOCAL_HEADER)
    kind = _kind_of(start)
    if kind == "a zip" and b"/data.pkl" in start:  # always the first member
        kind = "a PyTorch file"
    if kind == "a zip" or zips.LOCAL_SIGNATURE.startswith(start):
        return
    if kind is None and zipfile.is_zipfile(file):
        raise NpzError(f"it is a zip with something else before it. {ADVICE}", "malformed")
    raise NpzError(f"its content is {kind or 'no zip of arrays'}, expected an .npz file. {ADVICE}", "unsupported")


def _key(member: zipfile.ZipInfo) -> str:
    """The key of the array in a member."""
    name = member.filename
    if name.endswith(".npz"):
        raise NpzError(f"it holds another npz, {name!r}, expected arrays. Take that one out and use it.", "malformed")
    key = name.removesuffix(SUFFIX)
    is_harmless = name.isprintable() and len(name) <= _MAX_NAME and not set(name) & set("/\\:") and name[0] != "."
    if not zips.is_plain(member) or (key != name and not is_harmless):
        raise NpzError(
            f"a member is {name[:60]!r}{'' if zips.is_plain(member) else ', no regular file'}, expected a plain name "
            f"such as 'key.npy'. {ADVICE}",
            "malformed",
        )
    if key == name:
        raise NpzError(
            f"its content is a zip of other things (with {name[:60]!r}), expected arrays (.npy). {ADVICE}",
            "unsupported",
        )
    return key
