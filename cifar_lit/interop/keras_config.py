"""What a Keras `model_config` must say for its model to be the three-block network. Knows nothing of HDF5.

It is read as a description, layer by layer; another layer, order or setting is refused by name.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cifar_lit.cifar10 import IMAGE_SHAPE, NUM_CLASSES
from cifar_lit.errors import WeightsError
from cifar_lit.interop.assembly import brief

_ARCHITECTURE = (
    "Read here: InputLayer, Rescaling by 1/255, random augmentation, then blocks of Conv2D, relu, BatchNormalization "
    "and MaxPooling2D, then Flatten, Dense, relu, Dropout, Dense, softmax."
)

# Layers that pass an image on as it is, except in training.
_AUGMENTATION = {
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
_MODELS = ("Sequential", "Functional", "Model")
_ABSENT_IN_OLD_FILES = {"groups": 1, "dilation_rate": [1, 1]}
_MAX_LAYERS = 200
_MAX_DEPTH = 12


@dataclass(frozen=True)
class _Layer:
    kind: str
    name: str
    config: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


@dataclass(frozen=True)
class KerasArray:
    """An array in the file, and the one in the network that it becomes."""

    layer: str
    name: str
    key: str
    axes: tuple[int, ...]
    """Of the file's array, in the order that the network has them."""


def read_config(config: dict[str, Any], where: str) -> tuple[dict[str, Any], list[KerasArray]]:
    """Arguments of `ThreeBlockCNN`, and its arrays in the file, all but the counts of batches.

    Args:
        config: the parsed `model_config`.
        where: what to call the file in an error.

    Raises:
        WeightsError: the model is of another architecture.
    """
    return _Architecture(_chain(config, where), where).read()


def _chain(config: dict[str, Any], where: str) -> list[_Layer]:
    """The layers of a model in the order in which they are called; nested models of augmentation are unpacked."""
    kind, body = config.get("class_name"), config.get("config")
    body = {"layers": body} if isinstance(body, list) else body  # as the first Keras 2 wrote a Sequential
    layers = body.get("layers") if isinstance(body, dict) else None
    if kind not in _MODELS or not isinstance(body, dict) or not isinstance(layers, list):
        raise WeightsError(
            f"{where}: it is a {brief(kind)}, expected a Sequential or Functional model. {_ARCHITECTURE}"
        )
    if len(layers) > _MAX_LAYERS:
        raise WeightsError(f"{where}: it has {len(layers):,} layers. {_ARCHITECTURE}")
    chain = [_layer(each, where) for each in layers]
    if kind != "Sequential":
        _check_order(layers, chain, where)
        if chain and list(_sources(body.get("output_layers"))) != [chain[-1].name]:
            raise WeightsError(f"{where}: its answer is not that of {chain[-1]}, the last layer. {_ARCHITECTURE}")
    flat = []
    for layer, each in zip(chain, layers, strict=True):
        inside = _chain(each, where) if layer.kind in _MODELS else [layer]
        for inner in inside:
            if inner is not layer and inner.kind not in _AUGMENTATION | {"InputLayer", "Rescaling"}:
                raise WeightsError(f"{where}: {layer} holds {inner}; only augmentation may be in a model of its own.")
        flat += inside
    return flat


def _layer(entry: object, where: str) -> _Layer:
    config = entry.get("config") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(config, dict | list):
        raise WeightsError(f"{where}: model_config has a layer without a config.", "malformed")
    kind = entry.get("class_name")
    config = config if isinstance(config, dict) else {}
    name = config.get("name", entry.get("name", ""))
    if not isinstance(kind, str) or not isinstance(name, str) or "/" in name or max(len(kind), len(name)) > 200:
        raise WeightsError(f"{where}: model_config has a layer without a usable name.", "malformed")
    if entry.get("registered_name") not in (None, kind) or not str(entry.get("module") or "keras").startswith("keras"):
        raise WeightsError(f"{where}: layer {name!r} is a {kind} of somebody's own, not Keras's. {_ARCHITECTURE}")
    return _Layer(kind, name, config)


def _check_order(entries: list[Any], chain: list[_Layer], where: str) -> None:
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
                f"{where}: {layer} is not called once on the layer before it, as in a plain sequence. {_ARCHITECTURE}"
            )


