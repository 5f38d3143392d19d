"""Pictures for visitors who have none at hand: a photograph, and drawings made for this page. None is from CIFAR-10."""

from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from cifar_lit.data.images import decode

Pixels = npt.NDArray[np.uint8]

_SHOWN = (
    ("cat.jpg", "Cat", "A photograph of a cat"),
    ("ship.png", "Ship", "A drawing of a ship on the sea"),
    ("airplane.png", "Airplane", "A drawing of an airplane in the sky"),
    ("apple.png", "None of the ten", "A drawing of an apple, which is none of the ten classes"),
)


@dataclass(frozen=True)
class Example:
    """A picture that a visitor may choose.

    Attributes:
        name: in the page's address of it.
        title: what a visitor reads.
        alt: what it shows, for those who do not see it.
        pixels: uint8 (height, width, 3), RGB.
    """

    name: str
    title: str
    alt: str
    pixels: Pixels = field(repr=False)

    def thumbnail(self, side: int) -> Pixels:
        """Its central square, uint8 (side, side, 3)."""
        return np.asarray(ImageOps.fit(Image.fromarray(self.pixels), (side, side), Image.Resampling.BILINEAR))


@cache
def load_examples() -> tuple[Example, ...]:
    """All of them, in the order in which they are shown."""
    folder = files(__package__) / "examples"
    return tuple(
        Example(file.partition(".")[0], title, alt, decode((folder / file).read_bytes()).pixels)
        for file, title, alt in _SHOWN
    )
