"""What tests leave out that look at something else: drawing, exporting and collecting garbage.

They take four fifths of the time of a fine-tune. Tests that look at one of them use the fixture `unabridged`.
"""

import copy
import functools
import gc
import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from cifar_lit.data.images import encode_png
from cifar_lit.evaluation import plots
from cifar_lit.interop import onnx_model
from cifar_lit.training import lightning

Export = Callable[[nn.Module, Mapping[str, str]], bytes]

_PIXEL = encode_png(np.zeros((1, 1, 3), np.uint8))
_PLOTS = {
    name: each
    for name, each in inspect.getmembers(plots, inspect.isfunction)
    if each.__module__ == plots.__name__ and not name.startswith("_")
}


def take(patch: pytest.MonkeyPatch) -> None:
    """Draws one pixel for every figure, exports each kind of network once, and collects nothing before a training."""
    for name, draw in _PLOTS.items():
        patch.setattr(plots, name, undrawn(draw))
    patch.setattr(onnx_model, "_exported", _EXPORTED)
    patch.setattr(lightning, "gc", SimpleNamespace(collect=int, freeze=gc.freeze, unfreeze=gc.unfreeze))


def undrawn(draw: Callable[..., bytes]) -> Callable[..., bytes]:
    """Takes the same arguments, and no others."""
    signature = inspect.signature(draw)

    def pixel(*args: Any, **kwargs: Any) -> bytes:
        signature.bind(*args, **kwargs)
        return _PIXEL

    return pixel


def exporting_once(export: Export) -> Export:
    """Puts the values of a network into the graph of the first of its kind; `dump` compares the answers as ever."""
    graphs: dict[object, bytes | None] = {}

    @functools.wraps(export)
    def exported(network: nn.Module, metadata: Mapping[str, str]) -> bytes:
        values = _values(network)
        shapes = [(name, each.shape) for name, each in values.items()]
        kind = (*map(type, network.modules()), repr(network), *shapes, metadata["class_names"])
        if kind not in graphs:
            first = export(_with_other_values(network), metadata)
            graphs[kind] = first if values.keys() <= _constants(onnx.load_from_string(first)).keys() else None
        graph = graphs[kind]
        if graph is None:  # its graph holds what was computed from the values
            return export(network, metadata)
        model = onnx.load_from_string(graph)
        for name, constant in _constants(model).items():
            if name in values:
                constant.raw_data = values[name].numpy().tobytes()
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, dict(metadata))
        return bytes(model.SerializeToString(deterministic=True))

    return exported


def _constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {each.name: each for each in model.graph.initializer}


def _values(network: nn.Module) -> dict[str, Tensor]:
    everything = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: value.detach() for name, value in everything.items() if value.is_floating_point()}


def _with_other_values(network: nn.Module) -> nn.Module:
    """No two alike, which the exporter would make one."""
    other, generator = copy.deepcopy(network), torch.Generator().manual_seed(0)
    for value in _values(other).values():
        value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return other


_EXPORTED = exporting_once(onnx_model._exported)
