"""The network that `--from` names: of a version of the registry, or of a file with weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.errors import InputError, WeightsError
from cifar_lit.interop import keras_file, safetensors_file, torch_file, weights_npz
from cifar_lit.models.networks import Network
from cifar_lit.registry.reference import is_file
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import MANIFEST, WEIGHTS, Version
from cifar_lit.registry.weights import load_network

KINDS = ".npz, .safetensors, .pt, .pth, .ckpt, .keras or .h5"

_NPZ = (".npz",)
_KERAS = (".h5", ".hdf5", ".keras")
_SAFETENSORS = (".safetensors",)
_TORCH = (".pt", ".pth", ".ckpt")
_OTHERS = {
    ".onnx": "ONNX, which is written here and not read",
    ".pb": "TensorFlow's. Load it in Keras and save it as .keras",
    ".tflite": "TensorFlow Lite's. Save the Keras model as .keras",
    ".pkl": "a pickle, which can run code. Save a state dictionary as .safetensors",
    ".pickle": "a pickle, which can run code. Save a state dictionary as .safetensors",
    ".joblib": "a pickle, which can run code. Save a state dictionary as .safetensors",
    ".npy": "a single array",
    ".bin": "read under another ending: if it is a state dictionary, call it .pt",
    ".json": "a description without weights",
}


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
        reference: a path, or a version's id.
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


def load_file(
    path: Path,
    device: torch.device | str = "cpu",
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Model:
    """The model in a file of weights; its ending says which kind of file it is.

    Args:
        path: the file.
        device: where the network goes.
        mean: subtracted from each channel, on the scale 0..1, where the file does not say it.
        std: each channel is divided by it, likewise.

    Raises:
        WeightsError: it is missing or does not hold weights of a network known here.
        NpzError: it is not an `.npz` of plain arrays.
    """
    try:
        network, class_names = _load(path, path.suffix.lower(), mean, std)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError) or not isinstance(error, OSError | ValueError):
            raise
        raise WeightsError(f"{path}: it can't be read ({error}). Check the name and its permissions.") from error
    return Model(network.to(device), class_names, path.name)


def _load(
    path: Path, suffix: str, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Network, list[str]]:
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            raise WeightsError(
                f"{path}: it is the folder of a TensorFlow SavedModel, which holds code. Load it with keras.models and "
                'save it with model.save("model.keras").',
                "unsupported",
            )
        raise WeightsError(f"{path}: it is a folder, expected a file of weights in {KINDS}. Name one.")
    if not path.is_file():
        raise WeightsError(f"{path}: no such file, expected weights in {KINDS}.")
    if suffix in _NPZ:
        return weights_npz.load(path)
    if suffix in _KERAS:
        return keras_file.load(path, mean, std), list(CLASS_NAMES)
    if suffix in _SAFETENSORS:
        if path.name == WEIGHTS and (path.parent / MANIFEST).is_file():
            version = Registry(path.resolve().parent.parent).get(path.resolve().parent.name)
            return load_network(version), version.manifest.class_names
        return safetensors_file.load(path, mean, std)
    if suffix in _TORCH:
        return torch_file.load(path, mean, std)
    what = f" (it is {_OTHERS[suffix]})" if suffix in _OTHERS else ""
    ending = f"files that end in {suffix!r} are" if suffix else "files without an ending are"
    raise WeightsError(f"{path}: {ending} not read{what}. Expected weights in {KINDS}.", "unsupported")
