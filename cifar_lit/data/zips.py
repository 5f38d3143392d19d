"""Opens zip files and checks every claim of the directory before any content is read. Knows nothing of what is inside.

zipfile does the reading. It accepts data before and after the archive and, before Python 3.11.8, members that overlap;
it also loads a directory of any length. Those are checked here.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from stat import S_IFMT, S_IFREG
from typing import IO, BinaryIO

from cifar_lit.errors import InputError

LOCAL_SIGNATURE = b"PK\x03\x04"
END_SIGNATURE = b"PK\x05\x06"

_ZIP64_SIGNATURE = b"PK\x06\x07"
_LOCAL_SIZE = 30
# Signature, this disk, the directory's disk, members here, members, directory's size and offset, length of comment.
_END = struct.Struct("<4s4H2LH")
_MAX_COMMENT = 65_535
_METHODS = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "LZMA", 9: "deflate64", 93: "Zstandard", 95: "XZ"}
_ENCRYPTED = 0x1
_ADVICE = "Copy the file again, or write it anew."


def open_zip(file: BinaryIO, *, max_bytes: int, max_directory_bytes: int) -> zipfile.ZipFile:
    """Opens a zip whose members are stored or deflated, not encrypted, and lie side by side.

    Args:
        file: open for reading; it stays the caller's to close.
        max_bytes: accepted for all members together once inflated, going by the directory.
        max_directory_bytes: accepted for the directory, which is read whole.

    Raises:
        InputError: `malformed` or `too_large`.
    """
    start, num = _end_record(file, max_directory_bytes)
    with reading("its directory"):
        archive = zipfile.ZipFile(file)
    members = archive.infolist()
    if len(members) != num:
        raise malformed(f"its directory has {len(members)} members, its end record claims {num}")
    for member in members:
        _check(member)
    if len({member.filename for member in members}) < num:
        raise malformed("two of its members have the same name")
    _check_places(file, members, start)
    total = sum(member.file_size for member in members)
    if total > max_bytes:
        largest = max(members, key=lambda member: member.file_size)
        raise InputError(
            f"its members hold {total:,} bytes, at most {max_bytes:,} are accepted ({largest.filename!r:.60} alone "
            f"holds {largest.file_size:,}). Divide it into several files.",
            "too_large",
        )
    return archive


def is_plain(member: zipfile.ZipInfo) -> bool:
    """Whether a member is a regular file, neither a folder nor a link."""
    return not member.is_dir() and S_IFMT(member.external_attr >> 16) in (0, S_IFREG)


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The whole content, no longer than the directory says.

    Raises:
        InputError: it is damaged or shorter.
    """
    with reading(member.filename), archive.open(member) as stream:
        return read_exactly(stream, member.file_size, member.filename)


def read_exactly(stream: IO[bytes], num_bytes: int, name: str) -> bytes:
    """The next bytes of `name`.

    Raises:
        InputError: there are fewer.
    """
    data = stream.read(num_bytes)
    if len(data) < num_bytes:
        raise malformed(f"{name} ends before its {num_bytes:,} bytes are complete")
    return data


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns whatever zipfile and zlib raise into an `InputError` about `name`."""
    try:
        yield
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error, ValueError) as error:
        reason = " ".join(str(error).split())[:200] or "it ends too early"
        raise malformed(f"the content of {name} is damaged ({reason})") from error


def malformed(reason: str) -> InputError:
    return InputError(f"{reason}. {_ADVICE}", "malformed")


def _end_record(file: BinaryIO, max_directory_bytes: int) -> tuple[int, int]:
    """Where the directory begins and how many members it has, going by the end record, found where zipfile finds it."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END.size - _MAX_COMMENT))
    tail = file.read()
    place = tail.rfind(END_SIGNATURE)
    if tail[-_END.size :].startswith(END_SIGNATURE) and tail.endswith(b"\0\0"):
        place = len(tail) - _END.size
    if place < 0 or len(tail) - place < _END.size:
        raise malformed("a zip's end record is missing: it is cut off, or something follows")
    _, disk, other_disk, num_here, num, length, start, num_comment = _END.unpack_from(tail, place)
    end = size - len(tail) + place
    if num_comment != len(tail) - place - _END.size:
        raise malformed("a zip's end record is not where the file ends: it is cut off, or something follows")
    if 0xFFFF in (num, num_here) or 0xFFFFFFFF in (length, start) or tail[:place][-20:].startswith(_ZIP64_SIGNATURE):
        raise malformed("its end record refers to a zip64 record, which no file of an accepted size needs")
    if length > max_directory_bytes:
        raise malformed(f"its directory has {length:,} bytes, at most {max_directory_bytes:,} are accepted")
    if disk or other_disk or num_here != num or start + length != end:
        raise malformed("its directory is not where its end record says: something was put before or after it")
    return start, num


def _check(member: zipfile.ZipInfo) -> None:
    name = f"member {member.orig_filename[:60]!r}"
    if not member.orig_filename or "\0" in member.orig_filename:
        raise malformed(f"{name} has a name that no file can have")
    if member.flag_bits & _ENCRYPTED:
        raise malformed(f"{name} is encrypted, expected plain content")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = _METHODS.get(member.compress_type, f"method {member.compress_type}")
        raise malformed(f"{name} is packed by {method}, expected stored or deflate")
    if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
        raise malformed(f"{name} claims {member.file_size:,} bytes and fills {member.compress_size:,}")


def _check_places(file: BinaryIO, members: list[zipfile.ZipInfo], directory_start: int) -> None:
    """Members begin with the file and none reaches into the next or into the directory."""
    if not members:
        return
    ordered = sorted(members, key=lambda member: member.header_offset)
    if ordered[0].header_offset:
        raise malformed(f"{ordered[0].header_offset:,} bytes lie before its first member")
    followers = [*(member.header_offset for member in ordered[1:]), directory_start]
    for member, following in zip(ordered, followers, strict=True):
        name = f"member {member.filename[:60]!r}"
        if member.header_offset + _LOCAL_SIZE > directory_start:
            raise malformed(f"{name} lies behind the zip's directory")
        file.seek(member.header_offset)
        header = file.read(_LOCAL_SIZE)
        if not header.startswith(LOCAL_SIGNATURE):
            raise malformed(f"there is no header of {name} at byte {member.header_offset:,}")
        num_name, num_extra = struct.unpack_from("<2H", header, 26)
        if member.header_offset + _LOCAL_SIZE + num_name + num_extra + member.compress_size > following:
            raise malformed(f"{name} overlaps what follows it")
