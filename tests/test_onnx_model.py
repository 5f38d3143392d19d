"""ONNX out: it answers as PyTorch does, in one file, or it is not written."""

import builtins
import json
import threading
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
from cifar_lit.data.image_set import ImageSet
from cifar_lit.interop import onnx_model
from cifar_lit.models.networks import Network

pytestmark = pytest.mark.usefixtures("unabridged")

IMAGES = torch.randint(0, 256, (65, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_graph_answers_to_pixels_as_the_network_does(network: Network, capfd: pytest.CaptureFixture[str]) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph, difference = onnx_model.dump(network, CLASS_NAMES, IMAGES, metadata={"model": "v0007"})
    assert difference < 1e-5
    assert capfd.readouterr() == ("", "")
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
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


def test_a_temperature_is_in_the_probabilities_and_not_in_the_logits(network: Network) -> None:
    graph, difference = onnx_model.dump(network, CLASS_NAMES, IMAGES, temperature=2.5)
    assert difference < 1e-5
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    logits, probs = session.run(None, {"images": IMAGES.numpy()})
    assert np.abs(probs - torch.from_numpy(logits / 2.5).softmax(1).numpy()).max() < 1e-6
    assert session.get_modelmeta().custom_metadata_map["temperature"] == "2.5"


def test_the_graph_stands_alone_and_tells_nothing_of_this_machine(network: Network) -> None:
    graph, _ = onnx_model.dump(network, CLASS_NAMES, IMAGES)
    model = onnx.load_from_string(graph)
    assert all(each.data_location == onnx.TensorProto.DEFAULT for each in model.graph.initializer)
    assert str(Path(onnx_model.__file__).parent).encode() not in graph
    assert b".py" not in graph


class Misread(torch.nn.Module):
    """What an exporter with a fault makes of a network: a little off."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.inner = onnx_model._FromPixels(network, 1.0).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, probs = self.inner(images)
        return logits, probs + 2e-5


def test_other_answers_are_refused(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = onnx_model._exported
    monkeypatch.setattr(onnx_model, "_exported", lambda _, metadata: exported(Misread(network), metadata))
    with pytest.raises(onnx_model.ExportError, match=r"^ONNX Runtime's .* differ .* up to 2e-05, expected 1e-05"):
        onnx_model.dump(network, CLASS_NAMES, IMAGES)


def test_answers_that_are_no_number_are_refused(network: Network) -> None:
    network.state_dict()["head.bias"].fill_(float("nan"))
    with pytest.raises(onnx_model.ExportError, match="differ from PyTorch's by up to nan"):
        onnx_model.dump(network, CLASS_NAMES, IMAGES)


def test_what_onnx_runtime_can_not_run_is_refused(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_model, "_exported", lambda *_: b"hello")
    with pytest.raises(onnx_model.ExportError, match="ONNX Runtime can't run the export"):
        onnx_model.dump(network, CLASS_NAMES, IMAGES)


def test_a_network_that_onnx_cannot_say_is_refused(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise torch.onnx.errors.OnnxExporterError("no\nsuch operator")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(onnx_model.ExportError, match=r"torch could not export .* \(no such operator\)"):
        onnx_model.dump(network, CLASS_NAMES, IMAGES)


@pytest.mark.parametrize("fault", [KeyError("wing"), AttributeError("no wing"), NotImplementedError("wings")])
def test_whatever_anybodys_network_raises_is_one_error(
    network: Network, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(type(network), "logits", fail)
    with pytest.raises(onnx_model.ExportError, match="torch could not export the network as ONNX"):
        onnx_model.dump(network, CLASS_NAMES, IMAGES)


def test_a_network_that_can_not_be_copied_is_refused(network: Network) -> None:
    network.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(onnx_model.ExportError, match="torch could not export .*pickle"):
        onnx_model.dump(network, CLASS_NAMES, IMAGES)


@pytest.mark.parametrize("name", ["onnx", "onnxscript"])
def test_without_its_extra_the_extra_is_named(network: Network, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    imported = builtins.__import__

    def refuse(module: str, *args: Any, **kwargs: Any) -> Any:
        if module == name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(onnx_model.ExportError, match=rf"ONNX needs {name}, .*: pip install 'cifar-lit\[train\]'"):
        onnx_model.dump(network, CLASS_NAMES, IMAGES)


def test_images_to_compare_on_are_spread_over_the_set() -> None:
    labels = torch.arange(1_000)
    images = (labels // 4).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 32, 32, 3)
    some = onnx_model.some_images(ImageSet(images, labels, "numbered"))
    assert some.shape == (onnx_model.NUM_COMPARED, 32, 32, 3)
    assert (int(some[0, 0, 0, 0]), int(some[-1, 0, 0, 0])) == (0, 249)
    assert len(onnx_model.some_images(ImageSet(images[:3], labels[:3], "few"))) == 3
    assert onnx_model.some_images().dtype == torch.uint8
