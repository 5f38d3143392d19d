"""A network from the user's own file: trained, published, found again, and never run when it is another one."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from broken_versions import edit
from conftest import SMOKE
from PIL import Image

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.cli import main
from cifar_lit.errors import SettingError, VersionDamagedError
from cifar_lit.interop.model import load_file
from cifar_lit.models.networks import ThreeBlockCNN
from cifar_lit.models.own_network import as_network, check_describable, describe, find, source_sha256
from cifar_lit.registry.manifest import About
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.weights import dump, load_network

SYNTHETIC = ["--data.source", "synthetic", "--data.num_synthetic", "200"]
IMAGES = torch.arange(2 * 3 * 32 * 32).view(2, 3, 32, 32).remainder(251).to(torch.uint8)

PLAIN = """
import torch
from torch import nn

class MyNet(nn.Module):
    def __init__(self, width: int = 4, num_classes: int = 10, activation: nn.Module | None = None):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 5, stride=4)
        self.fc = nn.Linear(width * 49, num_classes)

    def forward(self, images):
        return self.fc(torch.relu(self.conv(images)).view(images.shape[0], -1))
"""
SUBCLASS = """
from torch import nn
from cifar_lit.models.networks import Network

class MyNet(Network):
    def __init__(self, width: int = 4, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)):
        super().__init__({"width": width}, mean, std)
        self.net = nn.Sequential(nn.Conv2d(3, width, 32), nn.Flatten(), nn.Linear(width, 10))

    def logits(self, images):
        return self.net(images)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def fit(*options: str) -> int:
    quiet = ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    return main(["fit", "--config", SMOKE, *SYNTHETIC, *quiet, *options])


@pytest.mark.usefixtures("unabridged")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*are copies of validation images:UserWarning")
@pytest.mark.parametrize("source", [PLAIN, SUBCLASS], ids=["module", "Network"])
def test_it_is_trained_published_measured_exported_and_fine_tuned(source: str, folder: Path, capsys: Any) -> None:
    Path("my_net.py").write_text(source)
    assert fit("--model.network", "my_net.MyNet", "--model.network.width", "6") == 0
    version = Registry("checkpoints").resolve("latest")
    about = version.manifest.network
    assert (about["name"], about["import_path"], about["args"]["width"]) == ("MyNet", "my_net.MyNet", 6)
    Image.new("RGB", (40, 40), "red").save("red.png")
    assert main(["predict", "red.png"]) == 0
    expected = load_network(version)(IMAGES)
    for kind in ("npz", "safetensors"):
        assert main(["export", "latest", "--format", kind, "--out", f"weights.{kind}"]) == 0
        assert torch.equal(load_file(Path(f"weights.{kind}")).network(IMAGES), expected)
    assert torch.equal(load_file(Path("runs/version_0/checkpoints/best.ckpt")).network(IMAGES), expected)
    assert main(["export", "latest", "--format", "onnx", "--out", "model.onnx"]) == 0
    assert main(["increment", "make", "--split", "train", "--out", "new.npz", *SYNTHETIC]) == 0
    capsys.readouterr()
    assert main(["test", *SYNTHETIC, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test/acc"] == pytest.approx(version.manifest.metrics["test/acc"])
    learn = ["--data.increments", "new.npz", "--trainer.max_epochs", "1"]
    assert main(["finetune", *learn, *SYNTHETIC]) in (0, 3)  # whatever the gate decides
    assert Registry("checkpoints").get("v0002").manifest.network == about


@pytest.fixture
def own(folder: Path, registry: Registry) -> Any:
    Path("my_net.py").write_text(PLAIN)
    MyNet: Any = find({"import_path": "my_net.MyNet", "sha256": source_sha256("my_net.MyNet")})
    network = MyNet(width=3)
    about = About(**describe(network), class_names=list(CLASS_NAMES), metrics={}, data={}, seed=0, code={}, training={})
    return registry.publish({"model.safetensors": dump(network)}, about)


def test_where_its_module_is_missing_the_error_names_it_and_the_champion_stays(
    own: Any, folder: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    registry.promote(own.id, "it is better")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(folder))])
    sys.modules.pop("my_net")
    assert main(["predict", SMOKE, "--registry", str(registry.root)]) == 2
    assert "there is no module 'my_net' among those that are installed or in" in capsys.readouterr().err
    assert registry.pointer() == own.id


