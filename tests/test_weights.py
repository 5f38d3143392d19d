import dataclasses
import hashlib

import pytest
import torch
from conftest import tiny_network

from cifar_lit.errors import VersionDamagedError
from cifar_lit.models.networks import Network, ThreeBlockCNN
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


def test_weights_and_statistics_come_back_bit_for_bit(registry: Registry, publish, network: Network) -> None:
    loaded = load_network(publish()).state_dict()
    state = network.state_dict()
    assert loaded.keys() == state.keys()
    assert any("running_var" in name for name in state)
    for name, value in state.items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value), name


def test_equal_networks_give_equal_bytes() -> None:
    assert dump(tiny_network(1)) == dump(tiny_network(1)) != dump(tiny_network(2))


def test_a_loaded_network_describes_itself_as_the_published_one(publish) -> None:
    version = publish()
    assert describe(load_network(version)) == {
        name: getattr(version.manifest, name) for name in ("network", "mean", "std")
    }


def test_arguments_mean_and_std_come_back() -> None:
    network = ThreeBlockCNN(num_classes=3, width=5, depth=1, hidden=7, dropout=0.1, bn_momentum=0.2, mean=(0.1, 0, 0))
    description = describe(network)
    again = ThreeBlockCNN(**description["network"]["args"], mean=description["mean"], std=description["std"])
    assert describe(again) == description
    assert description["network"]["name"] == "ThreeBlockCNN"
    assert description["mean"] == [0.1, 0, 0]


def test_a_loaded_network_is_in_evaluation_mode(publish) -> None:
    assert not any(module.training for module in load_network(publish()).modules())


def test_weights_of_other_shapes_are_refused(publish) -> None:
    version = rewrite(publish(), dump(ThreeBlockCNN(width=8, depth=2, hidden=8)))
    with pytest.raises(
        VersionDamagedError, match="do not fit the network of the manifest .*size mismatch for blocks.0"
    ):
        load_network(version)


def test_missing_weights_are_refused(publish) -> None:
    version = rewrite(publish(), dump(ThreeBlockCNN(width=4, depth=1, hidden=8)))
    with pytest.raises(VersionDamagedError, match="do not fit the network of the manifest .*Missing key.*blocks.1"):
        load_network(version)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_cut_off_weights_are_refused(publish, network: Network, length: int) -> None:
    with pytest.raises(VersionDamagedError, match="do not fit the network of the manifest .* Restore the version"):
        load_network(rewrite(publish(), dump(network)[:length]))


def test_an_unknown_network_is_named(publish) -> None:
    with pytest.raises(VersionDamagedError, match="network 'ResNet' is unknown, this code has ThreeBlockCNN. Update"):
        load_network(with_network(publish(), name="ResNet"))


@pytest.mark.parametrize("args", [{"wings": 2}, {"depth": 9}, {"width": "wide"}, None])
def test_arguments_that_the_network_does_not_take_are_refused(publish, args: object) -> None:
    with pytest.raises(VersionDamagedError, match="do not fit the network of the manifest"):
        load_network(with_network(publish(), args=args))
