"""What every network is: a plain module from pixels to logits. It knows nothing of training.

Shapes: B batch, C channels, H = W = 32, K classes.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cifar_lit.cifar10 import IMAGE_SIZE
from cifar_lit.errors import SettingError


class Network(nn.Module, ABC):
    """A classifier of images with its preprocessing inside, so that pixels mean the same wherever it is used.

    A subclass takes only plain values, `mean` and `std` among them, passes the others on as `args`, and works on
    normalised images in `logits`. It may lie outside this package: `cifar-lit fit --model.network my_net.MyNet`.

    Args:
        args: the subclass's own arguments by name; with them and the weights, the network can be built again.
        mean: subtracted from each channel, on the scale 0..1.
        std: each channel is divided by it, on the scale 0..1.
    """

    def __init__(self, args: dict[str, Any], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.args = args
        self.temperature = 1.0
        """By which its logits are to be divided before the softmax; fitted after training, no part of `forward`."""
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.register_buffer("_shift", _everywhere(255 * torch.tensor(self.mean)), persistent=False)
        self.register_buffer("_scale", _everywhere(1 / (255 * torch.tensor(self.std))), persistent=False)
        self._shift: Tensor
        self._scale: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K), float, of images (B, C, H, W), uint8 or float, RGB, 0..255."""
        normalized = (images - self._shift) * self._scale
        return self.logits(normalized.contiguous(memory_format=torch.channels_last))

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, C, H, W)."""

    def prepare(self, batches: Iterable[Tensor]) -> None:
        """Fits what is computed from training images rather than learned, before the first training step. Here nothing.

        What has been prepared before, in this process or in the one that saved the weights, stays as it is.

        Args:
            batches: training images, each (B, C, H, W), uint8 or float, RGB, 0..255, on the network's device; as many
                are read as are needed.
        """

    def param_groups(self) -> dict[str, list[Tensor]]:
        """All trained weights by what an optimizer or a schedule may tell apart; groups are neither empty nor mixed:
        all their weights have two or more dimensions, or none has."""
        trained: list[Tensor] = [weight for weight in self.parameters() if weight.requires_grad]
        groups = {
            "matrices": [weight for weight in trained if weight.ndim > 1],
            "vectors": [weight for weight in trained if weight.ndim <= 1],
        }
        return {name: weights for name, weights in groups.items() if weights}


def check_outputs(network: Network, num_classes: int, device: torch.device | str = "cpu") -> None:
    """Asks a network, which is not changed, for its logits of one image.

    Raises:
        SettingError: they are not as many as there are classes.
    """
    image = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8, device=device)
    with torch.no_grad():
        shape = tuple(copy.deepcopy(network).eval()(image).shape)
    if shape != (1, num_classes):
        raise SettingError(
            f"{type(network).__name__} gives logits {shape} of one image, expected (1, {num_classes}), the data's "
            "classes. Set its number of classes."
        )


def _everywhere(values: Tensor) -> Tensor:
    """(C, H, W) in the order of channels-last memory, so that whole images are computed with at a time: with (C, 1, 1)
    PyTorch goes by three values, and takes five times as long."""
    return values.repeat(IMAGE_SIZE, IMAGE_SIZE, 1).permute(2, 0, 1)
