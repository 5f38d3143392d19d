"""What a Keras model must be to be the three-block network, layer by layer. Knows nothing of files."""

from dataclasses import dataclass
from typing import Any

from cifar_lit.cifar10 import IMAGE_SHAPE, NUM_CLASSES
from cifar_lit.errors import WeightsError
from cifar_lit.interop.assembly import brief
from cifar_lit.interop.keras_layers import ARCHITECTURE, AUGMENTATION, Layer, read_layers

_ABSENT_IN_OLD_FILES = {"groups": 1, "dilation_rate": [1, 1]}
_KINDS = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization", "Dense": "dense"}


@dataclass(frozen=True)
class KerasArray:
    """An array in the file, and the one in the network that it becomes.

    Attributes:
        layer: name of its layer.
        kind: of the layer, as `model.weights.h5` calls it: "conv2d" and so on.
        number: of the layer among those of its kind, from 0.
        name: the array's own name, such as "kernel".
        index: of the array among those of the layer, from 0.
        key: its name in the network's state_dict.
        axes: of the file's array, in the order that the network has them.
    """

    layer: str
    kind: str
    number: int
    name: str
    index: int
    key: str
    axes: tuple[int, ...]


@dataclass(frozen=True)
class KerasModel:
    """A model of this architecture.

    Attributes:
        args: of `ThreeBlockCNN`.
        mean: subtracted from each channel, on the scale 0..1.
        std: each channel is divided by it, on the scale 0..1.
        arrays: all of the network's but the counts of batches.
    """

    args: dict[str, Any]
    mean: list[float]
    std: list[float]
    arrays: list[KerasArray]


def read_config(config: dict[str, Any], where: str) -> KerasModel:
    """What a config describes. Without a Rescaling layer, pixels / 255 are what the model was given.

    Args:
        config: the parsed config of the whole model.
        where: what to call the file in an error.

    Raises:
        WeightsError: the model is of another architecture.
    """
    return _Architecture(read_layers(config, where), where).read()


class _Architecture:
    """Goes through a chain of layers and takes what the three-block network is made with.

    Args:
        layers: in the order in which they are called.
        where: what to call their source in an error.
    """

    def __init__(self, layers: list[Layer], where: str) -> None:
        self._layers = layers
        self._where = where
        self._arrays: list[KerasArray] = []

    def read(self) -> KerasModel:
        mean, std = self._preprocessing()
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
        return KerasModel(args, mean, std, self._arrays)

    def _preprocessing(self) -> tuple[list[float], list[float]]:
        """Mean and std of the first layers, on the scale 0..1."""
        mean, std = [0.0] * 3, [1.0] * 3
        rescaled = False
        while self._next() in AUGMENTATION | {"InputLayer", "Rescaling"}:
            layer = self._take(str(self._next()))
            if layer.kind == "Rescaling":
                if rescaled:
                    raise self._error(layer, "scales pixels a second time")
                # x * scale + offset = (x / 255 - mean) / std
                scale, offset = self._per_channel(layer, "scale"), self._per_channel(layer, "offset")
                if min(scale) <= 0:
                    raise self._error(layer, f"has scale = {brief(layer.config['scale'])}, expected more than 0")
                std = [1 / (255 * each) for each in scale]
                mean = [round(-by * each, 9) + 0.0 for by, each in zip(offset, std, strict=True)]
                std = [1.0 if abs(each - 1) < 1e-6 else round(each, 9) for each in std]  # 1 / 255 in float32, say
                rescaled = True
        return mean, std

    def _per_channel(self, layer: Layer, key: str) -> list[float]:
        value = layer.config.get(key, 0.0)
        values = value if isinstance(value, list) else [value] * 3
        if len(values) != 3 or any(isinstance(each, bool) or not isinstance(each, int | float) for each in values):
            raise self._error(layer, f"has {key} = {brief(value)}, expected a number, or one for each of 3 channels")
        return [float(each) for each in values]

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

    def _activation(self, layer: Layer, expected: str) -> None:
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

    def _take(self, *kinds: str) -> Layer:
        expected = " or ".join(kinds)
        if not self._layers:
            raise WeightsError(f"{self._where}: the model ends where {expected} was expected. {ARCHITECTURE}")
        layer = self._layers.pop(0)
        if layer.kind not in kinds:
            raise self._error(layer, f"stands where {expected} was expected")
        for key in ("batch_shape", "batch_input_shape"):
            shape = layer.config.get(key)
            if shape is not None and (not isinstance(shape, list) or shape[1:] != list(IMAGE_SHAPE)):
                raise self._error(layer, f"has {key} = {brief(shape)}, expected [null, 32, 32, 3]")
        return layer

    def _require(self, layer: Layer, **expected: Any) -> None:
        for key, value in expected.items():
            got = layer.config.get(key, _ABSENT_IN_OLD_FILES.get(key))
            if got != value:
                raise self._error(layer, f"has {key} = {brief(got)}, expected {value!r}")

    def _number(self, layer: Layer, key: str, least: float, most: float) -> float:
        value = layer.config.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise self._error(layer, f"has {key} = {brief(value)}, expected a number {least}..{most}")
        return float(value)

    def _count(self, layer: Layer, key: str) -> int:
        value = layer.config.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._error(layer, f"has {key} = {brief(value)}, expected a positive whole number")
        return value

    def _add(self, layer: Layer, module: str, **arrays: tuple[str, tuple[int, ...]]) -> None:
        """Enters the arrays of a layer: for each of Keras's names, the name in `module` and the order of axes."""
        if not layer.name or any(each.layer == layer.name for each in self._arrays):
            raise self._error(layer, "has no name of its own")
        kind = _KINDS[layer.kind]
        number = len({each.layer for each in self._arrays if each.kind == kind})
        self._arrays += [
            KerasArray(layer.name, kind, number, name, index, f"{module}.{key}", axes)
            for index, (name, (key, axes)) in enumerate(arrays.items())
        ]

    def _error(self, layer: Layer, message: str) -> WeightsError:
        return WeightsError(f"{self._where}: {layer} {message}. {ARCHITECTURE}")
