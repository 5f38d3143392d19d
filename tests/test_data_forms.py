"""Data sets in the forms that people have them in; each is read as its maker means it."""

import csv
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data.sources import class_names, read_split
from cifar_lit.errors import CifarLitError, DataError

NUM = 12
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM, 32, 32, 3), dtype=np.uint8)
PLANES = IMAGES.transpose(0, 3, 1, 2).reshape(NUM, 3072)
LABELS = np.arange(NUM) % 10
FINE = [f"kind {label}" for label in range(100)]


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value))


def cifar10_with_other_content(root: Path, labels: Any = LABELS.tolist()) -> None:  # noqa: B008
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for name in names:
        dump(root / "cifar-10-batches-py" / name, {"data": PLANES, "labels": labels})


def cifar100(root: Path) -> None:
    dump(root / "cifar-100-python" / "meta", {b"fine_label_names": [name.encode() for name in FINE]})
    for split in ("train", "test"):
        content = {b"data": PLANES, b"fine_labels": (90 + LABELS).tolist(), b"coarse_labels": [0] * NUM}
        dump(root / "cifar-100-python" / split, content)


def binary10(root: Path, folder: str = "cifar-10-batches-bin") -> None:
    (root / folder).mkdir(parents=True)
    (root / folder / "batches.meta.txt").write_text("\n".join(CLASS_NAMES) + "\n\n")
    records = np.concatenate([LABELS[:, None].astype(np.uint8), PLANES], 1).tobytes()
    for name in [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]:
        (root / folder / name).write_bytes(records)


def binary100(root: Path) -> None:
    (root / "cifar-100-binary").mkdir(parents=True)
    (root / "cifar-100-binary" / "fine_label_names.txt").write_text("\n".join(f"kind{label}" for label in range(100)))
    labels = np.stack([LABELS * 0, 90 + LABELS], 1).astype(np.uint8)
    for name in ("train.bin", "test.bin"):
        (root / "cifar-100-binary" / name).write_bytes(np.concatenate([labels, PLANES], 1).tobytes())


def npz(root: Path, **arrays: Any) -> None:
    given: dict[str, Any] = {"x_train": IMAGES, "y_train": LABELS[:, None], "x_test": IMAGES[:3], "y_test": LABELS[:3]}
    np.savez(root / "data.npz", **given | arrays)


def kaggle(root: Path) -> None:
    (root / "train").mkdir()
    (root / "test").mkdir()
    with (root / "trainLabels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label"])
        for row in range(12):
            writer.writerow([row + 1, ("dog", "cat")[row % 2]])
            Image.fromarray(IMAGES[row]).save(root / "train" / f"{row + 1}.png")


@pytest.mark.parametrize(
    ("make", "count", "names"),
    [
        (cifar10_with_other_content, 5 * NUM, CLASS_NAMES),
        (cifar100, NUM, tuple(FINE)),
        (binary10, 5 * NUM, CLASS_NAMES),
        (binary100, NUM, tuple(f"kind{label}" for label in range(100))),
        (npz, NUM, CLASS_NAMES),
    ],
)
def test_images_labels_and_class_names_are_read_and_found_by_themselves(
    make: Any, count: int, names: tuple[str, ...], tmp_path: Path
) -> None:
    make(tmp_path)
    data = read_split("train", tmp_path, verify=False)
    assert len(data) == count
    assert (data.images[-NUM:].numpy() == IMAGES).all()
    offset = 90 if len(names) == 100 else 0
    assert data.labels[-NUM:].tolist() == (LABELS + offset).tolist()
    assert data.class_names == names == class_names(tmp_path, verify=False)
    assert len(read_split("test", tmp_path, verify=False)) in (3, NUM)


def test_keras_cache_is_found(tmp_path: Path) -> None:
    cifar10_with_other_content(tmp_path / "cifar-10-batches-py-target")
    assert len(read_split("test", tmp_path, verify=False)) == NUM


def test_official_files_with_other_content_are_taken_only_without_verifying(tmp_path: Path) -> None:
    cifar10_with_other_content(tmp_path)
    with pytest.raises(DataError, match="is not the official file .*--data.verify false") as caught:
        read_split("train", tmp_path)
    assert "elete" not in str(caught.value)


@pytest.mark.parametrize("labels", [[10] * NUM, [-1] * NUM, [0] * (NUM - 1), [0.5] * (NUM - 2), None])
def test_labels_that_do_not_fit_are_refused(labels: Any, tmp_path: Path) -> None:
    cifar10_with_other_content(tmp_path, labels)
    with pytest.raises(DataError, match="data_batch_1"):
        read_split("train", tmp_path, verify=False)


