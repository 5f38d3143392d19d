"""Keras models in HDF5 as Keras 2 and Keras 3 write them, made of a network here with h5py alone."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cifar_lit.models.networks import Network

Layer = dict[str, Any]


def layer(kind: str, name: str, **config: Any) -> Layer:
    return {"class_name": kind, "config": {"name": name, "trainable": True, "dtype": "float32", **config}}


def layers_of(network: Network) -> list[Layer]:
    """The layers of a three-block network in Keras's words, with augmentation first."""
    args = network.args
    layers = [
        layer("InputLayer", "input_1", batch_input_shape=[None, 32, 32, 3]),
        layer("RandomFlip", "random_flip", mode="horizontal"),
        layer("RandomRotation", "random_rotation", factor=0.1, fill_mode="reflect"),
    ]
    for block in range(args["depth"]):
        layers += [
            layer(
                "Conv2D",
                f"conv2d_{block}",
                filters=args["width"] * 2**block,
                kernel_size=[3, 3],
                strides=[1, 1],
                padding="same",
                data_format="channels_last",
                dilation_rate=[1, 1],
                groups=1,
                activation="relu",
                use_bias=True,
            ),
            layer(
                "BatchNormalization",
                f"bn_{block}",
                axis=[3],
                momentum=0.9,
                epsilon=1e-3,
                center=True,
                scale=True,
            ),
            layer(
                "MaxPooling2D",
                f"pool_{block}",
                pool_size=[2, 2],
                strides=[2, 2],
                padding="valid",
                data_format="channels_last",
            ),
        ]
    return [
        *layers,
        layer("Flatten", "flatten", data_format="channels_last"),
        layer("Dense", "dense", units=args["hidden"], activation="relu", use_bias=True),
        layer("Dropout", "dropout", rate=0.25),
        layer("Dense", "head", units=args["num_classes"], activation="softmax", use_bias=True),
    ]


def arrays_of(network: Network) -> dict[str, dict[str, np.ndarray]]:
    """Keras's arrays by layer and name: convolution kernels (H, W, in, out), dense ones (in, out)."""
    state = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    arrays = {}
    for block in range(network.args["depth"]):
        conv, norm = f"blocks.{block}.0", f"blocks.{block}.2"
        arrays[f"conv2d_{block}"] = {
            "kernel": state[f"{conv}.weight"].transpose(2, 3, 1, 0),
            "bias": state[f"{conv}.bias"],
        }
        arrays[f"bn_{block}"] = {
            "gamma": state[f"{norm}.weight"],
            "beta": state[f"{norm}.bias"],
            "moving_mean": state[f"{norm}.running_mean"],
            "moving_variance": state[f"{norm}.running_var"],
        }
    for name in ("dense", "head"):
        arrays[name] = {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}
    return arrays


def sequential(layers: list[Layer]) -> dict[str, Any]:
    return {"class_name": "Sequential", "config": {"name": "sequential", "layers": layers}}


def functional(layers: list[Layer]) -> dict[str, Any]:
    """As Keras 3 writes it: each layer says on whose answer it is called."""
    linked = []
    for before, each in zip([None, *layers], layers, strict=False):
        tensor = (
            {"class_name": "__keras_tensor__", "config": {"keras_history": [before["config"]["name"], 0, 0]}}
            if before
            else None
        )
        nodes = [{"args": [tensor], "kwargs": {"training": True}}] if before else []
        linked.append(each | {"name": each["config"]["name"], "inbound_nodes": nodes})
    last = layers[-1]["config"]["name"]
    return {
        "class_name": "Functional",
        "config": {"name": "functional", "layers": linked, "output_layers": [last, 0, 0]},
    }


def functional_2(layers: list[Layer]) -> dict[str, Any]:
    """As Keras 2 writes it."""
    linked = []
    for before, each in zip([None, *layers], layers, strict=False):
        nodes = [[[before["config"]["name"], 0, 0, {"training": True}]]] if before else []
        linked.append(each | {"name": each["config"]["name"], "inbound_nodes": nodes})
    last = layers[-1]["config"]["name"]
    return {"class_name": "Functional", "config": {"name": "model", "layers": linked, "output_layers": [[last, 0, 0]]}}


def write(
    path: Path,
    config: dict[str, Any] | None,
    arrays: dict[str, dict[str, np.ndarray]],
    *,
    inside: str = "{layer}/{name}:0",
) -> Path:
    """Writes a file; `inside` is where an array lies below its layer's group."""
    with h5py.File(path, "w") as h5:
        if config is not None:
            h5.attrs["model_config"] = json.dumps(config).encode()
        group = h5.create_group("model_weights")
        group.create_group("dropout").attrs["weight_names"] = []
        # As Keras 2 does for the state of a random layer's generator.
        group.create_dataset("random_flip/random_flip/StateVar:0", data=np.zeros(3, np.int64))
        for layer_name, named in arrays.items():
            for name, array in named.items():
                group[f"{layer_name}/{inside.format(layer=layer_name, name=name)}"] = np.ascontiguousarray(array)
        h5.create_group("optimizer_weights")
    return path


def write_v3(path: Path, network: Network) -> Path:
    """Writes `model.weights.h5` as Keras 3 does."""
    kinds = {"conv2d": "conv2d", "bn": "batch_normalization", "dense": "dense", "head": "dense"}
    numbers: dict[str, int] = {}
    with h5py.File(path, "w") as h5:
        for name, arrays in arrays_of(network).items():
            kind = kinds[name.partition("_")[0]]
            number = numbers.setdefault(kind, 0)
            numbers[kind] += 1
            for index, array in enumerate(arrays.values()):
                h5[f"layers/{kind}{f'_{number}' if number else ''}/vars/{index}"] = np.ascontiguousarray(array)
        h5.create_group("layers/dropout/vars")
        h5["layers/random_flip/seed_generator/vars/0"] = np.zeros(2, np.uint32)
        h5["optimizer/vars/0"] = np.int64(3)
    return path
