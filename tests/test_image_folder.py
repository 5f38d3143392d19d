import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data import image_folder
from cifar_lit.data.image_files import Skipped, list_files, read_image, skipped, summary
from cifar_lit.errors import DataError, ImageError


def write_image(path: Path, value: int, size: tuple[int, int] = (32, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 2 * value, 3)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images in each class, named so that classes alternate in file-name order."""
    for label, name in enumerate(CLASS_NAMES):
        for number in range(2):
            write_image(tmp_path / "test" / name / f"{number}-{9 - label}.png", 10 * label + number)
    return tmp_path


def test_rows_are_ordered_by_file_name_and_carry_the_label_of_their_folder(root: Path) -> None:
    data = image_folder.read(root, "test")
    assert data.labels.tolist() == [*range(9, -1, -1)] * 2
    assert data.images[:, 5, 6].tolist() == [[10 * n + k, 20 * n + 2 * k, 3] for k in (0, 1) for n in range(9, -1, -1)]


def test_equal_file_names_are_ordered_by_class(tmp_path: Path) -> None:
    for label, name in enumerate(CLASS_NAMES):
        write_image(tmp_path / "test" / name / "same.png", label)
    assert image_folder.read(tmp_path, "test").labels.tolist() == list(range(10))


def test_images_are_read_at_any_depth_whatever_their_names(root: Path) -> None:
    write_image(root / "test" / "cat" / "deep" / "a.WEBP", 9)
    write_image(root / "test" / "cat" / "b.gif", 9)
    write_image(root / "test" / "cat" / "c.JPG", 9)
    (root / "test" / "cat" / "c.JPG").rename(root / "test" / "cat" / "without")
    (root / "test" / "cat" / ".DS_Store").write_text("hidden")
    assert (image_folder.read(root, "test").labels == 3).sum() == 5


def test_a_file_that_is_no_image_is_named(root: Path) -> None:
    (root / "test" / "cat" / "notes.txt").write_text("not an image")
    with pytest.raises(DataError, match=r"cat.notes\.txt: this is a text, expected .* Replace or remove the file"):
        image_folder.read(root, "test")


def test_the_folders_are_the_classes(tmp_path: Path) -> None:
    for label, name in enumerate(["zebra", "apple", "café"]):
        write_image(tmp_path / "train" / name / "0.png", label)
    data = image_folder.read(tmp_path, "train")
    assert data.class_names == ("apple", "café", "zebra")
    assert data.images[:, 0, 0, 0].tolist() == [1, 2, 0]


def test_a_class_that_only_one_split_has_is_named(root: Path) -> None:
    for path in (root / "test").iterdir():
        (root / "train" / path.name.replace("cat", "kitten")).mkdir(parents=True)
    with pytest.raises(DataError, match=r"only in train/: kitten; only in test/: cat\. Rename or add the folders"):
        image_folder.read(root, "test")


def test_one_class_is_none(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "cat" / "0.png", 1)
    (tmp_path / "train" / ".cache").mkdir()
    with pytest.raises(DataError, match="train: 1 class folders, expected two or more"):
        image_folder.read(tmp_path, "train")


def test_absent_split_names_its_folder_and_the_way_out(root: Path) -> None:
    with pytest.raises(DataError, match=r"train: no such folder, expected train/<class>/\*.* --data\.root"):
        image_folder.read(root, "train")


def test_empty_class_folder_is_named(root: Path) -> None:
    for path in (root / "test" / "dog").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"test.dog: no image in it"):
        image_folder.read(root, "test")


def test_images_of_another_size_are_scaled_and_that_is_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    image_folder.read(root, "test")
    assert not caplog.messages
    write_image(root / "test" / "frog" / "0-large.png", 77, (48, 40))
    data = image_folder.read(root, "test")
    assert (data.images == torch.tensor([77, 154, 3])).all((1, 2, 3)).sum() == 1
    assert "1 of 21 images are not 32x32: their central square is scaled." in caplog.text


def test_damaged_image_is_named_with_what_is_wrong(root: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(buffer, "PNG")
    (root / "test" / "ship" / "half.png").write_bytes(buffer.getvalue()[:60])
    with pytest.raises(DataError, match=r"ship.half\.png: the PNG can't be decoded .* Replace or remove the file"):
        image_folder.read(root, "test")


def unread(folder: Path) -> list[Skipped]:
    left = []
    for path in list_files(folder)[0]:
        try:
            read_image(path)
        except (ImageError, OSError) as error:
            left.append(skipped(path, error))
    return left


def test_what_could_not_be_read_is_counted_by_kind(tmp_path: Path) -> None:
    write_image(tmp_path / "cat" / "good.png", 7, (50, 40))
    contents = {"a.tif": b"II*\0", "b.pdf": b"%PDF-1.7", "c.pdf": b"%PDF-1.4", "d.png": b"\x89PNG\r\n\x1a\n"}
    for name, content in contents.items():
        (tmp_path / "cat" / name).write_bytes(content)
    left = unread(tmp_path)
    assert [each.path.name for each in left] == list(contents)
    expected = "skipped 4 of 5 files: 2 PDF, 1 TIFF (or a camera's raw file), 1 damaged"
    assert summary(left, 5) == expected


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    write_image(tmp_path / "cat" / "good.png", 7)
    os.mkfifo(tmp_path / "cat" / "pipe")
    assert [(each.kind, str(each.path)) for each in unread(tmp_path)] == [
        ("unreadable", str(tmp_path / "cat" / "pipe"))
    ]
