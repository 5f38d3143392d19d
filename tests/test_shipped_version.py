"""The version that comes with the project, and the project's own promise about its images."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from cifar_lit.cli import main
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.weights import load_network
from cifar_lit.serving.predictor import Predictor

ROOT = Path(__file__).parent.parent


@pytest.fixture
def shipped() -> Registry:
    return Registry(ROOT / "checkpoints")


def test_it_is_whole_and_the_champion(shipped: Registry):
    assert shipped.get("v0001").manifest.standing == "promoted"
    assert shipped.verify()["v0001"] is None
    assert shipped.champion() is not None


def test_it_is_the_seeds_network(shipped: Registry):
    network = load_network(shipped.get("v0001"))
    statistics = [value for name, value in network.named_buffers() if "running" in name]
    assert sum(value.numel() for value in [*network.parameters(), *statistics]) == 621_258


def test_it_knows_a_cat(shipped: Registry):
    answer = Predictor.from_version(shipped.get("v0001")).predict_bytes((ROOT / "docs" / "cat.jpg").read_bytes())
    assert answer.prediction == "cat"
    assert answer.version == "v0001"
    assert sum(answer.probabilities.values()) == pytest.approx(1)


def test_its_config_names_no_folder_of_the_machine_that_made_it(shipped: Registry):
    config = shipped.get("v0001").read("config.yaml").decode()
    assert "root: null" in config
    assert "registry: null" in config


@pytest.mark.skipif("CIFAR_LIT_DATA" not in os.environ, reason="CIFAR_LIT_DATA names no CIFAR-10")
def test_its_figures_are_those_of_its_manifest(shipped: Registry, capsys: pytest.CaptureFixture[str]):
    assert main(["test", "--from", "v0001", "--registry", str(shipped.root), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    kept = shipped.get("v0001").manifest.metrics
    # Other images than it was measured on (the original pixels, another JPEG decoder) give somewhat other figures.
    assert measured["test/acc"] == pytest.approx(kept["test/acc"], abs=0.03)
    assert measured["test/acc"] >= 0.85


def test_no_32_pixel_picture_and_no_array_is_among_the_projects_files():
    from PIL import Image

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.splitlines()]
    assert not [path for path in files if path.suffix in (".npz", ".npy", ".pkl", ".pt", ".ckpt")]
    for path in files:
        if path.suffix in (".png", ".jpg", ".jpeg", ".webp") and path.exists():
            assert min(Image.open(path).size) > 32, path
