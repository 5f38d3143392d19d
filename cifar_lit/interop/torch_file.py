"""Reads `.pt` and `.pth` state dictionaries and Lightning's `.ckpt` with `weights_only=True`: nothing is run."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.errors import WeightsError
from cifar_lit.interop.assembly import brief
from cifar_lit.interop.description import Description, are_class_names
from cifar_lit.interop.state_dict import build
from cifar_lit.models.networks import Network

MAX_BYTES = 2**30
"""A checkpoint holds the optimizer's state too: three times the weights and more."""

_SAVE = 'Save torch.save(network.state_dict(), "weights.pt").'
_HOLDERS = ("state_dict", "model_state_dict", "model", "network", "net", "ema")
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def load(
    path: Path, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> tuple[Network, list[str]]:
    """The network in evaluation mode, on the CPU, and its class names.

    Args:
        path: a state dictionary, plain or in a checkpoint under one of the usual names.
        mean: see `state_dict.build`; not looked at if the checkpoint says it.
        std: likewise.

    Raises:
        WeightsError: not such a file, or weights of no network known here.
    """
    where = str(path)
    _check(path, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other protocols of pickle, which are refused or read
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = _GLOBAL.search(str(error))
        what = f"a pickled {named[1]}" if named else "pickled objects, or is no PyTorch file"
        raise WeightsError(f"{where}: it holds {what}, which is never loaded. {_SAVE}", "unsupported") from error
    except Exception as error:  # torch has many ways to say that a file is damaged
        if "TorchScript" in str(error):
            raise WeightsError(
                f"{where}: it is a TorchScript archive, which holds code. {_SAVE}", "unsupported"
            ) from error
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{where}: it can't be read as a PyTorch file ({reason}). {_SAVE}", "malformed") from error
    return build(_tensors(content, where), where, _described(content), mean, std)


def _check(path: Path, where: str) -> None:
    """PyTorch stores members as they are; what is packed or overlaps would take more memory than the file is long."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise WeightsError(f"{where} has {size:,} bytes, the limit is {MAX_BYTES:,}. {_SAVE}", "too_large")
    with path.open("rb") as file:
        if not file.read(4).startswith(b"PK"):
            return
        try:
            with zipfile.ZipFile(file) as archive:
                total = sum(member.file_size for member in archive.infolist())
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise WeightsError(f"{where}: it is a damaged PyTorch file ({error}). {_SAVE}", "malformed") from error
    if total > size:
        raise WeightsError(f"{where}: it claims {total:,} bytes and has {size:,}. {_SAVE}", "malformed")


def _tensors(content: Any, where: str) -> dict[str, Tensor]:
    if isinstance(content, Mapping) and not _is_state(content):
        holder = next((key for key in _HOLDERS if isinstance(content.get(key), Mapping)), None)
        content = content if holder is None else content[holder]
    if not isinstance(content, Mapping) or not _is_state(content):
        keys = f" with {brief(list(content)[:6])}" if isinstance(content, Mapping) else ""
        raise WeightsError(f"{where}: it holds a {type(content).__name__}{keys}, expected a state dictionary. {_SAVE}")
    return dict(content)


def _is_state(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(key, str) and isinstance(each, Tensor) for key, each in content.items())


def _described(content: Any) -> Description | None:
    """What a checkpoint of this project says of its network."""
    about = content.get("network_description") if isinstance(content, Mapping) else None
    if not isinstance(about, Mapping):
        return None
    if set(about) == {"name", "args", "mean", "std"}:  # as older checkpoints have it
        about = {**about, "network": {name: about[name] for name in ("name", "args")}, "class_names": list(CLASS_NAMES)}
    if not isinstance(about.get("network"), Mapping) or not are_class_names(about.get("class_names")):
        return None
    mean, std = (list(each) if isinstance(each, tuple) else each for each in (about.get("mean"), about.get("std")))
    return Description(about["network"], about["class_names"], mean, std, about.get("temperature", 1.0))
