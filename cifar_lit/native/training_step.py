"""A training step of blocks of convolution, ReLU, batch norm and max-pooling and of two dense layers, in bfloat16, as
two calls of compiled code: one from normalised images to logits, one back to the derivatives of all weights. It needs
the tile multiplier (AMX) of x86-64.

PyTorch's kernels, called one after the other, take more than half of their time for what is not multiplication: for
memory that is read again, for values turned round and back, and for each call's own cost. Shapes: B batch, K classes.
"""

import ctypes
import functools
import threading
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import BatchNorm2d, Conv2d, Dropout, Linear, Module

from cifar_lit.native.library import library

_VECTOR = 32
_MAX_BLOCKS = 5
_ALIGNMENT = 64
_KEPT_WORKSPACES = 2

Block = tuple[Conv2d, BatchNorm2d]


class _Shape(ctypes.Structure):
    _fields_ = [
        ("batch", ctypes.c_int64),
        ("side", ctypes.c_int64),
        ("blocks", ctypes.c_int64),
        ("channels", ctypes.c_int64 * _MAX_BLOCKS),
        ("hidden", ctypes.c_int64),
        ("classes", ctypes.c_int64),
    ]


def fits(images: Tensor, blocks: Sequence[Block], dense: Linear, dropout: Dropout, head: Linear) -> bool:
    """Whether `logits` can take these; what is being watched, traced or compiled is left to PyTorch."""
    weighted = [*(layer for block in blocks for layer in block), dense, head]
    return (
        type(images) is Tensor
        and len(images) > 0
        and images.device.type == "cpu"
        and images.dtype == torch.float32
        and not images.requires_grad
        and images.is_contiguous(memory_format=torch.channels_last)
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and torch.is_grad_enabled()
        and len(blocks) <= _MAX_BLOCKS
        and dense.weight.is_contiguous()
        and head.weight.is_contiguous()
        and dense.out_features % _VECTOR == 0
        and all(_block_fits(*block) for block in blocks)
        and all(layer.training and not _is_watched(layer) for layer in (*weighted, dropout))
        and all(_is_trained(layer.weight) and _is_trained(layer.bias) for layer in weighted)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and _has_tiles()
    )


def logits(images: Tensor, blocks: Sequence[Block], dense: Linear, dropout: Dropout, head: Linear) -> Tensor:
    """What the layers make of images in training, under autocast to bfloat16: each block's convolution, ReLU, batch
    norm and 2x2 max-pooling, then `dense` on the values in the order (row, column, channel), ReLU, dropout and `head`.

    Running statistics move as PyTorch moves them. What dropout takes is decided by a seed from torch's generator.

    Args:
        images: float32 (B, 3, H, H) in channels-last memory; with the layers `fits` holds for them.
        blocks: each block's convolution, 3x3 with a border of one, and batch norm.
        dense: the first dense layer.
        dropout: after it.
        head: to K classes.

    Returns:
        float32 (B, K).
    """
    for _, norm in blocks:
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
    convolutions, norms = zip(*blocks, strict=True)
    weights = [value for layer in (*convolutions, dense, head, *norms) for value in (layer.weight, layer.bias)]
    logits: Tensor = _Step.apply(images, blocks, dropout.p, *weights)
    return logits


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, blocks: Sequence[Block], dropout: float, *weights: Tensor) -> Tensor:
        channels = [convolution.out_channels for convolution, _ in blocks]
        hidden, classes = (len(weights[2 * (len(blocks) + each)]) for each in range(2))
        dims = (len(images), images.shape[2], len(blocks), (*channels, *(0,) * (_MAX_BLOCKS - len(blocks))))
        workspace = _Workspace.acquire((*dims, hidden, classes), torch.get_num_threads())
        running: list[Any] = [value for _, norm in blocks for value in (norm.running_mean, norm.running_var)]
        settings: list[Any] = [value for _, norm in blocks for value in (norm.momentum, norm.eps)]
        seed = int(torch.empty((), dtype=torch.int64).random_()) if dropout else 0
        logits = torch.empty(len(images), classes)
        split = 2 * len(blocks) + 4
        workspace.call(
            "training_forward",
            images.data_ptr(),
            _pointers(weights[:split]),
            _pointers(weights[split:]),
            _pointers(running),
            (ctypes.c_double * (len(settings) + 1))(*settings, dropout),
            seed,
            logits.data_ptr(),
        )
        ctx.save_for_backward(*weights)
        ctx.workspace, ctx.dropout, ctx.split = workspace, dropout, split
        return logits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights = ctx.saved_tensors
        workspace: _Workspace | None = ctx.workspace
        if workspace is None:
            raise RuntimeError(
                "backward was called a second time, and its first call used up what forward had kept. Ask the network "
                "again before each backward."
            )
        gradient = gradient.to(torch.float32).contiguous()
        gradients = [torch.empty_like(weight) for weight in weights]
        workspace.call(
            "training_backward",
            _pointers(weights[: ctx.split]),
            ctx.dropout,
            gradient.data_ptr(),
            _pointers(gradients[: ctx.split]),
            _pointers(gradients[ctx.split :]),
        )
        ctx.workspace = None
        workspace.release()
        return None, None, None, *gradients


