from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cifar_lit.data.augment import Augmentation

NUM = 24
IMAGES = torch.randint(0, 256, (40, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
ROWS = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:NUM]
ALL = Augmentation(flip=True, shift=4, rotation=15, zoom=0.1, cutout=8)


def sample(
    augmentation: Augmentation, images: torch.Tensor = IMAGES, rows: torch.Tensor = ROWS, seed: int = 0
) -> torch.Tensor:
    return augmentation.sample(images, rows, torch.Generator().manual_seed(seed))


def plain(rows: torch.Tensor = ROWS) -> torch.Tensor:
    return IMAGES[rows].permute(0, 3, 1, 2)


def moved(image: np.ndarray, flip: bool, down: int, right: int) -> np.ndarray:
    """Slow reference: pads one image (32, 32, 3) with its mirror image, cuts the window out and mirrors that."""
    padded = np.pad(image, ((32, 32), (32, 32), (0, 0)), mode="symmetric")
    window = padded[32 - down : 64 - down, 32 - right : 64 - right]
    return window[:, ::-1] if flip else window


@pytest.mark.parametrize(
    ("augmentation", "dtype"),
    [
        (Augmentation(), torch.uint8),
        (Augmentation(flip=True), torch.uint8),
        (Augmentation(shift=4), torch.uint8),
        (Augmentation(cutout=8), torch.uint8),
        (Augmentation(flip=True, shift=32, cutout=32), torch.uint8),
        (Augmentation(rotation=15), torch.float32),
        (Augmentation(zoom=0.2), torch.float32),
        (ALL, torch.float32),
    ],
)
def test_output_has_the_stated_dtype_layout_and_range(augmentation: Augmentation, dtype: torch.dtype) -> None:
    before = IMAGES.clone()
    batch = sample(augmentation)
    assert (batch.dtype, batch.shape) == (dtype, (NUM, 3, 32, 32))
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batch.min() >= 0
    assert batch.max() <= 255.001
    assert torch.equal(IMAGES, before)


def test_no_augmentation_gives_the_plain_images() -> None:
    assert torch.equal(sample(Augmentation()), plain())


@pytest.mark.parametrize("augmentation", [Augmentation(flip=True), Augmentation(shift=4), Augmentation(True, 32), ALL])
def test_same_generator_seed_repeats_and_another_does_not(augmentation: Augmentation) -> None:
    assert torch.equal(sample(augmentation), sample(augmentation))
    assert not torch.equal(sample(augmentation), sample(augmentation, seed=1))


@pytest.mark.parametrize("augmentation", [Augmentation(shift=4), Augmentation(rotation=15), Augmentation(cutout=8)])
def test_each_image_draws_its_own_variation(augmentation: Augmentation) -> None:
    batch = sample(augmentation, rows=torch.zeros(NUM, dtype=torch.int64))
    assert len(batch.flatten(1).unique(dim=0)) > NUM // 2


@pytest.mark.parametrize(("flip", "shift"), [(True, 0), (False, 2), (True, 2)])
def test_flip_and_shift_equal_one_of_the_reference_moves(flip: bool, shift: int) -> None:
    rows = torch.arange(4).repeat(60)
    batch = sample(Augmentation(flip=flip, shift=shift), rows=rows).permute(0, 2, 3, 1).numpy()
    steps = range(-shift, shift + 1)
    moves = [(mirrored, down, right) for mirrored in {False, flip} for down in steps for right in steps]
    table = {(row, moved(IMAGES[row].numpy(), *move).tobytes()): move for row in range(4) for move in moves}
    drawn = [table[row, image.tobytes()] for row, image in zip(rows.tolist(), batch, strict=True)]
    assert set(drawn) == set(moves)  # 240 draws of at most 50 moves reach all of them


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(("down", "right"), [(32, 32), (-32, -32), (5, -9), (-31, 17), (0, 0)])
def test_large_shifts_fold_back_as_np_pad_symmetric_does(
    flipped: bool, down: int, right: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fix_draws(monkeypatch, flipped, down, right)
    batch = sample(Augmentation(flip=True, shift=32))
    for image, row in zip(batch.permute(0, 2, 3, 1).numpy(), ROWS.tolist(), strict=True):
        np.testing.assert_array_equal(image, moved(IMAGES[row].numpy(), flipped, down, right))


@pytest.mark.parametrize("flipped", [False, True])
def test_warp_with_neither_rotation_nor_zoom_equals_the_move(flipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fix_draws(monkeypatch, flipped, 3, -7)
    tiny = Augmentation(flip=True, shift=8, rotation=1e-9, zoom=1e-9)
    torch.testing.assert_close(sample(tiny), sample(Augmentation(flip=True, shift=8)).float(), atol=0.05, rtol=0)


@pytest.mark.parametrize(("rotation", "zoom"), [(30.0, 0.0), (0.0, 0.3), (20.0, 0.2)])
def test_rotation_and_zoom_equal_torchvision_affine_inside_the_image(rotation: float, zoom: float) -> None:
    batch = sample(Augmentation(rotation=rotation, zoom=zoom), seed=5)
    turns, scales = 2 * torch.rand(2, NUM, generator=torch.Generator().manual_seed(5)) - 1
    for image, row, turn, scale in zip(batch, ROWS.tolist(), turns.tolist(), scales.tolist(), strict=True):
        expected = F.affine(
            IMAGES[row].permute(2, 0, 1).float(),
            angle=-turn * rotation,  # torchvision turns clockwise
            translate=[0.0, 0.0],
            scale=1 / (1 + scale * zoom),
            shear=[0.0, 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        # Beyond the edge torchvision is black, so that only the middle can be compared.
        torch.testing.assert_close(image[:, 10:22, 10:22], expected[:, 10:22, 10:22], atol=0.1, rtol=0)


def test_what_comes_in_from_beyond_the_edge_is_image_and_not_black() -> None:
    white = torch.full((2, 32, 32, 3), 255, dtype=torch.uint8)
    batch = sample(Augmentation(shift=16, rotation=90, zoom=0.5), white, torch.tensor([0, 1]))
    torch.testing.assert_close(batch, torch.full_like(batch, 255))


def alternating(rows: torch.Tensor, epoch: int, seed: int = 0, **options: Any) -> torch.Tensor:
    """bool (B,): which rows are mirrored, beside a check that they are nothing else."""
    augmentation = Augmentation(flip="alternating")
    batch = augmentation.sample(IMAGES, rows, torch.Generator(), epoch=epoch, seed=seed, **options)
    mirrored = (batch == plain(rows).flip(3)).flatten(1).all(dim=1)
    assert torch.equal(~mirrored, (batch == plain(rows)).flatten(1).all(dim=1))
    return mirrored


def test_an_alternating_flip_mirrors_each_image_in_every_other_epoch() -> None:
    rows = torch.arange(40)
    sides = [alternating(rows, epoch) for epoch in range(4)]
    assert 10 <= sides[0].sum() <= 30
    assert torch.equal(sides[0], ~sides[1])
    assert torch.equal(sides[0], sides[2])
    assert torch.equal(sides[1], sides[3])


def test_the_first_side_is_a_fair_coin_of_row_and_seed_that_leaves_the_generator_alone() -> None:
    rows = torch.arange(40)
    sides = torch.stack([alternating(rows, 0, seed) for seed in range(250)]).float()
    assert sides.mean().item() == pytest.approx(0.5, abs=0.02)
    neighbours = (sides[:, 1:] == sides[:, :-1]).float()
    assert neighbours.mean().item() == pytest.approx(0.5, abs=0.02)  # rows are independent
    assert (sides[1:] == sides[:-1]).float().mean().item() == pytest.approx(0.5, abs=0.02)  # and so are seeds
    assert sides.mean(dim=0).min() > 0.3  # of every row
    assert sides.mean(dim=0).max() < 0.7
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    assert torch.equal(alternating(order, 0), alternating(rows, 0)[order])
    generator = torch.Generator().manual_seed(4)
    before = generator.get_state()
    Augmentation(flip="alternating").sample(IMAGES, rows, generator, epoch=1, seed=5)
    assert torch.equal(generator.get_state(), before)


def test_an_alternating_flip_knows_an_image_by_its_row_in_the_set() -> None:
    rows = torch.arange(20, 40)
    part = Augmentation(flip="alternating").sample(
        IMAGES[20:], torch.arange(20), torch.Generator(), epoch=1, seed=7, rows=rows
    )
    whole = Augmentation(flip="alternating").sample(IMAGES, rows, torch.Generator(), epoch=1, seed=7)
    assert torch.equal(part, whole)


def test_an_alternating_flip_goes_with_every_other_variation() -> None:
    rows = torch.arange(40)
    tiny = Augmentation(flip="alternating", rotation=1e-9, zoom=1e-9)
    moving = Augmentation(flip="alternating", shift=3)
    plainly = Augmentation(flip="alternating").sample(IMAGES, rows, torch.Generator(), epoch=3).float()
    torch.testing.assert_close(tiny.sample(IMAGES, rows, torch.Generator(), epoch=3), plainly, atol=0.05, rtol=0)
    flipped = alternating(rows, 3).tolist()
    steps = range(-3, 4)
    for image, row, side in zip(
        moving.sample(IMAGES, rows, torch.Generator(), epoch=3).permute(0, 2, 3, 1).numpy(),
        rows.tolist(),
        flipped,
        strict=True,
    ):
        ways = {moved(IMAGES[row].numpy(), side, down, right).tobytes() for down in steps for right in steps}
        assert image.tobytes() in ways


@pytest.mark.parametrize("size", [1, 8, 31, 32])
def test_cutout_blanks_one_grey_square_inside_the_image(size: int) -> None:
    black = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    batch = sample(Augmentation(cutout=size), black, torch.zeros(300, dtype=torch.int64))
    assert set(batch.unique().tolist()) <= {0, 128}
    blank = (batch == 128).all(dim=1)
    assert torch.equal(blank.any(dim=2).sum(dim=1), torch.full((300,), size))
    assert torch.equal(blank.sum(dim=(1, 2)), torch.full((300,), size * size))
    assert blank.any(dim=(0, 1)).all()  # it reaches every column
    assert blank.any(dim=(0, 2)).all()  # and every row


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": "sometimes"}, "flip is 'sometimes', expected true, false or alternating"),
        ({"shift": -1}, "shift is -1"),
        ({"shift": 33}, "shift is 33"),
        ({"cutout": -1}, "cutout -1"),
        ({"cutout": 33}, r"cutout 33, expected 0\.\.32"),
        ({"rotation": -1.0}, "rotation is -1.0"),
        ({"rotation": 181.0}, r"rotation is 181.0 .*0\.\.180 degrees"),
        ({"zoom": -0.1}, "zoom -0.1"),
        ({"zoom": 1.0}, "zoom 1.0, expected .*zoom < 1"),
        ({"zoom": float("nan")}, "zoom nan"),
    ],
)
def test_bad_option_raises(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


def fix_draws(monkeypatch: pytest.MonkeyPatch, flipped: bool, down: int, right: int) -> None:
    monkeypatch.setattr(Augmentation, "_flipped", lambda self, rows, *_: torch.full((len(rows),), flipped))
    monkeypatch.setattr(
        Augmentation, "_shifts", lambda self, num, generator: torch.tensor([[down], [right]]).expand(2, num)
    )
