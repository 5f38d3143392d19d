import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data import official, sources, synthetic
from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.sources import download_if_absent, read_split, resolve_root
from cifar_lit.errors import DataError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Records what is read from the official files and downloaded, in place of doing it."""
    calls: list[tuple[Any, ...]] = []

    def read(files: official.Files, path: Path, split: str, *, verify: bool) -> ImageSet:
        calls.append(("read", path.name, split))
        return synthetic.draw(split, 10)

    monkeypatch.setattr(official.Files, "read", read)
    monkeypatch.setattr(official, "download", lambda root, mirror: calls.append(("download", root, mirror)))
    return calls


def make_image_folder(root: Path) -> None:
    for name in CLASS_NAMES:
        (root / "test" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(root / "test" / name / "0.png")


def test_root_is_the_given_one_then_the_environment_then_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CIFAR_LIT_DATA", raising=False)
    assert resolve_root(None) == Path("data")
    monkeypatch.setenv("CIFAR_LIT_DATA", "~/images")
    assert resolve_root(None) == Path.home() / "images"
    assert resolve_root("here") == Path("here")
    assert resolve_root(Path("here")) == Path("here")


@pytest.mark.parametrize("source", ["auto", "official"])
@pytest.mark.parametrize("name", ["cifar-10-batches-py", "cifar-10-python.tar.gz"])
@pytest.mark.parametrize("inside", [True, False])
def test_official_files_are_found_in_root_or_as_root(
    name: str, inside: bool, source: sources.Source, tmp_path: Path, calls: list[tuple[Any, ...]]
) -> None:
    (tmp_path / name).mkdir()
    read_split("test", tmp_path if inside else tmp_path / name, source)
    assert calls == [("read", name, "test")]


def test_auto_takes_the_official_files_before_an_image_folder(tmp_path: Path, calls: list[tuple[Any, ...]]) -> None:
    make_image_folder(tmp_path)
    (tmp_path / "cifar-10-batches-py").mkdir()
    read_split("train", tmp_path)
    assert calls == [("read", "cifar-10-batches-py", "train")]


@pytest.mark.parametrize("source", ["auto", "folder"])
def test_image_folder_is_read(source: sources.Source, tmp_path: Path) -> None:
    make_image_folder(tmp_path)
    assert read_split("test", tmp_path, source).labels.tolist() == list(range(10))


def test_synthetic_needs_no_files(tmp_path: Path) -> None:
    data = read_split("train", tmp_path / "absent", "synthetic", num_synthetic=30)
    assert (len(data), data.source) == (30, "synthetic, train")


@pytest.mark.parametrize(
    "way_out",
    ["cifar-10-batches-py/ or cifar-10-python.tar.gz"]
    + ["--data.root", "CIFAR_LIT_DATA", "--data.download true", "--data.source synthetic"],
)
@pytest.mark.parametrize("source", ["auto", "official"])
def test_no_data_error_names_each_way_out(source: sources.Source, way_out: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no data set under {tmp_path} .*{way_out}"):
        read_split("train", tmp_path, source)


def test_official_does_not_fall_back_to_an_image_folder(tmp_path: Path) -> None:
    make_image_folder(tmp_path)
    with pytest.raises(DataError, match="no data set under .*found test/.*expected cifar-10-batches-py/"):
        read_split("test", tmp_path, "official")


def test_folder_does_not_fall_back_to_the_official_files(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="found cifar-10-batches-py/.*expected an image folder"):
        read_split("test", tmp_path, "folder")


def test_unknown_source_raises(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'web' is unknown, expected one of auto, official, cifar100, binary"):
        read_split("test", tmp_path, "web")  # type: ignore[arg-type]


def test_download_happens_only_where_no_data_set_lies(tmp_path: Path, calls: list[tuple[Any, ...]]) -> None:
    download_if_absent(tmp_path, "http://mirror/")
    assert calls == [("download", tmp_path, "http://mirror/")]
    make_image_folder(tmp_path)
    download_if_absent(tmp_path, None)
    assert len(calls) == 1


@pytest.mark.skipif("CIFAR_LIT_DATA" not in os.environ, reason="CIFAR_LIT_DATA does not name a real data set")
def test_the_real_test_split_has_1000_images_a_class() -> None:
    data = read_split("test", resolve_root(None))
    assert torch.bincount(data.labels).tolist() == [1000] * 10
    assert data.images.float().mean().item() == pytest.approx(121.5, abs=1)
