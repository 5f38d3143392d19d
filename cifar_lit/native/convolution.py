"""A 3x3 convolution on the CPU in bfloat16, whose derivative by its weights is computed on the tile multiplier (AMX).

PyTorch's own takes twice as long for it, and leaves it in bfloat16. Shapes: B batch, C and K channels.
"""

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import Conv2d

from cifar_lit.native.library import library

_VECTOR = 32
_GEOMETRY = ((1, 1), (1, 1), (1, 1), False, (0, 0), 1)
"""Stride, padding, dilation, not transposed, no output padding, one group: as PyTorch's operators want them."""


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "height", "width", "channels", "out")]


def fits(images: Tensor, convolution: Conv2d) -> bool:
    """Whether `convolve` can take these; what is being traced or compiled is left to PyTorch."""
    return (
        type(images) is Tensor
        and images.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and torch.is_grad_enabled()
        and convolution.weight.requires_grad
        and convolution.weight.dtype == torch.float32
        and convolution.bias is not None
        and convolution.kernel_size == (3, 3)
        and (convolution.stride, convolution.padding, convolution.dilation) == _GEOMETRY[:3]
        and convolution.groups == 1
        and convolution.padding_mode == "zeros"
        and images.shape[3] * convolution.in_channels % _VECTOR == 0
        and convolution.out_channels % _VECTOR == 0
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and _has_tiles()
    )


def convolve(images: Tensor, convolution: Conv2d) -> Tensor:
    """`convolution(images)` under autocast to bfloat16, without its hooks.

    Args:
        images: float (B, C, H, W), for which `fits` holds.
        convolution: with K output channels; its weights are float32.

    Returns:
        bfloat16 (B, K, H, W) in channels-last memory.
    """
    features: Tensor = _Convolution.apply(images, convolution.weight, convolution.bias)
    return features


@functools.cache
def _has_tiles() -> bool:
    kernels = library()
    return kernels is not None and bool(kernels.tiles_ready())


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        images = images.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        weight = weight.to(torch.bfloat16)
        ctx.save_for_backward(images, weight)
        features = torch.convolution(images, weight, bias.to(torch.bfloat16), *_GEOMETRY)
        return features.contiguous(memory_format=torch.channels_last)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        images, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        by_images = None
        if ctx.needs_input_grad[0]:
            by_images, _, _ = torch.ops.aten.convolution_backward(
                gradient, images, weight, None, *_GEOMETRY, (True, False, False)
            )
        by_weight = torch.empty(weight.shape, memory_format=torch.channels_last)
        by_bias = torch.empty(len(weight))
        batch, channels, height, width = images.shape
        library().weight_gradient(  # type: ignore[union-attr]
            *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (images, gradient, by_weight, by_bias)),
            _Shape(batch, height, width, channels, len(weight)),
            ctypes.c_int(torch.get_num_threads()),
        )
        return by_images, by_weight, by_bias