def _sources(value: Any, depth: int = 0) -> Iterator[str]:
    """Names of layers whose answers a call takes. Keras 3 writes {"keras_history": [name, node, tensor]}, Keras 2
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


class _Architecture:
    """Goes through a chain of layers and takes what the three-block network is made with.

    Args:
        layers: in the order in which they are called.
        where: what to call their source in an error.
    """

    def __init__(self, layers: list[_Layer], where: str) -> None:
        self._layers = layers
        self._where = where
        self._arrays: list[KerasArray] = []

    def read(self) -> tuple[dict[str, Any], list[KerasArray]]:
        self._preprocessing()
        widths: list[int] = []
        momenta: list[float] = []
        while not widths or self._next() == "Conv2D":
            self._block(widths, momenta)
        self._require(self._take("Flatten"), data_format="channels_last")
        hidden = self._dense("dense", "relu")
        dropout = self._number(self._take("Dropout"), "rate", 0, 1)
        classes = self._dense("head", "softmax")
        if self._layers:
            raise self._error(self._layers[0], "comes after the softmax")
        if classes != NUM_CLASSES:
            raise WeightsError(f"{self._where}: it tells {classes} classes apart, expected {NUM_CLASSES}.")
        args = {
            "num_classes": classes,
            "width": widths[0],
            "depth": len(widths),
            "hidden": hidden,
            "dropout": dropout,
            "bn_momentum": round(1 - momenta[0], 12),
        }
        return args, self._arrays

    def _preprocessing(self) -> None:
        rescaled = False
        while self._next() in _AUGMENTATION | {"InputLayer", "Rescaling"}:
            layer = self._take(str(self._next()))
            if layer.kind == "Rescaling":
                scale = self._number(layer, "scale", 0, 1)
                if rescaled or abs(255 * scale - 1) > 1e-6 or layer.config.get("offset", 0) != 0:
                    raise self._error(layer, "does not scale pixels by 1/255, once and without an offset")
                rescaled = True

    def _block(self, widths: list[int], momenta: list[float]) -> None:
        index = len(widths)
        conv = self._take("Conv2D")
        self._require(
            conv,
            kernel_size=[3, 3],
            strides=[1, 1],
            padding="same",
            data_format="channels_last",
            dilation_rate=[1, 1],
            groups=1,
            use_bias=True,
        )
        self._activation(conv, "relu")
        widths.append(self._count(conv, "filters"))
        if widths[-1] != widths[0] * 2**index:
            raise self._error(
                conv, f"has {widths[-1]} filters, expected {widths[0] * 2**index}: twice those of the block before"
            )
        self._add(conv, f"blocks.{index}.0", kernel=("weight", (3, 2, 0, 1)), bias=("bias", (0,)))
        norm = self._take("BatchNormalization")
        if norm.config.get("axis") not in (-1, 3, [-1], [3]):
            raise self._error(norm, "does not normalise channels, the last axis")
        self._require(norm, epsilon=1e-3, center=True, scale=True)
        momenta.append(self._number(norm, "momentum", 0, 1))
        if momenta[-1] != momenta[0]:
            raise self._error(norm, f"has the momentum {momenta[-1]}, the one before has {momenta[0]}")
        self._add(
            norm,
            f"blocks.{index}.2",
            gamma=("weight", (0,)),
            beta=("bias", (0,)),
            moving_mean=("running_mean", (0,)),
            moving_variance=("running_var", (0,)),
        )
        pool = self._take("MaxPooling2D")
        self._require(pool, pool_size=[2, 2], padding="valid", data_format="channels_last")
        if pool.config.get("strides") not in (None, [2, 2]):
            raise self._error(pool, f"has strides = {pool.config['strides']!r}, expected [2, 2]")

    def _dense(self, name: str, activation: str) -> int:
        layer = self._take("Dense")
        self._require(layer, use_bias=True)
        self._activation(layer, activation)
        self._add(layer, name, kernel=("weight", (1, 0)), bias=("bias", (0,)))
        return self._count(layer, "units")

    def _activation(self, layer: _Layer, expected: str) -> None:
        """Keras applies it in the layer itself, or in a layer of its own after it."""
        own = layer.config.get("activation")
        if own not in (None, "linear"):
            return self._require(layer, activation=expected)
        kind = {"relu": "ReLU", "softmax": "Softmax"}[expected]
        after = self._take("Activation", kind)
        if after.kind == "Activation":
            self._require(after, activation=expected)
        elif kind == "ReLU":
            plain = [after.config.get(key) in (None, 0) for key in ("max_value", "negative_slope", "threshold")]
            if not all(plain):
                raise self._error(after, "is not the plain relu")
        elif after.config.get("axis") != -1:
            raise self._error(after, "is not over the last axis")
        return None

    def _next(self) -> str | None:
        return self._layers[0].kind if self._layers else None

    def _take(self, *kinds: str) -> _Layer:
        expected = " or ".join(kinds)
        if not self._layers:
            raise WeightsError(f"{self._where}: the model ends where {expected} was expected. {_ARCHITECTURE}")
        layer = self._layers.pop(0)
        if layer.kind not in kinds:
            raise self._error(layer, f"stands where {expected} was expected")
        for key in ("batch_shape", "batch_input_shape"):
            shape = layer.config.get(key)
            if shape is not None and (not isinstance(shape, list) or shape[1:] != list(IMAGE_SHAPE)):
                raise self._error(layer, f"has {key} = {brief(shape)}, expected [null, 32, 32, 3]")
        return layer

    def _require(self, layer: _Layer, **expected: Any) -> None:
        for key, value in expected.items():
            got = layer.config.get(key, _ABSENT_IN_OLD_FILES.get(key))
            if got != value:
                raise self._error(layer, f"has {key} = {brief(got)}, expected {value!r}")

    def _number(self, layer: _Layer, key: str, least: float, most: float) -> float:
        value = layer.config.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise self._error(layer, f"has {key} = {brief(value)}, expected a number {least}..{most}")
        return float(value)

    def _count(self, layer: _Layer, key: str) -> int:
        value = layer.config.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._error(layer, f"has {key} = {brief(value)}, expected a positive whole number")
        return value

    def _add(self, layer: _Layer, module: str, **arrays: tuple[str, tuple[int, ...]]) -> None:
        """Enters the arrays of a layer: for each of Keras's names, the name in `module` and the order of axes."""
        if not layer.name or any(each.layer == layer.name for each in self._arrays):
            raise self._error(layer, "has no name of its own")
        self._arrays += [KerasArray(layer.name, name, f"{module}.{key}", axes) for name, (key, axes) in arrays.items()]

    def _error(self, layer: _Layer, message: str) -> WeightsError:
        return WeightsError(f"{self._where}: {layer} {message}. {_ARCHITECTURE}")
