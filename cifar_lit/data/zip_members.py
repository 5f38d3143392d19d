"""Where the members of a zip file lie, and their content, read so that no claim of the file is believed unchecked.

Python's zipfile finds a zip behind or before anything else, and before 3.11.8 inflates members that overlap. Here the
members, the directory and the end record must fill the file without gap or overlap, and every claim that is made twice
must be made alike. Only stored and deflated members are read. Knows nothing of arrays.
"""

import stat
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from cifar_lit.errors import NpzError

LOCAL_SIGNATURE = b"PK\x03\x04"
END_SIGNATURE = b"PK\x05\x06"
MAX_NAME = 255
"""Bytes."""

# Signature, version, flags, method, time, date, crc, compressed size, size, lengths of name and extra.
LOCAL = struct.Struct("<4s5H3L2H")
# Signature, made by, version, flags, method, time, date, crc, compressed size, size, lengths of name, of extra and of
# comment, disk, internal and external attributes, offset.
_ENTRY = struct.Struct("<4s6H3L5H2L")
# Signature, this disk, the directory's disk, members here, members, directory's size and offset, length of comment.
END = struct.Struct("<4s4H2LH")

_ENTRY_SIGNATURE, _ZIP64_SIGNATURE, _DESCRIPTOR_SIGNATURE = b"PK\x01\x02", b"PK\x06\x07", b"PK\x07\x08"
_ENCRYPTED, _DESCRIPTOR, _UTF8, _HARMLESS_FLAGS = 0x0001, 0x0008, 0x0800, 0x080E
_STORED, _DEFLATED = 0, 8
_METHODS = {1: "shrink", 6: "implode", 9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ"}
_ZIP64_ID, _ELSEWHERE = 1, 0xFFFFFFFF
_MAX_EXTRA = 1_024
_CHUNK, _PACKED_CHUNK = 1 << 20, 1 << 16
_ADVICE = "Copy the file again, or write it anew with np.savez."


@dataclass(frozen=True)
class Member:
    """A member as the directory and its own header agree on it.

    Attributes:
        name: a plain file name.
        deflated: whether its content is deflated; else it is stored.
        crc: checksum of the content.
        packed_size: bytes of the file that it fills.
        size: bytes of the content.
        offset: where its header begins.
        start: where its content begins.
    """

    name: str
    deflated: bool
    crc: int
    packed_size: int
    size: int
    offset: int
    start: int


def read_members(file: BinaryIO, *, max_bytes: int, max_members: int) -> list[Member]:
    """Reads and checks the directory and the members' headers; no content.

    Raises:
        NpzError: malformed, too large, or without a member.
    """
    size = file.seek(0, 2)
    directory, num, start = _read_directory(file, size, max_members)
    entries = _split_directory(directory)
    if len(entries) != num:
        raise _malformed(f"its directory has {len(entries)} members, its end record claims {num}")
    members: list[Member] = []
    for entry in entries:
        if sum(member.size for member in members) + entry.size > max_bytes:
            raise NpzError(
                f"its members hold more than the {max_bytes:,} bytes that are accepted, {entry.shown_name} alone "
                f"{entry.size:,}. Divide it into several files.",
                "too_large",
            )
        members.append(entry.locate(file, start))
    if len({member.name for member in members}) < len(members):
        raise _malformed("two of its members have the same name")
    _check_no_gaps(file, sorted(members, key=lambda member: member.offset), start)
    return members


def read_exactly(file: BinaryIO, offset: int, num: int) -> bytes:
    """`num` bytes from `offset`.

    Raises:
        NpzError: the file ends before.
    """
    file.seek(offset)
    data = file.read(num)
    if len(data) < num:
        raise _malformed(f"it is cut off: {num:,} bytes are missing or incomplete at byte {offset:,}")
    return data


class Content:
    """The content of a member, from its beginning on, inflated no further than is asked for."""

    def __init__(self, file: BinaryIO, member: Member) -> None:
        self._file = file
        self._member = member
        self._position, self._end = member.start, member.start + member.packed_size
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if member.deflated else None
        self._crc = 0

    def take(self, num: int) -> bytes:
        """The next `num` bytes.

        Raises:
            NpzError: the content is damaged or ends before.
        """
        data = self._next(num)
        if len(data) < num:
            raise _malformed(f"{self._member.name} ends before its {self._member.size:,} bytes are complete")
        return data

    def take_all(self, num: int) -> bytearray:
        """All that is left, expected to be `num` bytes; memory grows with what is there, not with what is expected.

        Raises:
            NpzError: the content is damaged, is shorter or longer, or does not match its checksum.
        """
        data = bytearray()
        while len(data) < num:
            data += self.take(min(num - len(data), _CHUNK))
        if self._next(1):
            raise _malformed(f"{self._member.name} holds more than the {self._member.size:,} bytes that it claims")
        whole = self._inflater is None or (self._inflater.eof and not self._inflater.unused_data)
        if not whole or self._position < self._end or self._crc != self._member.crc:
            raise _malformed(f"the content of {self._member.name} does not match its checksum")
        return data

    def _next(self, num: int) -> bytes:
        """The next `num` bytes, fewer only at the end."""
        data = bytearray()
        while len(data) < num:
            packed = self._packed(_PACKED_CHUNK if self._inflater else num - len(data))
            try:
                part = self._inflater.decompress(packed, num - len(data)) if self._inflater else packed
            except zlib.error as error:
                raise _malformed(f"the content of {self._member.name} is damaged ({error})") from error
            if not part and not packed:
                break
            data += part
            if self._inflater and self._inflater.eof:
                break
        self._crc = zlib.crc32(data, self._crc)
        return bytes(data)

    def _packed(self, num: int) -> bytes:
        """What the last call left over, else up to `num` bytes of the file."""
        if self._inflater and self._inflater.unconsumed_tail:
            return self._inflater.unconsumed_tail
        num = min(num, self._end - self._position)
        data = read_exactly(self._file, self._position, num)
        self._position += num
        return data


@dataclass(frozen=True)
class _Entry:
    """A member as the directory claims it."""

    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed_size: int
    size: int
    offset: int
    attributes: int

    @property
    def shown_name(self) -> str:
        return repr(self.raw_name[:60].decode("utf-8", "replace"))

    def locate(self, file: BinaryIO, directory_start: int) -> Member:
        """Checks the claims, those of the member's own header too."""
        self._check(directory_start)
        header = read_exactly(file, self.offset, LOCAL.size)
        signature, _, flags, method, _, _, crc, packed_size, size, num_name, num_extra = LOCAL.unpack(header)
        if signature != LOCAL_SIGNATURE or num_name > MAX_NAME or num_extra > _MAX_EXTRA:
            raise _malformed(f"there is no header of member {self.shown_name} at byte {self.offset:,}")
        rest = read_exactly(file, self.offset + LOCAL.size, num_name + num_extra)
        size, packed_size = _from_zip64([size, packed_size], rest[num_name:])
        claims, expected = [crc, packed_size, size], [self.crc, self.packed_size, self.size]
        if self.flags & _DESCRIPTOR:  # written before they were known
            claims = [own or other for own, other in zip(claims, expected, strict=True)]
        if (rest[:num_name], flags, method, claims) != (self.raw_name, self.flags, self.method, expected):
            raise _malformed(f"the header of member {self.shown_name} differs from the zip's directory")
        start = self.offset + LOCAL.size + num_name + num_extra
        deflated = self.method == _DEFLATED
        return Member(self._name(), deflated, self.crc, self.packed_size, self.size, self.offset, start)

    def _check(self, directory_start: int) -> None:
        if self.offset >= directory_start:
            raise _malformed(f"member {self.shown_name} lies behind the zip's directory")
        if self.flags & _ENCRYPTED:
            raise _malformed(f"member {self.shown_name} is encrypted, expected plain content")
        if self.method not in (_STORED, _DEFLATED) or self.flags & ~_HARMLESS_FLAGS:
            method = _METHODS.get(self.method, f"method {self.method}, flags {self.flags:#06x}")
            raise _malformed(f"member {self.shown_name} is packed by {method}, expected stored or deflate")
        if stat.S_IFMT(self.attributes >> 16) not in (0, stat.S_IFREG):
            raise _malformed(f"member {self.shown_name} is a link or another special file, expected a plain one")
        if self.method == _STORED and self.packed_size != self.size:
            raise _malformed(f"member {self.shown_name} claims {self.size:,} bytes and fills {self.packed_size:,}")

    def _name(self) -> str:
        try:
            name = self.raw_name.decode("utf-8" if self.flags & _UTF8 else "ascii")
        except UnicodeDecodeError:
            name = ""
        if not is_harmless(name) or "/" in name:
            raise _malformed(f"a member is named {self.shown_name}, expected a plain name such as 'key.npy'")
        return name


def is_harmless(name: str) -> bool:
    """Whether a member's name stays where it is put, whatever unpacks it."""
    parts = name.split("/")
    return name.isprintable() and not any(not part or part[0] == "." or set(part) & set(r"\:") for part in parts)


def _read_directory(file: BinaryIO, size: int, max_members: int) -> tuple[bytes, int, int]:
    """The directory, of a bounded length, the number of members it should have, and where it begins."""
    if size < END.size:
        raise _malformed(f"it is cut off after {size:,} bytes")
    end = size - END.size
    signature, disk, other_disk, num_here, num, length, start, num_comment = END.unpack(
        read_exactly(file, end, END.size)
    )
    if signature != END_SIGNATURE or num_comment:
        raise _malformed("a zip's end record is not where the file ends: it is cut off, or something follows")
    if num > max_members:
        raise NpzError(f"it has {num:,} members, at most {max_members} are accepted. Save fewer arrays.", "malformed")
    if _ELSEWHERE in (length, start) or (end >= 20 and read_exactly(file, end - 20, 4) == _ZIP64_SIGNATURE):
        raise _malformed("its end record refers to a zip64 record, which no file of an accepted size needs")
    if disk or other_disk or num_here != num or start + length != end:
        raise _malformed("its directory is not where its end record says")
    if length > max_members * (_ENTRY.size + MAX_NAME + _MAX_EXTRA):
        raise _malformed(f"its directory of {length:,} bytes is too long for {num} plain names")
    if not num:
        if end:
            raise _malformed("it claims to be empty and is not")
        raise NpzError("it is an empty zip, expected arrays. Write it with np.savez.", "invalid")
    return read_exactly(file, start, length), num, start


def _split_directory(directory: bytes) -> list[_Entry]:
    entries = []
    position = 0
    while position < len(directory):
        if len(directory) < position + _ENTRY.size:
            raise _malformed("its directory is damaged")
        (signature, _, _, flags, method, _, _, crc, packed_size, size, num_name, num_extra, num_comment) = (
            fields := _ENTRY.unpack_from(directory, position)
        )[:13]
        disk, _, attributes, offset = fields[13:]
        position += _ENTRY.size
        raw_name = directory[position : position + num_name]
        extra = directory[position + num_name : position + num_name + num_extra]
        position += num_name + num_extra
        if signature != _ENTRY_SIGNATURE or disk or num_comment or position > len(directory):
            raise _malformed("its directory is damaged")
        if num_name > MAX_NAME or num_extra > _MAX_EXTRA:
            raise _malformed(f"the name of a member is {num_name:,} bytes long, at most {MAX_NAME} are accepted")
        size, packed_size, offset = _from_zip64([size, packed_size, offset], extra)
        entries.append(_Entry(raw_name, flags, method, crc, packed_size, size, offset, attributes))
    return entries


def _from_zip64(values: list[int], extra: bytes) -> list[int]:
    """The values, those that stand in the zip64 field of `extra` taken from there."""
    field = b""
    while extra:
        if len(extra) < 4:
            raise _malformed("a member's extra fields are damaged")
        kind, length = struct.unpack_from("<HH", extra)
        if len(extra) < 4 + length:
            raise _malformed("a member's extra fields are damaged")
        if kind == _ZIP64_ID and not field:
            field = extra[4 : 4 + length]
        extra = extra[4 + length :]
    found = []
    for value in values:
        if value == _ELSEWHERE:
            if len(field) < 8:
                raise _malformed("a member's size or place is missing")
            value, field = struct.unpack_from("<Q", field)[0], field[8:]
        found.append(value)
    return found


def _check_no_gaps(file: BinaryIO, members: list[Member], directory_start: int) -> None:
    """Members must follow each other from the first byte to the directory, but for the descriptors of streamed ones."""
    starts: Iterable[int] = [*(member.offset for member in members[1:]), directory_start]
    if members[0].offset:
        raise _malformed(f"{members[0].offset:,} bytes lie before its first member")
    for member, following in zip(members, starts, strict=True):
        end = member.start + member.packed_size
        if not 0 <= following - end <= 24:
            raise _malformed(f"{member.name} and what follows it overlap or leave a gap")
        sizes = (member.packed_size, member.size)
        plain = [struct.pack(f"<L2{kind}", member.crc, *sizes) for kind in ("LQ" if max(sizes) < _ELSEWHERE else "Q")]
        allowed = [b"", *plain, *(_DESCRIPTOR_SIGNATURE + descriptor for descriptor in plain)]
        if read_exactly(file, end, following - end) not in allowed:
            raise _malformed(f"something lies between {member.name} and what follows it")


def _malformed(reason: str) -> NpzError:
    return NpzError(f"{reason}. {_ADVICE}", "malformed")
