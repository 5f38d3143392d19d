"""`cifar-lit predict` for the images of an `.npz`, as a user calls it."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Publish
from hostile_npz import LABELS, PIXELS, npy, npz_bytes
from torchvision.io import write_png

from cifar_lit.cli import main
from cifar_lit.registry.registry import Registry


@pytest.fixture(autouse=True)
def champion(registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CIFAR_LIT_REGISTRY", str(registry.root))
    publish(promote=True)
    monkeypatch.chdir(tmp_path)


def called(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `cifar-lit predict`."""
    status = main(["predict", *args])
    return status, *capsys.readouterr()


def rows_of(capsys: pytest.CaptureFixture[str], *args: str) -> list[dict[str, Any]]:
    status, out, err = called(capsys, *args, "--format", "json")
    assert (status, err) == (0, "")
    return json.loads(out)


@pytest.mark.parametrize("key", ["x", "x_new", "x_train", "x_test", "images"])
def test_rows_count_as_files_in_their_order(capsys: pytest.CaptureFixture[str], key: str) -> None:
    Path("day.npz").write_bytes(npz_bytes(**{key: PIXELS, "y_test": LABELS, "note": np.zeros(3)}))
    rows = rows_of(capsys, "day.npz")
    assert [row["file"] for row in rows] == [f"day.npz#{i}" for i in range(4)]
    for i, row in enumerate(rows):
        write_png(torch.from_numpy(PIXELS[i]).permute(2, 0, 1), "one.png")
        (alone,) = rows_of(capsys, "one.png")
        assert row["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npy", npy(PIXELS), []),
        ("a.npz", npz_bytes(x=PIXELS / 255), ["'x': float64 values, 0..1, become uint8 0..255"]),
        ("a.npz", npz_bytes(x=PIXELS.transpose(0, 3, 1, 2)), ["'x': channels are moved last"]),
    ],
)
def test_other_forms_are_converted_and_that_is_said(
    capsys: pytest.CaptureFixture[str], name: str, content: bytes, words: list[str]
) -> None:
    Path("day.npz").write_bytes(npz_bytes(x=PIXELS))
    expected = [row["probabilities"] for row in rows_of(capsys, "day.npz")]
    Path(name).write_bytes(content)
    status, out, err = called(capsys, name, "--format", "json")
    assert status == 0
    assert err.splitlines() == [f"{name}: convert: {each}" for each in words]
    assert [row["probabilities"] for row in json.loads(out)] == expected


def test_one_of_several_arrays_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("day.npz").write_bytes(npz_bytes(x_train=PIXELS, x_test=PIXELS[:1]))
    assert len(rows_of(capsys, "day.npz", "--x", "x_test")) == 1
    assert "no 'x_val'. Name one of these" in called(capsys, "day.npz", "--x", "x_val")[2]


def test_arrays_and_files_mix_in_the_order_given(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.npz").write_bytes(npz_bytes(x=PIXELS[:2]))
    Path("b.NPZ").write_bytes(npz_bytes(x_new=PIXELS[2:3], y_new=LABELS[:1]))
    write_png(torch.from_numpy(PIXELS[3]).permute(2, 0, 1), "c.png")
    rows = rows_of(capsys, "b.NPZ", "c.png", "./a.npz", "c.png")
    assert [row["file"] for row in rows] == ["b.NPZ#0", "c.png", "a.npz#0", "a.npz#1", "c.png"]


def test_more_rows_than_a_batch_are_all_answered_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    many = np.tile(PIXELS, (301, 1, 1, 1))[:1_203]
    Path("many.npz").write_bytes(npz_bytes(x_test=many))
    rows = rows_of(capsys, "many.npz")
    assert [row["file"] for row in rows] == [f"many.npz#{i}" for i in range(1_203)]
    for i, row in enumerate(rows):
        assert row["probabilities"] == pytest.approx(rows[i % 4]["probabilities"], abs=1e-6)


def test_all_formats_name_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    Path("day.npz").write_bytes(npz_bytes(x=PIXELS))
    _, table, _ = called(capsys, "day.npz")
    _, text, _ = called(capsys, "day.npz", "--format", "csv")
    names = [f"day.npz#{i}" for i in range(4)]
    assert [line.split()[0] for line in table.splitlines()[1:]] == names
    assert [row["file"] for row in csv.DictReader(io.StringIO(text))] == names
    assert called(capsys, "day.npz", "--format", "csv", "--out", "out.csv") == (0, "", "")
    assert Path("out.csv").read_text() == text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npz_bytes(ids=LABELS), "it has 'ids' int64 (4,), none of which are images."),
        (npz_bytes(x=PIXELS, x_new=PIXELS), "it has several arrays of images. Say which with --x x | x_new."),
        (npz_bytes(x=PIXELS > 9), "'x' is bool (4, 32, 32, 3), expected integers or floats."),
        (npz_bytes(x=PIXELS / 99 - 1.3), "'x' is float64 (4, 32, 32, 3): its values are -1.3..1.27"),
        (npz_bytes(x=np.array([{}], dtype=object)), "x.npy holds Python objects"),
        (npz_bytes(x=PIXELS[:0]), "it has 'x' uint8 (0, 32, 32, 3), none of which are images."),
        (npz_bytes(x=PIXELS)[:-1], "a zip's end record is missing: it is cut off"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "its content is a PNG image, expected an .npz file."),
    ],
)
def test_wrong_arrays_are_an_error_and_do_not_keep_others_from_an_answer(
    capsys: pytest.CaptureFixture[str], data: bytes, message: str
) -> None:
    Path("bad.npz").write_bytes(data)
    Path("good.npz").write_bytes(npz_bytes(x=PIXELS))
    for form in ("table", "csv", "json"):
        status, out, err = called(capsys, "bad.npz", "good.npz", "--format", form)
        assert status == 1
        assert out.count("good.npz#") == 4
        assert "bad.npz" not in out
        assert err.startswith(f"error: bad.npz: {message}")
        assert err.count("bad.npz") == 1


def test_a_missing_npz_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = called(capsys, "no.npz")
    assert (status, out) == (2, "")
    assert err.startswith("error: no.npz: no such file or folder")
