"""The layers of a Keras model in the order in which they are called, read from its config. Knows nothing of HDF5.

They are read as a description; what is no plain sequence of Keras's own layers is refused by name.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cifar_lit.errors import WeightsError
from cifar_lit.interop.assembly import brief

ARCHITECTURE = (
    "Read here: InputLayer, Rescaling, random augmentation, then blocks of Conv2D, relu, BatchNormalization and "
    "MaxPooling2D, then Flatten, Dense, relu, Dropout, Dense, softmax."
)

AUGMENTATION = {
    "RandomFlip",
    "RandomRotation",
    "RandomZoom",
    "RandomTranslation",
    "RandomShear",
    "RandomContrast",
    "RandomBrightness",
    "RandomErasing",
    "GaussianNoise",
}
"""Layers that pass an image on as it is, except in training."""

_MODELS = ("Sequential", "Functional", "Model")
_MAX_LAYERS = 200
_MAX_DEPTH = 12


@dataclass(frozen=True)
class Layer:
    kind: str
    name: str
    config: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


def read_layers(config: dict[str, Any], where: str) -> list[Layer]:
    """The layers of a model in the order in which they are called; nested models of augmentation are unpacked.

    Args:
        config: the parsed config of the whole model.
        where: what to call the file in an error.

    Raises:
        WeightsError: it is no plain sequence of layers.
    """
    kind, body = config.get("class_name"), config.get("config")
    body = {"layers": body} if isinstance(body, list) else body  # as the first Keras 2 wrote a Sequential
    layers = body.get("layers") if isinstance(body, dict) else None
    if kind not in _MODELS or not isinstance(body, dict) or not isinstance(layers, list):
        raise WeightsError(f"{where}: it is a {brief(kind)}, expected a Sequential or Functional model. {ARCHITECTURE}")
    if len(layers) > _MAX_LAYERS:
        raise WeightsError(f"{where}: it has {len(layers):,} layers. {ARCHITECTURE}")
    chain = [_layer(each, where) for each in layers]
    if kind != "Sequential":
        _check_order(layers, chain, where)
        if chain and list(_sources(body.get("output_layers"))) != [chain[-1].name]:
            raise WeightsError(f"{where}: its output is not that of {chain[-1]}, the last layer. {ARCHITECTURE}")
    flat = []
    for layer, each in zip(chain, layers, strict=True):
        inside = read_layers(each, where) if layer.kind in _MODELS else [layer]
        for inner in inside:
            if inner is not layer and inner.kind not in AUGMENTATION | {"InputLayer", "Rescaling"}:
                raise WeightsError(f"{where}: {layer} holds {inner}; only augmentation may be in a model of its own.")
        flat += inside
    return flat


def _layer(entry: object, where: str) -> Layer:
    config = entry.get("config") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(config, dict | list):
        raise WeightsError(f"{where}: model_config has a layer without a config.", "malformed")
    kind = entry.get("class_name")
    config = config if isinstance(config, dict) else {}
    name = config.get("name", entry.get("name", ""))
    if not isinstance(kind, str) or not isinstance(name, str) or "/" in name or max(len(kind), len(name)) > 200:
        raise WeightsError(f"{where}: model_config has a layer without a usable name.", "malformed")
    if entry.get("registered_name") not in (None, kind) or not str(entry.get("module") or "keras").startswith("keras"):
        raise WeightsError(f"{where}: layer {name!r} is a {kind} of somebody's own, not Keras's. {ARCHITECTURE}")
    return Layer(kind, name, config)


def _check_order(entries: list[Any], chain: list[Layer], where: str) -> None:
    """In a Functional model each layer must be called once, on the layer before it."""
    names = [layer.name for layer in chain]
    if len(set(names)) != len(names):
        raise WeightsError(f"{where}: two layers have the same name.")
    for index, (entry, layer) in enumerate(zip(entries, chain, strict=True)):
        calls = entry.get("inbound_nodes", [])
        sources = list(_sources(calls))
        before = names[index - 1 : index] if index else []
        if not isinstance(calls, list) or len(calls) != len(before) or sources != before:
            raise WeightsError(
                f"{where}: {layer} is not called once on the layer before it, as in a plain sequence. {ARCHITECTURE}"
            )


def _sources(value: Any, depth: int = 0) -> Iterator[str]:
    """Names of layers whose outputs a call takes. Keras 3 writes {"keras_history": [name, node, tensor]}, Keras 2
    [name, node, tensor, arguments]."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, dict):
        history = value.get("keras_history")
        if isinstance(history, list) and history:
            yield str(history[0])
        else:
            for each in value.values():
                yield from _sources(each, depth + 1)
    elif isinstance(value, list):
        if len(value) in (3, 4) and isinstance(value[0], str) and isinstance(value[1], int):
            yield value[0]
        else:
            for each in value:
                yield from _sources(each, depth + 1)
