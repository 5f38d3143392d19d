"""Writes the three-block network as a Keras model: legacy HDF5, which Keras 2 and 3 load with `load_model`.

It takes pixels 0..255, float or uint8 (N, 32, 32, 3), and gives probabilities (N, 10). Preprocessing is inside,
and so is the temperature, by which the head's weights are divided.
"""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cifar_lit.errors import WeightsError
from cifar_lit.interop.keras_config import read_config
from cifar_lit.models.networks import Network, ThreeBlockCNN

_KERAS_VERSION = "2.15.0"  # of this layout; Keras 3 reads it too


def config_of(
    args: Mapping[str, Any], mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> dict[str, Any]:
    """Keras's description of a `ThreeBlockCNN`.

    Args:
        args: of the network.
        mean: subtracted from each channel, on the scale 0..1. With it, Rescaling from 0..255 comes first; without it
            the model is one of pixels / 255.
        std: each channel is divided by it.
    """
    last = {"data_format": "channels_last"}
    layers: list[tuple[str, dict[str, Any]]] = [("InputLayer", {"batch_input_shape": [None, 32, 32, 3]})]
    if mean is not None and std is not None:
        scale = [1 / (255 * each) for each in std]
        offset = [-by / each for by, each in zip(mean, std, strict=True)]
        both: dict[str, Any] = {"scale": scale, "offset": offset}
        if len({*scale}) == len({*offset}) == 1:
            both = {"scale": scale[0], "offset": offset[0]}
        layers.append(("Rescaling", both))
    for block in range(args["depth"]):
        layers += [
            (
                "Conv2D",
                {
                    "filters": args["width"] * 2**block,
                    "kernel_size": [3, 3],
                    "strides": [1, 1],
                    "padding": "same",
                    "dilation_rate": [1, 1],
                    "groups": 1,
                    "activation": "relu",
                    "use_bias": True,
                    **last,
                },
            ),
            (
                "BatchNormalization",
                {"axis": -1, "momentum": 1 - args["bn_momentum"], "epsilon": 1e-3, "center": True, "scale": True},
            ),
            ("MaxPooling2D", {"pool_size": [2, 2], "strides": [2, 2], "padding": "valid", **last}),
        ]
    layers += [
        ("Flatten", dict(last)),
        ("Dense", {"units": args["hidden"], "activation": "relu", "use_bias": True}),
        ("Dropout", {"rate": args["dropout"]}),
        ("Dense", {"units": args["num_classes"], "activation": "softmax", "use_bias": True}),
    ]
    entries = [
        {
            "class_name": kind,
            "config": {"name": f"{kind.lower()}_{number}", "dtype": "float32", **own},
        }
        for number, (kind, own) in enumerate(layers)
    ]
    return {"class_name": "Sequential", "config": {"name": "cifar10", "layers": entries}}


def dump(network: Network) -> bytes:
    """The file's content.

    Raises:
        WeightsError: it is another network than the three-block one.
    """
    if not isinstance(network, ThreeBlockCNN):
        raise WeightsError(
            f"{type(network).__name__} can't be written for Keras, only ThreeBlockCNN can. Export it as onnx or "
            "safetensors."
        )
    import h5py

    config = config_of(network.args, network.mean, network.std)
    model = read_config(config, "the export")
    state = {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}
    for name in ("head.weight", "head.bias"):  # its softmax is that of the calibrated logits
        state[name] = state[name] / np.float32(network.temperature)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as h5:
        h5.attrs["model_config"] = json.dumps(config)
        weights = h5.create_group("model_weights")
        for attributes in (h5.attrs, weights.attrs):
            attributes["keras_version"], attributes["backend"] = _KERAS_VERSION, "tensorflow"
        names = [each["config"]["name"] for each in config["config"]["layers"]]
        weights.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            own = [each for each in model.arrays if each.layer == name]
            group = weights.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{each.name}:0".encode() for each in own]
            for each in own:
                group[f"{name}/{each.name}:0"] = np.ascontiguousarray(state[each.key].transpose(np.argsort(each.axes)))
    return buffer.getvalue()
