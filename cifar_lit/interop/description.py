"""What a file of weights says of its network, as JSON: enough to build it, and what its outputs mean."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from cifar_lit.errors import WeightsError
from cifar_lit.interop import assembly
from cifar_lit.models.networks import Network
from cifar_lit.registry.weights import describe

FORMAT = {"format": "cifar-lit weights", "format_version": 1}

_FIELDS = {*FORMAT, "network", "class_names", "mean", "std"}
_OPTIONAL = {"temperature"}  # which older files lack
_NETWORKS = ({"name", "args"}, {"name", "args", "import_path", "sha256"})


@dataclass(frozen=True)
class Description:
    """A network as a file describes it; nothing of it is checked yet but its form.

    Attributes:
        network: `name` and `args`; `import_path` and `sha256` too for one from outside this package.
        class_names: in label order.
        mean: subtracted from each channel, on the scale 0..1.
        std: each channel is divided by it, on the scale 0..1.
        temperature: its logits are divided by it before the softmax.
    """

    network: Mapping[str, object]
    class_names: list[str]
    mean: object
    std: object
    temperature: object = 1.0

    def outline(self, where: str) -> Network:
        """The network without memory for its arrays.

        Raises:
            WeightsError: there is no such network.
        """
        num_classes = len(self.class_names)
        return assembly.outline(self.network, self.mean, self.std, num_classes, where, self.temperature)


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
        WeightsError: it is something else.
    """
    try:
        header: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{where} is not JSON. {advice}", "malformed") from error
    if not isinstance(header, dict) or {name: header.get(name) for name in FORMAT} != FORMAT:
        raise WeightsError(f"{where} does not say {json.dumps(FORMAT)[1:-1]}. {advice}")
    network, class_names = header.get("network"), header.get("class_names")
    if set(header) - _OPTIONAL != _FIELDS or not isinstance(network, dict) or set(network) not in _NETWORKS:
        fields = ", ".join(sorted(_FIELDS))
        raise WeightsError(f"{where} must hold {fields}, with a name and args in `network`. {advice}")
    if not are_class_names(class_names):
        raise WeightsError(f"{where}: class_names must be a list of words that differ. {advice}")
    return Description(network, class_names, header["mean"], header["std"], header.get("temperature", 1.0))


def are_class_names(value: object) -> TypeGuard[list[str]]:
    """Whether a value from a file may name classes in label order."""
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        return False
    return len(set(value)) == len(value)
