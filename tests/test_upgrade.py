"""The ONNX graph of a version: where it comes from, and how older versions get one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_versions import edit, older
from conftest import SMOKE, Publish
from finetuning import QUIET, SYNTHETIC

from cifar_lit.cli import main
from cifar_lit.errors import VersionDamagedError
from cifar_lit.inference.predictor import Predictor
from cifar_lit.interop import onnx_model
from cifar_lit.registry import registry as registry_module
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import ONNX, WEIGHTS, Version
from cifar_lit.registry.weights import load_network

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)


def of_old_release(version: Version) -> None:
    """Makes a version what a release wrote that knew neither graphs nor temperatures."""
    older(lambda folder: None)(version.path)
    edit(
        version.path,
        lambda manifest: [manifest.update(schema=1, standing=manifest.pop("status")), manifest.pop("temperature")],
    )


def graph_is_of_weights(version: Version) -> bool:
    with torch.inference_mode():
        expected = load_network(version)(torch.from_numpy(IMAGES).permute(0, 3, 1, 2)).numpy()
    found = Predictor(version.read(ONNX), version.manifest.class_names, version.id).logits(IMAGES)
    return bool(np.abs(found - expected).max() < 1e-4)


def upgrade(registry: Registry, *options: str) -> int:
    return main(["versions", "upgrade", "--registry", str(registry.root), *options])


def test_what_fit_publishes_has_a_graph_that_answers_as_its_weights(parents: Path) -> None:
    for version in Registry(parents).versions():
        assert graph_is_of_weights(version)


def test_an_upgrade_gives_old_versions_a_graph(
    publish: Publish, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(2):
        of_old_release(publish(seed, promote=True))
    publish(1)
    assert upgrade(registry) == 0
    assert capsys.readouterr().out == f"v0001  {ONNX} written\nv0002  {ONNX} written\n"
    assert registry.verify() == dict.fromkeys(["v0001", "v0002", "v0003"])
    for version_id in ("v0001", "v0002"):
        version = registry.resolve(version_id)
        assert graph_is_of_weights(version)
        assert (version.manifest.status, version.manifest.temperature) == ("promoted", 1.0)
        assert json.loads((version.path / "manifest.json").read_bytes())["schema"] == 3
    assert registry.pointer() == "v0002"
    assert upgrade(registry, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {}


def test_an_upgrade_says_what_it_did_as_json(
    publish: Publish, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    of_old_release(publish())
    assert upgrade(registry, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"v0001": [ONNX]}


def test_an_upgrade_leaves_a_damaged_version_and_says_which(
    publish: Publish, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    version = publish()
    of_old_release(version)
    (version.path / WEIGHTS).write_bytes(b"")
    before = {path: path.read_bytes() for path in version.path.rglob("*") if path.is_file()}
    assert upgrade(registry) == 2
    assert "v0001/model.safetensors differs from its hash" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in version.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("writes", range(4))
def test_a_crash_while_a_file_is_added_leaves_the_version_whole(
    publish: Publish, registry: Registry, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    of_old_release(publish(promote=True))
    real, left = registry_module.replace_synced, [writes]

    def crash(path: Path, data: bytes) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(path, data)

    monkeypatch.setattr(registry_module, "replace_synced", crash)
    with pytest.raises(KeyboardInterrupt):
        registry.amend("v0001", {ONNX: b"new"})
    monkeypatch.undo()
    assert registry.verify() == {"v0001": None}
    assert ONNX not in registry.resolve("latest").manifest.files
    registry.amend("v0001", {ONNX: b"new"})
    assert registry.resolve("v0001").read(ONNX) == b"new"


def test_a_damaged_version_gets_no_file(publish: Publish, registry: Registry) -> None:
    version = publish()
    of_old_release(version)
    (version.path / "config.yaml").write_bytes(b"")
    with pytest.raises(VersionDamagedError, match="config.yaml differs from its hash"):
        registry.amend("v0001", {ONNX: b"a graph"})
    assert not (version.path / ONNX).exists()


def test_a_training_whose_network_can_not_be_exported_is_kept_as_a_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise onnx_model.ExportError("no such operator.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(onnx_model, "dump", refuse)
    assert main(["fit", "--config", SMOKE, *SYNTHETIC, *QUIET, "--trainer.max_epochs", "1"]) == 0
    (version,) = Registry(tmp_path / "checkpoints").versions()
    version.verify()
    assert version.manifest.status == "candidate"
    assert version.manifest.reason == "it can't be served, there is no ONNX graph of it: no such operator."
    assert ONNX not in version.manifest.files
    load_network(version)
