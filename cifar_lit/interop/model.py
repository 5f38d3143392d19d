"""What `--from` may name: a version of the registry, or a file with weights."""

from dataclasses import dataclass
from pathlib import Path

import torch

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.errors import InputError, WeightsError
from cifar_lit.interop import keras_h5, weights_npz
from cifar_lit.models.networks import Network
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version
from cifar_lit.registry.weights import load_network

_NPZ = (".npz",)
_KERAS = (".h5", ".hdf5", ".keras")


@dataclass(frozen=True)
class Model:
    """A network and where it came from.

    Attributes:
        network: in evaluation mode.
        class_names: in label order.
        name: the version's id, or the file's name.
        version: none for a file.
    """

    network: Network
    class_names: list[str]
    name: str
    version: Version | None = None


def load_model(reference: str, registry: Registry, device: torch.device | str = "cpu") -> Model:
    """The model meant by a version's id, by "latest" (the champion), or by a file.

    Args:
        reference: a path that ends in .npz (weights) or in .h5 or .hdf5 (Keras), else a version.
        registry: where versions are looked up.
        device: where the network goes.

    Raises:
        WeightsError: the file is missing or does not hold weights of a network known here.
        NpzError: the file is not an `.npz` of plain arrays.
        VersionNotFoundError: there is no such version.
        VersionDamagedError: it is not whole.
    """
    if is_file(reference):
        return load_file(Path(reference), device)
    version = registry.resolve(reference)
    return Model(load_network(version, device), version.manifest.class_names, version.id, version)


def is_file(reference: str) -> bool:
    """Whether a reference means a file rather than a version, going by its ending."""
    return Path(reference).suffix.lower() in (*_NPZ, *_KERAS)


def load_file(path: Path, device: torch.device | str = "cpu") -> Model:
    """The model in a file of weights.

    Raises:
        WeightsError: it is missing or does not hold weights of a network known here.
        NpzError: it is not an `.npz` of plain arrays.
    """
    kinds = "weights in .npz or a Keras model in .h5"
    try:
        if not path.is_file():
            raise WeightsError(f"{path}: no such file, expected {kinds}.")
        if path.suffix.lower() in _NPZ:
            network, class_names = weights_npz.load(path)
        elif path.suffix.lower() in _KERAS:
            network, class_names = keras_h5.load(path), list(CLASS_NAMES)
        else:
            raise WeightsError(
                f"{path}: files that end in {path.suffix!r} are not read, expected {kinds}.", "unsupported"
            )
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise WeightsError(f"{path}: it can't be read ({error}). Check the name and its permissions.") from error
    return Model(network.to(device), class_names, path.name)
