"""A drawn ten-class set, for trying an installation with no data at all."""

import torch
from torch.nn.functional import interpolate

from cifar_lit.cifar10 import IMAGE_SIZE, NUM_CLASSES
from cifar_lit.data.image_set import ImageSet

_TEMPLATE_SEED = 10
_SPLIT_SEEDS = {"train": 1, "test": 2}
_MAX_SHIFT = 4
_NOISE_STD = 40.0


def draw(split: str, num_images: int) -> ImageSet:
    """Draws `num_images` images of ten kinds: a blurry colour pattern a class, moved about and noisy.

    The same arguments always give the same images; "train" and "test" share patterns, not images.
    """
    generator = torch.Generator().manual_seed(_TEMPLATE_SEED)
    size = IMAGE_SIZE + 2 * _MAX_SHIFT
    coarse = torch.rand(NUM_CLASSES, 3, 4, 4, generator=generator) * 255
    templates = interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)

    generator = torch.Generator().manual_seed(_SPLIT_SEEDS[split])
    labels = torch.arange(num_images) % NUM_CLASSES
    top, left = torch.randint(0, 2 * _MAX_SHIFT + 1, (2, num_images, 1), generator=generator)
    rows, columns = top + torch.arange(IMAGE_SIZE), left + torch.arange(IMAGE_SIZE)
    images = templates[labels[:, None, None], rows[:, :, None], columns[:, None, :]]
    images = images + torch.randn(images.shape, generator=generator) * _NOISE_STD
    return ImageSet(images.clamp(0, 255).to(torch.uint8), labels, f"synthetic, {split}")
