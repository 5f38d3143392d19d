"""Versions as older releases wrote them are loaded, predict and are fine-tuned.

`old_versions/` has one of each of three commits, named after it: a tiny network that was trained on synthetic images.
Their figures (PNG) were left out afterwards.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from finetuning import HALF, QUICK, QUIET, SYNTHETIC

from cifar_lit.api import load
from cifar_lit.cli import main
from cifar_lit.data import increment, synthetic
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.interop.model import load_model
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import ONNX
from cifar_lit.registry.weights import load_network

OLD = Path(__file__).parent / "old_versions"
SCHEMAS = {"e14267a": 1, "c212624": 1, "9c6a3d3": 2}


@pytest.fixture(params=SCHEMAS)
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    shutil.copytree(OLD / request.param, tmp_path / "registry" / "v0001")
    (tmp_path / "registry" / "champion").write_text("v0001\n")
    return Registry(tmp_path / "registry")


def test_they_are_what_they_are_said_to_be() -> None:
    manifests = {name: json.loads((OLD / name / "manifest.json").read_bytes()) for name in SCHEMAS}
    assert {name: each["schema"] for name, each in manifests.items()} == SCHEMAS
    assert all("standing" in each and "status" not in each for each in manifests.values())
    assert [name for name in SCHEMAS if (OLD / name / ONNX).exists()] == ["9c6a3d3"]


def test_they_are_whole_and_as_accurate_as_when_they_were_made(registry: Registry) -> None:
    version = registry.resolve("latest")
    version.verify()
    assert version.manifest.status == "promoted"
    metrics = evaluate(load_network(version), synthetic.draw("test", 600)).metrics
    for name in ("loss", "acc", "f1"):
        assert metrics[name] == pytest.approx(version.manifest.metrics[f"test/{name}"], abs=1e-5)


def test_they_predict_with_a_graph_or_without(registry: Registry) -> None:
    images = synthetic.draw("test", 20).images
    with torch.inference_mode():
        expected = load_network(registry.get("v0001"))(images.permute(0, 3, 1, 2))
    found = load("v0001", registry=registry.root).predict(images.numpy())
    assert [each.prediction for each in found] == [
        registry.get("v0001").manifest.class_names[label] for label in expected.argmax(1).tolist()
    ]


def test_they_are_fine_tuned_and_stay_as_they_are(registry: Registry, tmp_path: Path) -> None:
    before = (registry.root / "v0001" / "manifest.json").read_bytes()
    increment.write(tmp_path / "a.npz", synthetic.draw("train", 700).subset(torch.arange(600, 700)))
    options = [*SYNTHETIC, *HALF, *QUIET, *QUICK, "--any-status", "--registry", str(registry.root)]
    assert main(["finetune", "--data.increments", str(tmp_path / "a.npz"), *options]) == 0
    assert registry.get("v0002").manifest.parent == "v0001"
    assert (registry.root / "v0001" / "manifest.json").read_bytes() == before
    assert registry.verify() == {"v0001": None, "v0002": None}


def test_a_change_of_status_brings_them_to_todays_schema(registry: Registry) -> None:
    registry.promote("v0001", "again")
    manifest = json.loads((registry.root / "v0001" / "manifest.json").read_bytes())
    assert (manifest["schema"], manifest["status"], "standing" in manifest) == (3, "promoted", False)
    assert registry.verify() == {"v0001": None}


def test_weights_that_e14267a_exported_are_loaded(tmp_path: Path) -> None:
    folder = OLD / "e14267a"
    manifest = json.loads((folder / "manifest.json").read_bytes())
    header = {name: manifest[name] for name in ("network", "class_names", "mean", "std")}
    header |= {"format": "cifar-lit weights", "format_version": 1}
    arrays: dict[str, Any] = safetensors.numpy.load_file(folder / "model.safetensors")
    np.savez(tmp_path / "w.npz", header=np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8), **arrays)
    state = load_model(str(tmp_path / "w.npz"), Registry(tmp_path)).network.state_dict()
    assert {name: value.numpy().tobytes() for name, value in state.items()} == {
        name: value.tobytes() for name, value in arrays.items()
    }