def test_a_changed_file_is_refused_without_running_it_until_it_is_accepted(own: Any, registry: Registry) -> None:
    before = load_network(own)(IMAGES)
    changed = PLAIN.replace("torch.relu(self.conv(images))", "self.conv(images)")
    Path("my_net.py").write_text(f"open('was_run', 'w').close()\n{changed}")
    with pytest.raises(VersionDamagedError, match=f"has changed since .*`cifar-lit versions accept {own.id}`"):
        load_network(own)
    assert not Path("was_run").exists()
    assert main(["versions", "accept", own.id, "--registry", str(registry.root)]) == 0
    after = load_network(registry.resolve(own.id))(IMAGES)
    assert Path("was_run").exists()
    assert not torch.allclose(before, after)


def test_a_change_that_the_weights_do_not_fit_is_not_accepted(own: Any, registry: Registry, capsys: Any) -> None:
    Path("my_net.py").write_text(PLAIN.replace("width * 49", "width * 50"))
    manifest = registry.get(own.id).manifest
    assert main(["versions", "accept", own.id, "--registry", str(registry.root)]) == 2
    assert "do not fit" in capsys.readouterr().err
    assert registry.get(own.id).manifest == manifest


def test_a_network_of_this_package_has_nothing_to_accept(publish: Any, registry: Registry, capsys: Any) -> None:
    publish()
    assert main(["versions", "accept", "v0001", "--registry", str(registry.root)]) == 2
    assert "nothing to accept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("import_path", "words"),
    [
        ("os.system", "has changed since|no module 'os'"),
        ("my_net", "no module ''"),
        ("__main__.MyNet", "no module '__main__'"),
        ("../my_net.MyNet", "expected module.Class"),
        ("my_package.my_module.MyNet", "no module 'my_package.my_module'"),
        (["my_net"], "expected module.Class"),
    ],
)
def test_other_import_paths_are_refused(import_path: object, words: str, own: Any, registry: Registry) -> None:
    edit(own.path, lambda manifest: manifest["network"].update(import_path=import_path))
    with pytest.raises(VersionDamagedError, match=words):
        load_network(registry.get(own.id))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.network.activation", "torch.nn.ReLU"], "MyNet can't be built again from its arguments"),
        (["--model.network", "my_net.YourNet"], "YourNet"),
    ],
)
def test_what_could_not_be_built_again_is_refused_before_training(
    options: list[str], words: str, folder: Path, capsys: Any
) -> None:
    Path("my_net.py").write_text(PLAIN)
    try:
        status = fit("--model.network", "my_net.MyNet", *options)
    except SystemExit as error:
        status = int(error.code or 0)
    assert status == 2
    assert words in capsys.readouterr().err
    assert Registry("checkpoints").ids() == []


def test_a_subclass_that_keeps_an_argument_to_itself_is_refused() -> None:
    class Forgetful(ThreeBlockCNN):
        def __init__(self, size: int = 2, **kwargs: Any) -> None:
            super().__init__(width=size, depth=1, hidden=4, **kwargs)
            self.args = {}

    with pytest.raises(SettingError, match="can't be built again"):
        check_describable(Forgetful(3))


def test_an_argument_named_as_the_normalisation_is_refused() -> None:
    class Named(torch.nn.Module):
        def __init__(self, mean: float) -> None:
            super().__init__()

    with pytest.raises(SettingError, match="argument 'mean'"):
        as_network(Named)
