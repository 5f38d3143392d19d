"""Files that are no increment, built to deceive, damaged or only mistaken, each with how it must be refused.

`HOSTILE` and `FRAGMENTS` are for every command that takes an increment.
"""

import gzip
import io
import pickle
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cifar_lit.errors import Fault

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
LABELS = np.array([3, 0, 9, 1])
UNIT = 64 * 2**20
"""Zero bytes that one repetition of `zeros_unit` inflates to."""


def npz_bytes(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def good(**changes: Any) -> bytes:
    """A sound increment, but for the changes."""
    return npz_bytes(**({"x_new": PIXELS, "y_new": LABELS} | changes))


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npy_of(header: bytes, data: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    """A `.npy` file with this header, whatever it is."""
    length = len(header) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", length) + header + data


def header_of(shape: str = "(4, 32, 32, 3)", descr: str = "'|u1'", fortran_order: str = "False") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': {fortran_order}, 'shape': {shape}, }}\n".encode()


@dataclass
class Entry:
    """A member of a zip; `local` has what its own header says otherwise than the directory."""

    name: bytes
    content: bytes
    packed: bytes | None = None
    method: int = 0
    size: int | None = None
    crc: int | None = None
    flags: int = 0
    attributes: int = 0
    extra: bytes = b""
    comment: bytes = b""
    offset: int | None = None
    descriptor: bytes = b""
    local: dict[str, Any] = field(default_factory=dict)


def archive(
    *entries: Entry,
    before: bytes = b"",
    lead: bytes = b"",
    gap: bytes = b"",
    zip64: dict[str, int] | None = None,
    end: dict[str, int] | None = None,
    comment: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A zip of these entries; without options and changes in the entries, a sound one.

    Args:
        before: put before it, with all offsets left as they were.
        lead: put before it, with all offsets mended.
        gap: put between the members and the directory.
        zip64: write zip64 end records, with these changes.
        end: changes to the end record.
    """
    body, directory = bytearray(lead), bytearray()
    for each in entries:
        packed = each.content if each.packed is None else each.packed
        claims: dict[str, Any] = {
            "name": each.name,
            "flags": each.flags,
            "method": each.method,
            "crc": zlib.crc32(each.content) if each.crc is None else each.crc,
            "packed_size": len(packed),
            "size": len(each.content) if each.size is None else each.size,
            "extra": each.extra,
        }
        own = claims | each.local
        offset = len(body) if each.offset is None else each.offset
        common = [(20, c["flags"], c["method"], 0, 33, c["crc"], c["packed_size"], c["size"]) for c in (claims, own)]
        if each.offset is None:
            body += struct.pack("<4s5H3L2H", b"PK\3\4", *common[1], len(own["name"]), len(own["extra"]))
            body += own["name"] + own["extra"] + packed + each.descriptor
        directory += struct.pack("<4sH5H3L3H", b"PK\1\2", 0x314, *common[0], len(each.name), len(each.extra), 0)[:-2]
        directory += struct.pack("<3H2L", len(each.comment), 0, 0, each.attributes, offset)
        directory += each.name + each.extra + each.comment
    body += gap
    records = {"num_here": len(entries), "num": len(entries), "length": len(directory), "start": len(body)}
    tail = b""
    if zip64 is not None:
        z = records | zip64
        values = (z["num_here"], z["num"], z["length"], z["start"])
        tail += struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, *values)
        tail += struct.pack("<4sLQL", b"PK\6\7", 0, len(body) + len(directory), 1)
        records = {key: min(value, 0xFFFF if "num" in key else 0xFFFFFFFF) for key, value in records.items()}
    records |= end or {}
    tail += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *records.values(), len(comment))
    return before + bytes(body) + bytes(directory) + tail + comment + after


def pair(x: Entry | None = None, y: Entry | None = None, **options: Any) -> bytes:
    """An increment made by `archive`."""
    return archive(x or Entry(b"x_new.npy", npy(PIXELS)), y or Entry(b"y_new.npy", npy(LABELS)), **options)


def with_x(content: bytes, **changes: Any) -> bytes:
    return pair(Entry(b"x_new.npy", content, **changes))


def with_y(content: bytes, **changes: Any) -> bytes:
    return pair(y=Entry(b"y_new.npy", content, **changes))


def deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


@cache
def zeros_unit() -> bytes:
    """Deflated zeros that may be repeated: each repetition inflates to `UNIT` bytes more."""
    deflater = zlib.compressobj(9, wbits=-15)
    return deflater.compress(bytes(UNIT)) + deflater.flush(zlib.Z_FULL_FLUSH)


def deflated_zeros(start: bytes, num_units: int) -> bytes:
    """`start` and zeros after it, deflated."""
    deflater = zlib.compressobj(wbits=-15)
    head = deflater.compress(start) + deflater.flush(zlib.Z_FULL_FLUSH)
    return head + zeros_unit() * num_units + zlib.compressobj(wbits=-15).flush()


def bomb_10_gb() -> bytes:
    """About 10 MB that the directory truly calls 10 GiB."""
    num = 160
    start = npy_of(header_of(f"({num * UNIT},)"))
    size = struct.pack("<Q", len(start) + num * UNIT)
    zip64 = struct.pack("<HH", 1, 8) + size
    local = {"extra": struct.pack("<HH", 1, 16) + size + struct.pack("<Q", 0)}
    packed = deflated_zeros(start, num)
    local["extra"] = local["extra"][:12] + struct.pack("<Q", len(packed))
    return with_x(
        start, packed=packed, method=8, size=0xFFFFFFFF, extra=zip64, local=local | {"packed_size": 0xFFFFFFFF}
    )


def bomb_1_gb() -> bytes:
    """A member that claims one image, as its array does, and goes on for 1 GiB."""
    start = npy_of(header_of("(1, 32, 32, 3)"))
    packed = deflated_zeros(start, 16)
    return pair(
        Entry(b"x_new.npy", start, packed=packed, method=8, size=len(start) + 3072),
        Entry(b"y_new.npy", npy(LABELS[:1])),
    )


def claim_2_40() -> bytes:
    """244 bytes that claim 2**40 numbers."""
    content = npy_of(header_of("(1099511627776,)").rstrip().ljust(117) + b"\n")
    return archive(Entry(b"x_new.npy", content))


@cache
def too_many_rows() -> bytes:
    """60,001 black images, sound in every other way."""
    header = npy_of(header_of("(60001, 32, 32, 3)"))
    deflater = zlib.compressobj(1, wbits=-15)
    packed, crc = deflater.compress(header), zlib.crc32(header)
    image = bytes(3072)
    for _ in range(60_001):
        packed += deflater.compress(image)
        crc = zlib.crc32(image, crc)
    packed += deflater.flush()
    x = Entry(b"x_new.npy", header, packed=packed, method=8, crc=crc, size=len(header) + 60_001 * 3072)
    return pair(x, Entry(b"y_new.npy", npy(np.zeros(60_001, np.uint8))))


@cache
def many_members(num: int) -> bytes:
    """A sound zip of `num` tiny arrays, with zip64 end records as it needs them."""
    content = npy(np.array(1, np.uint8))
    return archive(*(Entry(b"%d.npy" % i, content) for i in range(num)), zip64={})


def quoted_overlap() -> bytes:
    """Two members, the second's header and content lying inside the first's content, both read alike by zipfile."""
    inner = archive(Entry(b"y_new.npy", npy(LABELS)))[: 30 + 9 + len(npy(LABELS))]
    outer = npy_of(header_of(f"({len(inner)},)"), inner)
    return pair(Entry(b"x_new.npy", outer), Entry(b"y_new.npy", npy(LABELS), offset=30 + 9 + len(outer) - len(inner)))


def same_place() -> bytes:
    """Two members of one content."""
    return pair(Entry(b"y_new.npy", npy(LABELS)), Entry(b"y_new.npy", npy(LABELS), offset=0))


class Canary:
    """Makes an empty file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (str(self.path), "w")


def canary_path(path: Path) -> Path:
    """Where the canary of the file at `path` would make its file."""
    return path.with_name("canary")


def write_canary(path: Path) -> None:
    path.write_bytes(good(x_new=np.array([Canary(canary_path(path))], dtype=object)))


def write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Canary(canary_path(path))))


def torch_bytes(**options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"x_new": torch.zeros(1)}, buffer, **options)
    return buffer.getvalue()


