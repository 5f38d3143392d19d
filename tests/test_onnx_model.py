"""ONNX out: it answers as PyTorch does, in one file, or it is not written."""

import builtins
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.errors import CifarLitError
from cifar_lit.interop import onnx_model
from cifar_lit.models.networks import Network

IMAGES = torch.randint(0, 256, (65, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_file_answers_to_pixels_as_the_network_does(
    tmp_path: Path, network: Network, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        difference = onnx_model.export(network, CLASS_NAMES, tmp_path / "m.onnx", IMAGES, metadata={"model": "v0007"})
    assert difference < 1e-5
    assert capfd.readouterr() == ("", "")
    assert files(tmp_path) == {"m.onnx"}
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())

    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [32, 32, 3])
    assert [each.name for each in session.get_outputs()] == ["logits", "probabilities"]
    metadata = session.get_modelmeta().custom_metadata_map
    assert (json.loads(metadata["class_names"]), metadata["model"]) == (list(CLASS_NAMES), "v0007")
    for size in (1, 2, 3, 65):
        logits, probs = session.run(None, {"images": IMAGES[:size].numpy()})
        with torch.inference_mode():
            expected = network(IMAGES[:size].permute(0, 3, 1, 2))
        assert np.abs(logits - expected.numpy()).max() < 1e-4
        assert np.abs(probs - expected.softmax(1).numpy()).max() < 1e-5


def test_the_file_stands_alone_and_tells_nothing_of_this_machine(tmp_path: Path, network: Network) -> None:
    onnx_model.export(network, CLASS_NAMES, tmp_path / "m.onnx", IMAGES)
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert all(each.data_location == onnx.TensorProto.DEFAULT for each in model.graph.initializer)
    content = (tmp_path / "m.onnx").read_bytes()
    assert str(Path(onnx_model.__file__).parent).encode() not in content
    assert b".py" not in content


def test_a_file_that_was_there_is_replaced(tmp_path: Path, network: Network) -> None:
    (tmp_path / "m.onnx").write_text("old")
    onnx_model.export(network, CLASS_NAMES, tmp_path / "m.onnx", IMAGES[:5])
    onnx.checker.check_model(tmp_path / "m.onnx")


class Misread(torch.nn.Module):
    """What an exporter with a fault makes of a network: a little off."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.inner = onnx_model._FromPixels(network).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, probs = self.inner(images)
        return logits, probs + 2e-5


@pytest.mark.parametrize("there", [False, True])
def test_other_answers_leave_nothing_and_no_file_changed(
    tmp_path: Path, network: Network, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    if there:
        (tmp_path / "m.onnx").write_text("old")
    exported = onnx_model._exported
    monkeypatch.setattr(onnx_model, "_exported", lambda _, metadata: exported(Misread(network), metadata))
    with pytest.raises(onnx_model.ExportError, match=r"was not written: ONNX Runtime's .* differ .* up to 2e-05"):
        onnx_model.export(network, CLASS_NAMES, tmp_path / "m.onnx", IMAGES)
    assert files(tmp_path) == ({"m.onnx"} if there else set())
    assert not there or (tmp_path / "m.onnx").read_text() == "old"


def test_answers_that_are_no_number_are_refused(tmp_path: Path, network: Network) -> None:
    network.state_dict()["head.bias"].fill_(float("nan"))
    with pytest.raises(onnx_model.ExportError, match="differ from PyTorch's by up to nan"):
        onnx_model.export(network, CLASS_NAMES, tmp_path / "m.onnx", IMAGES)
    assert files(tmp_path) == set()


def test_a_network_that_onnx_cannot_say_is_refused(
    tmp_path: Path, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise torch.onnx.errors.OnnxExporterError("no\nsuch operator")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(onnx_model.ExportError, match=r"torch could not export .* \(no such operator\)"):
        onnx_model.export(network, CLASS_NAMES, tmp_path / "m.onnx", IMAGES)
    assert files(tmp_path) == set()


def test_an_unwritable_place_is_an_os_error_and_leaves_nothing(tmp_path: Path, network: Network) -> None:
    with pytest.raises(FileNotFoundError):
        onnx_model.export(network, CLASS_NAMES, tmp_path / "nowhere" / "m.onnx", IMAGES[:5])
    assert files(tmp_path) == set()


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_without_its_extra_the_extra_is_named(
    tmp_path: Path, network: Network, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    imported = builtins.__import__

    def refuse(module: str, *args: Any, **kwargs: Any) -> Any:
        if module == name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(CifarLitError, match=rf"ONNX needs {name}, an extra: pip install 'cifar-lit\[interop\]'"):
        onnx_model.export(network, CLASS_NAMES, tmp_path / "m.onnx", IMAGES)
    assert files(tmp_path) == set()
