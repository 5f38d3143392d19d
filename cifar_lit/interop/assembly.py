"""From a foreign description of a network and foreign arrays to the network. Knows no file format.

First the outline, which has shapes and no memory; the network itself is made only from arrays that fit it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cifar_lit.cifar10 import IMAGE_SIZE
from cifar_lit.errors import NetworkNotFoundError, WeightsError
from cifar_lit.models.networks import Network
from cifar_lit.models.own_network import find

MAX_FILE_BYTES = 200 * 2**20
_MAX_ARGUMENT = 8_192


def outline(
    network: Mapping[str, object],
    mean: object,
    std: object,
    num_classes: int,
    where: str,
    temperature: object = 1.0,
) -> Network:
    """The described network on the meta device: it tells its own arrays' shapes and dtypes, and holds none.

    Args:
        network: `args`, its arguments by name, and what `find` needs to know of its class.
        mean: subtracted from each channel, three numbers on the scale 0..1.
        std: each channel is divided by it, three numbers on the scale 0..1.
        num_classes: that it must tell apart.
        where: what to call the description in an error.
        temperature: its logits are divided by it before the softmax, above 0.

    Raises:
        WeightsError: there is no such network.
    """
    name, args = network.get("name"), network.get("args")
    try:
        cls = find(network)
    except NetworkNotFoundError as error:
        raise WeightsError(f"{where}: {error} Use a file that was made with it.") from error
    if not isinstance(args, Mapping):
        raise WeightsError(f"{where}: the arguments of {name} are {brief(args)}, expected names with values.")
    for key, value in args.items():
        if not _is_sane(value):
            raise WeightsError(
                f"{where}: {name} has {key} = {brief(value)}, expected a finite number up to {_MAX_ARGUMENT:,}, a "
                "short word, or a short list of these."
            )
    if not isinstance(temperature, int | float) or not 0 < temperature < 1e6:  # false for NaN
        raise WeightsError(f"{where}: temperature is {brief(temperature)}, expected a number above 0.")
    mean, std = _per_channel("mean", mean, -1e3, where), _per_channel("std", std, 1e-3, where)
    try:
        with torch.device("meta"):
            outlined = cls(**args, mean=mean, std=std).float().eval()
            with torch.no_grad():
                logits = outlined(torch.empty(1, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8))
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise WeightsError(f"{where}: there is no {name} with {brief(dict(args))} ({_line(error)}).") from error
    if tuple(logits.shape) != (1, num_classes):
        raise WeightsError(f"{where}: {name} tells {logits.shape[-1]} classes apart, expected {num_classes}.")
    outlined.temperature = float(temperature)
    return outlined


def num_bytes(network: Network) -> int:
    """What its arrays take in memory."""
    return sum(each.nbytes for each in network.state_dict().values())


def check_arrays(found: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], outlined: Network, where: str) -> None:
    """Compares arrays with those of a network, before any is read.

    Args:
        found: shape and dtype by name.
        outlined: from `outline`.
        where: what to call the arrays' source in an error.

    Raises:
        WeightsError: one is missing, too many, or of another shape or dtype.
    """
    state = outlined.state_dict()
    name = type(outlined).__name__
    missing, extra = sorted(set(state) - set(found)), sorted(set(found) - set(state))
    if missing or extra:
        misfit = [f"{kind} {brief(names[:5])}" for kind, names in (("lacks", missing), ("has besides", extra)) if names]
        raise WeightsError(f"{where}: it {' and '.join(misfit)}, compared with the {len(state)} arrays of {name}.")
    for key, tensor in state.items():
        expected = tuple(tensor.shape), torch.empty(0, dtype=tensor.dtype).numpy().dtype
        if found[key] != expected:
            got, wanted = (f"{dtype} {shape}" for shape, dtype in (found[key], expected))
            raise WeightsError(f"{where}: {key!r} is {got}, expected {wanted} in this {name}.")


def assemble(outlined: Network, arrays: Mapping[str, np.ndarray], where: str) -> Network:
    """The network in evaluation mode, on the CPU.

    Args:
        outlined: from `outline`.
        arrays: by the names of its state_dict, of its shapes and dtypes.
        where: what to call the arrays' source in an error.

    Raises:
        WeightsError: a value is not finite, or a variance is negative.
    """
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise WeightsError(
                f"{where}: {name!r} has values that are not finite. Save the network from a sound state."
            )
        if name.endswith("running_var") and (array < 0).any():
            raise WeightsError(f"{where}: {name!r} has negative variances. Save the network from a sound state.")
    network = type(outlined)(**outlined.args, mean=outlined.mean, std=outlined.std).float()
    network.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in arrays.items()})
    network.temperature = outlined.temperature
    return network.eval()


def brief(value: object) -> str:
    """A value from a file as an error may show it."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _per_channel(name: str, values: object, least: float, where: str) -> Sequence[float]:
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(_is_number, values)):
        raise WeightsError(f"{where}: {name} is {brief(values)}, expected three numbers, one a channel.")
    if not all(least <= value <= 1e3 for value in values):
        raise WeightsError(f"{where}: {name} is {brief(values)}, expected numbers of pixels on the scale 0..1.")
    return values


def _is_sane(value: object) -> bool:
    if isinstance(value, list):
        return len(value) <= 100 and all(_is_sane(each) and not isinstance(each, list) for each in value)
    if isinstance(value, str):
        return len(value) <= 100
    return value is None or isinstance(value, bool) or (_is_number(value) and abs(value) <= _MAX_ARGUMENT)  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
