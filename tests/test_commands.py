"""The commands that need no training, as a user calls them."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camera_images import BASES, IMAGES
from conftest import Publish
from hostile_images import content_of
from PIL import Image

import cifar_lit
from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.cli import main
from cifar_lit.data.images import encode_png
from cifar_lit.registry.registry import Registry

COMMANDS = ("fit", "finetune", "validate", "test", "predict", "export", "import", "increment", "versions", "serve")
SUMMARY = {"id", "parent", "status", "champion", "metrics", "created_at", "network", "reason"}


@pytest.fixture(autouse=True)
def registry_folder(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR_LIT_REGISTRY", str(registry.root))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with three PNG files, of which one is in a folder of its own."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.PNG", "more/c.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 40, 3), dtype=np.uint8)
        (folder / name).write_bytes(encode_png(pixels))
    return folder


def called(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    status = main([str(arg) for arg in args])
    return status, *capsys.readouterr()


def json_of(capsys: pytest.CaptureFixture[str], *args: object) -> Any:
    status, out, err = called(capsys, *args)
    assert (status, err) == (0, "")
    return json.loads(out)


# cifar-lit


def test_without_a_command_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "usage: cifar-lit [-h] [--version] COMMAND" in capsys.readouterr().err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in COMMANDS] == [*COMMANDS]


def test_an_unknown_command_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train"])
    assert re.search(r"invalid choice: 'train' \(choose from '?fit", capsys.readouterr().err)


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"cifar-lit {cifar_lit.__version__}\n"


@pytest.mark.parametrize("args", [["predict", "--help"], ["versions", "--help"], ["versions", "show", "--help"]])
def test_a_command_shows_its_help(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(args)
    assert f"usage: cifar-lit {' '.join(args[:-1])}" in capsys.readouterr().out


# cifar-lit versions


def test_versions_list_marks_the_champion(capsys: pytest.CaptureFixture[str], publish: Publish) -> None:
    publish(promote=True)
    publish(parent="v0001")
    status, out, err = called(capsys, "versions", "list")
    head, first, second, legend = out.splitlines()
    assert (status, err) == (0, "")
    assert head.split()[:5] == ["id", "parent", "status", "val/acc", "test/acc"]
    assert first.split()[:6] == ["*", "v0001", "-", "promoted", "0.2500", "0.1250"]
    assert first.endswith("-; it is better")
    assert second.split()[:6] == ["v0002", "v0001", "candidate", "0.2500", "0.1250", "ThreeBlockCNN"]
    assert legend.startswith("* is the champion")


def test_versions_list_names_the_increments_and_shortens_a_long_reason(
    capsys: pytest.CaptureFixture[str], publish: Publish, registry: Registry
) -> None:
    path = publish(promote=True).path / "manifest.json"
    values = json.loads(path.read_text())
    values["data"]["increments"] = [{"name": "a.npz", "sha256": "0" * 64, "count": 3}]
    path.write_text(json.dumps(values | {"reason": "old accuracy fell, " * 20}))
    line = called(capsys, "versions", "list")[1].splitlines()[1]
    assert "  a.npz; old accuracy fell, old" in line
    assert line.endswith(" ...")


def test_versions_increments_lists_what_is_kept_and_drops_it(
    capsys: pytest.CaptureFixture[str], publish: Publish, registry: Registry
) -> None:
    path = publish().path / "manifest.json"
    values = json.loads(path.read_text())
    values["data"]["increments"] = [{"name": "a.npz", "sha256": "a" * 64, "count": 3}]
    path.write_text(json.dumps(values))
    assert called(capsys, "versions", "increments")[1] == f"0 kept in {registry.root}/increments/, 0.0 MiB.\n"
    registry.increments.folder.mkdir()
    for name in ("a", "b"):
        registry.increments.path(name * 64).write_bytes(bytes(2**20))
    listed = called(capsys, "versions", "increments")[1].splitlines()
    assert listed[0].split() == ["a" * 16, "1.0", "MiB", "v0001"]
    assert listed[1].split() == ["b" * 16, "1.0", "MiB", "no", "version"]
    assert listed[2] == f"2 kept in {registry.root}/increments/, 2.0 MiB."
    assert json_of(capsys, "versions", "increments", "--json") == [
        {"sha256": "a" * 64, "bytes": 2**20, "versions": ["v0001"]},
        {"sha256": "b" * 64, "bytes": 2**20, "versions": []},
    ]
    assert json_of(capsys, "versions", "increments", "--drop", "aaaa", "--json") == ["a" * 64]
    status, _, err = called(capsys, "versions", "increments", "--drop", "aaaa")
    assert (status, err.startswith("error: ")) == (2, True)
    assert called(capsys, "versions", "increments", "--drop", "all")[1] == (
        f"Dropped 1 from {registry.root}/increments/.\n"
    )
    assert not registry.increments.sizes()


def test_a_reader_that_has_read_enough_is_no_error(publish: Publish, registry: Registry) -> None:
    """As `cifar-lit versions list | head -0` in a shell."""
    publish(promote=True)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "cifar_lit.cli", "versions", "show", "v0001", "--registry", str(registry.root)]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_ctrl_c_while_a_command_is_imported_is_status_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cifar_lit.cli.importlib.import_module", interrupted)
    status, _, err = called(capsys, "finetune")
    assert (status, err) == (130, "Stopped by Ctrl-C.\n")


def test_versions_list_as_json(capsys: pytest.CaptureFixture[str], publish: Publish) -> None:
    publish(promote=True)
    publish(parent="v0001")
    first, second = json_of(capsys, "versions", "list", "--json")
    assert set(first) == set(second) == SUMMARY
    assert (first["id"], first["champion"], first["status"], first["parent"]) == ("v0001", True, "promoted", None)
    assert (second["id"], second["champion"], second["status"]) == ("v0002", False, "candidate")
    assert first["metrics"] == {"val/acc": 0.25, "test/acc": 0.125}
    assert second["parent"] == "v0001"


def test_versions_list_of_an_empty_registry(capsys: pytest.CaptureFixture[str], registry: Registry) -> None:
    status, out, _ = called(capsys, "versions", "list")
    assert (status, out) == (0, f"No version in {registry} yet. `cifar-lit fit` makes one.\n")
    assert json_of(capsys, "versions", "list", "--json") == []
    assert json_of(capsys, "versions", "verify", "--json") == {}


def test_versions_list_goes_on_when_the_champion_is_damaged(
    capsys: pytest.CaptureFixture[str], publish: Publish
) -> None:
    (publish(promote=True).path / "model.safetensors").unlink()
    status, out, _ = called(capsys, "versions", "list", "--json")
    assert status == 0
    assert [(row["id"], row["champion"]) for row in json.loads(out)] == [("v0001", False)]


@pytest.mark.parametrize("reference", ["latest", "v0001"])
def test_versions_show_tells_all_and_the_report(
    capsys: pytest.CaptureFixture[str], publish: Publish, reference: str
) -> None:
    version = publish(promote=True)
    status, out, err = called(capsys, "versions", "show", reference)
    assert (status, err) == (0, "")
    assert out.startswith("v0001 (champion): promoted, it is better\n")
    assert "generated: 100 images, sha256 0000000000000000" in out
    assert "val/acc 0.2500, test/acc 0.1250" in out
    assert str(version.path) in out
    assert out.endswith("\n\nthe report\n")


def test_versions_show_as_json_is_the_manifest_and_the_champion(
    capsys: pytest.CaptureFixture[str], publish: Publish
) -> None:
    version = publish()
    shown = json_of(capsys, "versions", "show", "v0001", "--json")
    assert shown == json.loads((version.path / "manifest.json").read_text()) | {"champion": False}


def test_versions_promote(capsys: pytest.CaptureFixture[str], publish: Publish, registry: Registry) -> None:
    publish(promote=True)
    publish()
    status, out, _ = called(capsys, "versions", "promote", "v0002", "--reason", "looks better")
    assert (status, out) == (0, f"v0002 is the champion of {registry} now.\n")
    assert registry.resolve("latest").manifest.reason == "looks better"
    summary = json_of(capsys, "versions", "promote", "v0001", "--json")
    assert set(summary) == SUMMARY
    assert (summary["id"], summary["champion"], summary["reason"]) == ("v0001", True, "by hand (first: it is better)")


def test_versions_rollback(capsys: pytest.CaptureFixture[str], publish: Publish, registry: Registry) -> None:
    for _ in range(3):
        publish(promote=True)
    status, out, _ = called(capsys, "versions", "rollback", "--reason", "it was worse")
    assert (status, out) == (0, f"v0002 is the champion of {registry} now.\n")
    assert registry.get("v0003").manifest.reason == "it was worse (first: it is better)"
    summary = json_of(capsys, "versions", "rollback", "--json")
    assert set(summary) == SUMMARY
    assert (summary["id"], summary["champion"]) == ("v0001", True)
    status, out, err = called(capsys, "versions", "rollback")
    assert (status, out) == (2, "")
    assert "error: " in err
    assert "no other promoted version was served before v0001" in err


def test_versions_verify(capsys: pytest.CaptureFixture[str], publish: Publish) -> None:
    publish()
    damaged = publish()
    assert called(capsys, "versions", "verify") == (0, "v0001  whole\nv0002  whole\n", "")
    assert json_of(capsys, "versions", "verify", "--json") == {"v0001": None, "v0002": None}
    (damaged.path / "config.yaml").write_bytes(b"")
    status, out, _ = called(capsys, "versions", "verify")
    assert status == 1
    assert out.startswith(f"v0001  whole\nv0002  {damaged.path}/config.yaml differs from its hash")
    status, out, _ = called(capsys, "versions", "verify", "--json")
    assert status == 1
    assert "config.yaml differs" in json.loads(out)["v0002"]


@pytest.mark.parametrize("args", [["show", "v0009"], ["promote", "v0009"], ["promote", "v0009", "--json"]])
def test_an_unknown_version_is_an_error_on_standard_error(
    capsys: pytest.CaptureFixture[str], publish: Publish, args: list[str]
) -> None:
    publish()
    status, out, err = called(capsys, "versions", *args)
    assert (status, out) == (2, "")
    assert err.startswith("error: no version 'v0009' in ")
    assert "(have v0001..v0001)" in err


def test_the_registry_option_goes_before_the_environment(
    capsys: pytest.CaptureFixture[str], publish: Publish, tmp_path: Path
) -> None:
    publish()
    assert json_of(capsys, "versions", "list", "--json", "--registry", tmp_path / "other") == []


def test_a_registry_that_is_a_file_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, _, err = called(capsys, "versions", "list", "--registry", tmp_path / "file")
    assert status == 2
    assert "can't be read: Not a directory" in err


# cifar-lit predict


def test_predict_a_file_gives_a_table(capsys: pytest.CaptureFixture[str], publish: Publish, images: Path) -> None:
    publish(promote=True)
    status, out, err = called(capsys, "predict", images / "a.png")
    head, row = out.splitlines()
    assert (status, err) == (0, "")
    assert head.split() == ["file", "prediction", "confidence", "version"]
    name, prediction, confidence, version = row.split()
    assert (name, version) == (str(images / "a.png"), "v0001")
    assert prediction in CLASS_NAMES
    assert 0.1 <= float(confidence) <= 1


def test_predict_a_folder_answers_every_image_below_it(
    capsys: pytest.CaptureFixture[str], publish: Publish, images: Path
) -> None:
    publish(promote=True)
    rows = json_of(capsys, "predict", images, "--format", "json")
    assert [row["file"] for row in rows] == [str(images / name) for name in ("a.png", "b.PNG", "more/c.png")]
    for row in rows:
        assert list(row) == ["file", "prediction", "confidence", "probabilities", "version"]
        assert tuple(row["probabilities"]) == CLASS_NAMES
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        assert row["confidence"] == row["probabilities"][row["prediction"]] == max(row["probabilities"].values())


def test_predict_answers_in_the_order_given(capsys: pytest.CaptureFixture[str], publish: Publish, images: Path) -> None:
    publish(promote=True)
    files = [str(images / name) for name in ("more/c.png", "a.png", "b.PNG", "a.png")]
    assert [row["file"] for row in json_of(capsys, "predict", *files, "--format", "json")] == files


def test_predict_from_a_version_that_is_not_the_champion(
    capsys: pytest.CaptureFixture[str], publish: Publish, images: Path
) -> None:
    publish(promote=True)
    publish(seed=1)
    (row,) = json_of(capsys, "predict", images / "a.png", "--from", "v0002", "--format", "json")
    assert row["version"] == "v0002"


def test_predict_as_csv_has_a_column_a_class(
    capsys: pytest.CaptureFixture[str], publish: Publish, images: Path
) -> None:
    publish(promote=True)
    status, out, _ = called(capsys, "predict", images, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    expected = json_of(capsys, "predict", images, "--format", "json")
    assert status == 0
    assert list(rows[0]) == ["file", "prediction", "confidence", *CLASS_NAMES, "version"]
    for row, other in zip(rows, expected, strict=True):
        assert (row["file"], row["prediction"]) == (other["file"], other["prediction"])
        assert {name: float(row[name]) for name in CLASS_NAMES} == other["probabilities"]


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_predict_writes_to_out_what_it_would_print(
    capsys: pytest.CaptureFixture[str], publish: Publish, images: Path, tmp_path: Path, form: str
) -> None:
    publish(promote=True)
    _, printed, _ = called(capsys, "predict", images, "--format", form)
    assert called(capsys, "predict", images, "--format", form, "--out", tmp_path / "out") == (0, "", "")
    assert (tmp_path / "out").read_text() == printed


def test_a_broken_file_does_not_keep_the_others_from_an_answer(
    capsys: pytest.CaptureFixture[str], publish: Publish, images: Path
) -> None:
    publish(promote=True)
    (images / "b.PNG").write_bytes(b"not an image")
    (images / "scan.jpg").write_bytes(b"II*\0")
    (images / ".hidden").write_bytes(b"")
    status, out, err = called(capsys, "predict", images, "--format", "json")
    assert status == 1
    assert [Path(row["file"]).name for row in json.loads(out)] == ["a.png", "c.png"]
    hidden, text, tiff, summary = err.splitlines()
    assert hidden == f"note: {images}: 1 hidden file passed over"
    assert text.startswith(f"error: {images / 'b.PNG'}: this is a text, expected a JPEG, PNG, WebP,")
    assert tiff.startswith(f"error: {images / 'scan.jpg'}: this is a TIFF")
    assert summary == "skipped 2 of 4 files: 1 text, 1 TIFF (or a camera's raw file)"


def test_predict_takes_what_cameras_phones_and_programs_write(
    capsys: pytest.CaptureFixture[str], publish: Publish, tmp_path: Path
) -> None:
    publish(promote=True)
    (tmp_path / "bases").mkdir()
    (tmp_path / "images").mkdir()
    for name, pixels in BASES.items():
        Image.fromarray(pixels).save(tmp_path / "bases" / f"{name}.png")
    for name, (content, _) in IMAGES.items():
        (tmp_path / "images" / name).write_bytes(content_of(content))
    (status, bases, _), (status_of_all, found, err) = (
        called(capsys, "predict", tmp_path / folder, "--format", "json") for folder in ("bases", "images")
    )
    assert (status, status_of_all) == (0, 1)
    expected = {Path(row["file"]).stem: row["probabilities"] for row in json.loads(bases)}
    rows = {Path(row["file"]).name: row for row in json.loads(found)}
    assert set(rows) == {name for name, (_, base) in IMAGES.items() if base != "refused"}
    for name, row in rows.items():
        probs = expected[IMAGES[name][1]]
        assert max(abs(row["probabilities"][each] - probs[each]) for each in probs) < 0.2, name
    assert rows["animated.gif"]["note"] == "only the first frame of the animation was looked at"
    assert f"note: {tmp_path / 'images' / 'animated.gif'}: only the first frame" in err
    assert err.splitlines()[-1].startswith(f"skipped {len(IMAGES) - len(rows)} of {len(IMAGES)} files: ")


@pytest.mark.parametrize(("form", "lines"), [("table", 0), ("csv", 1), ("json", 1)])
def test_nothing_but_broken_files_gives_an_empty_answer(
    capsys: pytest.CaptureFixture[str], publish: Publish, tmp_path: Path, form: str, lines: int
) -> None:
    publish(promote=True)
    (tmp_path / "a.png").write_bytes(b"")
    status, out, err = called(capsys, "predict", tmp_path / "a.png", "--format", form)
    assert (status, len(out.splitlines())) == (2, lines)
    assert "the file is empty" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nothing.png"], "nothing.png: no such file or folder"),
        (["images/empty"], "images/empty: no file in this folder"),
        (["images/a.png", "--from", "v0009"], "no version 'v0009' in"),
        (["images/a.png", "--out", "nowhere/out.json"], "nowhere/out.json can't be written: No such file or directory"),
    ],
)
def test_predict_refuses_what_it_cannot_do(
    capsys: pytest.CaptureFixture[str],
    publish: Publish,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    message: str,
) -> None:
    publish(promote=True)
    (images / "empty").mkdir()
    monkeypatch.chdir(images.parent)
    status, out, err = called(capsys, "predict", *args)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")


def test_predict_without_a_champion_says_how_to_get_one(capsys: pytest.CaptureFixture[str], images: Path) -> None:
    status, out, err = called(capsys, "predict", images / "a.png")
    assert (status, out) == (2, "")
    assert "has no champion: no version was promoted yet. Train one with `cifar-lit fit`" in err


def test_serving_without_its_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("cifar_lit.page")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["serve"]) == 2
    assert (
        "`cifar-lit serve` needs gradio, which is not installed: pip install 'cifar-lit[serve]'"
        in capsys.readouterr().err
    )
