"""A trained three-block network as one call of compiled code, on the CPU in float32.

Its layers' values are copied into one block of memory, in the order in which they are read.
"""

import ctypes
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import BatchNorm2d, Conv2d, Linear

from cifar_lit.native.library import library

_PANEL = 32
"""Outputs that are computed at a time."""
_ROW = 4
"""Pixels of a row that are computed at a time."""


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("side", "channels", "depth", "width", "hidden", "classes")]


def freeze(
    mean: Tensor, scale: Tensor, side: int, blocks: Sequence[tuple[Conv2d, BatchNorm2d]], dense: Linear, head: Linear
) -> Callable[[Tensor], Tensor] | None:
    """What a network answers with the values its layers have now; they may change afterwards, the answers do not.

    Each block is a 3x3 convolution with a border of zeros, ReLU, batch norm with the running statistics, and 2x2
    max-pooling. `dense` with ReLU, and `head`, take the last block's output in the order H, W, C.

    Args:
        mean: float32 (C), subtracted from the pixels 0..255.
        scale: float32 (C), what they are multiplied by then.
        side: pixels of an image's side.
        blocks: the first with C input channels; each has twice the outputs of the one before.
        dense: after the blocks.
        head: after `dense`, with K outputs.

    Returns:
        From images, uint8 (B, side, side, C), to probabilities, float64 (B, K). None where there are no compiled
        kernels, on another device or in another precision, and for sizes they are not written for.
    """
    kernels = library()
    convolutions = [convolution for convolution, _ in blocks]
    if kernels is None or not kernels.inference_ready() or not _fits(side, convolutions, dense, head):
        return None
    parts = [mean, scale]
    for convolution, norm in blocks:
        parts += [*_panels(convolution.weight.permute(2, 3, 1, 0).flatten(0, 2), convolution.bias), *_affine(norm)]
    hidden = _padded(dense.out_features)
    for layer, inputs in ((dense, dense.in_features), (head, hidden)):
        weights = torch.zeros(inputs, layer.out_features)
        weights[: layer.in_features] = layer.weight.detach().T
        parts += _panels(weights, layer.bias)
    values = torch.cat([part.detach().flatten() for part in parts])
    shape = _Shape(side, len(mean), len(blocks), convolutions[0].out_channels, dense.out_features, head.out_features)
    infer, address = kernels.infer, ctypes.c_void_p
    infer.argtypes = [address, ctypes.c_int64, address, _Shape, address, ctypes.c_int]
    infer.restype = None

    def answer(images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.shape[1:] != (side, side, len(mean)):
            raise ValueError(
                f"the images are {images.dtype} {tuple(images.shape)}, expected uint8 (B, {side}, {side}, {len(mean)})"
            )
        images = images.contiguous()
        probs = torch.empty(len(images), head.out_features, dtype=torch.float64)
        infer(images.data_ptr(), len(images), values.data_ptr(), shape, probs.data_ptr(), torch.get_num_threads())
        return probs

    return answer


def _fits(side: int, convolutions: Sequence[Conv2d], dense: Linear, head: Linear) -> bool:
    width = convolutions[0].out_channels
    weights = [layer.weight for layer in (*convolutions, dense, head)]
    return (
        all(weight.device.type == "cpu" and weight.dtype == torch.float32 for weight in weights)
        and width % _PANEL == 0
        and all(layer.out_channels == width << step for step, layer in enumerate(convolutions))
        and side % (_ROW << (len(convolutions) - 1)) == 0
    )


def _panels(weights: Tensor, bias: Tensor | None) -> list[Tensor]:
    """Weights (I, O) as (O / _PANEL, I, _PANEL), and the bias (O), with zeros for outputs that lack."""
    inputs, outputs = weights.shape
    padded = torch.zeros(inputs, _padded(outputs))
    padded[:, :outputs] = weights
    offsets = torch.zeros(_padded(outputs))
    if bias is not None:
        offsets[:outputs] = bias
    return [padded.view(inputs, -1, _PANEL).transpose(0, 1), offsets]


def _padded(outputs: int) -> int:
    return -(-outputs // _PANEL) * _PANEL


def _affine(norm: BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Batch norm as one factor and one summand (C)."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale.float(), (norm.bias.double() - norm.running_mean.double() * scale).float()
