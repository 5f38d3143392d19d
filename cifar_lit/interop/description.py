"""What a file of weights says of its network, as JSON: enough to build it, and what its answers mean."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.errors import WeightsError
from cifar_lit.interop import assembly
from cifar_lit.models.networks import Network
from cifar_lit.registry.weights import describe

FORMAT = {"format": "cifar-lit weights", "format_version": 1}

_FIELDS = {*FORMAT, "network", "class_names", "mean", "std"}


@dataclass(frozen=True)
class Description:
    """A network as a file describes it; nothing of it is checked yet but its form.

    Attributes:
        name: of its class.
        args: its arguments.
        mean: subtracted from each channel, on the scale 0..1.
        std: each channel is divided by it, on the scale 0..1.
    """

    name: object
    args: object
    mean: object
    std: object

    def outline(self, where: str) -> Network:
        """The network without memory for its arrays.

        Raises:
            WeightsError: there is no such network.
        """
        return assembly.outline(self.name, self.args, self.mean, self.std, where)


def dumps(network: Network, class_names: Sequence[str]) -> str:
    """The JSON; equal networks give equal texts."""
    return json.dumps(FORMAT | describe(network) | {"class_names": list(class_names)}, sort_keys=True)


def parse(text: str | bytes, where: str, advice: str) -> Description:
    """Reads what `dumps` wrote.

    Args:
        text: from a file.
        where: what to call it in an error.
        advice: how to make a sound one.

    Raises:
        WeightsError: it is something else, or of other classes than CIFAR-10's.
    """
    try:
        header: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{where} is not JSON. {advice}", "malformed") from error
    if not isinstance(header, dict) or {name: header.get(name) for name in FORMAT} != FORMAT:
        raise WeightsError(f"{where} does not say {json.dumps(FORMAT)[1:-1]}. {advice}")
    network = header.get("network")
    if set(header) != _FIELDS or not isinstance(network, dict) or set(network) != {"name", "args"}:
        fields = ", ".join(sorted(_FIELDS))
        raise WeightsError(f"{where} must hold {fields}, with a name and args in `network`. {advice}")
    if header["class_names"] != list(CLASS_NAMES):
        raise WeightsError(f"{where}: its classes are other ones than CIFAR-10's: {', '.join(CLASS_NAMES)}.")
    return Description(network["name"], network["args"], header["mean"], header["std"])
