"""`cifar-lit export`, `cifar-lit import` and `--from FILE`, as a user calls them."""

import hashlib
import json
from pathlib import Path

import keras_files
import numpy as np
import onnxruntime
import pytest
import torch
from conftest import Publish, tiny_network

from cifar_lit.cli import main
from cifar_lit.data import synthetic
from cifar_lit.data.images import encode_png
from cifar_lit.interop import weights_npz
from cifar_lit.interop.model import load_file, load_model
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.weights import load_network

SYNTHETIC = ["--data.source", "synthetic", "--data.num_synthetic", "50"]


@pytest.fixture(autouse=True)
def surroundings(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR_LIT_REGISTRY", str(registry.root))
    monkeypatch.delenv("CIFAR_LIT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def h5(tmp_path: Path) -> Path:
    network = tiny_network(5)
    config = keras_files.functional(keras_files.layers_of(network))
    return keras_files.write(tmp_path / "model.h5", config, keras_files.arrays_of(network), inside="{layer}/{name}")


@pytest.fixture
def npz(tmp_path: Path, publish: Publish) -> Path:
    publish(promote=True)
    assert main(["export", "latest", "--format", "npz", "--out", "weights.npz"]) == 0
    return tmp_path / "weights.npz"


@pytest.fixture
def png(tmp_path: Path) -> Path:
    image = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (tmp_path / "a.png").write_bytes(encode_png(image.numpy()))
    return tmp_path / "a.png"


def called(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    capsys.readouterr()
    status = main([str(arg) for arg in args])
    return status, *capsys.readouterr()


# export


def test_a_version_comes_back_from_npz_bit_for_bit(npz: Path, registry: Registry) -> None:
    expected = load_network(registry.resolve("v0001")).state_dict()
    model = load_model(str(npz), registry)
    assert (model.name, model.version) == ("weights.npz", None)
    assert all(torch.equal(model.network.state_dict()[name], value) for name, value in expected.items())


def test_export_says_what_it_wrote(capsys: pytest.CaptureFixture[str], publish: Publish) -> None:
    publish(promote=True)
    status, out, err = called(capsys, "export", "v0001", "--format", "npz", "--out", "w.npz")
    size = Path("w.npz").stat().st_size
    assert (status, out, err) == (0, f"v0001 as npz: w.npz, {size:,} bytes\n", "")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            [],
            "No CIFAR-10 found (--data.root names it): comparing on synthetic images.\nComparing on 100 images (syn",
        ),
        (SYNTHETIC, "Comparing on 50 images (synthetic, test)."),
    ],
)
def test_onnx_is_compared_on_the_images_that_there_are(
    capsys: pytest.CaptureFixture[str], publish: Publish, registry: Registry, data: list[str], words: str
) -> None:
    publish(promote=True)
    status, out, err = called(capsys, "export", "latest", "--format", "onnx", "--out", "m.onnx", *data)
    assert status == 0
    assert out.startswith("v0001 as onnx: m.onnx, ")
    assert err.startswith(words)
    assert "probabilities differ from PyTorch's by " in err
    session = onnxruntime.InferenceSession("m.onnx", providers=["CPUExecutionProvider"])
    images = synthetic.draw("test", 3).images
    _, probs = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        expected = load_network(registry.resolve("v0001"))(images.permute(0, 3, 1, 2)).softmax(1)
    assert np.abs(probs - expected.numpy()).max() < 1e-5


def test_a_keras_model_is_exported_without_a_version(capsys: pytest.CaptureFixture[str], h5: Path) -> None:
    status, out, _ = called(capsys, "export", h5, "--format", "npz", "--out", "keras.npz")
    assert status == 0
    assert out.startswith("model.h5 as npz: keras.npz")
    read, _ = weights_npz.load(Path("keras.npz"))
    assert torch.equal(read.state_dict()["head.weight"], tiny_network(5).state_dict()["head.weight"])


# import


@pytest.mark.usefixtures("unabridged")
def test_a_keras_model_becomes_a_candidate_that_is_measured(
    capsys: pytest.CaptureFixture[str], h5: Path, registry: Registry
) -> None:
    status, out, err = called(capsys, "import", h5, *SYNTHETIC)
    version = registry.resolve("v0001")
    about = version.manifest
    assert (status, err) == (0, "")
    assert out.startswith("v0001: candidate, imported from model.h5\nOn 50 images (synthetic, test):\ntest/loss ")
    assert out.endswith("`cifar-lit versions promote v0001` makes it the champion.\n")
    assert (about.status, about.reason, about.parent, about.seed) == (
        "candidate",
        "imported from model.h5",
        None,
        None,
    )
    assert about.training == {"imported_from": "model.h5", "sha256": hashlib.sha256(h5.read_bytes()).hexdigest()}
    assert about.data["train"] == {"count": None, "sha256": None}
    assert about.data["test"] == {"count": 50, "sha256": synthetic.draw("test", 50).sha256}
    assert set(about.metrics) == {f"test/{name}" for name in ("loss", "acc", "precision", "recall", "f1")}
    assert set(about.files) == {
        "README.md",
        "model.onnx",
        "model.safetensors",
        "report/metrics.json",
        "report/report.txt",
        "report/confusion_matrix.png",
    }
    assert json.loads(version.read("report/metrics.json"))["test"]["acc"] == about.metrics["test/acc"]
    state = load_network(version).state_dict()
    assert torch.equal(state["dense.weight"], tiny_network(5).state_dict()["dense.weight"])


