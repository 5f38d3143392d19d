"""Where a network looked: occlusion sensitivity (Zeiler and Fergus, 2014), in one batch. Needs no gradients."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from cifar_lit.cifar10 import IMAGE_SIZE

Pixels = npt.NDArray[np.uint8]

PATCH, STEP = 12, 5
"""Pixels of a patch's side, and from one patch to the next: 25 patches. More and smaller ones cost more time than they
bring: `benchmarks/heat_maps.py`."""


def patches(side: int = PATCH, step: int = STEP) -> npt.NDArray[np.bool_]:
    """The pixels that each patch covers, (M, 32, 32); together they cover all."""
    starts = np.arange(0, IMAGE_SIZE - side + 1, step)
    covered = (starts[:, None] <= np.arange(IMAGE_SIZE)) & (np.arange(IMAGE_SIZE) < starts[:, None] + side)
    return (covered[:, None, :, None] & covered[None, :, None, :]).reshape(-1, IMAGE_SIZE, IMAGE_SIZE)


_PATCHES = patches()


def heat_map(
    logit: Callable[[Pixels], npt.NDArray[np.float32]], image: Pixels, masks: npt.NDArray[np.bool_] = _PATCHES
) -> npt.NDArray[np.float32]:
    """How much a class's logit falls when a patch of the image's mean colour lies over a pixel.

    Args:
        logit: of the class (N), of images, uint8 (N, 32, 32, 3).
        image: uint8 (32, 32, 3), RGB.
        masks: where patches are laid, as of `patches`.

    Returns:
        float32 (32, 32), 0..1: the mean over the patches that cover a pixel, 1 for the largest; all 0 if no patch makes
        the logit fall.
    """
    grey = image.mean(axis=(0, 1)).round().astype(np.uint8)
    whole, *occluded = logit(np.concatenate([image[None], np.where(masks[..., None], grey, image)]))
    falls = np.maximum(whole - np.array(occluded), 0)
    heat = np.tensordot(falls, masks, axes=1) / masks.sum(axis=0)
    return (heat / max(heat.max(), 1e-12)).astype(np.float32)  # type: ignore[no-any-return]
