"""Between a version's files and a network in memory."""

from typing import Any

import safetensors.torch
import torch

from cifar_lit.cifar10 import IMAGE_SHAPE
from cifar_lit.errors import VersionDamagedError
from cifar_lit.models.networks import NETWORKS, Network
from cifar_lit.registry.manifest import Manifest
from cifar_lit.registry.version import WEIGHTS, Version

_LARGE = 1e6


def describe(network: Network) -> dict[str, Any]:
    """The manifest's fields that say how to build `network` again: `network`, `mean` and `std`."""
    return {
        "network": {"name": type(network).__name__, "args": network.args},
        "mean": list(network.mean),
        "std": list(network.std),
    }


def dump(network: Network) -> bytes:
    """The network's weights and statistics in safetensors format."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    return safetensors.torch.save(state)


def load_network(version: Version, device: torch.device | str = "cpu") -> Network:
    """Builds a version's network, in evaluation mode.

    Raises:
        VersionDamagedError: the weights differ from their hash, or do not fit the network that the manifest names; or
            that its mean or std is no channel's.
    """
    manifest = version.manifest
    name = manifest.network.get("name")
    if not isinstance(name, str) or name not in NETWORKS:
        raise VersionDamagedError(
            f"{version.path}: its network {name!r} is unknown, this code has {', '.join(NETWORKS)}. Update cifar_lit, "
            "or use another version."
        )
    if not _are_of_channels(manifest.mean, -_LARGE) or not _are_of_channels(manifest.std, 0):
        raise VersionDamagedError(
            f"{version.path}: its mean is {manifest.mean!r:.99} and its std {manifest.std!r:.99}, expected a number "
            "for each of three channels, with std above 0. Restore the manifest from a copy, or use another version."
        )
    data = version.read(WEIGHTS)
    try:
        state = safetensors.torch.load(data)
        claimed = _build(manifest, "meta")  # takes no memory, whatever the manifest claims
        kinds = {key: value.dtype for key, value in claimed.state_dict().items()}
        for key, value in state.items():
            if value.dtype != kinds.get(key, value.dtype):
                raise ValueError(f"{key} holds {value.dtype}, expected {kinds[key]}")
        claimed.load_state_dict(state, assign=True)
        network = _build(manifest, "cpu")
        network.load_state_dict(state)
    except Exception as error:  # a manifest can be wrong in ways that nobody thought of
        detail = " ".join(str(error).split("\n", 2)[:2])  # torch names the first misfit on the second line
        raise VersionDamagedError(
            f"{version.path}: the weights do not fit the network of the manifest ({' '.join(detail.split()):.300}). "
            "Restore the version from a copy, or use another."
        ) from error
    return network.to(device).eval()


def _are_of_channels(values: list[float], lowest: float) -> bool:
    return len(values) == IMAGE_SHAPE[2] and all(
        isinstance(value, int | float) and lowest < value < _LARGE  # false for NaN
        for value in values
    )


def _build(manifest: Manifest, device: str) -> Network:
    with torch.device(device):
        return NETWORKS[manifest.network["name"]](**manifest.network["args"], mean=manifest.mean, std=manifest.std)
