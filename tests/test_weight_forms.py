"""Weights as people have them: each form with its command, what becomes of it and the exit status."""

import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras_files
import numpy as np
import onnx
import pytest
import pytorch_lightning as pl
import safetensors.torch
import torch
from conftest import Publish, tiny_network
from torch import nn

from cifar_lit.cifar10 import CLASS_NAMES, MEAN, STD
from cifar_lit.cli import main
from cifar_lit.errors import WeightsError
from cifar_lit.interop import keras_export, keras_file, safetensors_file
from cifar_lit.interop.model import load_file, load_model
from cifar_lit.models.classifier import Classifier
from cifar_lit.models.networks import NETWORKS, Network, ThreeBlockCNN, WhitenedCNN
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.weights import load_network

PIXELS = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))

Write = Callable[[Network, Path], object]


def unit_network() -> Network:
    """One of pixels / 255."""
    torch.manual_seed(0)
    return ThreeBlockCNN(width=4, depth=2, hidden=8, mean=(0,) * 3, std=(1,) * 3).eval()


def small(name: str) -> Network:
    torch.manual_seed(0)
    if name == "ThreeBlockCNN":
        return tiny_network()
    return WhitenedCNN(widths=[8, 12], depth=3 if name == "skips" else 2).eval()


def checkpoint(network: Network, path: Path) -> None:
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(Classifier(network))
    trainer.save_checkpoint(path)


def v3(network: Network, path: Path) -> None:
    weights = keras_files.write_v3(path.with_name("model.weights.h5"), network)
    config = keras_files.sequential(keras_files.layers_of(network))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", json.dumps(config))
        file.write(weights, "model.weights.h5")


def contiguous(network: Network) -> dict[str, torch.Tensor]:
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def state(network: Network, **changes: Any) -> dict[str, torch.Tensor]:
    return network.state_dict() | changes


# File, network, what writes it.
READ: dict[str, tuple[str, Callable[[], Network], Write]] = {
    ".keras": ("a.keras", unit_network, v3),
    ".weights.h5": ("a.weights.h5", unit_network, lambda network, path: keras_files.write_v3(path, network)),
    "legacy .h5": (
        "a.h5",
        unit_network,
        lambda network, path: keras_files.write(
            path, keras_files.sequential(keras_files.layers_of(network)), keras_files.arrays_of(network)
        ),
    ),
    "own .h5": ("a.h5", tiny_network, lambda network, path: path.write_bytes(keras_export.dump(network))),
    ".safetensors": (
        "a.safetensors",
        unit_network,
        lambda network, path: path.write_bytes(safetensors_file.dump(network, CLASS_NAMES)),
    ),
    "foreign .safetensors": (
        "a.safetensors",
        tiny_network,
        lambda network, path: safetensors.torch.save_file(contiguous(network), path),
    ),
    ".pt": ("a.pt", tiny_network, lambda network, path: torch.save(network.state_dict(), path)),
    ".pth": ("a.pth", tiny_network, lambda network, path: torch.save(network.state_dict(), path)),
    "old .pt": (
        "a.pt",
        tiny_network,
        lambda network, path: torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False),
    ),
    ".pt under a key": (
        "a.pt",
        tiny_network,
        lambda network, path: torch.save({"epoch": 3, "model_state_dict": network.state_dict()}, path),
    ),
    ".pt of a compiled, distributed module": (
        "a.pt",
        tiny_network,
        lambda network, path: torch.save(
            {f"module._orig_mod.{name}": value for name, value in network.state_dict().items()}, path
        ),
    ),
    ".pt without counts of batches": (
        "a.pt",
        tiny_network,
        lambda network, path: torch.save(
            {name: value for name, value in network.state_dict().items() if "num_batches" not in name}, path
        ),
    ),
    ".pt in float64": ("a.pt", tiny_network, lambda network, path: torch.save(network.double().state_dict(), path)),
    ".ckpt": ("a.ckpt", unit_network, checkpoint),
    ".ckpt of another module": (
        "a.ckpt",
        tiny_network,
        lambda network, path: torch.save(
            {
                "pytorch-lightning_version": "2.6.6",
                "state_dict": {f"model.{name}": value for name, value in network.state_dict().items()}
                | {"fine_tuning.weight": torch.zeros(3)},
            },
            path,
        ),
    ),
    **{
        f"{name}{suffix}": (f"a{suffix}", partial(small, name), write)
        for name in ("WhitenedCNN", "skips")
        for suffix, write in {
            ".pt": lambda network, path: torch.save(network.state_dict(), path),
            ".ckpt": checkpoint,
            ".safetensors": lambda network, path: path.write_bytes(safetensors_file.dump(network, CLASS_NAMES)),
        }.items()
    },
}


