"""A network that learns in few epochs: its first layer is computed from images, and the rest starts near the identity.

Shapes: B batch, C channels, H = W = 32, K classes.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

from cifar_lit.cifar10 import IMAGE_SIZE, NUM_CLASSES
from cifar_lit.cifar10 import MEAN as CIFAR10_MEAN
from cifar_lit.cifar10 import STD as CIFAR10_STD
from cifar_lit.errors import SettingError
from cifar_lit.models.network import Network

_PATCH = 2
_PATCH_VALUES = 3 * _PATCH**2
_NUM_IMAGES = 5_000
_LEAST_VARIANCE = 5e-4


class WhitenedCNN(Network):
    """A whitening convolution, blocks of two or three convolutions, and one dense layer.

    The first convolution takes 2x2 patches apart into uncorrelated values of equal variance, each with both signs. It
    is not trained but computed by `prepare` from training images. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a
    Single GPU" (2024).

    Args:
        num_classes: classes told apart.
        widths: channels of each block; a block halves the image's sides.
        depth: convolutions of a block, 2 or 3; of three, the last two have a skip connection around them.
        bn_momentum: share of a batch in the running statistics of batch norm.
        mean: subtracted from each channel, on the scale 0..1.
        std: each channel is divided by it, on the scale 0..1.
    """

    def __init__(
        self,
        num_classes: int = NUM_CLASSES,
        widths: Sequence[int] = (64, 256, 256),
        depth: int = 2,
        bn_momentum: float = 0.4,
        mean: Sequence[float] = CIFAR10_MEAN,
        std: Sequence[float] = CIFAR10_STD,
    ) -> None:
        if not 1 <= len(widths) <= 4:
            raise SettingError(f"widths has {len(widths)} blocks, expected 1..4: each halves the 31 pixels of a side.")
        if depth not in (2, 3):
            raise SettingError(f"depth is {depth}, expected 2 or 3 convolutions in a block.")
        args = {"num_classes": num_classes, "widths": list(widths), "depth": depth, "bn_momentum": bn_momentum}
        super().__init__(args, mean, std)
        self.whitening = nn.Conv2d(3, 2 * _PATCH_VALUES, _PATCH)
        self.whitening.weight.requires_grad_(False)
        self.register_buffer("prepared", torch.zeros((), dtype=torch.bool))
        self.prepared: Tensor
        befores = [2 * _PATCH_VALUES, *widths]
        self.blocks = nn.Sequential(
            *(_BLOCKS[depth](before, after, bn_momentum) for before, after in zip(befores, widths, strict=False))
        )
        self.activation = nn.GELU()
        self.pool = nn.MaxPool2d((IMAGE_SIZE - _PATCH + 1) >> len(widths))
        self.head = nn.Linear(widths[-1], num_classes, bias=False)
        # Small logits: at the first steps all classes are as likely, and the blocks learn what the head can read.
        nn.init.uniform_(self.head.weight, -(3**0.5) / widths[-1], 3**0.5 / widths[-1])
        self.to(memory_format=torch.channels_last)

    def logits(self, images: Tensor) -> Tensor:
        features = self.blocks(self.activation(self.whitening(images)))
        return self.head(self.pool(features).flatten(1))  # type: ignore[no-any-return]

    def param_groups(self) -> dict[str, list[Tensor]]:
        """The filters, the head, the shifts of batch norm, and the shift of the whitening layer, which the published
        recipe trains for part of the time."""
        assert self.whitening.bias is not None
        return {
            "filters": [weight for weight in self.blocks.parameters() if weight.ndim > 1],
            "head": [self.head.weight],
            "shifts": [norm.bias for norm in self.blocks.modules() if isinstance(norm, nn.BatchNorm2d)],
            "whitening": [self.whitening.bias],
        }

    @torch.no_grad()
    def prepare(self, batches: Iterable[Tensor]) -> None:
        if self.prepared:
            return
        covariance = torch.zeros(_PATCH_VALUES, _PATCH_VALUES, dtype=torch.float64)
        num_images = 0
        for images in batches:
            normalized = (images[: _NUM_IMAGES - num_images] - self._shift) * self._scale
            patches = unfold(normalized.float(), _PATCH).transpose(0, 1).flatten(1)  # values of a patch, patches
            covariance += (patches @ patches.T / patches.shape[1]).cpu() * len(normalized)
            num_images += len(normalized)
            if num_images >= _NUM_IMAGES:
                break
        if not num_images:
            raise SettingError("WhitenedCNN is computed from training images, and there are none.")
        variances, directions = torch.linalg.eigh(covariance / num_images)
        filters = (directions / (variances + _LEAST_VARIANCE).sqrt()).T.reshape(-1, 3, _PATCH, _PATCH)
        # Exact in bfloat16, so that training in half precision and inference in full precision see the same filters.
        self.whitening.weight.copy_(torch.cat([filters, -filters]).bfloat16())
        self.prepared.fill_(True)


class _Block(nn.Sequential):
    def __init__(self, before: int, after: int, bn_momentum: float) -> None:
        super().__init__(
            _convolution(before, after),
            nn.MaxPool2d(2),
            _norm(after, bn_momentum),
            nn.GELU(),
            _convolution(after, after),
            _norm(after, bn_momentum),
            nn.GELU(),
        )


class _SkipBlock(nn.Module):
    """Three convolutions; what enters the second is added to what leaves the third."""

    def __init__(self, before: int, after: int, bn_momentum: float) -> None:
        super().__init__()
        self.entry = nn.Sequential(_convolution(before, after), nn.MaxPool2d(2), _norm(after, bn_momentum), nn.GELU())
        self.residual = nn.Sequential(
            _convolution(after, after),
            _norm(after, bn_momentum),
            nn.GELU(),
            _convolution(after, after),
            _norm(after, bn_momentum),
        )
        self.activation = nn.GELU()

    def forward(self, images: Tensor) -> Tensor:
        entered = self.entry(images)
        return self.activation(entered + self.residual(entered))  # type: ignore[no-any-return]


_BLOCKS: dict[int, type[_Block | _SkipBlock]] = {2: _Block, 3: _SkipBlock}


def _convolution(before: int, after: int) -> nn.Conv2d:
    """Its first outputs are its inputs, the others random mixtures of them."""
    convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
    same = min(before, after)
    with torch.no_grad():
        convolution.weight[:same] = 0
        convolution.weight[:same, :same, 1, 1] = torch.eye(same)
    return convolution


def _norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    """Without a scale: the next convolution's filters have it."""
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=momentum)
    norm.weight.requires_grad_(False)
    return norm
