"""From any Pillow image to RGB as a screen shows it: colour profiles, transparency over white."""

import io
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

BACKGROUND = (255, 255, 255)
"""Transparent pixels are laid over white."""

_MAX_PROFILE_BYTES = 4 * 2**20
_SAME = 3
"""Levels by which a profile may differ from sRGB and be taken for it: sRGB has many spellings."""


def to_rgb(image: Image.Image, profile: bytes = b"") -> Image.Image:
    """An image of mode L, LA, RGB, RGBA or CMYK as RGB.

    Args:
        image: its colours are those of `profile`.
        profile: an ICC profile; empty, damaged or for another kind of image: sRGB is meant.
    """
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    if profile:
        colours = image.convert(image.mode.removesuffix("A")) if alpha else image
        image = _in_srgb(colours, profile)
    if alpha is None:
        return image if image.mode == "RGB" else image.convert("RGB")
    flat = Image.new("RGB", image.size, BACKGROUND)
    flat.paste(image.convert("RGB"), mask=alpha)
    return flat


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    if len(profile) > _MAX_PROFILE_BYTES:
        return image
    try:
        source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, _srgb(), image.mode, "RGB")
        if image.mode == "RGB":
            probe = _probe()
            change = np.asarray(ImageCms.applyTransform(probe, transform)).astype(int) - np.asarray(probe)
            if np.abs(change).max() <= _SAME:
                return image
        found = ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image
    return image if found is None else found


@cache
def _srgb() -> Any:
    return ImageCms.createProfile("sRGB")


@cache
def _probe() -> Image.Image:
    """Colours from all over the cube."""
    levels = np.linspace(0, 255, 6).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(6, 36, 3))
