"""Image files as people have them, with `increment make --images`: each form, what becomes of it, the exit status."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_npz import Entry, archive
from PIL import Image

from cifar_lit.cli import main
from cifar_lit.data import image_sources, increment
from cifar_lit.data.class_names import meaning_of
from cifar_lit.data.labelled_files import read_labelled_files
from cifar_lit.errors import DataError


def png(shade: int = 200, size: tuple[int, int] = (32, 32)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 100, 0)).save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()
Files = dict[str, bytes]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(files: Files, top: str = "top") -> None:
    Path(top).mkdir(exist_ok=True)
    for name, content in files.items():
        path = Path(top, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def made(capsys: pytest.CaptureFixture[str], path: str, *args: str) -> tuple[int, str]:
    """Exit status and standard error."""
    capsys.readouterr()
    status = main(["increment", "make", "--images", path, "--out", "out.npz", *args])
    return status, capsys.readouterr().err


def labels() -> list[int]:
    return increment.read(Path("out.npz")).labels.tolist()


CLONE = {
    ".git/HEAD": b"ref",
    ".git/objects/cat/x.png": PNG,
    "README.md": b"#",
    "train.py": b"",
    "docs/figure.png": PNG,
    "notebooks/cats.ipynb": b"{}",
    "data/train/.gitkeep": b"",
    "data/train/cat/a.png": PNG,
    "data/train/cat/._a.png": b"resource fork",
    "data/train/cat/.DS_Store": b"",
    "data/train/dog/b.png": PNG,
    "data/train/Thumbs.db": b"",
    "data/test/cat/t.png": PNG,
    "__MACOSX/data/train/cat/._a.png": b"",
}
CLONE_SAID = [
    "left out: 1 .md (README.md), 1 .ipynb (notebooks/cats.ipynb), 1 .py (train.py)",
    "left out: 1 image in data/test/, beside data/train/",
    "left out: 1 .png (docs/figure.png), outside data/train/",
]

# Files, options, status, labels, what is said.
TAKEN: dict[str, tuple[Files, str, int, list[int], list[str]]] = {
    "plain": ({"cat/a.png": PNG, "truck/b.png": PNG}, "", 0, [3, 9], []),
    "deeper": ({"cat/2024/may/a.png": PNG}, "", 0, [3], []),
    "capitals, plurals, numbers before": (
        {"Cats/a.png": PNG, "DOG/b.png": PNG, "airplanes/c.png": PNG, "04_deer/d.png": PNG, "horse /e.png": PNG},
        "",
        0,
        [0, 3, 4, 5, 7],
        [],
    ),
    "other words": (
        {"car/a.png": PNG, "Planes/b.png": PNG, "lorries/c.png": PNG, "kitten/d.png": PNG},
        "--yes",
        0,
        [0, 1, 3, 9],
        ["convert: the folder 'car' is taken for automobile", "convert: the folder 'Planes' is taken for airplane"],
    ),
    "a slip of the pen": (
        {"automobil/a.png": PNG, "hors/b.png": PNG},
        "--yes",
        0,
        [1, 7],
        ["the folder 'automobil' is taken for automobile"],
    ),
    "numbers": ({"0/a.png": PNG, "9/b.png": PNG}, "--yes", 0, [0, 9], ["the folder '9' is taken for truck"]),
    "train above": ({"train/cat/a.png": PNG, "train/dog/b.png": PNG}, "", 0, [3, 5], []),
    "train and test": (
        {"train/cat/a.png": PNG, "test/dog/b.png": PNG},
        "",
        0,
        [3],
        ["left out: 1 image in test/, beside train/"],
    ),
    "a clone": (CLONE, "", 0, [3, 5], CLONE_SAID),
    "all kinds of files beside": (
        {"cat/a.png": PNG, "cat/b.txt": b"", "notes": b"", "c.TXT": b"", "cat/d.tif": b"II*\0"},
        "",
        0,
        [3],
        ["left out: 2 .txt (c.TXT, cat/b.txt), 1 .tif (cat/d.tif), 1 without ending (notes)"],
    ),
    "capital endings, any size": ({"cat/a.PNG": PNG, "cat/b.JPEG": png(size=(60, 40))}, "", 0, [3, 3], []),
    "damaged ones": (
        {"cat/a.png": PNG, "cat/b.png": PNG[:40], "dog/c.jpg": b"text"},
        "--yes",
        1,
        [3],
        ["convert: left out, it can't be read: cat/b.png: ", "convert: left out, it can't be read: dog/c.jpg: "],
    ),
}


def as_zip(path: Path, files: Files) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.comment = b"a commit's number, as in a downloaded clone"
        for name, content in files.items():
            file.writestr(f"clone-main/{name}", content)


def as_tar(path: Path, files: Files) -> None:
    mode: Any = f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w"
    with tarfile.open(path, mode) as file:
        for name, content in files.items():
            about = tarfile.TarInfo(f"./clone-main/{name}")
            about.size = len(content)
            file.addfile(about, io.BytesIO(content))
        link = tarfile.TarInfo("clone-main/data/train/cat/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)


@pytest.mark.parametrize("name", TAKEN)
def test_folders_are_taken_as_they_lie(capsys: pytest.CaptureFixture[str], name: str) -> None:
    files, args, status, expected, words = TAKEN[name]
    write(files)
    got, said = made(capsys, "top", *args.split())
    assert (got, labels()) == (status, expected), said
    for word in words:
        assert word in said
    assert said.count("\n") >= len(words)
    assert bool(words) == bool(said), said


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.zip", as_zip), ("a.tar", as_tar), ("a.tar.gz", as_tar), ("a.tar.bz2", as_tar), ("a.tar.xz", as_tar)],
)
def test_archives_are_read_as_the_folder_is(
    capsys: pytest.CaptureFixture[str], name: str, pack: Callable[[Path, Files], None]
) -> None:
    pack(Path(name), CLONE)
    status, said = made(capsys, name)
    assert (status, labels()) == (0, [3, 5])
    for word in CLONE_SAID:
        assert word.replace("data/", "clone-main/data/").partition(":")[0] in said
    assert sorted(path.name for path in Path().iterdir()) == [name, "out.npz"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file,label\na.png,cat\ntrain/b.png,9\n", [3, 9]),
        ("id;class\na;Cats\nb;truck\n", [3, 9]),
        ("label\tpath\n3\ta.png\n9\ttrain/b.png", [3, 9]),
        ("a.png,cat\r\ntrain/b.png,car\r\n", [1, 3]),
        ("\ufeffimage,split,label\na.png,x,cat\n", [3]),
    ],
)
def test_a_table_names_files_and_labels(capsys: pytest.CaptureFixture[str], text: str, expected: list[int]) -> None:
    write({"a.png": PNG, "train/b.png": png(50), "labels.csv": text.encode()})
    status, said = made(capsys, "top/labels.csv", "--yes")
    assert (status, labels()) == (0, expected), said
    assert ("numbers 0..9 are taken for the classes" in said) == (",9" in text or "3\t" in text)


def test_the_rows_are_the_images_in_the_order_of_class_and_name(capsys: pytest.CaptureFixture[str]) -> None:
    write({"dog/a.png": png(10), "cat/z.png": png(20), "cat/b.png": png(30)})
    assert made(capsys, "top")[0] == 0
    data = increment.read(Path("out.npz"))
    assert (data.images[:, 0, 0, 0].tolist(), data.labels.tolist()) == ([30, 20, 10], [3, 3, 5])


REFUSED: dict[str, tuple[Files, list[str]]] = {
    "nothing": ({}, ["top: no image in it, expected <class>/*"]),
    "text alone": ({"cat/a.txt": b""}, ["left out: 1 .txt (cat/a.txt)", "no image in it"]),
    "no class folder": ({"a.png": PNG}, ["1 image in no folder, expected <class>/*: airplane"]),
    "other folders alone": ({"x/a.png": PNG, "y/b.png": PNG}, ["2 images in 'x', 'y', expected <class>/*"]),
    "several problems": (
        {"cat/a.png": PNG, "zebra/b.png": PNG, "lamp/c.png": PNG, "d.png": PNG, "cat/e.png": b"no", "cat/f.png": b""},
        [
            "d.png lies in none of the class folders",
            "the folder 'lamp' (1 image) is none of the ten classes",
            "the folder 'zebra' (1 image) is none of the ten classes",
            "cat/e.png: this is a text",
            "cat/f.png: the file is empty",
        ],
    ),
    "two places": (
        {"a/cat/x.png": PNG, "b/dog/y.png": PNG},
        ["class folders lie in 2 places: a/, b/. Name one of them"],
    ),
    "two places, one at the top": ({"cat/x.png": PNG, "b/dog/y.png": PNG}, ["in 2 places: the top, b/"]),
    "all damaged": ({"cat/a.png": b"no"}, ["none of its images can be read", "cat/a.png: this is a text"]),
    "a guess that nobody confirms": ({"car/a.png": PNG}, ["convert: the folder 'car'", "then add --yes."]),
    "damage that nobody confirms": ({"cat/a.png": PNG, "cat/b.png": b""}, ["it can't be read: cat/b.png", "add --yes"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_all_that_is_wrong_is_said_at_once_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    files, words = REFUSED[name]
    write(files)
    status, said = made(capsys, "top")
    assert (status, Path("out.npz").exists()) == (2, False)
    for word in words:
        assert word in said


def test_the_folder_of_one_class_is_told_from_the_one_above(capsys: pytest.CaptureFixture[str]) -> None:
    write({"a.png": PNG}, "cats")
    assert "Name the folder above 'cats'." in made(capsys, "cats")[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "top/a.csv: it has no row, expected file,label."),
        ("\xff", "top/a.csv: it can't be read"),
        ("file,label\n", "top/a.csv"),
        (
            "file,label\nx.png,cat\na.png,zebra\na.png\na.png,cat\na.png,dog\n",
            "rows 4 have no second column.\n  'zebra' in row 3 are none of the ten classes",
        ),
        ("file,label\nx.png,cat\n", "'x.png' in row 2 are no files beside the table."),
        ("file,label\na.png,cat\na.png,dog\n", "a.png have two labels."),
    ],
)
def test_a_wrong_table_is_refused(capsys: pytest.CaptureFixture[str], text: str, words: str) -> None:
    write({"a.png": PNG, "a.csv": text.encode("latin1")})
    status, said = made(capsys, "top/a.csv")
    assert status == 2
    assert words in said


def gz_bomb(path: Path) -> None:
    with gzip.open(path, "wb", 1) as file:
        about = tarfile.TarInfo("cat/a.png")
        about.size = 2**33
        file.write(about.tobuf())
        file.write(bytes(2**20))


def header_bomb(path: Path) -> None:
    """A header of 1 GiB that goes before a file."""
    about = tarfile.TarInfo("x")
    about.type, about.size = tarfile.XHDTYPE, 2**30
    with gzip.open(path, "wb", 1) as file:
        file.write(about.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(64):
            file.write(bytes(2**20))


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for number in range(3):
            file.writestr(f"cat/{number}.png", bytes(image_sources.MAX_FILE_BYTES + 1))


def many_files(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for number in range(50):
            file.writestr(f"cat/{number}.png", b"")


@pytest.mark.parametrize(
    ("name", "pack", "words"),
    [
        ("a.tar.gz", gz_bomb, "it holds more than the 4,294,967,296 bytes that are accepted"),
        ("a.tar.gz", header_bomb, "a header in it claims 1,073,741,824 bytes"),
        ("a.zip", zip_bomb, "cat/0.png: it has 33,554,433 bytes, at most 33,554,432 are accepted"),
        ("a.zip", many_files, "it holds more than the 40 files that are accepted"),
        ("a.zip", lambda path: path.write_bytes(archive(Entry(b"cat/a.png", PNG, flags=1))), "is encrypted"),
        ("a.zip", lambda path: path.write_bytes(archive(Entry(b"cat/a.png", PNG), before=b"x" * 9)), "it is no folder"),
        ("a.zip", lambda path: path.write_bytes(archive(Entry(b"cat/a.png", PNG))[:-3]), "end record is missing"),
        ("a.tar", lambda path: path.write_bytes(b"no" * 500), "it is no folder, zip, tar or CSV of images"),
        ("a.tar.gz", lambda path: path.write_bytes(gzip.compress(b"no" * 500)), "the archive is damaged"),
        ("a.tar.gz", lambda path: path.write_bytes(gzip.compress(b"no" * 500)[:-9]), "the archive is damaged"),
        ("a.tar.bz2", lambda path: path.write_bytes(bz2.compress(b"no" * 500)[:-9]), "the archive is damaged"),
        ("a.tar.xz", lambda path: path.write_bytes(lzma.compress(b"no" * 500)[:-9]), "the archive is damaged"),
        ("no", lambda path: None, "no: no such folder or file"),
    ],
)
def test_hostile_and_damaged_archives_are_refused(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    pack: Callable[[Path], object],
    words: str,
) -> None:
    monkeypatch.setattr(image_sources, "MAX_FILES", 40)
    pack(Path(name))
    status, said = made(capsys, name, "--yes")
    assert status == 2
    assert words in said


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_tar_without_its_end_is_refused(name: str) -> None:
    as_tar(Path(name), {f"cat/{number}.png": png(number) for number in range(9)})
    data = Path(name).read_bytes()
    assert len(read_labelled_files(Path(name), 100).data) == 9
    for cut in range(20, len(data), 512 if name == "a.tar" else 97):
        Path(name).write_bytes(data[:cut])
        try:
            assert len(read_labelled_files(Path(name), 100).data) == 9, "what is missing is behind the last file"
        except DataError:
            continue


def test_a_tar_with_damage_in_the_middle_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    as_tar(Path("a.tar"), {f"cat/{number}.png": png(number) for number in range(9)})
    data = bytearray(Path("a.tar").read_bytes())
    data[4 * 1024 : 4 * 1024 + 300] = b"x" * 300
    Path("a.tar").write_bytes(data)
    status, said = made(capsys, "a.tar")
    assert status == 2
    assert "the tar is cut off or damaged in the middle" in said


def test_a_special_file_and_a_link_to_nothing_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    write({"cat/a.png": PNG})
    Path("top/cat/b.png").symlink_to("nowhere")
    Path("top/loop").symlink_to(".")
    status, said = made(capsys, "top", "--yes")
    assert (status, labels()) == (1, [3])
    assert "left out, it can't be read: cat/b.png: it is no regular file" in said


def test_more_images_than_an_increment_takes_are_refused_before_they_are_read() -> None:
    write({f"cat/{number}.png": b"no" for number in range(5)})
    with pytest.raises(DataError, match="top: 5 images, at most 4 are accepted. Divide them."):
        read_labelled_files(Path("top"), 4)


@pytest.mark.parametrize(
    ("word", "label", "is_sure"),
    [
        ("Frogs", 6, True),
        ("1-automobile", 1, True),
        (" ship ", 8, True),
        ("boats", 8, False),
        ("aeroplane", 0, False),
        ("7", 7, False),
        ("truk", 9, False),
    ],
)
def test_what_words_mean(word: str, label: int, is_sure: bool) -> None:
    meaning = meaning_of(word)
    assert meaning is not None
    assert (meaning.label, meaning.is_sure) == (label, is_sure)


@pytest.mark.parametrize("word", ["", "zebra", "10", "train", "test", "data", "images", "carrot", "catalog", "-1"])
def test_what_other_words_do_not_mean(word: str) -> None:
    assert meaning_of(word) is None


@pytest.mark.parametrize(
    ("pack", "names"),
    [
        (None, ["left out 4 hidden", ".git/", "cat/.b.png", "cat/Thumbs.db", "dog/.cache/"]),
        (as_zip, ["left out 4 hidden", ".git/x/y.png", "cat/.b.png", "cat/Thumbs.db", "dog/.cache/c.png"]),
    ],
)
def test_hidden_files_are_counted_and_named(
    capsys: pytest.CaptureFixture[str], pack: Callable[[Path, Files], None] | None, names: list[str]
) -> None:
    hidden = {".git/x/y.png": PNG, "cat/.b.png": PNG, "cat/Thumbs.db": b"", "dog/.cache/c.png": PNG}
    files = {"cat/a.png": PNG, "dog/a.png": PNG, **hidden}
    if pack is None:
        write(files)
    else:
        pack(Path("top"), files)  # an archive by its content, whatever its name
    status, said = made(capsys, "top")
    assert status == 0
    (line,) = [line for line in said.splitlines() if "hidden" in line]
    assert all(name in line for name in names)
    assert labels() == [3, 5]


def test_many_hidden_files_are_not_all_named(capsys: pytest.CaptureFixture[str]) -> None:
    write({"cat/a.png": PNG, **{f"cat/.{number}": b"" for number in range(30)}})
    _, said = made(capsys, "top")
    assert "left out 30 hidden or system files or folders: cat/.0, " in said
    assert "and 10 more" in said


def test_a_linked_folder_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    write({"cat/a.png": PNG}, "disk")
    write({"README.md": b"#"}, "clone")
    Path("clone/data").mkdir()
    Path("clone/data/train").symlink_to("../../disk")
    assert made(capsys, "clone")[0] == 0
    assert labels() == [3]


def test_the_images_are_those_of_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    write({"cat/a.png": png(7)})
    assert made(capsys, "top")[0] == 0
    assert (increment.read(Path("out.npz")).images.numpy() == np.array([7, 100, 0])).all()


def test_of_each_kind_of_file_that_is_left_out_three_are_named() -> None:
    write({"cat/a.png": PNG, **{f"cat/{name}.txt": b"x" for name in "bcdef"}})
    notes = " ".join(read_labelled_files(Path("top"), 10).notes)
    assert "5 .txt (cat/b.txt, cat/c.txt, cat/d.txt, ...)" in notes
