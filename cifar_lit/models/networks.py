"""Networks: plain modules from pixels to logits. They know nothing of training.

Shapes: B batch, C channels, H = W = 32, K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cifar_lit.cifar10 import IMAGE_SIZE, NUM_CLASSES
from cifar_lit.cifar10 import MEAN as CIFAR10_MEAN
from cifar_lit.cifar10 import STD as CIFAR10_STD
from cifar_lit.errors import SettingError
from cifar_lit.models.network import Network as Network
from cifar_lit.models.whitened_cnn import WhitenedCNN
from cifar_lit.native import block, training_step


class ThreeBlockCNN(Network):
    """Blocks of convolution, ReLU, batch norm and max-pooling, then two dense layers.

    With the default arguments it has the 621,258 values of the original Keras model (620,810 trained, 448 batch-norm
    statistics), laid out and initialised as Keras does.

    Args:
        num_classes: classes told apart.
        width: channels of the first block; each further block has twice as many.
        depth: number of blocks; each halves the image's sides.
        hidden: width of the first dense layer.
        dropout: share of the hidden units that a training step drops.
        bn_momentum: share of a batch in the running statistics of batch norm (Keras writes 0.99 for 0.01).
        mean: subtracted from each channel, on the scale 0..1.
        std: each channel is divided by it, on the scale 0..1.
    """

    def __init__(
        self,
        num_classes: int = NUM_CLASSES,
        width: int = 32,
        depth: int = 3,
        hidden: int = 256,
        dropout: float = 0.5,
        bn_momentum: float = 0.01,
        mean: Sequence[float] = CIFAR10_MEAN,
        std: Sequence[float] = CIFAR10_STD,
    ) -> None:
        if not 1 <= depth <= 5:
            raise SettingError(f"depth is {depth}, expected 1..5: each block halves the 32 pixels of a side.")
        args = {
            "num_classes": num_classes,
            "width": width,
            "depth": depth,
            "hidden": hidden,
            "dropout": dropout,
            "bn_momentum": bn_momentum,
        }
        super().__init__(args, mean, std)
        widths = [width * 2**step for step in range(depth)]
        self.blocks = nn.Sequential(
            *(_Block(before, after, bn_momentum) for before, after in zip([3, *widths], widths, strict=False))
        )
        self.dense = nn.Linear(widths[-1] * (IMAGE_SIZE >> depth) ** 2, hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)

    def logits(self, images: Tensor) -> Tensor:
        if self.training:
            layers = self._weighted_blocks(), self.dense, self.dropout, self.head
            if training_step.fits(images, *layers):
                return training_step.logits(images, *layers)
        features = self.blocks(images)
        flat = features.permute(0, 2, 3, 1).flatten(1)  # H, W, C order as in Keras; free in channels-last memory
        return self.head(self.dropout(torch.relu(self.dense(flat))))  # type: ignore[no-any-return]

    def _weighted_blocks(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """What has weights of each block."""
        layers = [each.layers() for each in self.blocks if isinstance(each, _Block)]
        return [(convolution, norm) for convolution, _, norm, _ in layers]


class _Block(nn.Sequential):
    def __init__(self, before: int, after: int, bn_momentum: float) -> None:
        super().__init__(
            nn.Conv2d(before, after, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.BatchNorm2d(after, eps=1e-3, momentum=bn_momentum),
            nn.MaxPool2d(2),
        )

    def layers(self) -> tuple[nn.Conv2d, nn.Module, nn.BatchNorm2d, nn.Module]:
        convolution, relu, norm, pool = self
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        return convolution, relu, norm, pool

    def forward(self, images: Tensor) -> Tensor:
        convolution, relu, norm, pool = self.layers()
        # Who watches the convolution (Grad-CAM does) finds what its ReLU leaves of it, in place.
        watched = bool(convolution._forward_hooks)
        features = convolution(images)
        if not watched and block.fits(features, norm):
            return block.relu_norm_pool(features, norm)
        return pool(norm(relu(features)))  # type: ignore[no-any-return]


NETWORKS: dict[str, type[Network]] = {
    "ThreeBlockCNN": ThreeBlockCNN,
    "WhitenedCNN": WhitenedCNN,
}
"""Networks that a version may hold, by the name in its manifest."""
