"""Fixtures that several test files share: a registry in a temporary folder, and tiny versions for it."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import shortcuts
import torch
from finetuning import HALF, QUIET, SYNTHETIC

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.cli import main
from cifar_lit.interop import onnx_model
from cifar_lit.models.networks import Network, ThreeBlockCNN
from cifar_lit.registry.manifest import About
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import ONNX, WEIGHTS, Version
from cifar_lit.registry.weights import describe, dump

SMOKE = str(Path(__file__).parent.parent / "configs" / "smoke.yaml")
WEAK = 4
"""The class that v0001 of `parents` hardly knows."""

Publish = Callable[..., Version]
"""`publish(seed=0, promote=False, parent=None, temperature=1.0)`, the fixture."""


@pytest.fixture(scope="session", autouse=True)
def abridged() -> Iterator[pytest.MonkeyPatch]:
    """All tests but those that ask for `unabridged` take shortcuts."""
    with pytest.MonkeyPatch.context() as patch:
        shortcuts.take(patch)
        yield patch


@pytest.fixture
def unabridged(abridged: pytest.MonkeyPatch) -> Iterator[None]:
    """Draws and exports as outside of tests."""
    abridged.undo()
    yield
    shortcuts.take(abridged)


def tiny_network(seed: int = 0) -> Network:
    """A small untrained network, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ThreeBlockCNN(width=4, depth=2, hidden=8).eval()


@functools.cache
def tiny_graph(seed: int = 0) -> bytes:
    """The ONNX graph of a tiny network."""
    return onnx_model.dump(tiny_network(seed), CLASS_NAMES, onnx_model.some_images())[0]


@pytest.fixture
def network() -> Network:
    return tiny_network()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "checkpoints")


@pytest.fixture
def publish(registry: Registry) -> Publish:
    """Publishes a tiny version."""

    def publish_tiny(
        seed: int = 0, *, promote: bool = False, parent: str | None = None, temperature: float = 1.0
    ) -> Version:
        network = tiny_network(seed)
        network.temperature = temperature
        about = About(
            **describe(network),
            class_names=list(CLASS_NAMES),
            metrics={"val/acc": 0.25, "test/acc": 0.125},
            data={
                "source": "generated",
                "train": {"count": 100, "sha256": "0" * 64},
                "test": {"count": 20, "sha256": "1" * 64},
                "split": {"seed": 42, "val_fraction": 0.2},
            },
            seed=seed,
            code={"cifar_lit": "0", "torch": "0"},
            training={"epochs": 3},
            parent=parent,
        )
        files = {
            WEIGHTS: dump(network),
            ONNX: tiny_graph(seed),
            "config.yaml": b"seed_everything: 0\n",
            "report/metrics.json": b"{}\n",
            "report/report.txt": b"the report\n",
            "report/confusion_matrix.png": b"an image",
            "report/curves.png": b"another image",
        }
        version = registry.publish(files, about)
        return registry.promote(version.id, "it is better") if promote else version

    return publish_tiny


@pytest.fixture(scope="session")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry whose v0001 gets half of it right, `WEAK` hardly ever, and whose v0002, the champion, all."""
    folder = tmp_path_factory.mktemp("parents")
    with contextlib.chdir(folder), contextlib.redirect_stdout(None):
        for epochs in ("1", "8"):
            fit = ["fit", "--config", SMOKE, *SYNTHETIC, *QUIET, *HALF, "--trainer.max_epochs", epochs]
            assert main([*fit, "--trainer.logger", "false"]) == 0
    registry = Registry(folder / "checkpoints")
    assert registry.resolve("latest").id == "v0002"
    first = json.loads(registry.get("v0001").read("report/metrics.json"))["val"]
    assert first["acc"] < 0.9
    assert first["per_class"][CLASS_NAMES[WEAK]]["recall"] < 0.5
    assert registry.get("v0002").manifest.metrics["val/acc"] == 1
    return registry.root