@pytest.mark.parametrize("name", ["data_batch_1.bin", "batches.meta.txt"])
def test_a_binary_file_that_is_missing_or_cut_off_is_named(name: str, tmp_path: Path) -> None:
    binary10(tmp_path)
    path = tmp_path / "cifar-10-batches-bin" / name
    if name.endswith(".bin"):
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    with pytest.raises(DataError, match=f"{name}.* Unpack"):
        read_split("train", tmp_path)


def test_an_npz_may_name_its_classes(tmp_path: Path) -> None:
    npz(tmp_path, y_train=LABELS % 3, y_test=LABELS[:3] % 3, class_names=np.array(["a", "b", "c"]))
    assert read_split("train", tmp_path / "data.npz").class_names == ("a", "b", "c")


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    npz(tmp_path, y_train=LABELS % 3, y_test=LABELS[:3] % 3)
    assert class_names(tmp_path) == ("class 0", "class 1", "class 2")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x_train": IMAGES / 255}, "'x_train' is float64 .*expected uint8"),
        ({"x_train": IMAGES[1:]}, "'x_train' is uint8 .*expected uint8 .12, 32, 32, 3."),
        ({"y_train": LABELS / 2}, "'y_train' is float64 .*expected integers"),
        ({"y_train": LABELS - 1}, "'y_train' has the label -1"),
        ({"class_names": np.array(["cat"])}, "1 class_names for 10 labels"),
    ],
)
def test_an_npz_of_another_form_is_refused(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    npz(tmp_path, **arrays)
    with pytest.raises(DataError, match=words):
        read_split("train", tmp_path)


def test_an_npz_that_lacks_an_array_says_what_it_has(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x_train=IMAGES, labels=LABELS)
    with pytest.raises(DataError, match="it lacks y_train, x_test, y_test and has x_train, labels"):
        read_split("train", tmp_path)


def test_a_sixth_of_kaggles_labelled_images_is_the_test_split(tmp_path: Path) -> None:
    kaggle(tmp_path)
    train, test = read_split("train", tmp_path), read_split("test", tmp_path)
    assert train.class_names == ("cat", "dog")
    assert sorted(test.labels.tolist()) == [0, 1]
    both = np.concatenate([train.images.numpy(), test.images.numpy()])
    assert {image.tobytes() for image in both} == {image.tobytes() for image in IMAGES}
    for data in (train, test):
        for image, label in zip(data.images.numpy(), data.labels.tolist(), strict=True):
            row = next(row for row in range(NUM) if (IMAGES[row] == image).all())
            assert data.class_names[label] == ("dog", "cat")[row % 2]


def test_a_missing_image_of_kaggles_is_named(tmp_path: Path) -> None:
    kaggle(tmp_path)
    for path in (tmp_path / "train").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"train/\d+\.png: .*Unpack train.7z"):
        read_split("train", tmp_path)


def test_what_fits_nothing_is_listed_beside_what_would(tmp_path: Path) -> None:
    for name in ("cifar-10-binary.tar.gz", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"\(found cifar-10-binary.tar.gz, notes.txt\), expected .*trainLabels.csv"):
        read_split("train", tmp_path)


def parquet(root: Path, about: bytes | None, labels: str = "label") -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    (root / "plain_text").mkdir(exist_ok=True)
    paths = [root / f"{row}.png" for row in range(NUM)]
    for path, image in zip(paths, IMAGES, strict=True):
        Image.fromarray(image).save(path)
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    table = pyarrow.table({"img": images, labels: LABELS % 3})
    if about is not None:
        table = table.replace_schema_metadata({"huggingface": about})
    for split in ("train", "test"):
        write_table(table, root / "plain_text" / f"{split}-00000-of-00001.parquet")


NAMED = b'{"info": {"features": {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}}'


@pytest.mark.parametrize(("about", "names"), [(NAMED, ("a", "b", "c")), (None, ("class 0", "class 1", "class 2"))])
def test_parquet_is_read(about: bytes | None, names: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    parquet(tmp_path, about)
    data = read_split("test", tmp_path)
    assert (data.images.numpy() == IMAGES).all()
    assert data.labels.tolist() == (LABELS % 3).tolist()
    assert data.class_names == names


def test_parquet_with_other_columns_names_them(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    parquet(tmp_path, None, labels="species")
    with pytest.raises(DataError, match="its columns are img, species, expected img or image and label"):
        read_split("train", tmp_path)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "train-00000-of-00001.parquet").touch()
    with pytest.raises(CifarLitError, match=r"needs pyarrow, which .*: pip install 'cifar-lit\[parquet\]'"):
        read_split("train", tmp_path)
