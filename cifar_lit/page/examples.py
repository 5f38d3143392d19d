"""Pictures for visitors who have none at hand: a photograph, and drawings made here. None is from CIFAR-10."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from cifar_lit.data.images import decode

Pixels = npt.NDArray[np.uint8]

_SIDE = 256
_FINER = 3  # each pixel is the mean of 3 x 3, so that edges are smooth
_Mask = npt.NDArray[np.bool_]
_Colour = tuple[int, int, int]


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
    photograph = files(__package__).joinpath("examples", "cat.jpg").read_bytes()
    return (
        Example("cat", "Cat", "A photograph of a cat", decode(photograph).pixels),
        Example("ship", "Ship", "A drawing of a ship on the sea", _draw(_ship)),
        Example("airplane", "Airplane", "A drawing of an airplane in the sky", _draw(_airplane)),
        Example("apple", "None of the ten", "A drawing of an apple, which is none of the ten classes", _draw(_apple)),
    )


class _Canvas:
    """Colours the places where a condition holds; x and y run from 0 to 1, y downwards."""

    def __init__(self) -> None:
        steps = (np.arange(_SIDE * _FINER) + 0.5) / (_SIDE * _FINER)
        self.x, self.y = np.meshgrid(steps, steps)
        self.colours = np.zeros((*self.x.shape, 3), np.float32)

    def fill(self, where: _Mask, colour: _Colour) -> None:
        self.colours[where] = colour

    def fade(self, top: _Colour, bottom: _Colour) -> None:
        share = self.y[..., None]
        self.colours[:] = (1 - share) * np.array(top) + share * np.array(bottom)

    def ellipse(self, x: float, y: float, width: float, height: float) -> _Mask:
        """Centre, half of the width and half of the height."""
        inside: _Mask = ((self.x - x) / width) ** 2 + ((self.y - y) / height) ** 2 <= 1
        return inside

    def polygon(self, *corners: tuple[float, float]) -> _Mask:
        """A convex one, its corners in clockwise order."""
        inside: _Mask = np.ones(self.x.shape, np.bool_)
        for (x0, y0), (x1, y1) in zip(corners, (*corners[1:], corners[0]), strict=True):
            inside &= (x1 - x0) * (self.y - y0) - (y1 - y0) * (self.x - x0) >= 0
        return inside

    def pixels(self) -> Pixels:
        blocks = self.colours.reshape(_SIDE, _FINER, _SIDE, _FINER, 3)
        pixels: Pixels = blocks.mean(axis=(1, 3)).round().astype(np.uint8)
        return pixels


def _draw(what: Callable[[_Canvas], None]) -> Pixels:
    canvas = _Canvas()
    what(canvas)
    return canvas.pixels()


def _ship(on: _Canvas) -> None:
    on.fade((150, 190, 225), (215, 228, 238))
    on.fill(on.y > 0.68 + 0.006 * np.sin(40 * on.x), (38, 84, 128))
    on.fill(on.y > 0.84 + 0.008 * np.sin(28 * on.x + 1), (30, 70, 112))
    on.fill(on.polygon((0.34, 0.42), (0.78, 0.42), (0.78, 0.56), (0.34, 0.56)), (240, 240, 236))
    on.fill(on.polygon((0.44, 0.31), (0.66, 0.31), (0.66, 0.42), (0.44, 0.42)), (228, 228, 224))
    on.fill(on.polygon((0.52, 0.17), (0.60, 0.17), (0.60, 0.31), (0.52, 0.31)), (178, 52, 44))
    on.fill(on.polygon((0.52, 0.17), (0.60, 0.17), (0.60, 0.21), (0.52, 0.21)), (40, 40, 46))
    for x in (0.40, 0.47, 0.54, 0.61, 0.68):
        on.fill(on.polygon((x, 0.46), (x + 0.035, 0.46), (x + 0.035, 0.50), (x, 0.50)), (70, 96, 122))
    on.fill(on.polygon((0.07, 0.54), (0.94, 0.54), (0.84, 0.73), (0.18, 0.73)), (52, 58, 72))
    on.fill(on.polygon((0.156, 0.69), (0.861, 0.69), (0.84, 0.73), (0.18, 0.73)), (150, 44, 40))


def _airplane(on: _Canvas) -> None:
    on.fade((92, 152, 214), (186, 214, 238))
    for x, y, size in ((0.17, 0.80, 0.12), (0.29, 0.83, 0.10), (0.80, 0.22, 0.10), (0.90, 0.24, 0.08)):
        on.fill(on.ellipse(x, y, size, size * 0.42), (232, 240, 247))
    on.fill(on.polygon((0.46, 0.48), (0.58, 0.48), (0.44, 0.22), (0.38, 0.22)), (150, 158, 170))
    on.fill(on.polygon((0.09, 0.26), (0.16, 0.26), (0.27, 0.48), (0.14, 0.48)), (44, 84, 150))
    on.fill(on.ellipse(0.51, 0.51, 0.41, 0.068), (238, 240, 243))
    on.fill(on.ellipse(0.51, 0.51, 0.41, 0.068) & (on.y > 0.535), (196, 202, 210))
    on.fill(on.polygon((0.11, 0.48), (0.23, 0.50), (0.13, 0.56), (0.06, 0.56)), (150, 158, 170))
    on.fill(on.polygon((0.44, 0.53), (0.60, 0.53), (0.42, 0.79), (0.34, 0.79)), (170, 177, 188))
    on.fill(on.ellipse(0.49, 0.64, 0.055, 0.028), (96, 104, 118))
    for x in np.linspace(0.28, 0.80, 11):
        on.fill(on.ellipse(float(x), 0.495, 0.011, 0.013), (72, 92, 120))
    on.fill(on.polygon((0.855, 0.478), (0.885, 0.486), (0.900, 0.500), (0.855, 0.500)), (60, 78, 104))


def _apple(on: _Canvas) -> None:
    on.fade((244, 240, 230), (222, 212, 194))
    on.fill(on.ellipse(0.50, 0.86, 0.30, 0.05), (192, 180, 160))
    on.fill(on.ellipse(0.40, 0.57, 0.23, 0.29) | on.ellipse(0.60, 0.57, 0.23, 0.29), (196, 32, 38))
    on.fill(on.ellipse(0.36, 0.50, 0.10, 0.15), (218, 74, 70))
    on.fill(on.ellipse(0.33, 0.45, 0.035, 0.06), (246, 190, 184))
    on.fill(on.ellipse(0.50, 0.34, 0.09, 0.035), (130, 20, 26))
    on.fill(on.polygon((0.485, 0.15), (0.515, 0.14), (0.518, 0.36), (0.49, 0.36)), (94, 62, 36))
    on.fill(on.ellipse(0.62, 0.19, 0.11, 0.05), (78, 146, 58))
