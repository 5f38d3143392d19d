"""A residual network for small pictures.

Shapes: B batch, C channels, H = W = 32, K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cifar_lit.cifar10 import MEAN as CIFAR10_MEAN
from cifar_lit.cifar10 import NUM_CLASSES
from cifar_lit.cifar10 import STD as CIFAR10_STD
from cifar_lit.errors import SettingError
from cifar_lit.models.network import Network

_MAX_BLOCKS = 16


class ResNet(Network):
    """Stages of residual blocks, batch norm and ReLU before each convolution, and the mean over the picture at the end.

    The default is the ResNet-18 usual for CIFAR-10: 3x3 at the start, no pooling, 11,171,146 trained values.
    `widths: [160, 320, 640]` with `blocks: 4` is a WRN-28-10. He et al., "Identity Mappings in Deep Residual Networks"
    (2016); Zagoruyko & Komodakis, "Wide Residual Networks" (2016).

    Args:
        num_classes: classes told apart.
        widths: channels of each stage; a stage after the first halves the picture's sides.
        blocks: in each stage, of two convolutions.
        bn_momentum: share of a batch in the running statistics of batch norm.
        mean: subtracted from each channel, on the scale 0..1.
        std: each channel is divided by it, on the scale 0..1.
    """

    def __init__(
        self,
        num_classes: int = NUM_CLASSES,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: int = 2,
        bn_momentum: float = 0.1,
        mean: Sequence[float] = CIFAR10_MEAN,
        std: Sequence[float] = CIFAR10_STD,
    ) -> None:
        if not (1 <= len(widths) <= 6 and 1 <= blocks <= _MAX_BLOCKS):
            raise SettingError(
                f"widths has {len(widths)} stages and blocks is {blocks}, expected 1..6 stages, each of "
                f"1..{_MAX_BLOCKS} blocks."
            )
        args = {"num_classes": num_classes, "widths": list(widths), "blocks": blocks, "bn_momentum": bn_momentum}
        super().__init__(args, mean, std)
        self.stem = _convolution(3, min(widths[0], 64))
        stages: list[nn.Module] = []
        before = self.stem.out_channels
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stages.append(_Block(before, width, 2 if stage and not block else 1, bn_momentum))
                before = width
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(before, momentum=bn_momentum)
        self.head = nn.Linear(before, num_classes)
        nn.init.zeros_(self.head.bias)
        self.to(memory_format=torch.channels_last)

    def logits(self, images: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.stages(self.stem(images))))
        return self.head(features.mean((2, 3)))  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int, bn_momentum: float) -> None:
        super().__init__()
        same = before == after and stride == 1
        # Where the shape changes, the short way goes through a 1x1 convolution.
        self.shortcut = None if same else _convolution(before, after, 1, stride)
        self.norm1 = nn.BatchNorm2d(before, momentum=bn_momentum)
        self.conv1 = _convolution(before, after, 3, stride)
        self.norm2 = nn.BatchNorm2d(after, momentum=bn_momentum)
        self.conv2 = _convolution(after, after)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.norm1(images))
        short = images if self.shortcut is None else self.shortcut(features)
        return self.conv2(torch.relu(self.norm2(self.conv1(features)))) + short  # type: ignore[no-any-return]


def _convolution(before: int, after: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    convolution = nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
