"""Model cards: each version has one, made of its manifest, and what it says of loading is true."""

import json
import re

import pytest
import torch
import yaml
from conftest import Publish

from cifar_lit.cli import main
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version
from cifar_lit.registry.weights import load_network


def card(version: Version) -> str:
    return version.read("README.md").decode()


def without_card(registry: Registry, version: Version) -> Version:
    """A version as it was made before there were cards."""
    values = json.loads((version.path / "manifest.json").read_bytes())
    del values["files"]["README.md"]
    (version.path / "manifest.json").write_text(json.dumps(values))
    (version.path / "README.md").unlink()
    return registry.resolve(version.id)


def test_the_front_matter_is_yaml_with_the_test_figures(publish: Publish) -> None:
    _, front, body = card(publish()).split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["pipeline_tag"] == "image-classification"
    (entry,) = about["model-index"]
    (result,) = entry["results"]
    assert result["dataset"] == {"name": "CIFAR-10", "type": "cifar10", "split": "test"}
    assert result["metrics"] == [{"type": "accuracy", "value": 0.125}]
    assert body.startswith("\n# CIFAR-10 classifier, v0001\n")


def test_it_says_what_the_manifest_knows(publish: Publish) -> None:
    publish()
    text = card(publish(parent="v0001"))
    for words in (
        "fine-tuned from v0001",
        "- Training set: generated, 100 images, sha256 `0000",
        "- Held out for validation: 20% of each class, seed 42",
        "- Test set, 20 images, sha256 `1111",
        "| accuracy | 0.1250 | 0.2500 |",
        "## Intended use and limits",
        "cifar-lit predict image.jpg --from v0002",
    ):
        assert words in text
    assert "candidate" not in text


def test_its_lines_of_python_load_the_network(publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    version = publish()
    code = re.search(r"```python\n(.*?)```", card(version), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(version.path)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    names = {"images": images}
    exec(code[1], names)
    assert torch.equal(names["logits"], load_network(version)(images))


def test_an_old_version_is_whole_and_gets_its_card_by_upgrade(
    publish: Publish, registry: Registry, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = without_card(registry, publish(promote=True))
    publish()
    assert registry.champion() is not None
    monkeypatch.setenv("CIFAR_LIT_REGISTRY", str(registry.root))
    assert main(["versions", "upgrade"]) == 0
    assert capsys.readouterr().out == "v0001  README.md written\n"
    upgraded = registry.resolve("v0001")
    assert "# CIFAR-10 classifier, v0001" in card(upgraded)
    assert upgraded.manifest.status == "promoted"
    assert {name: old.manifest.files[name] for name in old.manifest.files}.items() <= upgraded.manifest.files.items()
    assert main(["versions", "upgrade", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {}


def test_an_altered_card_is_noticed(publish: Publish, registry: Registry) -> None:
    version = publish()
    (version.path / "README.md").write_text("mine")
    assert "README.md differs from its hash" in str(registry.verify()["v0001"])
