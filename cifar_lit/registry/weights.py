"""Between a version's files and a network in memory."""

from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from cifar_lit.errors import VersionDamagedError
from cifar_lit.models.networks import NETWORKS, Network
from cifar_lit.registry.version import WEIGHTS, Version


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
        VersionDamagedError: the weights differ from their hash, or do not fit the network that the manifest names.
    """
    manifest = version.manifest
    name = manifest.network.get("name")
    if name not in NETWORKS:
        raise VersionDamagedError(
            f"{version.path}: its network {name!r} is unknown, this code has {', '.join(NETWORKS)}. Update cifar_lit, "
            "or use another version."
        )
    try:
        network_class = NETWORKS[name]
        network = network_class(**manifest.network["args"], mean=manifest.mean, std=manifest.std)
        network.load_state_dict(safetensors.torch.load(version.read(WEIGHTS)))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, VersionDamagedError):
            raise
        detail = " ".join(str(error).split("\n", 2)[:2])  # torch names the first misfit on the second line
        raise VersionDamagedError(
            f"{version.path}: the weights do not fit the network of the manifest ({' '.join(detail.split())}). "
            "Restore the version from a copy, or use another."
        ) from error
    return network.to(device).eval()
