"""Files by name, wherever they lie: below a folder, in a zip or in a tar. Archives are read in place, within limits.

Nothing is unpacked onto the disk. Links are followed in a folder, not in an archive.
"""

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from cifar_lit.data import zips
from cifar_lit.errors import DataError, InputError

MAX_FILE_BYTES = 32 * 2**20
MAX_ARCHIVE_BYTES = 2**32
"""Of all files in an archive together, once inflated."""
MAX_FILES = 200_000

_MAX_DIRECTORY_BYTES = 64 * 2**20
_PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_TAR_PLACE, _TAR_MAGIC = 257, b"ustar"
_JUNK = frozenset({"__MACOSX", "__pycache__", "Thumbs.db", "desktop.ini", "@eaDir"})


class Source(ABC):
    """Files by name.

    Attributes:
        names: relative to the top, without hidden files and what operating systems leave behind, in the order in which
            they are best read.
        left_out: those hidden files and the like; of a hidden folder its own name, with a slash at its end.
    """

    names: list[PurePosixPath]
    left_out: list[str]

    @abstractmethod
    def read(self, name: PurePosixPath) -> bytes:
        """The content of a file.

        Raises:
            InputError: it is damaged, or larger than `MAX_FILE_BYTES`.
            OSError: it can't be read.
        """


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Opens a folder, a zip or a tar, packed by gzip, bzip2 or xz or not; its content says which it is.

    Raises:
        DataError: there is no such thing, it is damaged, or it holds more than is accepted.
    """
    if path.is_dir():
        yield _Folder(path)
        return
    try:
        with path.open("rb") as file:
            start = file.read(_TAR_PLACE + len(_TAR_MAGIC))
            if start.startswith((zips.LOCAL_SIGNATURE, zips.END_SIGNATURE)):
                yield _Zip(file)
                return
            unpack = next((opener for magic, opener in _PACKED.items() if start.startswith(magic)), None)
            if unpack is None and not start.endswith(_TAR_MAGIC):
                raise DataError(f"{path}: it is no folder, zip, tar or CSV of images. Name one.")
            file.seek(0)
            with _Bounded(unpack(file) if unpack else file) as stream:  # type: ignore[operator]
                yield _Tar(stream)
    except InputError as error:
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile) or error.strerror is None:
            raise DataError(f"{path}: the archive is damaged ({error}). Copy it again.") from error
        raise DataError(f"{path}: it can't be read ({error.strerror}). Check the name and its permissions.") from error
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError) as error:
        raise DataError(f"{path}: the archive is damaged ({error}). Copy it again.") from error


def is_junk(name: PurePosixPath) -> bool:
    """Whether a file is hidden or was left behind by an operating system, going by its name and its folders'."""
    return any(part.startswith(".") or part in _JUNK for part in name.parts)


class _Folder(Source):
    def __init__(self, root: Path) -> None:
        self._root = root
        self.names, self.left_out = [], []
        seen: set[str] = set()
        for base, folders, files in os.walk(root, followlinks=True):
            if os.path.realpath(base) in seen:  # a link that leads back
                folders.clear()
                continue
            seen.add(os.path.realpath(base))
            place = PurePosixPath(os.path.relpath(base, root))
            self.left_out += [f"{place / each}/" for each in sorted(folders) if is_junk(PurePosixPath(each))]
            self.left_out += [str(place / each) for each in sorted(files) if is_junk(PurePosixPath(each))]
            folders[:] = sorted(folder for folder in folders if not is_junk(PurePosixPath(folder)))
            self.names += [place / each for each in sorted(files) if not is_junk(PurePosixPath(each))]
            _check_count(len(self.names))

    def read(self, name: PurePosixPath) -> bytes:
        path = self._root / name
        if not path.is_file():
            raise InputError("it is no regular file. Remove it.")
        _check_size(path.stat().st_size)
        return path.read_bytes()


class _Zip(Source):
    def __init__(self, file: BinaryIO) -> None:
        self._archive = zips.open_zip(file, max_bytes=MAX_ARCHIVE_BYTES, max_directory_bytes=_MAX_DIRECTORY_BYTES)
        plain = {PurePosixPath(each.filename): each for each in self._archive.infolist() if zips.is_plain(each)}
        self._members = {name: each for name, each in plain.items() if not is_junk(name)}
        self.names, self.left_out = list(self._members), [str(name) for name in plain if is_junk(name)]
        _check_count(len(self.names))

    def read(self, name: PurePosixPath) -> bytes:
        _check_size(self._members[name].file_size)
        return zips.read_member(self._archive, self._members[name])


class _Tar(Source):
    def __init__(self, stream: "_Bounded") -> None:
        self._archive = tarfile.open(fileobj=stream, mode="r:")  # type: ignore[call-overload]  # noqa: SIM115
        self._members: dict[PurePosixPath, tarfile.TarInfo] = {}
        self.left_out = []
        for count, member in enumerate(self._archive):
            _check_count(count)
            if member.offset_data + member.size > MAX_ARCHIVE_BYTES:
                raise InputError(f"it holds more than the {MAX_ARCHIVE_BYTES:,} bytes that are accepted.", "too_large")
            name = PurePosixPath(member.name)
            if member.isreg() and is_junk(name):
                self.left_out.append(str(name))
            elif member.isreg():
                self._members[name] = member
        stream.seek(self._archive.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes damage for the end
            raise zips.malformed("the tar is cut off or damaged in the middle")
        self.names = list(self._members)

    def read(self, name: PurePosixPath) -> bytes:
        member = self._members[name]
        _check_size(member.size)
        file = self._archive.extractfile(member)
        assert file is not None  # of a regular file
        with zips.reading(str(name)):
            return zips.read_exactly(file, member.size, str(name))


class _Bounded:
    """A stream for tarfile, which reads as much at once as a header claims."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, num_bytes: int = -1) -> bytes:
        if not 0 <= num_bytes <= MAX_FILE_BYTES:
            raise InputError(f"a header in it claims {num_bytes:,} bytes. Pack it again.", "too_large")
        return self._stream.read(num_bytes)

    def seek(self, position: int, whence: int = 0) -> int:
        if whence or position > MAX_ARCHIVE_BYTES:
            raise InputError(f"it holds more than the {MAX_ARCHIVE_BYTES:,} bytes that are accepted.", "too_large")
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()

    def __enter__(self) -> "_Bounded":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def _check_count(count: int) -> None:
    if count > MAX_FILES:
        raise InputError(f"it holds more than the {MAX_FILES:,} files that are accepted. Divide it.", "too_large")


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_FILE_BYTES:
        raise InputError(f"it has {num_bytes:,} bytes, at most {MAX_FILE_BYTES:,} are accepted.", "too_large")
