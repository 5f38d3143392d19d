"""Networks from outside this package: any module becomes a `Network`, and is found again by its import path.

What a version or a checkpoint names is looked up among the installed modules and in the working folder. Its source file
is compared with the recorded hash before it is imported: no code runs but what was there, unchanged.
"""

import hashlib
import importlib
import inspect
import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifar_lit.cifar10 import MEAN, STD
from cifar_lit.errors import NetworkNotFoundError, SettingError
from cifar_lit.models.network import Network
from cifar_lit.models.networks import NETWORKS

_imported: dict[str, str] = {}
"""SHA-256 of the source of each module that was imported here, by name."""


def make_working_folder_importable() -> None:
    """Puts the working folder at the end of the import path, so that nothing installed is shadowed."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


@cache
def as_network(cls: type[Any]) -> type[Network]:
    """The class itself if it is a `Network`; else one around it that normalises its images.

    Args:
        cls: a module from normalised images, float (B, 3, 32, 32), to logits (B, K), with plain values as arguments.

    Raises:
        SettingError: it takes an argument of the same name as those of the normalisation.
    """
    if issubclass(cls, Network):
        return cls
    if taken := {"mean", "std"} & set(inspect.signature(cls).parameters):
        raise SettingError(
            f"{cls.__name__} has an argument {min(taken)!r}, which is the name of the normalisation's. Rename it."
        )

    class Plain(Network):
        wrapped = cls

        def __init__(self, mean: Sequence[float] = MEAN, std: Sequence[float] = STD, **args: Any) -> None:
            super().__init__(args, mean, std)
            self.module = cls(**args)

        def logits(self, images: Tensor) -> Tensor:
            logits: Tensor = self.module(images.contiguous())  # `view` refuses channels-last memory
            return logits

    Plain.__name__ = cls.__name__
    return Plain


def describe(network: Network) -> dict[str, Any]:
    """The manifest's fields that say how to build `network` again, and what its predictions mean: `network`, `mean`,
    `std` and `temperature`. A network from outside this package has its import path and the hash of its source file
    with them."""
    cls = type(network)
    return {
        "network": {"name": cls.__name__, "args": network.args, **origin(cls)},
        "mean": list(network.mean),
        "std": list(network.std),
        "temperature": network.temperature,
    }


def build(about: Mapping[str, Any]) -> Network:
    """The network, with new weights, that `describe` or an older checkpoint tells of.

    Raises:
        NetworkNotFoundError: its class is not here, or has changed.
    """
    network = about.get("network", about)
    return find(network)(**network["args"], mean=about["mean"], std=about["std"])


def check_describable(network: Network) -> None:
    """Finds out before a training whether its network can be built again from what its version will say.

    Raises:
        SettingError: it can't.
    """
    about = describe(network)
    name, args = about["network"]["name"], about["network"]["args"]
    try:
        again = json.loads(json.dumps(args))
        with torch.device("meta"):
            built = find(about["network"])(**again, mean=network.mean, std=network.std)
        shapes, wanted = ({key: value.shape for key, value in each.state_dict().items()} for each in (built, network))
        if shapes != wanted:
            raise ValueError(f"with {args} it has other weights")
    except Exception as error:  # anybody's code
        raise SettingError(
            f"{name} can't be built again from its arguments ({error}). It takes plain values; a subclass of Network "
            "takes `mean` and `std` too and passes all others on as `args`; it lies in a module that can be imported."
        ) from error


@cache
def origin(cls: type[Network]) -> dict[str, str]:
    """Where a class of this project's networks or another is defined, as it was when first asked for.

    Returns:
        Nothing for a class of this package; else `import_path` and the `sha256` of the source file, empty if there is
        no such file.
    """
    defined: type[nn.Module] = getattr(cls, "wrapped", cls)
    if cls is NETWORKS.get(cls.__name__):
        return {}
    try:
        sha256 = _sha256(Path(inspect.getfile(defined)))
    except (OSError, TypeError):  # typed into an interpreter
        sha256 = ""
    return {"import_path": f"{defined.__module__}.{defined.__qualname__}", "sha256": sha256}


def find(network: Mapping[str, object]) -> type[Network]:
    """The class of a network that a version or a file names.

    Args:
        network: `name` of a class in `NETWORKS`; or `import_path`, module and class, with the `sha256` of the module's
            source file, in hex.

    Raises:
        NetworkNotFoundError: there is no such class here, or its source file has changed.
    """
    name, import_path, sha256 = (network.get(key) for key in ("name", "import_path", "sha256"))
    if import_path is None:
        if isinstance(name, str) and name in NETWORKS:
            return NETWORKS[name]
        raise NetworkNotFoundError(
            f"its network {name!r:.100} is unknown, this code has {', '.join(NETWORKS)}. Update cifar_lit, or use "
            "another one."
        )
    path = _source_of(import_path)
    actual = _sha256(path)
    if actual != sha256:
        raise ChangedNetworkError(
            f"its network {import_path} is defined in {path}, which has changed since the training (sha256 "
            f"{actual:.12}..., expected {sha256!s:.12}...)."
        )
    module_name, _, class_name = str(import_path).rpartition(".")
    try:
        module = importlib.import_module(module_name)
        if _imported.get(module_name, actual) != actual or module.__file__ != str(path):
            module = importlib.reload(module)  # what was imported before is not what was compared
        _imported[module_name] = actual
        found: Any = getattr(module, class_name)
    except Exception as error:  # anybody's code
        raise NetworkNotFoundError(f"its network {import_path} can't be imported ({error!r:.200}).") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise NetworkNotFoundError(f"its network {import_path} is no torch.nn.Module.")
    cls: Any = found
    own = as_network(cls)
    origin(own)  # remembered as it is now: the file may change while its network is trained
    return own


class ChangedNetworkError(NetworkNotFoundError):
    """The source file of a network is another one than at the training."""


def source_sha256(import_path: object) -> str:
    """SHA-256, in hex, of the source file of a class as it is now. The file is not imported.

    Raises:
        NetworkNotFoundError: there is no such module.
    """
    return _sha256(_source_of(import_path))


def _source_of(import_path: object) -> Path:
    """The source file of a class, without importing it or a package around it."""
    if not isinstance(import_path, str) or not all(part.isidentifier() for part in import_path.split(".")):
        raise NetworkNotFoundError(f"its network has the import path {import_path!r:.100}, expected module.Class.")
    module_name = import_path.rpartition(".")[0]
    make_working_folder_importable()
    spec: ModuleSpec | None = None
    places: Sequence[str] | None = None
    name = ""
    for part in module_name.split(".") if module_name != "__main__" else ():
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, places)
        if spec is None:
            break
        places = spec.submodule_search_locations or []
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise NetworkNotFoundError(
            f"its network is {import_path}, and there is no module {module_name!r} among those that are installed or "
            f"in {os.getcwd()}. Install it, or call this in the folder where {module_name.partition('.')[0]}.py lies."
        )
    return Path(spec.origin)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
