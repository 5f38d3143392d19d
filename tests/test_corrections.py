import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_lit.data import corrections
from cifar_lit.errors import DataError


def add(folder: Path, value: int, label: str, size: tuple[int, int] = (32, 32)) -> str:
    """Adds a correction as the page does; the picture is of one colour. Returns the picture's name."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 0, 255)).save(buffer, "PNG")
    name = f"{hashlib.sha256(buffer.getvalue()).hexdigest()}.png"
    (folder / name).write_bytes(buffer.getvalue())
    with (folder / corrections.LINES).open("a") as file:
        file.write(json.dumps({"file": name, "label": label, "time": "2026-01-01", "predicted": "dog"}) + "\n")
    return name


def append(folder: Path, text: bytes) -> None:
    with (folder / corrections.LINES).open("ab") as file:
        file.write(text)


def test_rows_are_the_pictures_in_the_order_of_their_first_correction(tmp_path: Path) -> None:
    for value, label in ((9, "cat"), (5, "dog"), (7, "truck")):
        add(tmp_path, value, label)
    data, torn = corrections.read(tmp_path)
    assert data.labels.tolist() == [3, 5, 9]
    assert data.images[:, 4, 6].tolist() == [[9, 0, 255], [5, 0, 255], [7, 0, 255]]
    assert torn == []


def test_the_last_label_of_a_picture_counts(tmp_path: Path) -> None:
    for value, label in ((9, "cat"), (5, "dog"), (9, "frog")):
        add(tmp_path, value, label)
    data, _ = corrections.read(tmp_path)
    assert data.labels.tolist() == [6, 5]


@pytest.mark.parametrize("rest", [b'{"file": "ab', b"\xff\xfe\n", b'{"file": "ab\n'])
def test_a_torn_line_is_passed_over_and_told(tmp_path: Path, rest: bytes) -> None:
    add(tmp_path, 9, "cat")
    append(tmp_path, rest)
    data, torn = corrections.read(tmp_path)
    assert len(data) == 1
    assert torn == [f"{tmp_path / corrections.LINES}, line 2: it is torn, and was passed over."]
    append(tmp_path, b"\n\n")
    add(tmp_path, 5, "dog")
    data, torn = corrections.read(tmp_path)
    assert data.labels.tolist() == [3, 5]
    assert len(torn) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file": "../../x.png", "label": "cat"}', "line 2: its file is '../../x.png', expected '<sha256>.png'"),
        ('{"file": 7, "label": "cat"}', "line 2: its file is 7, expected"),
        ('{"label": "cat"}', "line 2: its file is None, expected"),
        ("[1]", "line 2: its file is None, expected"),
        (
            f'{{"file": "{"0" * 64}.png", "label": "kitten"}}',
            "line 2: its label is 'kitten', expected one of airplane,",
        ),
        (
            f'{{"file": "{"0" * 64}.png", "label": ["cat"]}}',
            r"line 2: its label is \['cat'\], expected one of airplane,",
        ),
        (f'{{"file": "{"0" * 64}.png", "label": "cat"}}', "0000.png can't be read: No such file or directory Restore"),
    ],
)
def test_a_line_that_says_something_else_is_refused(tmp_path: Path, line: str, message: str) -> None:
    add(tmp_path, 9, "cat")
    append(tmp_path, f"{line}\n".encode())
    with pytest.raises(DataError, match=message):
        corrections.read(tmp_path)


def test_a_picture_that_was_changed_is_refused(tmp_path: Path) -> None:
    name = add(tmp_path, 9, "cat")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: the content has another SHA-256 than its name"):
        corrections.read(tmp_path)


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    add(tmp_path, 9, "cat", size=(31, 32))
    with pytest.raises(DataError, match="the image is 31x32, expected 32x32"):
        corrections.read(tmp_path)


def test_bytes_that_are_no_picture_are_refused(tmp_path: Path) -> None:
    name = f"{hashlib.sha256(b'x').hexdigest()}.png"
    (tmp_path / name).write_bytes(b"x")
    append(tmp_path, json.dumps({"file": name, "label": "cat"}).encode())
    with pytest.raises(DataError, match=f"{name} can't be read: the content is not a PNG"):
        corrections.read(tmp_path)


def test_a_folder_without_corrections_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="corrections.jsonl can't be read: No such file"):
        corrections.read(tmp_path)
    append(tmp_path, b"\n{\n")
    with pytest.raises(DataError, match="there is no correction in it"):
        corrections.read(tmp_path)