def test_an_import_without_a_test_set_says_so_and_every_command_copes(
    capsys: pytest.CaptureFixture[str], h5: Path, registry: Registry
) -> None:
    status, out, err = called(capsys, "import", h5)
    assert (status, err) == (0, "Not measured: no CIFAR-10 found (--data.root names it).\n")
    assert registry.resolve("v0001").manifest.metrics == {}
    status, out, err = called(capsys, "versions", "show", "v0001")
    assert (status, err) == (0, "")
    assert "from model.h5, seed None" in out
    assert "data      unknown, imported from model.h5\n" in out
    assert "metrics   not measured\n" in out
    status, out, _ = called(capsys, "versions", "list")
    assert "v0001   -       candidate        -         -" in out
    assert called(capsys, "versions", "verify")[0] == 0
    status, out, err = called(capsys, "validate", "--from", "v0001", *SYNTHETIC)
    assert status == 0
    assert "v0001 on 10 validation images" in out
    assert "v0001 does not say what it was trained on: it may know these images." in err
    assert called(capsys, "versions", "promote", "v0001")[0] == 0


def test_import_of_npz_as_json_is_the_summary_alone(capsys: pytest.CaptureFixture[str], npz: Path) -> None:
    status, out, err = called(capsys, "import", npz, "--json", *SYNTHETIC)
    summary = json.loads(out)
    assert (status, err) == (0, "")
    assert (summary["id"], summary["status"], summary["champion"]) == ("v0002", "candidate", False)
    assert summary["reason"] == "imported from weights.npz"
    assert 0 <= summary["metrics"]["test/acc"] <= 1


# --from FILE


def test_predict_from_a_file_answers_as_the_version_does(
    capsys: pytest.CaptureFixture[str], npz: Path, png: Path
) -> None:
    answers = []
    for reference in ("latest", npz):
        status, out, _ = called(capsys, "predict", png, "--from", reference, "--format", "json")
        assert status == 0
        answers += json.loads(out)
    assert [answer.pop("version") for answer in answers] == ["v0001", "weights.npz"]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(("verb", "count"), [("test", 50), ("validate", 10)])
def test_evaluation_from_a_file(capsys: pytest.CaptureFixture[str], h5: Path, verb: str, count: int) -> None:
    status, out, err = called(capsys, verb, "--from", h5, *SYNTHETIC)
    assert status == 0
    assert f"model.h5 on {count} {'test' if verb == 'test' else 'validation'} images" in out
    assert ("it may know these images" in err) == (verb == "validate")


def test_the_ending_decides_whatever_its_case(h5: Path, registry: Registry) -> None:
    for name in ("A.H5", "a.hdf5"):
        h5 = h5.rename(h5.with_name(name))
        assert load_model(str(h5), registry).name == name


# Wrong input


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["predict", "a.png", "--from", "no.npz"], "no.npz: no such file, expected weights in .npz, .saf"),
        (["predict", "a.png", "--from", "a\0.npz"], "no such file"),
        (["test", "--from", "no.h5"], "no.h5: no such file"),
        (["test", "--from", "bad.h5"], "bad.h5 can't be read as HDF5"),
        (["test", "--from", "bad.keras"], "bad.keras: a zip's end record is missing: it is cut off"),
        (["test", "--from", "bad.npz"], "bad.npz: its content is a pickle"),
        (["test", "--from", "folder.npz"], "folder.npz: it is a folder, expected a file of weights in .npz"),
        (["import", "v0001"], "v0001: no such file"),
        (["import", "a.png"], "a.png: files that end in '.png' are not read. Expected weights in .npz"),
        (["import", "weights.npz", "--data.root", "nowhere"], "no data set under"),
        (["import", "weights.npz", "--data.num_synthetic", "0"], "--data.num_synthetic is 0"),
        (["import", "weights.npz", "--registry", "a.png", *SYNTHETIC], "no version was published: File exists"),
        (["export", "v0009", "--format", "npz", "--out", "x"], "no version 'v0009'"),
        (["export", "latest", "--format", "npz", "--out", "nowhere/x"], "--out nowhere/x can't be written: No such"),
        (["export", "latest", "--format", "npz", "--out", "."], "--out . is a folder or a special file"),
        (["export", "latest", "--format", "npz", "--out", "/dev/null"], "--out /dev/null is a folder or a special"),
        (
            ["export", "latest", "--format", "onnx", "--out", "nowhere/x", *SYNTHETIC],
            "nowhere/x can't be written",
        ),
        (["export", "latest", "--format", "onnx", "--out", "x", "--data.root", "nowhere"], "no data set under"),
    ],
)
def test_wrong_input_is_one_message_and_status_2(
    capsys: pytest.CaptureFixture[str], npz: Path, png: Path, registry: Registry, args: list[str], words: str
) -> None:
    Path("bad.h5").write_bytes(b"bad")
    Path("bad.keras").write_bytes(b"PK\x03\x04")
    Path("bad.npz").write_bytes(b"\x80\x04bad")
    Path("folder.npz").mkdir()
    status, out, err = called(capsys, *args)
    lines = [line for line in err.splitlines() if not line.startswith(("Comparing on ", "Its probabilities differ "))]
    assert (status, out, len(lines)) == (2, "", 1)
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert not Path("x").exists()
    assert registry.ids() == ["v0001"]


def test_a_data_set_named_by_the_environment_must_be_there(
    capsys: pytest.CaptureFixture[str], npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIFAR_LIT_DATA", str(tmp_path / "nowhere"))
    status, _, err = called(capsys, "import", npz)
    assert status == 2
    assert f"no data set under {tmp_path / 'nowhere'}" in err


def test_load_file_knows_the_endings_alone(h5: Path) -> None:
    assert load_file(h5).version is None
    with pytest.raises(ValueError, match=r"files that end in '\.bin' are not read"):
        load_file(h5.rename(h5.with_suffix(".bin")))
