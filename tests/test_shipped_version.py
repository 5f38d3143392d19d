"""The version that comes with the project, and the project's own promise about its images."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from cifar_lit.cli import main
from cifar_lit.inference.predictor import Predictor
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.weights import load_network

ROOT = Path(__file__).parent.parent


@pytest.fixture
def shipped() -> Registry:
    return Registry(ROOT / "checkpoints")


VERSIONS = ["v0001", "v0002"]


def test_they_are_whole_and_the_more_accurate_is_the_champion(shipped: Registry) -> None:
    assert shipped.verify() == dict.fromkeys(VERSIONS)
    assert {shipped.get(name).manifest.status for name in VERSIONS} == {"promoted"}
    champion = shipped.champion()
    assert champion is not None
    assert champion.id == max(VERSIONS, key=lambda name: shipped.get(name).manifest.metrics["test/acc"])
    assert all((shipped.root / name / "model.safetensors").stat().st_size <= 20 * 2**20 for name in VERSIONS)


def test_the_first_is_the_seeds_network(shipped: Registry) -> None:
    network = load_network(shipped.get("v0001"))
    statistics = [value for name, value in network.named_buffers() if "running" in name]
    assert sum(value.numel() for value in [*network.parameters(), *statistics]) == 621_258


@pytest.mark.parametrize("name", VERSIONS)
def test_it_knows_a_cat(name: str, shipped: Registry) -> None:
    answer = Predictor.from_version(shipped.get(name)).predict_bytes((ROOT / "docs" / "cat.jpg").read_bytes())
    assert answer.prediction == "cat"
    assert answer.version == name
    assert sum(answer.probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", VERSIONS)
def test_its_config_names_no_folder_of_the_machine_that_made_it(name: str, shipped: Registry) -> None:
    config = shipped.get(name).read("config.yaml").decode()
    assert "root: null" in config
    assert "registry: null" in config


@pytest.mark.skipif("CIFAR_LIT_DATA" not in os.environ, reason="CIFAR_LIT_DATA names no CIFAR-10")
@pytest.mark.parametrize("name", ["v0001", pytest.param("v0002", marks=pytest.mark.slow)])
def test_its_figures_are_those_of_its_manifest(
    name: str, shipped: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", "--from", name, "--registry", str(shipped.root), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    kept = shipped.get(name).manifest.metrics
    # Other images than it was measured on (the original pixels, another JPEG decoder) give somewhat other figures.
    assert measured["test/acc"] == pytest.approx(kept["test/acc"], abs=0.03)
    assert measured["test/acc"] >= 0.85


def test_no_32_pixel_image_and_no_array_is_among_the_projects_files() -> None:
    from PIL import Image

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.splitlines()]
    assert not [path for path in files if path.suffix in (".npz", ".npy", ".pkl", ".pt", ".ckpt")]
    for path in files:
        if path.suffix in (".png", ".jpg", ".jpeg", ".webp") and path.exists():
            assert min(Image.open(path).size) > 32, path
