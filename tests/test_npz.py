import contextlib
import io
import os
import random
import re
import subprocess
import sys
import textwrap
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hostile_npz import (
    LABELS,
    PIXELS,
    UNIT,
    UNTIDY,
    Entry,
    archive,
    bomb_1_gb,
    bomb_10_gb,
    claim_2_40,
    deflated,
    good,
    header_of,
    many_members,
    npy,
    npy_of,
    npz_bytes,
    pair,
    quoted_overlap,
    too_many_rows,
    zeros_unit,
)

from cifar_lit.data.array_file import ArrayHeader
from cifar_lit.data.npz import NpyFile, NpzFile
from cifar_lit.errors import NpzError

MANY_KINDS: dict[str, np.ndarray] = {
    "pixels": PIXELS,
    "big": np.arange(5, dtype=">i8"),
    "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "scalar": np.array(3.5, np.float16),
    "empty": np.zeros((0, 4), np.float32),
    "flags": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "größe": np.array([[1, 2]], np.uint16),
}


class Unseekable(io.RawIOBase):
    """Makes zipfile put sizes behind the content, as when it writes to a socket."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += data
        return len(data)


def streamed(save: Callable[..., None], **arrays: np.ndarray) -> bytes:
    stream = Unseekable()
    save(stream, **arrays)
    return bytes(stream.data)


def saved(save: Callable[..., None], **arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def by_zipfile(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for key, array in arrays.items():
            file.writestr(f"{key}.npy", npy(array))
    return buffer.getvalue()


def arrays_of(path: Path, max_bytes: int = 2**20, max_members: int = 8) -> dict[str, np.ndarray]:
    with NpzFile(path, max_bytes=max_bytes, max_members=max_members) as file:
        return {key: file.read(key) for key in file.keys}


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return list(one) == list(other) and all(
        one[key].dtype == other[key].dtype and one[key].tobytes() == other[key].tobytes() for key in one
    )


# What is accepted


@pytest.mark.parametrize(
    "data",
    [
        saved(np.savez, **MANY_KINDS),
        saved(np.savez_compressed, **MANY_KINDS),
        streamed(np.savez, **MANY_KINDS),
        streamed(np.savez_compressed, **MANY_KINDS),
        by_zipfile(**MANY_KINDS),
    ],
    ids=["savez", "savez_compressed", "savez streamed", "savez_compressed streamed", "zipfile"],
)
def test_what_others_write_is_read_as_numpy_reads_it(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(data)
    arrays = arrays_of(path)
    assert list(arrays) == list(MANY_KINDS)
    with np.load(path, allow_pickle=False) as expected:
        for key, array in arrays.items():
            assert (array.dtype, array.shape) == (expected[key].dtype, expected[key].shape)
            assert (array == expected[key]).all()
            assert array.flags.c_contiguous
            assert array.flags.writeable


def test_only_streamed_members_have_descriptors() -> None:
    assert b"PK\x07\x08" in streamed(np.savez, a=LABELS)
    assert b"PK\x07\x08" not in saved(np.savez, a=LABELS)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("wide", [True, False])
def test_every_form_of_a_descriptor_is_accepted(tmp_path: Path, signed: bool, wide: bool) -> None:
    content = npy(PIXELS)
    width = 8 if wide else 4
    descriptor = b"PK\x07\x08" * signed + zlib.crc32(content).to_bytes(4, "little")
    descriptor += len(deflated(content)).to_bytes(width, "little") + len(content).to_bytes(width, "little")
    unknown = {"crc": 0, "size": 0, "packed_size": 0}
    entry = Entry(b"x.npy", content, deflated(content), method=8, flags=8, descriptor=descriptor, local=unknown)
    (tmp_path / "a.npz").write_bytes(archive(entry))
    assert equal(arrays_of(tmp_path / "a.npz"), {"x": PIXELS})


def test_the_writer_of_hostile_files_writes_sound_ones_too(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(pair())
    assert equal(arrays_of(tmp_path / "a.npz"), {"x_new": PIXELS, "y_new": LABELS})
    assert zipfile.ZipFile(io.BytesIO(pair())).testzip() is None


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "header",
    [
        header_of("(2, 3)", "'<i2'"),
        header_of("(2,3)", '"<i2"'),
        b"{'shape': (2, 3,), 'fortran_order': False, 'descr': '<i2'}",
        b" {'shape':( 2 , 3 ),\n'descr' : '<i2','fortran_order':False } \n",
    ],
)
def test_headers_of_all_versions_and_spellings(tmp_path: Path, header: bytes, version: int) -> None:
    array = np.arange(6, dtype="<i2").reshape(2, 3)
    (tmp_path / "a.npz").write_bytes(archive(Entry(b"x.npy", npy_of(header, array.tobytes(), version))))
    assert equal(arrays_of(tmp_path / "a.npz"), {"x": array})


def test_headers_are_known_before_content_is_looked_at(tmp_path: Path) -> None:
    x = Entry(b"x.npy", npy(PIXELS), crc=7)
    (tmp_path / "a.npz").write_bytes(archive(x, Entry(b"f.npy", npy(MANY_KINDS["fortran"]))))
    with NpzFile(tmp_path / "a.npz", max_bytes=2**20, max_members=2) as file:
        assert file.keys == ("x", "f")
        assert file.header("x") == ArrayHeader(PIXELS.shape, np.dtype(np.uint8), fortran_order=False, start=128)
        assert file.header("f") == ArrayHeader((2, 3, 4), np.dtype(float), fortran_order=True, start=128)
        assert (file.read("f") == MANY_KINDS["fortran"]).all()
        with pytest.raises(NpzError, match="Bad CRC-32"):
            file.read("x")
        with pytest.raises(KeyError):
            file.read("y")


@pytest.mark.parametrize("name", UNTIDY)
def test_what_zipfile_passes_over_does_no_harm(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.npz").write_bytes(UNTIDY[name])
    assert equal(arrays_of(tmp_path / "a.npz"), {"x_new": PIXELS, "y_new": LABELS})


def test_an_array_that_nobody_asks_for_may_hold_anything(tmp_path: Path) -> None:
    objects = np.array([{}], dtype=object)
    (tmp_path / "a.npz").write_bytes(npz_bytes(x=PIXELS, names=np.array(["cat"]), meta=objects))
    with NpzFile(tmp_path / "a.npz", max_bytes=2**20, max_members=3) as file:
        assert (file.read("x") == PIXELS).all()
        assert file.read("names", text=True).tolist() == ["cat"]
        with pytest.raises(NpzError, match="names.npy has dtype <U3, expected bool, integer"):
            file.header("names")
        with pytest.raises(NpzError, match="meta.npy holds Python objects"):
            file.header("meta")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_rows_come_in_pieces(tmp_path: Path, kind: str, order: Literal["C", "F"]) -> None:
    array = np.asarray(np.arange(70.0).reshape(10, 7), order=order)
    (tmp_path / f"a.{kind}").write_bytes(npy(array) if kind == "npy" else saved(np.savez_compressed, a=array))
    opened = NpyFile(tmp_path / "a.npy", max_bytes=2**20) if kind == "npy" else None
    with opened or NpzFile(tmp_path / "a.npz", max_bytes=2**20, max_members=1) as file:
        pieces = list(file.chunks("a", 3 * 56))
        assert (np.concatenate(pieces) == array).all()
        assert [len(piece) for piece in pieces] == ([3, 3, 3, 1] if order == "C" else [10])
        assert (file.read("a") == array).all()


@pytest.mark.parametrize(
    ("data", "message", "fault"),
    [
        (npy(PIXELS)[:-1], "the array holds 12,287 bytes of data, but its shape", "malformed"),
        (npy(PIXELS) + b"x", "the array holds 12,289 bytes of data, but its shape", "malformed"),
        (npy(np.array([{}], dtype=object)), "the array holds Python objects", "malformed"),
        (npy_of(header_of("(1099511627776,)")), "the array claims shape (1099511627776,)", "too_large"),
        (b"\x80\x04pickle", "its content is a pickle, expected an .npy file", "unsupported"),
        (good(), "its content is a zip, expected an .npy file", "unsupported"),
        (b"", "it is empty", "malformed"),
    ],
)
def test_a_single_array_is_checked_alike(tmp_path: Path, data: bytes, message: str, fault: str) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with (
        pytest.raises(NpzError, match=re.escape(message)) as error,
        NpyFile(tmp_path / "a.npy", max_bytes=2**20) as file,
    ):
        file.read("a")
    assert error.value.fault == fault


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(good())
    (tmp_path / "b.npz").symlink_to("a.npz")
    assert equal(arrays_of(tmp_path / "b.npz"), {"x_new": PIXELS, "y_new": LABELS})


# What is not; each hostile file on its own is in test_increment.py


def test_limits_are_exact(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(good())
    size = len(good())
    assert equal(arrays_of(tmp_path / "a.npz", size, 2), {"x_new": PIXELS, "y_new": LABELS})
    with pytest.raises(NpzError, match=f"it has {size:,} bytes, at most {size - 1:,} are accepted") as error:
        arrays_of(tmp_path / "a.npz", size - 1, 2)
    assert error.value.fault == "too_large"
    with pytest.raises(NpzError, match="it has 2 members, at most 1 are accepted") as error:
        arrays_of(tmp_path / "a.npz", size, 1)
    assert error.value.fault == "malformed"


def test_all_members_together_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(saved(np.savez_compressed, a=np.zeros(600_000, "u1"), b=np.zeros(600_000, "u1")))
    assert len(arrays_of(tmp_path / "a.npz", 1_200_256)) == 2
    with pytest.raises(NpzError, match="its members hold 1,200,256 bytes, at most 1,200,255 are accepted") as error:
        arrays_of(tmp_path / "a.npz", 1_200_255)
    assert error.value.fault == "too_large"


def make_nothing(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_nothing, "it can't be read (No such file or directory). Check the name"),
        (Path.mkdir, "it is a folder or another special file, expected a regular one"),
        (os.mkfifo, "it is a folder or another special file, expected a regular one"),
        (lambda path: path.symlink_to(path.parent), "it is a folder or another special file"),
        (lambda path: path.symlink_to(path.name), "it can't be read (Too many levels of symbolic links)"),
    ],
)
def test_what_is_no_regular_file_is_refused(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "a.npz"
    make(path)
    with pytest.raises(NpzError, match=re.escape(f"{path}: {message}")) as error:
        arrays_of(path)
    assert error.value.fault == "invalid"


def test_a_path_with_a_nul_is_refused() -> None:
    with pytest.raises(NpzError, match="it can't be read"):
        arrays_of(Path("a\0.npz"))


def test_nothing_stays_open(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(good())
    (tmp_path / "b.npz").write_bytes(good()[:-1])
    before = os.listdir("/proc/self/fd")
    arrays_of(tmp_path / "a.npz")
    for path in (tmp_path / "b.npz", tmp_path):
        with pytest.raises(NpzError):
            arrays_of(path)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_zip_cut_anywhere_is_malformed(tmp_path: Path, save: Callable[..., None]) -> None:
    data = saved(save, x_new=PIXELS, y_new=LABELS)
    places = {*range(0, len(data), 64), *range(1, 80), *range(len(data) - 200, len(data))}
    for place in sorted(places):
        (tmp_path / "a.npz").write_bytes(data[:place])
        with pytest.raises(NpzError) as error:
            arrays_of(tmp_path / "a.npz")
        assert error.value.fault == "malformed", f"cut at {place}: {error.value}"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_changed_byte_gives_the_same_arrays_or_an_error(tmp_path: Path, save: Callable[..., None]) -> None:
    arrays = {"a": np.arange(30, dtype=np.uint8), "b": np.array([1.5, 2.5])}
    data = saved(save, **arrays)
    random_bits = random.Random(0)
    num_refused = 0
    for place in range(len(data)):
        for bits in (1 << random_bits.randrange(8), 0xFF):
            changed = bytearray(data)
            changed[place] ^= bits
            (tmp_path / "a.npz").write_bytes(changed)
            try:
                assert equal(arrays_of(tmp_path / "a.npz"), arrays), f"byte {place} changed by {bits}"
            except NpzError:
                num_refused += 1
    assert num_refused > len(data)


def test_many_changes_at_once_give_the_same_arrays_or_an_error(tmp_path: Path) -> None:
    arrays = {"a": np.arange(30, dtype=np.uint8), "b": np.array([1.5, 2.5])}
    data = saved(np.savez_compressed, **arrays)
    places = random.Random(1)
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(places.randrange(1, 5)):
            start = places.randrange(len(changed))
            changed[start : start + places.randrange(5)] = places.randbytes(places.randrange(5))
        (tmp_path / "a.npz").write_bytes(changed)
        with contextlib.suppress(NpzError):
            assert equal(arrays_of(tmp_path / "a.npz"), arrays)


def test_changed_headers_behind_a_right_checksum_give_an_array_or_an_error(tmp_path: Path) -> None:
    places = random.Random(2)
    header = header_of("(30,)")
    num_read = 0
    for _ in range(300):
        changed = bytearray(header)
        for _ in range(places.randrange(1, 4)):
            changed[places.randrange(len(changed))] = places.choice(b"(){}[]'\", 0123456789OVU<>|iufbc\xff")
        (tmp_path / "a.npz").write_bytes(archive(Entry(b"a.npy", npy_of(bytes(changed), bytes(30)))))
        try:
            assert arrays_of(tmp_path / "a.npz")["a"].nbytes == 30
            num_read += 1
        except NpzError:
            pass
    assert 0 < num_read < 300


# Memory, in a process of its own: a peak once reached hides what comes after


def peak_growth(path: Path, code: str) -> tuple[int, str]:
    """Bytes that the peak memory of a new interpreter grows by while it runs `code`, and what that prints."""
    script = f"""
        import re, sys
        from pathlib import Path
        import numpy as np
        from cifar_lit.data.npz import NpyFile, NpzFile
        from cifar_lit.errors import NpzError

        def peak():
            return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

        def read(path, max_bytes=200 * 2**20):
            try:
                with NpzFile(path, max_bytes=max_bytes, max_members=4) as file:
                    for key in file.keys:
                        array = file.read(key)
                print("read", array.nbytes)
            except NpzError as error:
                print(error.fault)

        path = Path({str(path)!r})
        before = peak()
        {code}
        print(peak() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True, text=True, timeout=60
    )
    *said, growth = done.stdout.split("\n")[:-1]
    return int(growth), "\n".join(said)


