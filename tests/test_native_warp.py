"""Turned and scaled images are what `grid_sample` makes of them."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from cifar_lit.data.augment import Augmentation
from cifar_lit.native import library, warp

needs_library = pytest.mark.skipif(
    library.library() is None, reason=f"there are no compiled kernels: {library.unavailable_reason()}"
)


def random_images(num: int) -> Tensor:
    return torch.randint(256, (num, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def sampled(images: Tensor, affines: Tensor) -> Tensor:
    grid = affine_grid(affines.double(), [len(images), 3, 32, 32], align_corners=False)
    return grid_sample(images.permute(0, 3, 1, 2).double(), grid, padding_mode="reflection", align_corners=False)


@needs_library
def test_it_is_what_pytorch_computes() -> None:
    images, indices = random_images(300), torch.randperm(300, generator=torch.Generator().manual_seed(1))[:200]
    affines = 1.5 * torch.randn(200, 2, 3, generator=torch.Generator().manual_seed(2))  # far beyond the edges, too
    assert warp.fits(images)
    warped = warp.warp(images, indices, affines)
    assert warped.dtype == torch.float32
    assert warped.is_contiguous(memory_format=torch.channels_last)
    assert (warped - sampled(images[indices], affines)).abs().max() < 0.01  # of 255


@needs_library
@pytest.mark.parametrize("column", [1.0, -1.0])
@pytest.mark.parametrize("row", [1.0, -1.0])
def test_whole_pixels_stay_what_they_are(column: float, row: float) -> None:
    images = random_images(4)
    affines = torch.tensor([[column, 0.0, 0.0], [0.0, row, 0.0]]).expand(4, 2, 3)
    turned = [axis for axis, sign in ((2, row), (3, column)) if sign < 0]
    assert torch.equal(warp.warp(images, torch.arange(4), affines), images.permute(0, 3, 1, 2).float().flip(turned))


@needs_library
@pytest.mark.parametrize("place", [float("nan"), float("inf"), 1e30])
def test_places_that_are_none_stay_inside_the_image(place: float) -> None:
    warped = warp.warp(random_images(1), torch.zeros(1, dtype=torch.int64), torch.full((1, 2, 3), place))
    assert warped.shape == (1, 3, 32, 32)
    assert warped.min() >= 0  # and no memory but the image's own was read
    assert warped.max() <= 255


@needs_library
def test_an_augmentation_is_the_same_with_and_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    images, indices = random_images(50), torch.arange(49, -1, -1)
    augmentation = Augmentation(flip=True, shift=4, rotation=36.0, zoom=0.2)

    def sample() -> Tensor:
        return augmentation.sample(images, indices, torch.Generator().manual_seed(5))

    ours = sample()
    monkeypatch.setattr(warp, "fits", lambda _: False)
    theirs = sample()
    assert ours.stride() == theirs.stride()
    assert (ours - theirs).abs().max() < 0.01
    assert not torch.equal(ours, images[indices].permute(0, 3, 1, 2).float())


@needs_library
def test_what_does_not_fit_is_left_to_pytorch() -> None:
    assert not warp.fits(random_images(2).float())
    assert not warp.fits(random_images(2).permute(0, 2, 1, 3))
    assert not warp.fits(random_images(2)[:, :16])
    assert not warp.fits(random_images(2).to("meta"))
