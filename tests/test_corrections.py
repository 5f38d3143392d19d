import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cifar_lit.data import corrected_images, corrections
from cifar_lit.errors import DataError


def add(folder: Path, value: int, label: str, size: tuple[int, int] = (32, 32)) -> str:
    """Adds a correction as the page does; the image is of one colour. Returns the image's name."""
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


def test_rows_are_the_images_in_the_order_of_their_first_correction(tmp_path: Path) -> None:
    for value, label in ((9, "cat"), (5, "dog"), (7, "truck")):
        add(tmp_path, value, label)
    data, torn = corrected_images.read(tmp_path)
    assert data.labels.tolist() == [3, 5, 9]
    assert data.images[:, 4, 6].tolist() == [[9, 0, 255], [5, 0, 255], [7, 0, 255]]
    assert torn == []


def test_the_last_label_of_an_image_counts(tmp_path: Path) -> None:
    for value, label in ((9, "cat"), (5, "dog"), (9, "frog")):
        add(tmp_path, value, label)
    data, _ = corrected_images.read(tmp_path)
    assert data.labels.tolist() == [6, 5]


@pytest.mark.parametrize("rest", [b'{"file": "ab', b"\xff\xfe\n", b'{"file": "ab\n'])
def test_a_torn_line_is_passed_over_and_told(tmp_path: Path, rest: bytes) -> None:
    add(tmp_path, 9, "cat")
    append(tmp_path, rest)
    data, torn = corrected_images.read(tmp_path)
    assert len(data) == 1
    assert torn == [f"{tmp_path / corrections.LINES}, line 2: it is torn, and was passed over."]
    append(tmp_path, b"\n\n")
    add(tmp_path, 5, "dog")
    data, torn = corrected_images.read(tmp_path)
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
        corrected_images.read(tmp_path)


def test_an_image_that_was_changed_is_refused(tmp_path: Path) -> None:
    name = add(tmp_path, 9, "cat")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: the content has another SHA-256 than its name"):
        corrected_images.read(tmp_path)


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    add(tmp_path, 9, "cat", size=(31, 32))
    with pytest.raises(DataError, match="the image is 31x32, expected 32x32"):
        corrected_images.read(tmp_path)


def test_bytes_that_are_no_image_are_refused(tmp_path: Path) -> None:
    name = f"{hashlib.sha256(b'x').hexdigest()}.png"
    (tmp_path / name).write_bytes(b"x")
    append(tmp_path, json.dumps({"file": name, "label": "cat"}).encode())
    with pytest.raises(DataError, match=f"{name} can't be read: (the|this) "):
        corrected_images.read(tmp_path)


def test_a_folder_without_corrections_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="corrections.jsonl can't be read: No such file"):
        corrected_images.read(tmp_path)
    append(tmp_path, b"\n{\n")
    with pytest.raises(DataError, match="there is no correction in it"):
        corrected_images.read(tmp_path)


# Adding