def zipped_by(method: int) -> bytes:
    """A sound increment packed by a method that NumPy can read and this project does not."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("x_new.npy", npy(PIXELS))
        file.writestr("y_new.npy", npy(LABELS))
    return buffer.getvalue()


def flat_floats(value: float) -> np.ndarray:
    array = (PIXELS / 255).astype(np.float32)
    array[2, 5, 5, 1] = value
    return array


def label(value: Any, dtype: Any = np.int64) -> np.ndarray:
    """Labels of which row 2 is wrong."""
    return np.array([3, 0, value, 1], dtype=dtype)


_X, _Y = npy(PIXELS), npy(LABELS)
_PARENS = b"(" * 10_000 + b")" * 10_000

# Name, bytes (or what writes the file), how it is wrong, a part of what must be said of it.
_CASES: list[tuple[str, bytes | Callable[[], bytes], Fault, str]] = [
    # Other kinds of file
    ("random", np.random.default_rng(1).bytes(10_000), "unsupported", "its content is no zip of arrays, expected"),
    ("png", b"\x89PNG\r\n\x1a\n" + bytes(100), "unsupported", "its content is a PNG image"),
    ("jpeg", b"\xff\xd8\xff\xe0" + bytes(100), "unsupported", "its content is a JPEG image"),
    ("npy", npy(PIXELS), "unsupported", "its content is a single array (.npy)"),
    ("h5", b"\x89HDF\r\n\x1a\n" + bytes(100), "unsupported", "its content is an HDF5 file (.h5)"),
    ("gzip", gzip.compress(b"x" * 100), "unsupported", "its content is a gzip file"),
    ("pt", torch_bytes, "unsupported", "its content is a PyTorch file"),
    (
        "old pt",
        lambda: torch_bytes(_use_new_zipfile_serialization=False),
        "unsupported",
        "its content is a pickle",
    ),
    ("zip of text", archive(Entry(b"notes.txt", b"mine")), "unsupported", "a zip of other things (with 'notes.txt')"),
    ("text beside arrays", pair(y=Entry(b"notes.txt", b"mine")), "unsupported", "(with 'notes.txt')"),
    ("one byte", b"x", "unsupported", "its content is no zip of arrays"),
    # Structure of the zip
    ("empty", b"", "malformed", "it is empty, expected arrays"),
    ("empty zip", archive(), "invalid", "it is an empty zip, expected arrays"),
    ("empty end record", pair(end={"num_here": 0, "num": 0, "length": 0, "start": 0}), "malformed", "its directory is"),
    ("first 2 bytes", good()[:2], "malformed", "a zip's end record is missing: it is cut off"),
    ("first half", good()[:6_000], "malformed", "it is cut off, or something follows"),
    ("without its last byte", good()[:-1], "malformed", "it is cut off, or something follows"),
    ("a byte more", good() + b"\0", "malformed", "it is cut off, or something follows"),
    ("prepended junk", pair(before=b"junk" * 9), "malformed", "it is a zip with something else before it"),
    (
        "prepended junk, offsets mended",
        pair(lead=b"PK\3\4junk"),
        "malformed",
        "8 bytes lie before its first member",
    ),
    ("prepended zip", pair(before=good()), "malformed", "its directory is not where its end record says"),
    ("comment that is an end record", pair(comment=archive()), "malformed", "its directory is not where"),
    ("zip64 end record", pair(zip64={}), "malformed", "refers to a zip64 record"),
    ("zip64 end record of 3", pair(zip64={"num": 3}), "malformed", "refers to a zip64 record"),
    ("zip64 elsewhere", pair(zip64={"start": 5}, end={"start": 0xFFFFFFFF}), "malformed", "refers to a zip64 record"),
    ("end record of 1", pair(end={"num_here": 1, "num": 1}), "malformed", "has 2 members, its end record claims 1"),
    ("end record of 3", pair(end={"num_here": 3, "num": 3}), "malformed", "has 2 members, its end record claims 3"),
    ("several disks", pair(end={"num_here": 1}), "malformed", "its directory is not where its end record says"),
    ("directory elsewhere", pair(end={"start": 7}), "malformed", "its directory is not where its end record says"),
    ("5 members", npz_bytes(**{f"a{i}": LABELS for i in range(5)}), "malformed", "it has 5 members, at most 4"),
    ("100,000 members", lambda: many_members(100_000), "malformed", "refers to a zip64 record"),
    ("quoted overlap", quoted_overlap, "malformed", "member 'x_new.npy' overlaps what follows it"),
    ("two members in one place", same_place, "malformed", "two of its members have the same name"),
    (
        "two names for one place",
        with_y(_X, offset=0),
        "malformed",
        "member 'x_new.npy' overlaps what follows it",
    ),
    ("same name twice", pair(Entry(b"y_new.npy", _X)), "malformed", "two of its members have the same name"),
    ("far offset", with_y(_Y, offset=10**9), "malformed", "lies behind the zip's directory"),
    ("no header there", with_y(_Y, offset=17), "malformed", "member 'x_new.npy' overlaps what follows it"),
    (
        "offset of 2**64 - 1",
        with_y(_Y, offset=0xFFFFFFFF, extra=struct.pack("<HHQ", 1, 8, 2**64 - 1)),
        "malformed",
        "lies behind the zip's directory",
    ),
    ("size without zip64 field", with_x(_X, size=0xFFFFFFFF), "malformed", "claims 4,294,967,295 bytes and fills"),
    ("broken extra field", with_x(_X, extra=b"\1\0\x63\0"), "malformed", "Corrupt extra field"),
    # Names
    *[
        (f"name {name[:9]!r}", with_x(_X).replace(b"x_new.npy", name.ljust(9, b"_")), "malformed", "a member is ")
        for name in (
            b"../xx.npy",
            b"/x_ne.npy",
            rb"C:\x_.npy",
            rb"..\x_.npy",
            b"x/new.npy",
            b"x_\xffne.npy",
        )
    ],
    *[
        (f"long name {name[:9]!r}", archive(Entry(name, _X)), "malformed", "a member is ")
        for name in (b"../x.npy", b"/x.npy", b"C:\\x.npy", b".npy", b"x\n.npy", b"a/../../x.npy")
    ],
    (
        "64 KB name",
        archive(Entry(b"x" * 65_000 + b".npy", _X)),
        "malformed",
        "a member is 'xxx",
    ),
    (
        "5,000-byte name",
        archive(Entry(b"x" * 4_996 + b".npy", _X)),
        "malformed",
        "a member is 'xxx",
    ),
    ("1,000-byte name", archive(Entry(b"x" * 996 + b".npy", _X)), "malformed", "a member is 'xxx"),
    (
        "symlink",
        with_x(b"/etc/passwd", attributes=(stat.S_IFLNK | 0o777) << 16),
        "malformed",
        "a member is 'x_new.npy', no regular file",
    ),
    ("name with a NUL", with_x(_X).replace(b"x_new.npy", b"x\0ne_.npy"), "malformed", "a name that no file can have"),
    ("no name", archive(Entry(b"", _X)), "malformed", "a name that no file can have"),
    # Packing
    ("encrypted", with_x(_X, flags=1), "malformed", "member 'x_new.npy' is encrypted"),
    ("bzip2", zipped_by(zipfile.ZIP_BZIP2), "malformed", "'x_new.npy' is packed by bzip2, expected stored or deflate"),
    ("lzma", zipped_by(zipfile.ZIP_LZMA), "malformed", "'x_new.npy' is packed by LZMA, expected stored or deflate"),
    ("method 99", with_x(_X, method=99), "malformed", "'x_new.npy' is packed by method 99"),
    ("stored, called deflated", with_x(_X, method=8), "malformed", "Bad CRC-32 for file 'x_new.npy'"),
    ("no deflate", with_x(_X, method=8, packed=b"\xff" * 99), "malformed", "the content of x_new.npy is damaged"),
    ("deflated, called stored", with_x(_X, packed=deflated(_X)), "malformed", f"claims {len(_X):,} bytes and fills"),
    ("wrong checksum", with_x(_X, crc=7), "malformed", "Bad CRC-32 for file 'x_new.npy'"),
    ("wrong checksum of labels", with_y(_Y, crc=7), "malformed", "Bad CRC-32 for file 'y_new.npy'"),
    (
        "deflated without an end",
        with_x(_X, method=8, packed=deflated(_X)[:-9]),
        "malformed",
        "Bad CRC-32 for file 'x_new.npy'",
    ),
    ("own header: other name", with_x(_X, local={"name": b"y_new.npy"}), "malformed", "File name in directory"),
    # Bombs
    ("10 GB of zeros", bomb_10_gb, "too_large", "'x_new.npy' alone holds 10,737,418,"),
    ("1 GB behind one image", bomb_1_gb, "malformed", "Bad CRC-32 for file 'x_new.npy'"),
    ("shape (2**40,)", claim_2_40, "too_large", "claims shape (1099511627776,) and dtype uint8, at most 209,715,200"),
    (
        "shape (0, 2**40, 2**40)",
        with_x(npy_of(header_of("(0, 1099511627776, 1099511627776)"))),
        "too_large",
        "claims shape (0, 1099511627776, 1099511627776)",
    ),
    ("200 MiB and a byte", lambda: good() + bytes(200 * 2**20), "too_large", "at most 209,715,200 are accepted"),
    # Headers of arrays
    ("object array", lambda: good(x_new=np.array([{}], dtype=object)), "malformed", "Python objects, which are stored"),
    ("object labels", lambda: good(y_new=LABELS.astype(object)), "malformed", "y_new.npy holds Python objects"),
    (
        "header of 4 GB, v2",
        with_x(npy_of(b"", version=2, length=2**32 - 1)),
        "malformed",
        "the header of x_new.npy is no valid .npy header",
    ),
    (
        "header of 4 GB, v3",
        with_x(npy_of(b"", version=3, length=2**32 - 1)),
        "malformed",
        "is no array in .npy format 1.0 or 2.0",
    ),
    (
        "header of 65,537",
        with_x(npy_of(header_of().ljust(65_537), version=2)),
        "malformed",
        "the header of x_new.npy is no valid",
    ),
    (
        "header beyond the end",
        with_x(npy_of(header_of(), length=999)),
        "malformed",
        "the header of x_new.npy is no valid",
    ),
    ("version 4", with_x(npy_of(header_of(), version=4)), "malformed", "is no array in .npy format 1.0 or 2.0"),
    *[
        (f"header {i}", with_x(npy_of(header, PIXELS.tobytes(), 2)), "malformed", "no valid .npy header")
        for i, header in enumerate(
            [
                b"[1, 2]",
                b"{}",
                b"",
                _PARENS,
                header_of(_PARENS.decode()),
                header_of("(" * 10_000),
                header_of("(" + "1, " * 10_000 + ")"),
                header_of("(4, " + " " * 60_000 + "x"),
                header_of("(4, -32, 32, 3)"),
                header_of("(4.0, 32, 32, 3)"),
                header_of(f"({'9' * 21},)"),
                header_of("(4)"),
                header_of("__import__('os').getcwd()"),
                header_of(descr="print('x')"),
                header_of(descr="'|u1' if 1 else '|u1'"),
                header_of(descr="'zzz'"),
                header_of(fortran_order="1"),
                header_of(descr="True"),
                header_of() + b"x",
                header_of().replace(b"}", b"'more': 1}"),
                header_of().replace(b"'fortran_order': False,", b""),
                header_of().replace(b"descr", b"d\xff\xfecr"),
            ]
        )
    ],
    # Content and header disagree
    ("data a byte short", with_x(_X[:-1]), "malformed", "holds 12,287 bytes of data, but its shape (4, 32, 32, 3)"),
    ("data a byte long", with_x(_X + b"\0"), "malformed", "holds 12,289 bytes of data, but its shape (4, 32, 32, 3)"),
    ("npz as x_new.npz", archive(Entry(b"x_new.npz", good())), "malformed", "it holds another npz, 'x_new.npz'"),
    ("npz as x_new.npy", with_x(good()), "malformed", "is no array in .npy format"),
    # Keys
    (
        "no x_new",
        npz_bytes(y_new=LABELS),
        "invalid",
        "it has 'y_new', expected 'x_new', 'y_new'. `cifar-lit increment make --arrays ",
    ),
    (
        "no y_new",
        npz_bytes(x_new=PIXELS),
        "invalid",
        "it has 'x_new', expected 'x_new', 'y_new'. `cifar-lit increment make",
    ),
    (
        "misspelt",
        npz_bytes(x_nwe=PIXELS, y_new=LABELS),
        "invalid",
        "it has 'x_nwe', 'y_new', expected 'x_new', 'y_new'. `cifar-lit increment make",
    ),
    (
        "x and y",
        npz_bytes(x=PIXELS, y=LABELS),
        "invalid",
        "it has 'x', 'y', expected 'x_new', 'y_new'. `cifar-lit increment make",
    ),
    ("other keys", npz_bytes(images=PIXELS, labels=LABELS), "invalid", "it has 'images', 'labels', expected 'x_new'"),
    # Pixels: dtype
    ("structured", lambda: good(x_new=np.zeros(4, "u1,f4")), "invalid", "x_new.npy has dtype structured, expected"),
    ("void", lambda: good(x_new=np.zeros(4, "V3")), "invalid", "x_new.npy has dtype |V3, expected"),
    ("datetime", lambda: good(x_new=np.zeros(4, "M8[ns]")), "invalid", "x_new.npy has dtype <M8[ns], expected"),
    ("timedelta", lambda: good(y_new=np.zeros(4, "m8[s]")), "invalid", "y_new.npy has dtype <m8[s], expected"),
    (
        "str labels",
        lambda: good(y_new=["cat", "dog", "cat", "dog"]),
        "invalid",
        "'y_new' is <U3 (4,), expected integers 0..9",
    ),
    (
        "bytes labels",
        lambda: good(y_new=np.array([b"cat"] * 4)),
        "invalid",
        "'y_new' is |S3 (4,), expected integers 0..9",
    ),
    *[
        (
            f"{dtype} pixels 0..255",
            good(x_new=PIXELS.astype(dtype)),
            "invalid",
            f"'x_new' is {dtype} (4, 32, 32, 3), expected uint8 (n, 32, 32, 3) in 0..255. `cifar-lit increment make",
        )
        for dtype in ("float16", "float32", "float64")
    ],
    *[
        (
            f"{dtype} pixels 0..1",
            good(x_new=(PIXELS / 255).astype(dtype)),
            "invalid",
            f"'x_new' is {dtype} (4, 32, 32, 3), expected uint8",
        )
        for dtype in ("float16", "float32", "float64")
    ],
    ("int64 pixels", good(x_new=PIXELS.astype(np.int64)), "invalid", "'x_new' is int64 (4, 32, 32, 3), expected uint8"),
    ("int8 pixels", good(x_new=PIXELS.view(np.int8)), "invalid", "'x_new' is int8 (4, 32, 32, 3), expected uint8"),
    ("bool pixels", good(x_new=PIXELS > 99), "invalid", "'x_new' is bool (4, 32, 32, 3), expected uint8"),
    ("complex pixels", good(x_new=PIXELS.astype(complex)), "invalid", "'x_new' is complex128 (4, 32, 32, 3), expected"),
    (
        "normalised pixels",
        good(x_new=PIXELS / 64.0 - 2),
        "invalid",
        "'x_new' is float64 (4, 32, 32, 3), expected uint8",
    ),
    *[
        (
            f"{value} in pixels",
            good(x_new=flat_floats(value)),
            "invalid",
            "'x_new' is float32 (4, 32, 32, 3), expected uint8",
        )
        for value in (np.nan, np.inf, -np.inf)
    ],
    # Pixels: shape
    *[
        (
            f"shape {array.shape}",
            good(x_new=array),
            "invalid",
            f"'x_new' is uint8 {array.shape}, expected uint8 (n, 32, 32, 3) in 0..255. `cifar-lit increment make",
        )
        for array in [
            PIXELS.transpose(0, 3, 1, 2),
            PIXELS[0],
            PIXELS.transpose(1, 2, 3, 0),
            PIXELS[..., [0, 1, 2, 0]],
            PIXELS[..., 0],
            PIXELS[:, :28, :28, :1],
            PIXELS.reshape(4, 3072),
            PIXELS[:, None],
            PIXELS.reshape(2, 2, 32, 32, 3),
            PIXELS[0, 0, 0, 0],
        ]
    ],
    (
        "float and channels first",
        good(x_new=PIXELS.transpose(0, 3, 1, 2) / 255),
        "invalid",
        "expected uint8 (n, 32, 32, 3)",
    ),
    # Rows
    ("no row", good(x_new=PIXELS[:0], y_new=LABELS[:0]), "invalid", "it has no row, expected at least one"),
    ("60,001 rows", too_many_rows, "too_large", "60,001 rows, at most 60,000 are accepted"),
    ("a label less", good(y_new=LABELS[:3]), "invalid", "one for each of the 4 rows of 'x_new'"),
    ("a label more", good(y_new=np.zeros(5, int)), "invalid", "one for each of the 4 rows of 'x_new'"),
    # Labels
    *[
        (
            f"label {value} as {np.dtype(dtype)}",  # type: ignore[call-overload]
            good(y_new=label(value, dtype)),
            "invalid",
            f"row 2 is {value} (of 1 such rows), expected 0..9. Correct",
        )
        for value, dtype in [
            (-1, np.int64),
            (-1, ">i2"),
            (10, np.uint8),
            (255, np.uint8),
            (2**63 - 1, np.int64),
            (2**64 - 1, np.uint64),
        ]
    ],
    (
        "labels from 1",
        good(y_new=np.array([10, 1, 2, 9])),
        "invalid",
        "if classes are counted from 1: `cifar-lit increment make",
    ),
    (
        "one-hot",
        good(y_new=np.eye(10, dtype=np.uint8)[LABELS]),
        "invalid",
        "'y_new' is uint8 (4, 10), expected integers 0..9, one for each",
    ),
    (
        "one-hot float",
        good(y_new=np.eye(10)[LABELS]),
        "invalid",
        "float64 (4, 10), expected integers 0..9, one for each",
    ),
    ("float label 3.7", good(y_new=label(3.7, float)), "invalid", "'y_new' is float64 (4,), expected integers 0..9"),
    (
        "float column",
        good(y_new=label(3.7, float)[:, None]),
        "invalid",
        "'y_new' is float64 (4, 1), expected integers 0..9",
    ),
    ("NaN label", good(y_new=label(np.nan, float)), "invalid", "'y_new' is float64 (4,), expected integers 0..9"),
    ("inf label", good(y_new=label(np.inf, np.float32)), "invalid", "'y_new' is float32 (4,), expected integers 0..9"),
    ("whole float labels", good(y_new=LABELS.astype("f4")), "invalid", "float32 (4,), expected integers 0..9, one"),
    ("bool labels", good(y_new=LABELS > 2), "invalid", "'y_new' is bool (4,), expected integers 0..9"),
    ("complex labels", good(y_new=LABELS.astype(complex)), "invalid", "'y_new' is complex128 (4,), expected integers"),
    ("labels in a row", good(y_new=LABELS[None]), "invalid", "'y_new' is int64 (1, 4), expected integers 0..9"),
    ("one number for labels", good(y_new=LABELS[0]), "invalid", "'y_new' is int64 (), expected integers 0..9"),
    ("labels (4, 1, 1)", good(y_new=LABELS[:, None, None]), "invalid", "'y_new' is int64 (4, 1, 1), expected integers"),
]


UNTIDY: dict[str, bytes] = {
    "comment": pair(comment=b"c" * 65_535),
    "member's comment": with_x(_X, comment=b"hi"),
    "gap before the directory": pair(gap=b"hidden" * 9),
    "bytes behind the deflated": with_x(_X, method=8, packed=deflated(_X) + b"hidden"),
    "other checksum in a member's own header": with_x(_X, local={"crc": 7}),
    "other size in a member's own header": with_x(_X, local={"size": 9}),
}
"""Increments that are sound but for what zipfile passes over."""


def _writer(content: bytes | Callable[[], bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content if isinstance(content, bytes) else content())

    return write


HOSTILE: dict[str, tuple[Callable[[Path], None], Fault]] = {
    "pickle": (write_pickle, "unsupported"),
    "canary": (write_canary, "malformed"),
    **{name: (_writer(content), fault) for name, content, fault, _ in _CASES},
}
"""By name: what writes the file, and which kind of wrong it is."""

FRAGMENTS: dict[str, str] = {
    "pickle": "its content is a pickle",
    "canary": "x_new.npy holds Python objects, which are stored as pickles and can run code: they are never read.",
    **{name: fragment for name, _, _, fragment in _CASES},
}
"""By name: a part of what must be said of the file."""

assert len(HOSTILE) == len(_CASES) + 2, "two cases have the same name"