class _Workspace:
    """What a step keeps between forward and backward. The borders in it are zeros and stay so: it is used again for
    steps of the same shape.

    Args:
        dims: what `_Shape` holds.
        threads: that work at a time.
    """

    _free: ClassVar[list["_Workspace"]] = []
    _lock: ClassVar = threading.Lock()

    def __init__(self, dims: tuple[Any, ...], threads: int) -> None:
        batch, side, blocks, channels, hidden, classes = dims
        self.key = (dims, threads)
        self._shape = _Shape(batch, side, blocks, channels, hidden, classes)
        self._threads = threads
        size = _function("training_bytes")(self._shape, threads)
        self._memory = torch.zeros(size + _ALIGNMENT, dtype=torch.uint8)
        self._address = -(-self._memory.data_ptr() // _ALIGNMENT) * _ALIGNMENT

    @classmethod
    def acquire(cls, dims: tuple[Any, ...], threads: int) -> "_Workspace":
        with cls._lock:
            for place, each in enumerate(cls._free):
                if each.key == (dims, threads):
                    return cls._free.pop(place)
        return cls(dims, threads)

    def release(self) -> None:
        with self._lock:
            self._free.insert(0, self)
            del self._free[_KEPT_WORKSPACES:]

    def call(self, name: str, *arguments: Any) -> None:
        _function(name)(self._shape, self._threads, self._address, *arguments)


@functools.cache
def _function(name: str) -> Any:
    """A function of the library, which takes addresses as plain integers or arrays of them."""
    address, number = ctypes.c_void_p, ctypes.c_double
    arguments: dict[str, list[Any]] = {
        "training_bytes": [],
        "training_forward": [address, *5 * [address], ctypes.c_uint64, address],
        "training_backward": [address, address, number, *3 * [address]],
    }
    function = getattr(library(), name)
    function.argtypes = [ctypes.POINTER(_Shape), ctypes.c_int, *arguments[name]]
    function.restype = ctypes.c_int64 if name == "training_bytes" else None
    return function


def _block_fits(convolution: Conv2d, norm: BatchNorm2d) -> bool:
    return (
        convolution.out_channels % _VECTOR == 0
        and convolution.kernel_size == (3, 3)
        and convolution.stride == convolution.padding == convolution.dilation == (1, 1)
        and convolution.groups == 1
        and convolution.padding_mode == "zeros"
        and convolution.weight.is_contiguous(memory_format=torch.channels_last)
        and norm.track_running_stats
        and norm.momentum is not None
    )


def _is_trained(weight: Tensor | None) -> bool:
    return weight is not None and weight.requires_grad and weight.dtype == torch.float32


def _is_watched(layer: Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


@functools.cache
def _has_tiles() -> bool:
    kernels = library()
    return kernels is not None and bool(kernels.tiles_ready())
