"""From a PyTorch state dictionary to the network that it is of, told from the names and shapes of its tensors."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cifar_lit.cifar10 import CLASS_NAMES, MEAN, STD
from cifar_lit.errors import WeightsError
from cifar_lit.interop.assembly import assemble, brief, check_arrays
from cifar_lit.interop.description import Description
from cifar_lit.models.networks import NETWORKS, Network

_PREFIXES = ("_orig_mod.", "module.", "network.", "model.", "net.")
"""Of compiled, distributed and Lightning modules around a network."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float64)

_log = logging.getLogger(__name__)


def build(
    state: Mapping[str, Tensor],
    where: str,
    described: Description | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[Network, list[str]]:
    """The network in evaluation mode, on the CPU, and its class names.

    Args:
        state: tensors by name; prefixes of wrapping modules are taken off, other float types become float32.
        where: what to call their source in an error.
        described: what the source says of the network. Without it, the tensors tell.
        mean: subtracted from each channel, on the scale 0..1, if nothing is described; default CIFAR-10's.
        std: each channel is divided by it, likewise.

    Raises:
        WeightsError: they are not those of a network known here.
    """
    if described is None:
        state = _unwrapped(state)
        network = _guess(state, where)
        if mean is None or std is None:
            _log.warning(
                "note: %s does not say how pixels are normalised: taken for CIFAR-10's mean and std. `cifar-lit import "
                "FILE --mean 0 0 0 --std 1 1 1` is for pixels / 255.",
                where,
            )
        described = Description(network, list(CLASS_NAMES), list(mean or MEAN), list(std or STD))
    outlined = described.outline(where)
    expected = outlined.state_dict()
    state = _unwrapped(state, expected)
    for key, value in expected.items():
        if key.endswith("num_batches_tracked") and key not in state:
            state[key] = torch.zeros((), dtype=value.dtype)  # nothing depends on it with a fixed momentum
    others = [key for key, value in state.items() if value.dtype in _FLOATS and key in expected]
    if others:
        _log.warning("note: %s: %s becomes float32.", where, state[others[0]].dtype)
    check_arrays(
        {
            key: (tuple(value.shape), _numpy_dtype(torch.float32 if key in others else value.dtype, key, where))
            for key, value in state.items()
        },
        outlined,
        where,
    )
    arrays = {key: (value.float() if key in others else value).contiguous().numpy() for key, value in state.items()}
    return assemble(outlined, arrays, where), described.class_names


def _unwrapped(state: Mapping[str, Tensor], expected: Collection[str] = ("",)) -> dict[str, Tensor]:
    """Without the prefixes of wrapping modules and what lies beside the network in one, until expected names appear."""
    found = dict(state)
    while not found.keys() & expected:
        prefix = next((each for each in _PREFIXES if any(key.startswith(each) for key in found)), None)
        if prefix is None:
            break
        found = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
    return found


def _guess(state: Mapping[str, Tensor], where: str) -> dict[str, object]:
    """Class name and arguments of the network, checked by nobody yet."""

    def width(key: str) -> int:
        return int(state[key].shape[0]) if key in state and state[key].dim() else 0

    if "dense.weight" in state:
        depth = _count(state, "blocks.{}.0.weight")
        args: dict[str, object] = {"width": width("blocks.0.0.weight"), "depth": depth, "hidden": width("dense.weight")}
        return {"name": "ThreeBlockCNN", "args": args | {"num_classes": width("head.weight")}}
    if "whitening.weight" in state:
        depth, first = (
            (3, "blocks.{}.entry.0.weight") if "blocks.0.entry.0.weight" in state else (2, "blocks.{}.0.weight")
        )
        widths = [width(first.format(block)) for block in range(_count(state, first))]
        args = {"widths": widths, "depth": depth, "num_classes": width("head.weight")}
        return {"name": "WhitenedCNN", "args": args}
    raise WeightsError(
        f"{where}: its tensors ({brief(list(state)[:4])}) are of no network known here: {', '.join(NETWORKS)}. Other "
        "PyTorch networks can't be brought over by their weights alone."
    )


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return next(number for number in range(len(state) + 1) if pattern.format(number) not in state)


def _numpy_dtype(dtype: torch.dtype, key: str, where: str) -> np.dtype[Any]:
    try:
        return torch.empty(0, dtype=dtype).numpy().dtype
    except (TypeError, RuntimeError) as error:  # quantised, and floats of 8 bits
        raise WeightsError(f"{where}: {key!r} is {dtype}, expected float32. Save the network in float32.") from error
