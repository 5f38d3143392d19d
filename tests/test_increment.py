import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_npz import FRAGMENTS, HOSTILE, LABELS, PIXELS, Canary, canary_path, good, npz_bytes

from cifar_lit.data import increment
from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import DataError, IncrementError

DATA = ImageSet(torch.from_numpy(PIXELS), torch.from_numpy(LABELS), "a test")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(tmp_path: Path, name: str) -> None:
    write, fault = HOSTILE[name]
    path = tmp_path / "day.npz"
    write(path)
    with pytest.raises(IncrementError) as error:
        increment.read(path)
    assert error.value.fault == fault
    assert str(error.value).startswith(f"{path}: ")
    assert FRAGMENTS[name] in str(error.value)
    assert str(error.value).count(str(tmp_path)) == 1
    assert len(str(error.value)) < 600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["canary", "pickle"])
def test_the_canary_sings_when_it_is_unpickled(tmp_path: Path, name: str) -> None:
    path = tmp_path / "day.npz"
    HOSTILE[name][0](path)
    loaded = np.load(path, allow_pickle=True)
    if name == "canary":
        loaded["x_new"]
    assert canary_path(path).exists()
    assert Canary(path).__reduce__()[0] is open


def test_every_refusal_has_a_way_out() -> None:
    assert set(FRAGMENTS) == set(HOSTILE)
    assert {fault for _, fault in HOSTILE.values()} == {"malformed", "too_large", "unsupported", "invalid"}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "labels",
    [LABELS, LABELS[:, None], *(LABELS.astype(kind) for kind in ("u1", "i1", ">i2", ">i8", "<u4", "u8", ">u8"))],
    ids=lambda labels: f"{labels.dtype.str} {labels.shape}",
)
def test_labels_of_any_integer_type_are_read(tmp_path: Path, save: Callable[..., None], labels: np.ndarray) -> None:
    save(tmp_path / "day.npz", x_new=PIXELS, y_new=labels)
    data = increment.read(tmp_path / "day.npz")
    assert torch.equal(data.images, DATA.images)
    assert torch.equal(data.labels, DATA.labels)
    assert data.source == "increment day.npz"
    assert data.sha256 == DATA.sha256


def test_order_of_keys_and_of_memory_do_not_matter(tmp_path: Path) -> None:
    np.savez(tmp_path / "day.npz", y_new=LABELS, x_new=np.asfortranarray(PIXELS))
    assert increment.read(tmp_path / "day.npz").sha256 == DATA.sha256


def test_one_row_and_one_class_are_enough(tmp_path: Path) -> None:
    (tmp_path / "day.npz").write_bytes(good(x_new=PIXELS[:1], y_new=LABELS[:1]))
    assert len(increment.read(tmp_path / "day.npz")) == 1


def test_what_is_read_can_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "day.npz").write_bytes(good())
    data = increment.read(tmp_path / "day.npz")
    data.images[0] = 7
    assert (data.images[0] == 7).all()


def test_the_most_rows_that_are_accepted_are_read(tmp_path: Path) -> None:
    rows = increment.MAX_ROWS
    np.savez_compressed(tmp_path / "day.npz", x_new=np.zeros((rows, 32, 32, 3), "u1"), y_new=np.zeros(rows, np.int64))
    assert len(increment.read(tmp_path / "day.npz")) == rows


@pytest.mark.parametrize("name", ["missing.npz", "."])
def test_a_path_that_holds_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(IncrementError, match=re.escape(str(tmp_path / name))) as error:
        increment.read(tmp_path / name)
    assert error.value.fault == "invalid"


# Writing


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    increment.write(tmp_path / "day.npz", DATA)
    assert increment.read(tmp_path / "day.npz").sha256 == DATA.sha256
    with np.load(tmp_path / "day.npz", allow_pickle=False) as arrays:
        assert list(arrays) == ["x_new", "y_new"]
        assert (arrays["x_new"] == PIXELS).all()
        assert (arrays["y_new"] == LABELS).all()
    assert os.listdir(tmp_path) == ["day.npz"]


def test_equal_data_gives_equal_bytes(tmp_path: Path) -> None:
    increment.write(tmp_path / "a.npz", DATA)
    not_contiguous = ImageSet(DATA.images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1), DATA.labels, "other")
    code = (
        "import sys; from pathlib import Path; from cifar_lit.data import increment; "
        "increment.write(Path(sys.argv[2]), increment.read(Path(sys.argv[1])))"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.npz", tmp_path / "c"], check=True)
    increment.write(tmp_path / "b.npz", not_contiguous)
    digests = {hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a.npz", "b.npz", "c")}
    assert len(digests) == 1


def test_writing_replaces_a_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "day.npz"
    increment.write(path, DATA)
    seen = []

    def replace(source: Path, target: Path) -> None:
        seen.append((increment.read(source).sha256, increment.read(target).sha256, Path(source).parent))
        shutil.move(source, target)

    monkeypatch.setattr(os, "replace", replace)
    changed = DATA.subset(torch.tensor([1]))
    increment.write(path, changed)
    assert seen == [(changed.sha256, DATA.sha256, tmp_path)]
    assert increment.read(path).sha256 == changed.sha256


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    path = tmp_path / "day.npz"
    increment.write(path, DATA)

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(DataError, match=re.escape(f"{path} can't be written: No space left on device")):
        increment.write(path, DATA.subset(torch.tensor([1])))
    assert increment.read(path).sha256 == DATA.sha256
    assert os.listdir(tmp_path) == ["day.npz"]


def test_writing_where_no_folder_is_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="day.npz can't be written: No such file or directory. Name another file"):
        increment.write(tmp_path / "no" / "day.npz", DATA)


@pytest.mark.parametrize("num", [0, increment.MAX_ROWS + 1])
def test_what_could_not_be_read_again_is_not_written(tmp_path: Path, num: int) -> None:
    data = ImageSet(torch.zeros((1, 32, 32, 3), dtype=torch.uint8).expand(num, -1, -1, -1), torch.zeros(num).long(), "")
    with pytest.raises(IncrementError, match=f"{num:,} rows, expected 1..60,000 in an increment"):
        increment.write(tmp_path / "day.npz", data)
    assert not os.listdir(tmp_path)


def test_other_keys_are_named(tmp_path: Path) -> None:
    (tmp_path / "day.npz").write_bytes(npz_bytes(X_new=PIXELS, y_new=LABELS, extra=LABELS))
    with pytest.raises(
        IncrementError, match="it has 'X_new', 'y_new', 'extra', expected 'x_new', 'y_new'. `cifar-lit increment make"
    ):
        increment.read(tmp_path / "day.npz")


def test_other_arrays_are_left_out_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "day.npz").write_bytes(good(names=np.array(["a"]), meta=np.array([{}], dtype=object)))
    assert increment.read(tmp_path / "day.npz").sha256 == DATA.sha256
    assert caplog.messages == [
        f"warning: {tmp_path / 'day.npz'}: 'names', 'meta' left out: an increment is 'x_new', 'y_new'."
    ]


def test_labels_are_those_of_the_given_classes(tmp_path: Path) -> None:
    path = tmp_path / "day.npz"
    np.savez(path, x_new=PIXELS[:3], y_new=np.array([0, 2, 1]))
    assert increment.read(path, ("apple", "pear", "plum")).class_names == ("apple", "pear", "plum")
    with pytest.raises(IncrementError, match=r"row 1 is 2 \(of 1 such rows\), expected 0\.\.1\."):
        increment.read(path, ("apple", "pear"))