def test_the_measure_of_memory_sees_what_is_used(tmp_path: Path) -> None:
    growth, _ = peak_growth(tmp_path, "np.ones(50 * 2**20, np.uint8)")
    assert 49 * 2**20 < growth < 60 * 2**20
    (tmp_path / "a.npz").write_bytes(saved(np.savez_compressed, a=np.zeros(50 * 2**20, np.uint8)))
    growth, said = peak_growth(tmp_path / "a.npz", "read(path)")
    assert said == "read 52428800"
    assert 49 * 2**20 < growth < 75 * 2**20


@pytest.mark.parametrize(
    ("build", "fault"),
    [
        (bomb_10_gb, "too_large"),
        (bomb_1_gb, "malformed"),
        (claim_2_40, "too_large"),
        (lambda: many_members(100_000), "malformed"),
        (lambda: archive(Entry(b"a.npy", npy_of(b"", version=2, length=2**32 - 1))), "malformed"),
        # 150 MB claimed by directory and array, and a stream that ends after 2
        (
            lambda: archive(
                Entry(
                    b"a.npy",
                    npy_of(header_of("(150000000,)")),
                    packed=deflated(npy_of(header_of("(150000000,)"), bytes(2_000_000))),
                    method=8,
                    size=150_000_000 + len(npy_of(header_of("(150000000,)"))),
                )
            ),
            "malformed",
        ),
    ],
    ids=["10 GB", "1 GB", "2**40", "100,000 members", "4 GB header", "short stream"],
)
def test_memory_stays_small_whatever_a_file_claims(tmp_path: Path, build: Callable[[], bytes], fault: str) -> None:
    (tmp_path / "a.npz").write_bytes(build())
    growth, said = peak_growth(tmp_path / "a.npz", "read(path)")
    assert said == fault
    assert growth < 20 * 2**20


