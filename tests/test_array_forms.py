"""Arrays as people have them: each form with its command, what becomes of it and the exit status."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Publish, tiny_network
from hostile_npz import HOSTILE, canary_path, npz_bytes
from hostile_npz import npy as npy_bytes
from PIL import Image

from cifar_lit.cifar10 import CLASS_NAMES, MEAN, STD
from cifar_lit.cli import main
from cifar_lit.data import increment, pixel_forms
from cifar_lit.data.arrays import MAX_BYTES, Form, open_labelled
from cifar_lit.data.images import to_network_size
from cifar_lit.errors import NpzError
from cifar_lit.registry.registry import Registry

NUM = 40
_waves = np.sin(np.arange(32) / 5)[:, None, None] * np.cos(np.arange(32) / 7)[None, :, None] * np.array([90, 60, 100])
SMOOTH = 128 + _waves + np.random.default_rng(0).normal(0, 9, (NUM, 32, 32, 3)) + np.arange(NUM)[:, None, None, None]
X: np.ndarray = SMOOTH.clip(0, 255).astype(np.uint8)
"""Neighbouring pixels are alike, as in images."""
Y = np.arange(NUM) % 10
UNIT = X / np.float32(255)
STANDARD = ((UNIT - np.array(MEAN)) / np.array(STD)).astype(np.float32)
NAMES = np.array(CLASS_NAMES)[Y]

Files = dict[str, bytes]


def npz(**arrays: Any) -> Files:
    return {"a.npz": npz_bytes(**arrays)}


def xy(x: np.ndarray, y: np.ndarray = Y) -> Files:
    return npz(x_new=x, y_new=y)


def pair(x: np.ndarray, y: np.ndarray = Y, names: tuple[str, str] = ("data.npy", "labels.npy")) -> Files:
    return {names[0]: npy_bytes(x), names[1]: npy_bytes(y)}


def square(size: int) -> np.ndarray:
    return X.repeat(2, 1).repeat(2, 2)[:, :size, :size]


def resized(x: np.ndarray) -> np.ndarray:
    return np.stack([to_network_size(Image.fromarray(each)) for each in x])


@pytest.fixture(autouse=True)
def place(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR_LIT_REGISTRY", str(registry.root))
    monkeypatch.delenv("CIFAR_LIT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def made(capsys: pytest.CaptureFixture[str], files: Files, args: str) -> tuple[int, str]:
    """Exit status and standard error of `increment make`."""
    for name, content in files.items():
        Path(name).write_bytes(content)
    capsys.readouterr()
    status = main(["increment", "make", "--out", "out.npz", *args.split()])
    return status, capsys.readouterr().err


GREY, WIDE = X[..., :1], np.concatenate([X, X], 2)
ALPHA = np.concatenate([X, np.full((NUM, 32, 32, 1), 255, np.uint8)], 3)
HALF = np.concatenate([X, np.full((NUM, 32, 32, 1), 51, np.uint8)], 3)

# Files, options after --arrays, the images that come out, parts of what is said.
CONVERTED: dict[str, tuple[Files, str, np.ndarray, list[str]]] = {
    "an increment as it is": (xy(X), "a.npz", X, []),
    "other arrays beside it": (npz(x_new=X, y_new=Y, ids=np.array(["a"])), "a.npz", X, ["left out: 'ids'"]),
    "Python objects beside it": (npz(x_new=X, y_new=Y, o=np.array([{}], dtype=object)), "a.npz", X, ["left out: 'o'"]),
    # Keys
    "x_train, y_train": (npz(x_train=X, y_train=Y), "a.npz --yes", X, ["'x_train' is read as images, 'y_train' as"]),
    "X, y": (npz(X=X, y=Y), "a.npz --yes", X, ["'X' is read as images, 'y' as their labels"]),
    "images, labels": (npz(images=X, labels=Y), "a.npz --yes", X, ["'images' is read as images"]),
    "arr_0, arr_1": (npz(arr_0=X, arr_1=Y), "a.npz --yes", X, ["'arr_0' is read as images, 'arr_1' as"]),
    "any other names": (npz(pics=X, klass=Y, o=np.float32(3)), "a.npz --yes", X, ["'pics' is read as images, 'klass'"]),
    "one of two pairs": (
        npz(x_train=X[:3], y_train=Y[:3], x_test=X, y_test=Y),
        "a.npz --x x_test --yes",
        X,
        ["'x_test' is read as images, 'y_test' as their labels", "left out: 'x_train', 'y_train'"],
    ),
    "keys by name": (npz(a=X, b=Y[::-1].copy(), c=Y), "a.npz --x a --y c --yes", X, ["'c' as their labels"]),
    # Files
    "npy pair": (pair(X), "data.npy labels.npy --yes", X, ["data.npy is read as images, labels.npy as their labels"]),
    "npy pair, labels first": (pair(X), "labels.npy data.npy --yes", X, ["data.npy is read as images"]),
    "CIFAR-10-C": (pair(X, Y, ("fog.npy", "labels.npy")), "fog.npy --yes", X, ["fog.npy is read as images, labels"]),
    "CIFAR-10.1": (
        pair(X, Y.astype(np.int32), ("cifar10.1_v6_data.npy", "cifar10.1_v6_labels.npy")),
        "cifar10.1_v6_data.npy --yes",
        X,
        ["cifar10.1_v6_data.npy is read as images, cifar10.1_v6_labels.npy as their labels"],
    ),
    "npz and labels": (npz(x=X) | {"y.npy": npy_bytes(Y)}, "a.npz y.npy --yes", X, ["a.npz is read as images, y.npy"]),
    "compressed npz": ({"a.npz": b""}, "a.npz --yes", X, ["'x' is read as images"]),
    # Axes
    "NCHW": (xy(X.transpose(0, 3, 1, 2)), "a.npz --yes", X, ["'x_new': channels are moved last"]),
    "HWCN": (xy(X.transpose(1, 2, 3, 0)), "a.npz --yes", X, ["rows are moved first"]),
    "Fortran order": (xy(np.asfortranarray(X)), "a.npz", X, []),
    "(n, 3072) as the official files": (
        xy(X.transpose(0, 3, 1, 2).reshape(NUM, -1)),
        "a.npz --yes",
        X,
        ["flat rows are all red, then all green, then all blue values"],
    ),
    "(n, 3072) by pixels": (xy(X.reshape(NUM, -1)), "a.npz --yes", X, ["flat rows are pixel by pixel"]),
    "(n, 1, 32, 32, 3)": (xy(X[:, None]), "a.npz --yes", X, ["axes of length 1 are dropped"]),
    "one image": (xy(X[0], Y[:1]), "a.npz --yes", X[:1], ["it is one image"]),
    "one image, CHW": (xy(X[0].transpose(2, 0, 1), Y[:1]), "a.npz --yes", X[:1], ["it is one image, channels are"]),
    "layout by hand": (xy(X[:, :3, :, :]), "a.npz --yes --layout nhwc", resized(X[:, :3]), ["central square of 32x3"]),
    # Channels and sizes
    "grey (n, 32, 32)": (xy(X[..., 0]), "a.npz --yes", GREY.repeat(3, 3), ["grey is repeated for three channels"]),
    "grey (n, 32, 32, 1)": (xy(GREY), "a.npz --yes", GREY.repeat(3, 3), ["grey is repeated for three channels"]),
    "grey (n, 784)": (
        xy(X[:, 2:30, 2:30, 0].reshape(NUM, -1)),
        "a.npz --yes",
        resized(GREY[:, 2:30, 2:30].repeat(3, 3)),
        ["flat rows become grey images", "28x28 pixels is resized"],
    ),
    "RGBA, opaque": (xy(ALPHA), "a.npz --yes", X, ["transparency is laid over white"]),
    "RGBA, translucent": (
        xy(HALF),
        "a.npz --yes",
        (X * np.float32(0.2) + 204).round().astype(np.uint8),
        ["transparency is laid over white"],
    ),
    "64x64": (xy(square(64)), "a.npz --yes", resized(square(64)), ["64x64 pixels is resized to 32x32"]),
    "64x32": (xy(WIDE), "a.npz --yes", resized(WIDE), ["the central square of 64x32 pixels is resized to 32x32"]),
    # Scales
    "int64": (xy(X.astype(np.int64)), "a.npz --yes", X, ["int64 values 0..255 are rounded to uint8"]),
    "float 0..255": (xy(X.astype(np.float32)), "a.npz --yes", X, ["float32 values 0..255 are rounded to uint8"]),
    "float 0..255, resized": (xy(X + 0.3), "a.npz --yes", X, ["float64 values 0..255 are rounded to uint8"]),
    "float32 0..1": (xy(UNIT), "a.npz --yes", X, ["float32 values, 0..1, become uint8 0..255"]),
    "float16 0..1": (xy(UNIT.astype(np.float16)), "a.npz --yes", X, ["float16 values, 0..1, become uint8 0..255"]),
    "float64 0..1, RGBA": (xy(ALPHA / 255), "a.npz --yes", X, ["float64 values, 0..1", "laid over white"]),
    "-1..1": (xy(UNIT * 2 - 1), "a.npz --yes", X, ["float32 values, -1..1, become uint8 0..255"]),
    "-0.5..0.5": (xy(UNIT - np.float32(0.5)), "a.npz --yes", X, ["float32 values, -0.5..0.5, become uint8 0..255"]),
    "standardised": (xy(STANDARD), "a.npz --yes", X, ["standardised by CIFAR-10's mean and std, become uint8 0..255"]),
    "standardised, NCHW": (
        xy(STANDARD.transpose(0, 3, 1, 2)),
        "a.npz --yes",
        X,
        ["channels are moved last", "standardised by CIFAR-10's mean and std"],
    ),
    "standardised, float16": (xy(STANDARD.astype(np.float16)), "a.npz --yes", X, ["by CIFAR-10's mean and std"]),
    "std 0.2023": (
        xy((UNIT - np.array(MEAN)) / np.array((0.2023, 0.1994, 0.2010))),
        "a.npz --yes",
        X,
        ["CIFAR-10's mean and the std 0.2023, 0.1994, 0.2010"],
    ),
    "120.707, 64.15": (xy((X - 120.707) / (64.15 + 1e-7)), "a.npz --yes", X, ["mean 120.707 and std 64.15"]),
    "ImageNet's": (
        xy((UNIT - np.array((0.485, 0.456, 0.406))) / np.array((0.229, 0.224, 0.225))),
        "a.npz --yes",
        X,
        ["standardised by ImageNet's mean and std"],
    ),
    "uint16": (xy(X.astype(np.uint16) * 257), "a.npz --yes", X, ["uint16 values, 0..65535, become uint8 0..255"]),
    "range by hand": (
        xy(UNIT * 1.2 - 0.1),
        "a.npz --yes --range 0..1",
        ((UNIT * 1.2 - 0.1) * 255).round().clip(0, 255),
        ["float32 values, 0..1"],
    ),
    # Labels
    "labels (n, 1)": (xy(X, Y[:, None]), "a.npz", X, []),
    "labels (1, n)": (xy(X, Y[None]), "a.npz --yes", X, ["'y_new': axes of length 1 are dropped"]),
    "float labels": (xy(X, Y.astype(np.float32)), "a.npz --yes", X, ["'y_new': float32 becomes integers"]),
    "one-hot": (xy(X, np.eye(10, dtype=np.uint8)[Y]), "a.npz --yes", X, ["'y_new': one-hot rows become class numbers"]),
    "one-hot, float": (xy(X, np.eye(10, dtype=np.float32)[Y]), "a.npz --yes", X, ["one-hot rows become class numbers"]),
    "labels 1..10": (xy(X, Y + 1), "a.npz --yes", X, ["classes are counted from 1 (airplane) to 10 (truck)"]),
    "labels 1..9 by hand": (xy(X[:9], np.arange(1, 10)), "a.npz --first-label 0", X[:9], []),
    "class names": (xy(X, NAMES), "a.npz --yes", X, ["'y_new': class names become numbers"]),
    "other words": (
        xy(X, np.array([{"cat": "Cats", "automobile": "car"}.get(name, name) for name in NAMES])),
        "a.npz --yes",
        X,
        ["'Cats' is taken for cat", "'car' is taken for automobile"],
    ),
    "class names as bytes": (xy(X, NAMES.astype("S")), "a.npz --yes", X, ["class names become numbers"]),
    # Some of them
    "rows": (xy(X), "a.npz --rows 10:20", X[10:20], []),
    "classes": (xy(X), "a.npz --classes cat dog", X[(Y == 3) | (Y == 5)], []),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_a_clear_form_is_converted_and_each_conversion_is_said(capsys: pytest.CaptureFixture[str], name: str) -> None:
    files, args, images, words = CONVERTED[name]
    if name == "compressed npz":
        buffer = io.BytesIO()
        np.savez_compressed(buffer, x=X, y=Y)
        files = {"a.npz": buffer.getvalue()}
    status, said = made(capsys, files, f"--arrays {args}")
    assert status == 0, said
    data = increment.read(Path("out.npz"))
    assert np.array_equal(data.images.numpy(), images)
    labels = {"rows": Y[10:20], "classes": Y[(Y == 3) | (Y == 5)], "labels 1..9 by hand": np.arange(1, 10)}
    assert data.labels.tolist() == labels.get(name, Y[: len(images)]).tolist()
    for word in words:
        assert word in said
    assert ("--yes" in args) == ("convert: " in said)


# Files, options after --arrays, a part of why it is refused.
REFUSED: dict[str, tuple[Files, str, str]] = {
    "two pairs": (
        npz(x_train=X, y_train=Y, x_test=X, y_test=Y),
        "a.npz",
        "it has several arrays of images. Say which with --x x_train | x_test.",
    ),
    "two kinds of labels": (npz(x=X, fine=Y, coarse=Y), "a.npz", "several arrays of labels. Say which with --y fine |"),
    "no labels": (npz(x=X), "a.npz", "it has 'x' uint8 (40, 32, 32, 3), none of which are labels."),
    "no images": (npz(y=Y, z=Y), "a.npz", "none of which are images."),
    "no such key": (npz(x=X, y=Y), "a.npz --x images", "it has 'x', 'y', no 'images'. Name one of these with --x."),
    "a label less": (npz(x=X, y=Y[1:]), "a.npz", "which is no array of images for 39 labels"),
    "npy alone": ({"data.npy": npy_bytes(X)}, "data.npy", "no labels lie beside it. Name both: --arrays data.npy LAB"),
    "three files": (pair(X), "data.npy labels.npy data.npy", "--arrays names 3 files, expected FILE, or images and"),
    "no file": ({}, "no.npz", "no.npz: it can't be read (No such file or directory)"),
    "noise in flat rows": (
        xy(np.random.default_rng(0).integers(0, 256, (NUM, 3072), np.uint8)),
        "a.npz",
        "the order of its axes can't be told. Say which it is with --layout nchw | nhwc.",
    ),
    "(n, 3, 32, 3)": (xy(X[:, :3]), "a.npz", "the order of its axes can't be told. Say which it is with --layout nhwc"),
    "(2, n, 32, 32, 3)": (
        xy(X.reshape(2, NUM // 2, 32, 32, 3)),
        "a.npz",
        "it has 'x_new' uint8 (2, 20, 32, 32, 3), 'y_new' int64 (40,), none of which are images",
    ),
    "2 channels": (xy(X[..., :2]), "a.npz --x x_new", "which is no array of images for 40 labels"),
    "layout that does not fit": (xy(X), "a.npz --layout nchw", "which is no array of images as --layout nchw"),
    "bool": (xy(X > 99), "a.npz", "'x_new' is bool (40, 32, 32, 3), expected integers or floats"),
    "complex": (xy(X.astype(complex)), "a.npz", "expected integers or floats"),
    "NaN": (xy(np.where(Y.reshape(-1, 1, 1, 1) == 7, np.nan, UNIT)), "a.npz", "row 7 holds a value that is not finite"),
    "infinity": (xy(np.where(Y.reshape(-1, 1, 1, 1) == 7, -np.inf, UNIT)), "a.npz", "row 7 holds a value that is not"),
    "0..1 and a bit": (xy(UNIT * 1.2 - 0.1), "a.npz", "their scale can't be told. Say which it is with --range "),
    "0..3": (xy(UNIT * 3.1), "a.npz", "their scale can't be told. Say which it is with --range 0..255"),
    "other statistics": (
        xy((UNIT - 0.4) / 0.1),
        "a.npz",
        "which is no scale known here. Undo what was done to the pix",
    ),
    "int8": (xy(X.view(np.int8)), "a.npz", "its values are -128..127, expected 0..255"),
    "12 bits": (xy(X.astype(np.uint16) * 16), "a.npz", "expected 0..255. Undo what was done to the pixels, or say"),
    "0..1 as integers": (xy((X > 128).astype(np.uint8)), "a.npz", "pixels 0..1 were cut down to integers"),
    "RGBA, standardised": (xy(ALPHA / 255), "a.npz --range cifar10", "--range cifar10 is for 3 channels, it has 4."),
    "labels 1..9": (xy(X[:9], np.arange(1, 10)), "a.npz", "Say which with --first-label 0 | 1."),
    "labels 0..10": (xy(X[:11], np.arange(11)), "a.npz", "row 10 is 10 (of 1 such rows), expected class numbers 0..9"),
    "label -1": (xy(X, Y - 1), "a.npz", "row 0 is -1 (of 4 such rows), expected class numbers 0..9"),
    "label 3.7": (xy(X, Y + 0.7), "a.npz", "row 0 is 0.7 (of 40 such rows), expected whole numbers"),
    "NaN label": (xy(X, np.where(Y == 2, np.nan, Y)), "a.npz", "row 2 is nan (of 4 such rows), expected whole numbers"),
    "scores": (xy(X, np.random.default_rng(0).random((NUM, 10))), "a.npz", "which is not one-hot"),
    "other classes": (xy(X, np.array(["zebra", "cat"] * 20)), "a.npz", "'zebra' is no class of airplane, automobile"),
    "bool labels": (xy(X, Y > 3), "a.npz --x x_new --y y_new", "'y_new' is bool (40,), expected class numbers 0..9"),
    "no confirmation": (xy(UNIT), "a.npz", "nothing was written: look at what will be converted, then add --yes."),
    "a pickle": ({"a.npz": b"\x80\x04."}, "a.npz", "its content is a pickle, expected an .npz file"),
    "a pickled pair": ({"x.npy": b"\x80\x04."}, "x.npy x.npy", "its content is a pickle, expected an .npy file"),
    "objects": (npz(x=np.array([{}], dtype=object), y=Y[:1]), "a.npz", "x.npy holds Python objects"),
    "text for pixels": (npz(x=np.array(["a"] * 9), y=Y[:9]), "a.npz --x x", "x.npy has dtype <U1, expected bool"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_clear_is_refused_with_the_option_that_decides(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    files, args, words = REFUSED[name]
    status, said = made(capsys, files, f"--arrays {args}")
    assert (status, Path("out.npz").exists()) == (2, False)
    assert words in said
    assert said.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("name", [name for name, (_, fault) in HOSTILE.items() if fault != "invalid"])
def test_a_hostile_file_is_not_read_either(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "200 MiB and a byte":
        pytest.skip("of an accepted size here")
    HOSTILE[name][0](Path("a.npz"))
    status, said = made(capsys, {}, "--arrays a.npz --yes")
    assert status == 2, said
    assert not canary_path(Path("a.npz")).exists()


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("Yes\n", 0), ("\n", 2), ("n\n", 2), ("", 2)])
def test_on_a_terminal_it_asks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str, status: int
) -> None:
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", terminal)
    got, said = made(capsys, xy(UNIT), "--arrays a.npz")
    assert "Is that right? [y/N]" in said
    assert (got, Path("out.npz").exists()) == (status, not status)


def test_a_float32_file_over_the_increments_limit_is_taken_if_its_uint8_form_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(increment, "MAX_BYTES", 2 * X.nbytes)
    Path("a.npz").write_bytes(xy(UNIT)["a.npz"])
    assert main(["increment", "check", "a.npz"]) == 2
    said = capsys.readouterr().err
    assert "bytes, at most" in said
    assert "`cifar-lit increment make --arrays FILE --out NEW.npz`" in said
    assert made(capsys, {}, "--arrays a.npz --yes")[0] == 0
    assert increment.MAX_ROWS * 3072 * 8 < MAX_BYTES


@pytest.mark.parametrize(
    "command",
    [["increment", "check", "a.npz"], ["finetune", "--data.increments", "a.npz", "--data.source", "synthetic"]],
)
@pytest.mark.parametrize(
    "files", [xy(UNIT), npz(x=X, y=Y), xy(X, np.eye(10)[Y]), xy(X, Y + 1), {"a.npz": npy_bytes(X)}]
)
def test_what_refuses_such_a_file_names_the_command(
    capsys: pytest.CaptureFixture[str], publish: Publish, command: list[str], files: Files
) -> None:
    publish(promote=True)
    Path("a.npz").write_bytes(files["a.npz"])
    assert main(command) == 2
    assert "`cifar-lit increment make --arrays FILE --out NEW.npz`" in capsys.readouterr().err


# test --data.npz


@pytest.mark.parametrize(
    ("files", "args", "words"),
    [
        (xy(X), "a.npz", ""),
        (npz(x_train=X[:3], y_train=Y[:3], x_test=UNIT, y_test=np.eye(10)[Y]), "a.npz", "'x_test': float32 values, 0."),
        (npz(x_train=X, y_train=Y, x_test=X[:3], y_test=Y[:3]), "a.npz --x x_train", "'x_train' is read as images"),
        (pair(X), "data.npy labels.npy", "data.npy is read as images"),
        (pair(X, Y, ("fog.npy", "labels.npy")), "fog.npy", "fog.npy is read as images"),
    ],
)
def test_a_version_is_measured_on_labelled_arrays(
    capsys: pytest.CaptureFixture[str], publish: Publish, files: Files, args: str, words: str
) -> None:
    publish(promote=True)
    for name, content in files.items():
        Path(name).write_bytes(content)
    assert main(["test", "--data.npz", *args.split(), "--json", "--report", "report"]) == 0
    out, err = capsys.readouterr()
    with torch.inference_mode():
        preds = tiny_network()(torch.from_numpy(X).permute(0, 3, 1, 2)).argmax(1)
    assert json.loads(out)["test/acc"] == pytest.approx((preds.numpy() == Y).mean(), abs=1e-6)
    assert words in err
    report = json.loads(Path("report/metrics.json").read_text())["test"]
    assert np.sum(report["confusion_matrix"]) == NUM
    names = {path.name for path in Path("report").iterdir()}
    assert names == {"metrics.json", "report.txt", "calibration.png", "confusion_matrix.png", "samples.png"}


def test_a_test_on_arrays_prints_the_report(capsys: pytest.CaptureFixture[str], publish: Publish) -> None:
    publish(promote=True)
    Path("a.npz").write_bytes(xy(X)["a.npz"])
    assert main(["test", "--data.npz", "a.npz", "--tta_flip"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"v0001 on {NUM} images (arrays, a.npz)\n\n")
    assert "accuracy" in out


@pytest.mark.parametrize(
    ("files", "args", "words"),
    [
        (npz(x=X), "a.npz", "none of which are labels"),
        (xy(UNIT * 3.1), "a.npz", "`cifar-lit increment make --arrays a.npz ...` takes more options."),
        (xy(X), "a.npz --data.root data", "--data.root has no effect with --data.npz. Leave it out."),
        (xy(X), "a.npz a.npz a.npz", "--data.npz names 3 files"),
    ],
)
def test_a_test_on_other_arrays_is_refused(
    capsys: pytest.CaptureFixture[str], publish: Publish, files: Files, args: str, words: str
) -> None:
    publish(promote=True)
    Path("a.npz").write_bytes(files["a.npz"])
    assert main(["test", "--data.npz", *args.split()]) == 2
    assert words in capsys.readouterr().err


REAL = os.environ.get("CIFAR_LIT_REFERENCE")


@pytest.mark.skipif(REAL is None, reason="CIFAR_LIT_REFERENCE names no folder with images of CIFAR-10")
@pytest.mark.parametrize(
    "form",
    [
        lambda x: x / 255,
        lambda x: (x / 127.5 - 1).astype(np.float32),
        lambda x: ((x / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float16),
        lambda x: x.transpose(0, 3, 1, 2).reshape(len(x), -1),
        lambda x: x.reshape(len(x), -1),
    ],
)
def test_forms_of_real_images_are_told_apart(form: Callable[[np.ndarray], np.ndarray]) -> None:
    with np.load(Path(str(REAL)) / "keras_variants_probs.npz") as arrays:
        images = arrays["images"]
    Path("a.npz").write_bytes(npz_bytes(x=form(images), y=np.arange(len(images)) % 10))
    with open_labelled([Path("a.npz")], Form()) as found:
        assert np.array_equal(found.convert().images.numpy(), images)


def test_rows_are_bounded_before_they_are_converted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(increment, "MAX_ROWS", 39)
    monkeypatch.setattr(pixel_forms, "_MAX_ROWS", 39)
    status, said = made(capsys, npz(x=X, y=Y), "--arrays a.npz --yes")
    assert status == 2
    assert "40 images, at most 39 go into an increment. Take some with --rows 0:39." in said
    with open_labelled([Path("a.npz")], Form()) as found, pytest.raises(NpzError, match="40 images, at most 39 are"):
        found.convert()
    assert made(capsys, {}, "--arrays a.npz --yes --rows 1:40")[0] == 0