@pytest.fixture(autouse=True)
def surroundings(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR_LIT_REGISTRY", str(registry.root))
    monkeypatch.delenv("CIFAR_LIT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", READ)
def test_weights_are_imported_and_answer_as_the_network_does(
    capsys: pytest.CaptureFixture[str], registry: Registry, name: str
) -> None:
    file, make, write = READ[name]
    network = make()
    write(network, Path(file))
    assert main(["import", file]) == 0
    assert "v0001: candidate, imported from a." in capsys.readouterr().out
    read = load_network(registry.get("v0001"))
    again = load_model(file, registry)
    with torch.inference_mode():
        expected = network.float()(PIXELS)
        for each in (read, again.network):
            assert (each(PIXELS).softmax(1) - expected.softmax(1)).abs().max() < 1e-5
    assert {key: value for key, value in read.args.items() if key not in ("dropout", "bn_momentum")} == {
        key: value for key, value in network.args.items() if key not in ("dropout", "bn_momentum")
    }
    assert (again.name, again.version) == (file, None)


def test_half_precision_becomes_float32_and_that_is_said(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(tiny_network().bfloat16().state_dict(), "a.pt")
    assert main(["import", "a.pt"]) == 0
    assert "a.pt: torch.bfloat16 becomes float32" in caplog.text


def test_what_a_state_dictionary_does_not_say_is_asked_for(
    capsys: pytest.CaptureFixture[str], registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(unit_network().state_dict(), "a.pt")
    assert main(["import", "a.pt"]) == 0
    assert "a.pt does not say how pixels are normalised: taken for CIFAR-10's mean and std." in caplog.text
    caplog.clear()
    assert main(["import", "a.pt", "--mean", "0", "0", "0", "--std", "1", "1", "1"]) == 0
    assert not [record for record in caplog.records if record.name.startswith("cifar_lit")]
    first, second = (registry.get(name).manifest for name in ("v0001", "v0002"))
    assert (first.mean, first.std) == (list(MEAN), list(STD))
    assert (second.mean, second.std) == ([0, 0, 0], [1, 1, 1])


def test_a_checkpoint_of_fit_says_all_of_its_network(parents: Path) -> None:
    expected = load_network(Registry(parents).get("v0002"))
    *_, newest = sorted((parents.parent / "runs").rglob("best.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    read = load_file(newest).network
    assert (type(read), read.args, read.mean) == (type(expected), expected.args, expected.mean)
    assert all(torch.equal(value, read.state_dict()[name]) for name, value in expected.state_dict().items())


def test_the_file_of_a_version_is_that_version(publish: Publish, registry: Registry) -> None:
    version = publish()
    read = load_file(version.path / "model.safetensors").network
    expected = load_network(version)
    assert (read.mean, read.args) == (expected.mean, expected.args)
    (version.path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="differs from its hash"):
        load_file(version.path / "model.safetensors")


class Other(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)


class Canary:
    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("canary", "w")


def scripted(path: Path) -> None:
    torch.jit.save(torch.jit.script(Other()), path)


def saved_model(path: Path) -> None:
    path.mkdir()
    (path / "saved_model.pb").touch()


# File, what writes it, a part of what is said.
REFUSED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a pickled module": (
        "a.pt",
        lambda path: torch.save(tiny_network(), path),
        "it holds a pickled cifar_lit.models.networks.ThreeBlockCNN, which is never loaded. Save torch.save(",
    ),
    "a canary": ("a.pt", lambda path: torch.save({"a": Canary()}, path), "it holds a pickled "),
    "a plain pickle": ("a.pth", lambda path: path.write_bytes(pickle.dumps(Canary())), "which is never loaded"),
    "TorchScript": ("a.pt", scripted, "it is a TorchScript archive, which holds code"),
    "another network": (
        "a.pt",
        lambda path: torch.save(Other().state_dict(), path),
        "its tensors (['fc.weight', 'fc.bias']) are of no network known here: ThreeBlockCNN, WhitenedCNN.",
    ),
    "another network in Lightning": (
        "a.ckpt",
        lambda path: torch.save({"state_dict": {"net.fc.weight": torch.zeros(3)}}, path),
        "its tensors (['fc.weight']) are of no network known here",
    ),
    "other shapes": (
        "a.pt",
        lambda path: torch.save(state(tiny_network(), **{"dense.bias": torch.zeros(9)}), path),
        "'dense.bias' is float32 (9,), expected float32 (8,) in this ThreeBlockCNN",
    ),
    "a tensor too many": (
        "a.pt",
        lambda path: torch.save(state(tiny_network(), more=torch.zeros(9)), path),
        "it has besides ['more']",
    ),
    "a tensor too few": (
        "a.safetensors",
        lambda path: safetensors.torch.save_file({"dense.weight": torch.zeros(8, 8)}, path),
        "a.safetensors: ",
    ),
    "whole numbers": (
        "a.pt",
        lambda path: torch.save(state(tiny_network(), **{"dense.bias": torch.zeros(8, dtype=torch.int32)}), path),
        "'dense.bias' is int32 (8,), expected float32 (8,)",
    ),
    "8-bit floats": (
        "a.pt",
        lambda path: torch.save(
            state(tiny_network(), **{"dense.bias": torch.zeros(8, dtype=torch.float8_e4m3fn)}), path
        ),
        "'dense.bias' is torch.float8_e4m3fn, expected float32",
    ),
    "NaN": (
        "a.pt",
        lambda path: torch.save(state(tiny_network(), **{"dense.bias": torch.full((8,), torch.nan)}), path),
        "'dense.bias' has values that are not finite",
    ),
    "a view of one value": (
        "a.pt",
        lambda path: torch.save(state(tiny_network(), **{"dense.weight": torch.zeros(1).expand(2**40, 8)}), path),
        "expected a finite number up to 8,192",
    ),
    "a list": ("a.pt", lambda path: torch.save([torch.zeros(3)], path), "it holds a list, expected a state dictionary"),
    "an optimizer": (
        "a.pt",
        lambda path: torch.save(OrderedDict(state={}, param_groups=[]), path),
        "it holds a OrderedDict with ['state', 'param_groups'], expected a state dictionary",
    ),
    "an empty file": ("a.pt", lambda path: path.touch(), "can't be read as a PyTorch file"),
    "a cut file": (
        "a.pt",
        lambda path: (torch.save(tiny_network().state_dict(), path), path.write_bytes(path.read_bytes()[:5_000])),
        "it is a damaged PyTorch file",
    ),
    "a packed file": (
        "a.pt",
        lambda path: repacked(path, zipfile.ZIP_DEFLATED),
        "it claims ",
    ),
    "no safetensors": ("a.safetensors", lambda path: path.write_bytes(b"no" * 99), "can't be read as safetensors"),
    "a header that lies": (
        "a.safetensors",
        lambda path: safetensors.torch.save_file(contiguous(tiny_network()), path, {"cifar_lit": "{}"}),
        "metadata 'cifar_lit' does not say",
    ),
    "a pickle": ("a.pkl", lambda path: path.touch(), "not read (it is a pickle, which can run code. Save a state dict"),
    "ONNX": ("a.onnx", lambda path: path.touch(), "not read (it is ONNX, which is written here and not read)"),
    "a frozen graph": ("a.pb", lambda path: path.touch(), "not read (it is TensorFlow's. Load it in Keras and save"),
    "TensorFlow Lite": ("a.tflite", lambda path: path.touch(), "Save the Keras model as .keras"),
    "a .bin": ("a.bin", lambda path: path.touch(), "if it is a state dictionary, call it .pt"),
    "a SavedModel": ("model", saved_model, "it is the folder of a TensorFlow SavedModel, which holds code."),
    "a folder": ("folder.pt", Path.mkdir, "it is a folder, expected a file of weights in .npz, .safetensors, .pt,"),
    "no file": ("no.safetensors", lambda path: None, "no such file, expected weights in .npz, .safetensors, .pt, .pth"),
}


def repacked(path: Path, method: int) -> None:
    """A PyTorch file whose members are packed."""
    torch.save({name: value * 0 for name, value in tiny_network().state_dict().items()}, path)
    with zipfile.ZipFile(path) as source:
        contents = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w", method) as target:
        for name, content in contents.items():
            target.writestr(name, content)


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_refused_by_name_and_alike_everywhere(capsys: pytest.CaptureFixture[str], name: str) -> None:
    file, write, words = REFUSED[name]
    write(Path(file))
    said = set()
    for command in (
        ["import", file],
        ["predict", ".", "--from", file],
        ["export", file, "--format", "npz", "--out", "x"],
    ):
        Path("image.png").touch()
        assert main(command) == 2
        said.add(capsys.readouterr().err)
    (message,) = said
    assert message.startswith(f"error: {file}: ")
    assert words in message
    assert message.count("\n") == 1
    assert not Path("canary").exists()


@pytest.mark.parametrize("reference", ["v0009", "best", "lattest"])
def test_a_word_without_an_ending_means_a_version(
    capsys: pytest.CaptureFixture[str], publish: Publish, reference: str
) -> None:
    publish(promote=True)
    assert main(["predict", ".", "--from", reference]) == 2
    assert f"error: no version '{reference}'" in capsys.readouterr().err


# Out


@pytest.mark.parametrize("name", NETWORKS)
def test_safetensors_come_back_bit_for_bit(capsys: pytest.CaptureFixture[str], registry: Registry, name: str) -> None:
    network = small(name)
    Path("in.safetensors").write_bytes(safetensors_file.dump(network, CLASS_NAMES))
    assert main(["export", "in.safetensors", "--format", "safetensors", "--out", "out.safetensors"]) == 0
    assert Path("in.safetensors").read_bytes() == Path("out.safetensors").read_bytes()
    read = load_file(Path("out.safetensors")).network
    assert (type(read), read.args, read.mean, read.std) == (type(network), network.args, network.mean, network.std)
    assert all(torch.equal(value, read.state_dict()[key]) for key, value in network.state_dict().items())


def test_plain_torch_reads_the_safetensors(publish: Publish) -> None:
    publish(promote=True)
    assert main(["export", "latest", "--format", "safetensors", "--out", "a.safetensors"]) == 0
    network = ThreeBlockCNN(width=4, depth=2, hidden=8)
    network.load_state_dict(safetensors.torch.load_file("a.safetensors"))


@pytest.mark.parametrize("make", [unit_network, tiny_network])
def test_the_keras_export_is_read_as_the_same_network(tmp_path: Path, make: Callable[[], Network]) -> None:
    network = make()
    (tmp_path / "a.h5").write_bytes(keras_export.dump(network))
    read = keras_file.load(tmp_path / "a.h5")
    assert (read.args, read.mean, read.std) == (network.args, network.mean, network.std)
    assert all(torch.equal(value, read.state_dict()[key]) for key, value in network.state_dict().items())


def test_the_keras_export_is_of_the_three_block_network_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="WhitenedCNN can't be written for Keras, only ThreeBlockCNN can"):
        keras_export.dump(small("WhitenedCNN"))
    torch.save(small("WhitenedCNN").state_dict(), "a.pt")
    assert main(["export", "a.pt", "--format", "keras-h5", "--out", "a.h5"]) == 2
    assert not Path("a.h5").exists()


def test_onnx_says_what_it_is(publish: Publish) -> None:
    publish(promote=True)
    assert main(["export", "latest", "--format", "onnx", "--out", "a.onnx", "--data.source", "synthetic"]) == 0
    model = onnx.load("a.onnx")
    said = {each.key: each.value for each in model.metadata_props}
    assert json.loads(said["class_names"]) == list(CLASS_NAMES)
    assert said["version"] == "v0001"
    assert "Input images: uint8 (N, 32, 32, 3), RGB, 0..255" in model.doc_string
    assert ", ".join(CLASS_NAMES) in model.doc_string
    assert np.all([str(Path.home()) not in each for each in (model.doc_string, *said.values())])
