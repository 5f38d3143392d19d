import io
import os
from collections.abc import Callable

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import decode_jpeg, encode_jpeg

from cifar_lit.data import similar, synthetic
from cifar_lit.data.similar import duplicates, flat, matches
from cifar_lit.data.sources import read_split, resolve_root

Change = Callable[[Tensor], Tensor]
TRAIN = synthetic.draw("train", 60).images
TEST = synthetic.draw("test", 60).images
GREY = torch.full((1, 32, 32, 3), 128, dtype=torch.uint8)


def altered(change: Change, images: Tensor) -> Tensor:
    """Applies a change of float (N, 3, 32, 32), 0..255."""
    return change(images.permute(0, 3, 1, 2).float()).clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def jpeg(images: Tensor, quality: int = 75) -> Tensor:
    return torch.stack([decode_jpeg(encode_jpeg(image.to(torch.uint8), quality)).float() for image in images])


def resized(images: Tensor, size: int = 48) -> Tensor:
    for side in (size, 32):
        images = interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    return images


def webp(images: Tensor) -> Tensor:
    decoded = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).byte().numpy()).save(buffer, "WEBP", quality=90)
        decoded.append(torch.frombuffer(bytearray(Image.open(buffer).convert("RGB").tobytes()), dtype=torch.uint8))
    return torch.stack(decoded).reshape(-1, 32, 32, 3).permute(0, 3, 1, 2).float()


CHANGES: dict[str, Change] = {
    "same": lambda images: images,
    "mirrored": lambda images: images.flip(-1),
    "JPEG": jpeg,
    "brighter": lambda images: images * 1.08,
    "darker": lambda images: images - 12,
    "less contrast": lambda images: images * 0.85 + 20,
    "mirrored, darker, JPEG": lambda images: jpeg(images.flip(-1) * 0.9, 90),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_copy_matches_the_image_it_is_of_and_no_other(change: Change) -> None:
    assert matches(altered(change, TRAIN), TRAIN).tolist() == [*range(60)]
    assert matches(altered(change, TRAIN), TEST).tolist() == [-1] * 60


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_duplicate_is_led_to_the_first_of_its_kind(change: Change) -> None:
    images = torch.cat([TEST[:5], TRAIN[:10], altered(change, TRAIN[3:6]), TRAIN[4:5]])
    assert duplicates(images).tolist() == [*range(15), 8, 9, 10, 9]


@pytest.mark.parametrize("chunk", [1, 1000])
def test_of_several_copies_the_most_alike_is_the_match(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(similar, "_CHUNK", chunk)
    rough = altered(jpeg, TRAIN[:1])
    assert matches(TRAIN[:1], torch.cat([TEST, rough, TRAIN[:1]])).tolist() == [61]
    near = altered(lambda images: images + 2, TRAIN[:1])
    assert matches(near, torch.cat([rough, TEST, TRAIN[:1]])).tolist() == [61]
    assert matches(near, torch.cat([TRAIN[:1], TEST, rough])).tolist() == [0]


def test_copies_of_a_copy_count_as_copies_of_the_first() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 32, 32, 3, generator=generator)
    noisy = (TRAIN[:1] + noise * 4).clamp(0, 255).to(torch.uint8)
    assert duplicates(noisy).tolist() == [0] * 200
    assert duplicates(TRAIN[:1].repeat(200, 1, 1, 1)).tolist() == [0] * 200


def test_images_of_one_class_are_not_copies() -> None:
    labels = synthetic.draw("train", 60).labels
    images = TRAIN[labels == 0]
    assert len(images) == 6
    assert duplicates(images).tolist() == [*range(6)]


def test_equal_frames_round_different_images_do_not_make_them_copies() -> None:
    framed = torch.full((2, 32, 32, 3), 255, dtype=torch.uint8)
    framed[:, 4:28, 4:28] = TRAIN[:2, 4:28, 4:28]
    assert duplicates(framed).tolist() == [0, 1]


def test_two_seas_under_two_skies_are_not_copies() -> None:
    scenes = torch.full((2, 32, 32, 3), 200, dtype=torch.uint8)
    scenes[:, 17:] = 60
    scenes[0, 15:17, 4:10] = 20
    scenes[1, 15:17, 19:28] = 90
    assert similar._coarse_correlation(scenes[:1], scenes[1:], mirrored=False) > similar.COARSE_CORRELATION
    assert duplicates(scenes).tolist() == [0, 1]


def test_flat_images_match_equal_ones_only() -> None:
    flats = torch.cat([GREY, GREY + 1, GREY * 0, GREY])
    assert duplicates(flats).tolist() == [0, 1, 2, 0]
    assert matches(flats, torch.cat([TRAIN, GREY])).tolist() == [60, -1, -1, 60]
    assert matches(TRAIN, flats).tolist() == [-1] * 60


@pytest.mark.parametrize("chunk", [1, 7, 60, 1000])
def test_the_size_of_the_chunks_does_not_matter(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(similar, "_CHUNK", chunk)
    images = torch.cat([TRAIN[:20], altered(jpeg, TRAIN[10:15]), TRAIN[:3].flip(2), GREY])
    assert duplicates(images).tolist() == [*range(20), *range(10, 15), 0, 1, 2, 28]
    assert matches(images, TRAIN).tolist() == [*range(20), *range(10, 15), 0, 1, 2, -1]
    assert flat(images).tolist() == [False] * 28 + [True]


def test_no_images_and_nothing_to_match() -> None:
    nothing = TRAIN[:0]
    assert duplicates(nothing).shape == matches(nothing, TRAIN).shape == flat(nothing).shape == (0,)
    assert matches(TRAIN[:2], nothing).tolist() == [-1, -1]


def test_flat_images_are_told_from_faint_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(-2, 3, GREY.shape, generator=generator)
    stripe = GREY.clone()
    stripe[:, :4, :, 2] = 170  # one channel alone
    faint = GREY.clone()
    faint[:, ::2] += 10
    images = torch.cat([GREY, (GREY + noise).to(torch.uint8), GREY * 0, stripe, faint, TRAIN[:1]])
    assert flat(images).tolist() == [True, True, True, False, False, False]


@pytest.mark.skipif("CIFAR_LIT_DATA" not in os.environ, reason="CIFAR_LIT_DATA names no CIFAR-10")
def test_real_copies_are_found_and_strangers_are_not() -> None:
    test = read_split("test", resolve_root(None)).images
    rows = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    images, others = test[rows[:200]], test[rows[200:]]
    for change in (*CHANGES.values(), lambda images: jpeg(images, 50), resized, lambda i: resized(i, 24), webp):
        found = matches(altered(change, images), test)
        assert (found == rows[:200]).float().mean() >= 0.97
    # CIFAR-10 repeats itself here and there, but not often.
    assert (matches(images, others) >= 0).sum() <= 3
