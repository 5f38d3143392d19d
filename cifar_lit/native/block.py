"""ReLU, batch norm and 2x2 max-pooling as one operation on the CPU.

PyTorch's own three take longer than the convolutions between them. Shapes: B batch, C channels, H, W even.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import BatchNorm2d

from cifar_lit.native.library import library

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class _Rows(ctypes.Structure):
    _fields_ = [("count", ctypes.c_int64), ("width", ctypes.c_int64), ("channels", ctypes.c_int64)]


class _Channel(ctypes.Structure):
    _fields_ = [("a", ctypes.c_void_p), ("mean", ctypes.c_void_p), ("scale", ctypes.c_void_p)]


def fits(features: Tensor, norm: BatchNorm2d) -> bool:
    """Whether `relu_norm_pool` can take these; what is being traced or compiled is left to PyTorch."""
    return (
        type(features) is Tensor
        and features.device.type == "cpu"
        and features.dtype in _NAMES
        and features.shape[2] % 2 == features.shape[3] % 2 == 0
        and features.is_contiguous(memory_format=torch.channels_last)
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and norm.weight.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and library() is not None
    )


def relu_norm_pool(features: Tensor, norm: BatchNorm2d) -> Tensor:
    """`max_pool2d(norm(relu(features)), 2)`, with the batch's statistics in training and the running ones otherwise.

    Args:
        features: float32 or bfloat16 (B, C, H, W) in channels-last memory, for which `fits` holds.
        norm: its running statistics move as PyTorch moves them.

    Returns:
        (B, C, H/2, W/2), dtype and memory format of `features`.
    """
    if norm.training:
        if len(features) * features.shape[2] * features.shape[3] < 2:
            raise ValueError("expected more than 1 value per channel when training")
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
    pooled: Tensor = _ReluNormPool.apply(features, norm.weight, norm.bias, norm)
    return pooled


class _ReluNormPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, norm: BatchNorm2d) -> Tensor:
        batch, channels, height, width = features.shape
        size = (batch, channels, height // 2, width // 2)
        pooled = torch.empty(size, dtype=features.dtype, memory_format=torch.channels_last)
        saved = torch.empty(3, channels)
        arguments: tuple[Any, ...]
        name, arguments = "eval_forward", (_pointer(norm.running_mean), _pointer(norm.running_var))
        if norm.training:
            name, arguments = "train_forward", (*arguments, ctypes.c_double(norm.momentum or 0.0))
        _call(
            name,
            features,
            *map(_pointer, (features, weight, bias)),
            *arguments,
            ctypes.c_double(norm.eps),
            _pointer(pooled),
            _channel(saved),
        )
        ctx.save_for_backward(features, saved)
        ctx.own_statistics = norm.training
        return pooled

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        features, saved = ctx.saved_tensors
        gradient = gradient.to(features.dtype).contiguous(memory_format=torch.channels_last)
        by_features = torch.empty_like(features)
        by_weight, by_bias = torch.empty(2, features.shape[1])
        _call(
            "backward",
            features,
            _pointer(features),
            _pointer(gradient),
            _channel(saved),
            ctypes.c_int(ctx.own_statistics),
            *map(_pointer, (by_features, by_weight, by_bias)),
        )
        return by_features, by_weight, by_bias, None


def _call(name: str, features: Tensor, *arguments: Any) -> None:
    batch, channels, height, width = features.shape
    rows = _Rows(batch * height // 2, width // 2, channels)
    kernel = getattr(library(), f"{name}_{_NAMES[features.dtype]}")
    kernel.restype = None
    kernel(*arguments, rows, ctypes.c_int(torch.get_num_threads()))


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    assert tensor is not None
    return ctypes.c_void_p(tensor.data_ptr())


def _channel(saved: Tensor) -> _Channel:
    return _Channel(*(row.data_ptr() for row in saved))
