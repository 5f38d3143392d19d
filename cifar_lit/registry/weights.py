"""Between a version's files and a network in memory."""

from dataclasses import replace

import safetensors.torch
import torch

from cifar_lit.cifar10 import IMAGE_SHAPE
from cifar_lit.errors import NetworkNotFoundError, RegistryError, VersionDamagedError
from cifar_lit.models.networks import Network
from cifar_lit.models.own_network import ChangedNetworkError, find, source_sha256
from cifar_lit.models.own_network import describe as describe
from cifar_lit.registry.manifest import Manifest
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import WEIGHTS, Version

_LARGE = 1e6


def dump(network: Network) -> bytes:
    """The network's weights and statistics in safetensors format."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    return safetensors.torch.save(state)


def load_network(version: Version, device: torch.device | str = "cpu") -> Network:
    """Builds a version's network, in evaluation mode.

    Raises:
        VersionDamagedError: the weights differ from their hash, or do not fit the network that the manifest names; that
            network is not here or has changed; or its mean or std is no channel's.
    """
    manifest = version.manifest
    try:
        cls = find(manifest.network)
    except ChangedNetworkError as error:
        raise VersionDamagedError(
            f"{version.path}: {error} Restore the file, or use it as it is: `cifar-lit versions accept {version.id}`."
        ) from error
    except NetworkNotFoundError as error:
        raise VersionDamagedError(f"{version.path}: {error}") from error
    if not _are_of_channels(manifest.mean, -_LARGE) or not _are_of_channels(manifest.std, 0):
        raise VersionDamagedError(
            f"{version.path}: its mean is {manifest.mean!r:.99} and its std {manifest.std!r:.99}, expected a number "
            "for each of three channels, with std above 0. Restore the manifest from a copy, or use another version."
        )
    data = version.read(WEIGHTS)
    try:
        state = safetensors.torch.load(data)
        claimed = _build(cls, manifest, "meta")  # takes no memory, whatever the manifest claims
        kinds = {key: value.dtype for key, value in claimed.state_dict().items()}
        for key, value in state.items():
            if value.dtype != kinds.get(key, value.dtype):
                raise ValueError(f"{key} holds {value.dtype}, expected {kinds[key]}")
        claimed.load_state_dict(state, assign=True)
        network = _build(cls, manifest, "cpu")
        network.load_state_dict(state)
    except Exception as error:  # a manifest can be wrong in ways that nobody thought of
        detail = " ".join(str(error).split("\n", 2)[:2])  # torch names the first misfit on the second line
        raise VersionDamagedError(
            f"{version.path}: the weights do not fit the network of the manifest ({' '.join(detail.split()):.300}). "
            "Restore the version from a copy, or use another."
        ) from error
    network.temperature = manifest.temperature
    return network.to(device).eval()


def accept_network(registry: Registry, reference: str) -> Version:
    """Takes the source file of a version's network as it is now, if the weights fit the network that it defines.

    Args:
        registry: holds the version.
        reference: an id or "latest".

    Raises:
        RegistryError: the network is one of this package.
        NetworkNotFoundError: its module is not here.
        VersionDamagedError: the weights do not fit it.
    """
    version = registry.resolve(reference)
    network = version.manifest.network
    if "import_path" not in network:
        raise RegistryError(f"{version.id}: its network is part of cifar_lit, so there is nothing to accept.")
    network = network | {"sha256": source_sha256(network["import_path"])}
    load_network(replace(version, manifest=replace(version.manifest, network=network)))
    return registry.amend(version.id, network=network)


def _are_of_channels(values: list[float], lowest: float) -> bool:
    return len(values) == IMAGE_SHAPE[2] and all(
        isinstance(value, int | float) and lowest < value < _LARGE  # false for NaN
        for value in values
    )


def _build(cls: type[Network], manifest: Manifest, device: str) -> Network:
    with torch.device(device):
        return cls(**manifest.network["args"], mean=manifest.mean, std=manifest.std).float()
