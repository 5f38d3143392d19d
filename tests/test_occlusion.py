import numpy as np
import numpy.typing as npt
import pytest

from cifar_lit.inference.occlusion import heat_map, patches

Pixels = npt.NDArray[np.uint8]


def red(images: Pixels) -> npt.NDArray[np.float32]:
    """The logit of a class that is nothing but red."""
    total: npt.NDArray[np.float32] = images[..., 0].astype(np.float32).sum(axis=(1, 2))
    return total


def red_square(rows: slice, columns: slice, level: int = 255) -> Pixels:
    image = np.zeros((32, 32, 3), np.uint8)
    image[rows, columns, 0] = level
    return image


@pytest.mark.parametrize(("side", "step", "count"), [(12, 5, 25), (8, 8, 16), (16, 4, 25), (32, 1, 1)])
def test_patches_cover_every_pixel(side: int, step: int, count: int) -> None:
    masks = patches(side, step)
    assert masks.shape == (count, 32, 32)
    assert (masks.sum(axis=(1, 2)) == side * side).all()
    assert masks.any(axis=0).all()


@pytest.mark.parametrize(("rows", "columns"), [(slice(0, 6), slice(0, 6)), (slice(24, 32), slice(10, 18))])
def test_it_is_hot_where_what_speaks_for_the_class_is(rows: slice, columns: slice) -> None:
    heat = heat_map(red, red_square(rows, columns))
    assert (heat.shape, heat.dtype, heat.max()) == ((32, 32), np.float32, 1)
    inside = np.zeros((32, 32), bool)
    inside[rows, columns] = True
    assert heat[inside].min() > 3 * heat[~inside].mean()


def test_it_is_hottest_where_most_speaks_for_the_class() -> None:
    heat = heat_map(red, np.maximum(red_square(slice(0, 8), slice(0, 8), 51), red_square(slice(24, 32), slice(24, 32))))
    assert heat[31, 31] == 1
    assert 0 < heat[0, 0] < 0.3


def test_it_is_dark_where_nothing_speaks_for_the_class() -> None:
    image = red_square(slice(4, 12), slice(6, 20))
    assert not heat_map(lambda images: np.ones(len(images), np.float32), image).any()
    assert not heat_map(red, np.full((32, 32, 3), 77, np.uint8)).any()


def test_it_is_one_batch_of_the_image_and_its_patches() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    batches: list[Pixels] = []

    def look(images: Pixels) -> npt.NDArray[np.float32]:
        batches.append(images)
        return red(images)

    heat_map(look, image)
    (images,) = batches
    assert np.array_equal(images[0], image)
    colour = image.mean(axis=(0, 1)).round()
    for occluded, mask in zip(images[1:], patches(), strict=True):
        assert (occluded[mask] == colour).all()
        assert np.array_equal(occluded[~mask], image[~mask])


def test_the_mean_over_patches_is_worked_out_by_hand() -> None:
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    colour = image.mean(axis=(0, 1)).round().astype(np.uint8)
    falls, covers = np.zeros((32, 32)), np.zeros((32, 32))
    for top in range(0, 21, 5):
        for left in range(0, 21, 5):
            occluded = image.copy()
            occluded[top : top + 12, left : left + 12] = colour
            (before, after) = red(np.stack([image, occluded]))
            falls[top : top + 12, left : left + 12] += max(before - after, 0)
            covers[top : top + 12, left : left + 12] += 1
    expected = falls / covers
    assert heat_map(red, image) == pytest.approx(expected / expected.max(), abs=1e-6)
