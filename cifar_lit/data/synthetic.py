"""A synthetic ten-class set, for trying an installation with no data at all."""

import torch
from torch.nn.functional import interpolate

from cifar_lit.cifar10 import IMAGE_SIZE, NUM_CLASSES
from cifar_lit.data.image_set import ImageSet

_TEMPLATE_SEED = 10
_SPLIT_SEEDS = {"train": 1, "test": 2}
_MAX_SHIFT = 4
_NOISE_STD = 40.0
_CHUNK = 1_000


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
    places = torch.arange(IMAGE_SIZE)
    images = torch.empty(num_images, IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8)
    # In float32 all of them together would take four times as much.
    for part in torch.split(torch.arange(num_images), _CHUNK):
        rows, columns = top[part] + places, left[part] + places
        noisy = templates[labels[part, None, None], rows[:, :, None], columns[:, None, :]]
        noisy += torch.randn(noisy.shape, generator=generator) * _NOISE_STD
        images[part] = noisy.clamp_(0, 255).to(torch.uint8)
    return ImageSet(images, labels, f"synthetic, {split}")
