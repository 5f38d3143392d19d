"""Turned, scaled, mirrored and shifted images on the CPU, without a grid of places and a copy for each step."""

import ctypes

import torch
from torch import Tensor

from cifar_lit.cifar10 import IMAGE_SHAPE
from cifar_lit.native.library import library


def fits(images: Tensor) -> bool:
    """Whether `warp` can take these."""
    return (
        images.device.type == "cpu"
        and images.dtype == torch.uint8
        and images.shape[1:] == IMAGE_SHAPE
        and images.is_contiguous()
        and library() is not None
    )


def warp(images: Tensor, indices: Tensor, affines: Tensor) -> Tensor:
    """What `grid_sample` makes of them, bilinear and reflected at the edges, but for rounding.

    Args:
        images: uint8 (N, 32, 32, 3), for which `fits` holds.
        indices: int64 (B,) in 0..N-1, which of them.
        affines: float32 (B, 2, 3), where a target place takes its colour from, as `affine_grid` takes it.

    Returns:
        float32 (B, 3, 32, 32) in channels-last memory, 0..255.
    """
    indices, affines = indices.contiguous(), affines.contiguous()
    warped = torch.empty(len(indices), *IMAGE_SHAPE)
    library().warp(  # type: ignore[union-attr]
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (images, indices, affines, warped)),
        ctypes.c_int64(len(indices)),
        ctypes.c_int(torch.get_num_threads()),
    )
    return warped.permute(0, 3, 1, 2)