# The hostile files are what they are called


def test_bombs_really_inflate_to_what_they_are_called() -> None:
    assert len(zlib.decompressobj(-15).decompress(zeros_unit() * 2)) == 2 * UNIT
    data = bomb_10_gb()
    (info,) = [info for info in zipfile.ZipFile(io.BytesIO(data)).infolist() if info.filename == "x_new.npy"]
    assert info.file_size > 10 * 2**30
    assert 9 * 2**20 < info.compress_size < len(data) < 12 * 2**20
    data = bomb_1_gb()
    assert data.count(zeros_unit()) == 16
    assert zipfile.ZipFile(io.BytesIO(data)).getinfo("x_new.npy").file_size < 4_000


def test_a_claim_of_2_40_takes_244_bytes() -> None:
    assert len(claim_2_40()) == 244
    with pytest.raises((MemoryError, ValueError, OSError)):
        np.load(io.BytesIO(claim_2_40()))["x_new"]


def test_100_000_members_are_that_many() -> None:
    assert len(zipfile.ZipFile(io.BytesIO(many_members(100_000))).namelist()) == 100_000


def test_too_many_rows_are_sound_otherwise(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(too_many_rows())
    with NpzFile(tmp_path / "a.npz", max_bytes=200 * 2**20, max_members=2) as file:
        assert file.read("x_new").shape == (60_001, 32, 32, 3)


def test_the_quoted_overlap_fools_a_trusting_reader() -> None:
    data = quoted_overlap()
    file = zipfile.ZipFile(io.BytesIO(data))
    x, y = file.infolist()
    assert x.header_offset < y.header_offset < x.header_offset + x.compress_size
    assert data[y.header_offset : y.header_offset + 4] == b"PK\x03\x04"
    assert file.read("y_new.npy") == npy(LABELS)
    with contextlib.suppress(zipfile.BadZipFile):  # Python 3.11.8 and later
        assert npy(LABELS) in file.read("x_new.npy")


def test_a_link_has_the_bit_that_makes_one() -> None:
    entry = Entry(b"x_new.npy", b"/etc/passwd", attributes=0o120777 << 16)
    (info,) = zipfile.ZipFile(io.BytesIO(archive(entry))).infolist()
    assert info.external_attr >> 16 == 0o120777


def test_a_second_array_is_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npz_bytes(x=PIXELS, y=LABELS, z=LABELS))
    assert equal(arrays_of(tmp_path / "a.npz"), {"x": PIXELS, "y": LABELS, "z": LABELS})