def image(value: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Noise of its own for each value, so that no two are alike."""
    return np.random.default_rng(value).integers(0, 256, (32, 32, 3), np.uint8)


def test_what_is_added_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    assert corrections.count(folder) == 0
    corrections.add(folder, image(1), "cat", said="dog", version="v0001")
    corrections.add(folder, image(2), "frog")
    data, torn = corrected_images.read(folder)
    assert data.labels.tolist() == [3, 6]
    assert np.array_equal(data.images.numpy(), [image(1), image(2)])
    assert torn == []
    first = json.loads((folder / corrections.LINES).read_text().splitlines()[0])
    assert {name: first[name] for name in ("label", "said", "version")} == {
        "label": "cat",
        "said": "dog",
        "version": "v0001",
    }
    assert corrections.count(folder) == 2


def test_the_same_image_twice_is_one_with_the_last_label(tmp_path: Path) -> None:
    for label in ("cat", "cat", "dog"):
        corrections.add(tmp_path, image(1), label)
    assert corrections.count(tmp_path) == 1
    assert corrected_images.read(tmp_path)[0].labels.tolist() == [5]


def test_a_line_break_in_a_detail_does_not_break_the_line(tmp_path: Path) -> None:
    corrections.add(tmp_path, image(1), "cat", said='dog\n{"file": "x", "label": "frog"}')
    assert corrected_images.read(tmp_path)[0].labels.tolist() == [3]
    assert corrections.count(tmp_path) == 1


@pytest.mark.parametrize(
    ("pixels", "label", "message"),
    [
        (np.zeros((32, 32, 3), np.float32), "cat", r"the image is float32 \(32, 32, 3\), expected uint8"),
        (np.zeros((3, 32, 32), np.uint8), "cat", r"the image is uint8 \(3, 32, 32\), expected uint8 \(32, 32, 3\)"),
        (np.zeros((32, 32, 3), np.uint8), "kitten", "the label is 'kitten', expected one of airplane,"),
    ],
)
def test_what_is_no_correction_is_refused(
    tmp_path: Path, pixels: np.ndarray[Any, Any], label: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        corrections.add(tmp_path / "none", pixels, label)
    assert not (tmp_path / "none").exists()


def test_too_many_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrections, "MAX_CORRECTIONS", 2)
    corrections.add(tmp_path, image(1), "cat")
    corrections.add(tmp_path, image(2), "cat")
    with pytest.raises(DataError, match="2 corrections wait to be learned, and no more are collected"):
        corrections.add(tmp_path, image(3), "cat")
    assert corrections.count(tmp_path) == 2


@pytest.mark.parametrize("failing", ["os.fsync", "os.replace"])
def test_a_disk_that_fails_leaves_the_corrections_as_they_were(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrections.add(tmp_path, image(1), "cat")
    before = (tmp_path / corrections.LINES).read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(failing, fail)
        with pytest.raises(DataError, match="can't be read or written: No space left on device. Free space"):
            corrections.add(tmp_path, image(2), "dog")
    assert (tmp_path / corrections.LINES).read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_line_that_cannot_be_made_durable_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corrections.add(tmp_path, image(1), "cat")
    before = (tmp_path / corrections.LINES).read_bytes()
    real, calls = os.fsync, []

    def second_fails(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:  # the first is the image's
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", second_fails)
        with pytest.raises(DataError, match="Input/output error"):
            corrections.add(tmp_path, image(2), "dog")
    assert (tmp_path / corrections.LINES).read_bytes() == before


ADDING = """
import sys
import numpy as np
from pathlib import Path
from cifar_lit.data import corrected_images, corrections

folder, start, stop = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
for value in range(start, stop):
    image = np.random.default_rng(value).integers(0, 256, (32, 32, 3), np.uint8)
    corrections.add(folder, image, "cat")
    print(value, flush=True)
"""


def adding(folder: Path, start: int, stop: int) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", ADDING, str(folder), str(start), str(stop)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_lose_nothing_and_a_killed_one_only_what_it_had_not_added(tmp_path: Path) -> None:
    killed, other = adding(tmp_path, 0, 100_000), adding(tmp_path, 200_000, 200_012)
    with killed, other:
        other.wait()
        time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        assert killed.stdout is not None
        added = [int(line) for line in killed.stdout.read().splitlines() if line]
    corrections.sweep(tmp_path)
    data, torn = corrected_images.read(tmp_path)
    assert torn == []
    found = {each.tobytes() for each in data.images.numpy()}
    assert {image(value).tobytes() for value in [*added, *range(200_000, 200_012)]} <= found
    assert len(data) in (len(added) + 12, len(added) + 13)  # the last may have been added, but not told
    assert len(list(tmp_path.glob("*.png"))) == len(data)
    assert not list(tmp_path.glob(".*"))
    corrections.add(tmp_path, image(7_000_000), "dog")
    assert corrections.count(tmp_path) == len(data) + 1


# Putting away


def test_what_was_learned_is_put_away_and_what_came_meanwhile_stays(tmp_path: Path) -> None:
    folder, copied, used = (tmp_path / name for name in ("waiting", "copied", "waiting/used/v0002"))
    for value in (1, 2):
        corrections.add(folder, image(value), "cat")
    corrections.copy(folder, copied)
    corrections.add(folder, image(2), "dog")  # one of them again
    corrections.add(folder, image(3), "frog")
    assert np.array_equal(corrected_images.read(copied)[0].images.numpy(), [image(1), image(2)])
    corrections.settle(folder, copied, used)
    assert corrected_images.read(used)[0].labels.tolist() == [3, 3]
    rest, _ = corrected_images.read(folder)
    assert np.array_equal(rest.images.numpy(), [image(2), image(3)])
    assert rest.labels.tolist() == [5, 6]
    assert len(list(folder.glob("*.png"))) == corrections.count(folder) == 2
    assert not copied.exists()


def test_nothing_is_put_away_from_corrections_that_were_changed(tmp_path: Path) -> None:
    folder = tmp_path / "waiting"
    corrections.add(folder, image(1), "cat")
    corrections.copy(folder, tmp_path / "copied")
    (folder / corrections.LINES).write_bytes(b"")
    corrections.add(folder, image(3), "frog")
    with pytest.raises(DataError, match="was changed meanwhile: the corrections are left where they are"):
        corrections.settle(folder, tmp_path / "copied", tmp_path / "used")
    assert corrected_images.read(folder)[0].labels.tolist() == [6]


def test_what_was_put_away_can_be_brought_back_before_what_came_since(tmp_path: Path) -> None:
    folder, copied, used = (tmp_path / name for name in ("waiting", "copied", "waiting/used/v0002"))
    for value, label in ((1, "cat"), (2, "dog")):
        corrections.add(folder, image(value), label)
    corrections.copy(folder, copied)
    corrections.settle(folder, copied, used)
    corrections.add(folder, image(2), "frog")  # the last label counts
    corrections.add(folder, image(3), "ship")
    corrections.bring_back(used, folder)
    data, torn = corrected_images.read(folder)
    assert (data.labels.tolist(), torn) == ([3, 6, 8], [])
    assert np.array_equal(data.images.numpy(), [image(1), image(2), image(3)])
    assert not used.exists()
    with pytest.raises(DataError, match="can't be read or written"):
        corrections.bring_back(used, folder)


def test_sweeping_removes_what_no_line_names_and_nothing_else(tmp_path: Path) -> None:
    corrections.sweep(tmp_path / "none")
    corrections.add(tmp_path, image(1), "cat")
    kept = {path.name for path in tmp_path.iterdir()} | {"note.txt", "used"}
    (tmp_path / "note.txt").write_text("mine")
    (tmp_path / "used").mkdir()
    (tmp_path / f"{'0' * 64}.png").write_bytes(b"")
    (tmp_path / ".x.png.tmp").write_bytes(b"half")
    corrections.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept
