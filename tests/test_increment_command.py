"""`cifar-lit increment make|check`, as a user calls it."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Publish
from hostile_npz import FRAGMENTS, HOSTILE
from PIL import Image
from servers import shipped_v0001
from test_corrections import add

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.cli import main
from cifar_lit.data import increment, synthetic
from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.similar import matches
from cifar_lit.data.sources import read_split, resolve_root
from cifar_lit.models.networks import ThreeBlockCNN
from cifar_lit.registry.registry import Registry

SYNTHETIC = ("--data.source", "synthetic", "--data.num_synthetic", "100")
TRAIN, TEST = synthetic.draw("train", 100), synthetic.draw("test", 100)
"""The data set that SYNTHETIC names."""
NEW = synthetic.draw("train", 150).subset(torch.arange(100, 150))


@pytest.fixture(autouse=True)
def place(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR_LIT_REGISTRY", str(registry.root))
    monkeypatch.delenv("CIFAR_LIT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def called(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `cifar-lit increment`."""
    status = main(["increment", *map(str, args)])
    return status, *capsys.readouterr()


def write(images: torch.Tensor = NEW.images, labels: torch.Tensor = NEW.labels, name: str = "new.npz") -> Path:
    increment.write(Path(name), ImageSet(images, labels, "made"))
    return Path(name)


# check


def test_a_sound_file_passes(capsys: pytest.CaptureFixture[str], publish: Publish) -> None:
    publish(promote=True)
    status, out, err = called(capsys, "check", write(), *SYNTHETIC)
    assert (status, err) == (0, "")
    assert out.startswith("new.npz, 50 images: airplane 5, automobile 5,")
    assert out.endswith("\n\n0 errors, 0 warnings.\n")


def test_json_is_one_object_on_standard_output(capsys: pytest.CaptureFixture[str], publish: Publish) -> None:
    publish(promote=True)
    status, out, err = called(capsys, "check", write(), *SYNTHETIC, "--json")
    about = json.loads(out)
    assert (status, err) == (0, "")
    assert list(about)[:5] == ["file", "version", "count", "ok", "classes"]
    assert (about["file"], about["version"], about["count"], about["ok"]) == ("new.npz", "v0001", 50, True)
    assert about["findings"] == about["not_checked"] == []


def test_copies_of_test_images_exact_and_near_are_named(capsys: pytest.CaptureFixture[str], publish: Publish) -> None:
    publish(promote=True)
    brighter = (TEST.images[9:10].int() + 6).clamp(0, 255).to(torch.uint8)
    images = torch.cat([NEW.images[:10], TEST.images[4:5], brighter])
    path = write(images, torch.cat([NEW.labels[:10], TEST.labels[[4]], TEST.labels[[9]]]))
    status, out, err = called(capsys, "check", path, *SYNTHETIC)
    assert (status, err) == (0, "")
    assert "warning: 2 images are copies of test images: 1 pixel for pixel, 1 altered a little." in out
    assert "Rows: 10 = test 4; 11 = test 9." in out
    status, out, _ = called(capsys, "check", path, *SYNTHETIC, "--json")
    assert (status, json.loads(out)["faulty_rows"]) == (0, [])
    status, out, _ = called(capsys, "check", write(TEST.images[:9], TEST.labels[:9]), *SYNTHETIC)
    assert status == 1
    assert "error: 9 images are copies of test images" in out


@pytest.mark.parametrize(
    ("images", "labels", "status", "code"),
    [
        (torch.full_like(NEW.images, 77), NEW.labels, 1, "flat_images"),
        (NEW.images[:1].repeat(50, 1, 1, 1), NEW.labels, 1, "conflicting_labels"),
        (NEW.images[:1].repeat(50, 1, 1, 1), NEW.labels * 0, 0, "duplicates"),
        (NEW.images, NEW.labels * 0 + 3, 0, "one_class"),
        (NEW.images[:1], NEW.labels[:1], 0, "one_class"),
        (TRAIN.images[:20], TRAIN.labels[:20], 0, "train_overlap"),
    ],
)
def test_poisoned_and_odd_files(
    capsys: pytest.CaptureFixture[str], images: torch.Tensor, labels: torch.Tensor, status: int, code: str
) -> None:
    actual, out, _ = called(capsys, "check", write(images, labels), *SYNTHETIC, "--json", "--from", "none")
    assert actual == status
    assert code in [finding["code"] for finding in json.loads(out)["findings"]]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_increment_is_refused_in_one_line(capsys: pytest.CaptureFixture[str], name: str) -> None:
    HOSTILE[name][0](Path("new.npz"))
    status, out, err = called(capsys, "check", "new.npz", *SYNTHETIC, "--report", "report", "--clean", "clean.npz")
    assert (status, out) == (2, "")
    assert err.startswith("error: new.npz: ")
    assert FRAGMENTS[name] in err
    assert err.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["new.npz"]


def test_without_data_and_champion_it_checks_what_it_can_and_says_so(
    capsys: pytest.CaptureFixture[str], registry: Registry
) -> None:
    status, out, err = called(capsys, "check", write())
    assert status == 0
    assert "Not checked: copies of training images, copies of test images, doubtful labels." in out
    labels, copies = err.splitlines()
    assert labels.startswith(f"warning: labels are not checked: {registry} has no champion")
    assert copies.startswith("warning: copies of train and test images are not looked for: no data set under")
    status, out, err = called(capsys, "check", write(NEW.images[:1].repeat(50, 1, 1, 1)), "--json")
    assert status == 1
    assert len(json.loads(out)["not_checked"]) == 3
    assert err.count("warning: ") == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data.root", "nowhere"], "error: no data set under"),
        (["--from", "v0009"], "error: no version 'v0009'"),
        (["--from", "weights.npz"], "error: weights.npz: no such file"),
        (["--clean", "new.npz"], "error: --clean new.npz exists already"),
        (["--data.source", "synthetic", "--data.num_synthetic", "0"], "error: --data.num_synthetic is 0"),
        (["--data.source", "synthetic", "--report", "new.npz"], "error: --report new.npz can't be written"),
    ],
)
def test_what_was_named_and_cannot_be_had_is_an_error(
    capsys: pytest.CaptureFixture[str], publish: Publish, args: list[str], message: str
) -> None:
    publish(promote=True)
    before = write().read_bytes()
    status, _, err = called(capsys, "check", "new.npz", *args)
    assert status == 2
    assert err.startswith(message)
    assert Path("new.npz").read_bytes() == before


def test_a_version_is_asked_that_is_not_the_champion(capsys: pytest.CaptureFixture[str], publish: Publish) -> None:
    publish(promote=True)
    publish(seed=1)
    _, out, _ = called(capsys, "check", write(), *SYNTHETIC, "--from", "v0002", "--json")
    assert json.loads(out)["version"] == "v0002"


