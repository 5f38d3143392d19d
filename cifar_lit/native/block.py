"""ReLU, batch norm and 2x2 max-pooling as one operation on the CPU.

PyTorch's own three take longer than the convolutions between them. Shapes: B batch, C channels, H, W even.
"""

import ctypes
import functools
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
    if not torch.is_grad_enabled():
        return _forward(features, norm, None, _new_channel(norm))
    pooled: Tensor = _ReluNormPool.apply(features, norm.weight, norm.bias, norm)
    return pooled


class _ReluNormPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, norm: BatchNorm2d) -> Tensor:
        best, channel = _new_pooled(features), _new_channel(norm)
        ctx.save_for_backward(features, best, channel)
        ctx.own_statistics = norm.training
        return _forward(features, norm, best, channel)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        features, best, channel = ctx.saved_tensors
        gradient = gradient.to(features.dtype).contiguous(memory_format=torch.channels_last)
        channels = features.shape[1]
        results = torch.empty_like(features), torch.empty(channels), torch.empty(channels)
        given = (features.data_ptr(), best.data_ptr(), gradient.data_ptr(), _pointers(channel), ctx.own_statistics)
        _kernel("backward", features.dtype)(*given, *(each.data_ptr() for each in results), *_rows(features))
        return *results, None


def _forward(features: Tensor, norm: BatchNorm2d, best: Tensor | None, channel: Tensor) -> Tensor:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    pooled = _new_pooled(features)
    tensors = features, norm.weight, norm.bias, norm.running_mean, norm.running_var
    rest = (pooled.data_ptr(), None if best is None else best.data_ptr(), _pointers(channel), *_rows(features))
    if norm.training:
        kernel = _kernel("train_forward", features.dtype)
        kernel(*(each.data_ptr() for each in tensors), norm.momentum, norm.eps, *rest)
    else:
        kernel = _kernel("eval_forward", features.dtype)
        kernel(*(each.data_ptr() for each in tensors), norm.eps, *rest)
    return pooled


@functools.cache
def _kernel(name: str, dtype: torch.dtype) -> Any:
    """A function of the library, which takes addresses as plain integers."""
    address, number = ctypes.c_void_p, ctypes.c_double
    arguments: dict[str, list[Any]] = {
        "train_forward": 5 * [address] + [number, number, address, address, _Channel],
        "eval_forward": 5 * [address] + [number, address, address, _Channel],
        "backward": 3 * [address] + [_Channel, ctypes.c_int] + 3 * [address],
    }
    kernel = getattr(library(), f"{name}_{_NAMES[dtype]}")
    kernel.argtypes = [*arguments[name], _Rows, ctypes.c_int]
    kernel.restype = None
    return kernel


def _rows(features: Tensor) -> tuple[_Rows, int]:
    """How the kernels go over the features, and with how many threads."""
    batch, channels, height, width = features.shape
    return _Rows(batch * height // 2, width // 2, channels), torch.get_num_threads()


def _new_pooled(features: Tensor) -> Tensor:
    batch, channels, height, width = features.shape
    size = (batch, channels, height // 2, width // 2)
    return torch.empty(size, dtype=features.dtype, memory_format=torch.channels_last)


def _new_channel(norm: BatchNorm2d) -> Tensor:
    """Room for what `_Channel` names, float32 (3, C)."""
    return torch.empty(3, norm.num_features)


def _pointers(channel: Tensor) -> _Channel:
    first, row = channel.data_ptr(), channel.stride(0) * channel.element_size()
    return _Channel(first, first + row, first + 2 * row)
