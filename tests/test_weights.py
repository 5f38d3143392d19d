import dataclasses
import hashlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import Publish, tiny_network

from cifar_lit.errors import VersionDamagedError
from cifar_lit.models.networks import Network, ThreeBlockCNN
from cifar_lit.registry import weights as weights_module
from cifar_lit.registry.manifest import Manifest
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import WEIGHTS, Version
from cifar_lit.registry.weights import describe, dump, load_network


def rewrite(version: Version, weights: bytes) -> Version:
    """The version with other weights, and with their hash in its manifest."""
    (version.path / WEIGHTS).write_bytes(weights)
    files = version.manifest.files | {WEIGHTS: hashlib.sha256(weights).hexdigest()}
    return Version(version.path, dataclasses.replace(version.manifest, files=files))


def with_network(version: Version, **network: object) -> Version:
    return Version(version.path, dataclasses.replace(version.manifest, network=version.manifest.network | network))


def test_weights_and_statistics_come_back_bit_for_bit(registry: Registry, publish: Publish, network: Network) -> None:
    loaded = load_network(publish()).state_dict()
    state = network.state_dict()
    assert loaded.keys() == state.keys()
    assert any("running_var" in name for name in state)
    for name, value in state.items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value), name


def test_equal_networks_give_equal_bytes() -> None:
    assert dump(tiny_network(1)) == dump(tiny_network(1)) != dump(tiny_network(2))


def test_a_loaded_network_describes_itself_as_the_published_one(publish: Publish) -> None:
    version = publish()
    assert describe(load_network(version)) == {
        name: getattr(version.manifest, name) for name in ("network", "mean", "std", "temperature")
    }


def test_arguments_mean_and_std_come_back() -> None:
    network = ThreeBlockCNN(num_classes=3, width=5, depth=1, hidden=7, dropout=0.1, bn_momentum=0.2, mean=(0.1, 0, 0))
    description = describe(network)
    again = ThreeBlockCNN(**description["network"]["args"], mean=description["mean"], std=description["std"])
    assert describe(again) == description
    assert description["network"]["name"] == "ThreeBlockCNN"
    assert description["mean"] == [0.1, 0, 0]


def test_a_loaded_network_is_in_evaluation_mode(publish: Publish) -> None:
    assert not any(module.training for module in load_network(publish()).modules())


def test_weights_of_other_shapes_are_refused(publish: Publish) -> None:
    version = rewrite(publish(), dump(ThreeBlockCNN(width=8, depth=2, hidden=8)))
    with pytest.raises(
        VersionDamagedError, match="do not fit the network of the manifest .*size mismatch for blocks.0"
    ):
        load_network(version)


def test_missing_weights_are_refused(publish: Publish) -> None:
    version = rewrite(publish(), dump(ThreeBlockCNN(width=4, depth=1, hidden=8)))
    with pytest.raises(VersionDamagedError, match="do not fit the network of the manifest .*Missing key.*blocks.1"):
        load_network(version)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_cut_off_weights_are_refused(publish: Publish, network: Network, length: int) -> None:
    with pytest.raises(VersionDamagedError, match="do not fit the network of the manifest .* Restore the version"):
        load_network(rewrite(publish(), dump(network)[:length]))


def test_an_unknown_network_is_named(publish: Publish) -> None:
    expected = "network 'Transformer' is unknown, this code has ThreeBlockCNN, WhitenedCNN. Update"
    with pytest.raises(VersionDamagedError, match=expected):
        load_network(with_network(publish(), name="Transformer"))


@pytest.mark.parametrize("name", [None, [], {}, 3])
def test_a_network_without_a_name_is_refused(publish: Publish, name: object) -> None:
    with pytest.raises(VersionDamagedError, match="is unknown, this code has ThreeBlockCNN"):
        load_network(with_network(publish(), name=name))


@pytest.mark.parametrize(
    "args",
    [
        {"wings": 2},
        {"depth": 9},
        {"width": "wide"},
        {"width": 0},
        {"width": -1},
        {"width": 10**30},
        {"dropout": 2},
        [],
        None,
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
def test_arguments_that_the_network_does_not_take_are_refused(publish: Publish, args: object) -> None:
    with pytest.raises(VersionDamagedError, match="do not fit the network of the manifest"):
        load_network(with_network(publish(), args=args))


@pytest.mark.parametrize("args", [{"width": 10**6}, {"hidden": 10**9}, {"num_classes": 10**10}])
def test_a_huge_network_in_the_manifest_takes_no_memory(
    publish: Publish, monkeypatch: pytest.MonkeyPatch, args: dict[str, int]
) -> None:
    version = publish()
    built: list[str] = []
    build = weights_module._build

    def spy(cls: type[Network], manifest: Manifest, device: str) -> Network:
        built.append(device)
        return build(cls, manifest, device)

    monkeypatch.setattr(weights_module, "_build", spy)
    with pytest.raises(VersionDamagedError, match="size mismatch"):
        load_network(with_network(version, args=version.manifest.network["args"] | args))
    assert built == ["meta"]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda value: value.half() if value.is_floating_point() else value, "torch.float16, expected torch.float32"),
        (lambda value: value.double() if value.is_floating_point() else value, "torch.float64, expected torch.float32"),
        (lambda value: value.float(), "torch.float32, expected torch.int64"),
        (lambda value: value.to(torch.int8), "torch.int8, expected torch.(float32|int64)"),
    ],
)
def test_weights_of_another_type_are_refused(
    publish: Publish, network: Network, change: Callable[[torch.Tensor], torch.Tensor], kind: str
) -> None:
    state = safetensors.torch.load(dump(network))
    data = safetensors.torch.save({name: change(value) for name, value in state.items()})
    with pytest.raises(VersionDamagedError, match=f"do not fit the network of the manifest .*holds {kind}"):
        load_network(rewrite(publish(), data))


@pytest.mark.parametrize(
    "values",
    [
        {"mean": [0.5, 0.5]},
        {"mean": [0.5]},
        {"mean": []},
        {"mean": ["a", "b", "c"]},
        {"mean": [None, 0.5, 0.5]},
        {"mean": [math.nan, 0.5, 0.5]},
        {"mean": [10**400, 0.5, 0.5]},
        {"std": [0.25, 0.25]},
        {"std": [0.25, 0.0, 0.25]},
        {"std": [0.25, -0.25, 0.25]},
        {"std": [0.25, math.inf, 0.25]},
        {"std": [0.25, math.nan, 0.25]},
    ],
)
def test_a_mean_or_std_that_is_no_channels_is_refused(publish: Publish, values: dict[str, Any]) -> None:
    version = publish()
    manifest = dataclasses.replace(version.manifest, **values)
    with pytest.raises(VersionDamagedError, match="expected a number for each of three channels, with std above 0"):
        load_network(Version(version.path, manifest))


def test_a_long_misfit_is_told_in_short(publish: Publish, network: Network) -> None:
    state = safetensors.torch.load(dump(network)) | {f"tail.{number}": torch.zeros(1) for number in range(2000)}
    with pytest.raises(VersionDamagedError, match="Unexpected key.*Restore the version from a copy") as caught:
        load_network(rewrite(publish(), safetensors.torch.save(state)))
    assert len(str(caught.value)) < 700