@pytest.mark.usefixtures("unabridged")
def test_the_report_is_text_json_and_an_image(
    capsys: pytest.CaptureFixture[str], publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(promote=True)
    cat = torch.eye(10)[3]
    monkeypatch.setattr(ThreeBlockCNN, "logits", lambda self, images: 99 * cat.expand(len(images), 10))
    status, out, err = called(capsys, "check", write(), *SYNTHETIC, "--report", "a/b")
    assert (status, err) == (0, "Report: a/b\n")
    assert sorted(path.name for path in Path("a/b").iterdir()) == ["audit.json", "audit.txt", "doubts.png"]
    assert Path("a/b/audit.txt").read_text() == out
    about = json.loads(Path("a/b/audit.json").read_text())
    (doubts,) = [finding for finding in about["findings"] if finding["code"] == "doubted_labels"]
    assert len(doubts["rows"]) == 45
    with Image.open("a/b/doubts.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 32
    called(capsys, "check", "new.npz", *SYNTHETIC, "--report", "a/b", "--from", "none")
    assert not Path("a/b/doubts.png").exists(), "it was that of another check"


def test_clean_writes_what_no_error_concerns_and_each_image_once(capsys: pytest.CaptureFixture[str]) -> None:
    rows = torch.tensor([*range(10), 3, 3])
    images = torch.cat([NEW.images[rows], TEST.images[:1], NEW.images[5:6]])
    labels = torch.cat([NEW.labels[rows], TEST.labels[:1], NEW.labels[5:6] + 1])
    status, _, err = called(
        capsys, "check", write(images, labels), *SYNTHETIC, "--from", "none", "--clean", "clean.npz"
    )
    assert (status, err) == (1, "Wrote clean.npz: 9 of 14 images.\n")
    clean = increment.read(Path("clean.npz"))
    kept = [row for row in range(10) if row != 5]
    assert torch.equal(clean.images, NEW.images[kept])
    assert torch.equal(clean.labels, NEW.labels[kept])
    assert called(capsys, "check", "clean.npz", *SYNTHETIC, "--from", "none")[0] == 0
    assert called(capsys, "check", "new.npz", *SYNTHETIC, "--from", "none", "--clean", "new.npz", "--force")[0] == 1
    assert Path("new.npz").read_bytes() == Path("clean.npz").read_bytes()


def test_clean_writes_nothing_if_no_row_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    write(torch.full_like(NEW.images, 77))
    status, _, err = called(capsys, "check", "new.npz", *SYNTHETIC, "--from", "none", "--clean", "clean.npz")
    assert (status, err) == (1, "No row is without fault: clean.npz was not written.\n")
    assert not Path("clean.npz").exists()


# make


def test_make_from_images_of_any_size_and_kind(capsys: pytest.CaptureFixture[str]) -> None:
    for name, size in (("cat/a.png", (32, 32)), ("cat/deep/b.JPG", (60, 40)), ("truck/c.webp", (5, 9))):
        path = Path("images", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (200, 100, 0)).save(path, {".JPG": "JPEG"}.get(path.suffix))
    Path("images/cat/notes.txt").write_text("mine")
    Path("images/.cache").mkdir()
    status, out, err = called(capsys, "make", "--images", "images", "--out", "out.npz")
    assert (status, err) == (0, "left out: 1 .txt (cat/notes.txt)\nleft out 1 hidden or system file: .cache/\n")
    assert out.splitlines() == [
        "Wrote out.npz: 3 images (images, images)",
        "  cat              2",
        "  truck            1",
        "Next: cifar-lit increment check out.npz",
    ]
    made = increment.read(Path("out.npz"))
    assert made.labels.tolist() == [3, 3, 9]
    assert (made.images.float() - torch.tensor([200.0, 100, 0])).abs().max() < 4


def made_of_train(capsys: pytest.CaptureFixture[str], *args: object) -> ImageSet:
    status, _, err = called(capsys, "make", "--split", "train", *SYNTHETIC, "--out", "out.npz", "--force", *args)
    assert (status, err) == (0, "")
    return increment.read(Path("out.npz"))


@pytest.mark.parametrize(("rows", "expected"), [("10:30", range(10, 30)), (":5", range(5)), ("95:", range(95, 100))])
def test_make_from_rows_of_a_split(capsys: pytest.CaptureFixture[str], rows: str, expected: range) -> None:
    made = made_of_train(capsys, "--rows", rows)
    assert torch.equal(made.images, TRAIN.images[[*expected]])
    assert torch.equal(made.labels, TRAIN.labels[[*expected]])


def test_make_from_classes_and_an_even_sample(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(made_of_train(capsys)) == 100
    cats_and_dogs = made_of_train(capsys, "--classes", "dog", "cat")
    assert torch.bincount(cats_and_dogs.labels, minlength=10).tolist() == [0, 0, 0, 10, 0, 10, 0, 0, 0, 0]
    some = made_of_train(capsys, "--classes", "dog", "cat", "--count", 7)
    assert torch.bincount(some.labels, minlength=10).tolist() == [0, 0, 0, 4, 0, 3, 0, 0, 0, 0]
    even = made_of_train(capsys, "--count", 23)
    rows = matches(even.images, TRAIN.images).tolist()
    assert rows == sorted(set(rows)), "each once, in the order of the split"
    assert torch.bincount(even.labels).tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert even.sha256 == made_of_train(capsys, "--count", 23, "--seed", 0).sha256
    assert even.sha256 != made_of_train(capsys, "--count", 23, "--seed", 1).sha256
    few = made_of_train(capsys, "--rows", "3:6", "--count", 3)
    assert few.labels.tolist() == [3, 4, 5]


def test_make_from_test_images_warns(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = called(capsys, "make", "--split", "test", *SYNTHETIC, "--out", "out.npz")
    assert status == 0
    assert err == "warning: whoever learns test images makes every test figure too good.\n"
    assert torch.equal(increment.read(Path("out.npz")).images, TEST.images)


def test_make_from_corrections(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("corrected")
    folder.mkdir()
    add(folder, 5, "dog")
    add(folder, 9, "cat")
    with (folder / "corrections.jsonl").open("a") as file:
        file.write('{"file"')
    status, out, err = called(capsys, "make", "--corrections", folder, "--out", "out.npz")
    assert status == 0
    assert "Wrote out.npz: 2 images (corrections, corrected)" in out
    assert err == "warning: corrected/corrections.jsonl, line 3: it is torn, and was passed over.\n"
    assert increment.read(Path("out.npz")).labels.tolist() == [5, 3]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--rows", "5:5"], "--rows is '5:5', expected FROM:TO with 0 <= FROM < TO <= 100"),
        (["--rows", "5:101"], "--rows is '5:101'"),
        (["--rows", "-5:"], "--rows is '-5:'"),
        (["--rows", "5"], "--rows is '5'"),
        (["--rows", "0:3", "--classes", "truck"], "there is no image of these --classes in these --rows"),
        (["--count", "0"], "--count is 0, expected 1 or more"),
        (["--count", "101"], "--count 101 takes 11 of airplane, there are 10"),
    ],
)
def test_make_refuses_slices_that_make_no_sense(
    capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    args = [f"--rows={args[1]}"] + args[2:] if args[0] == "--rows" else args
    status, out, err = called(capsys, "make", "--split", "train", *SYNTHETIC, "--out", "out.npz", *args)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert not Path("out.npz").exists()


def test_make_replaces_a_file_only_by_force(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out.npz").write_text("mine")
    status, _, err = called(capsys, "make", "--split", "train", *SYNTHETIC, "--out", "out.npz")
    assert (status, Path("out.npz").read_text()) == (2, "mine")
    assert err == "error: --out out.npz exists already. Name another file, or replace it with --force.\n"
    assert len(made_of_train(capsys)) == 100


def test_slices_are_of_a_split_only(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = called(capsys, "make", "--images", "images", "--count", 3, "--out", "out.npz")
    assert status == 2
    assert "--count can't be used here: --rows, --classes and --count choose from --split or --arrays" in err


@pytest.mark.parametrize("action", ["check", "make"])
def test_help_is_shown(capsys: pytest.CaptureFixture[str], action: str) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["increment", action, "--help"])
    assert f"usage: cifar-lit increment {action}" in capsys.readouterr().out


# Real data

DATA = os.environ.get("CIFAR_LIT_DATA")


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="CIFAR_LIT_DATA names no CIFAR-10")
def test_real_images_against_the_shipped_version(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    train = read_split("train", resolve_root(DATA))
    rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:200]
    labels = train.labels[rows]
    labels[:20] = (labels[:20] + 5) % 10
    path = write(train.images[rows], labels)
    shipped = shipped_v0001(tmp_path / "shipped")
    _, out, _ = called(capsys, "check", path, "--data.root", DATA, "--registry", shipped, "--json")
    about = json.loads(out)
    findings = {finding["code"]: finding for finding in about["findings"]}
    assert len(findings["train_overlap"]["rows"]) == 200
    assert all(detail["exact"] for detail in findings["train_overlap"]["details"])
    doubted = findings["doubted_labels"]["rows"]
    assert len([row for row in doubted if row < 20]) >= 10
    assert len([row for row in doubted if row >= 20]) <= 10
    assert max(findings.get("test_overlap", {"rows": []})["rows"], default=0) < 200
    assert len(findings.get("test_overlap", {"rows": []})["rows"]) <= 3
    assert np.sum([*about["classes"].values()]) == 200
    assert [*about["classes"]] == [*CLASS_NAMES]
