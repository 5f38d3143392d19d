from typing import Any

import pytest
import torch

from cifar_lit.data.augment import Augmentation
from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.loader import DeviceLoader


def numbered(num: int) -> ImageSet:
    """Images that carry their own row number in two pixel values."""
    images = torch.zeros(num, 32, 32, 3, dtype=torch.uint8)
    rows = torch.arange(num)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = rows // 256, rows % 256
    return ImageSet(images, rows % 10, "test")


def rows_of(loader: DeviceLoader) -> list[list[int]]:
    return [(images[:, 0, 0, 0].long() * 256 + images[:, 1, 0, 0]).tolist() for images, _ in loader]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    ("num", "batch_size", "world_size"),
    # One process; several; fewer images than a batch; a batch size of one.
    [(100, 10, 1), (101, 10, 1), (7, 64, 1), (1, 1, 1), (1000, 64, 2), (1001, 64, 3), (997, 16, 8), (8, 64, 8)]
    + [(17, 2, 8), (5, 1, 4), (9, 1, 4), (11, 1, 1)],
)
def test_ranks_share_each_epoch_evenly_and_see_each_image_once(
    num: int, batch_size: int, world_size: int, shuffle: bool
) -> None:
    data = numbered(num)
    loaders = [
        DeviceLoader(data, batch_size, shuffle=shuffle, rank=r, world_size=world_size) for r in range(world_size)
    ]
    batches = [rows_of(loader) for loader in loaders]
    assert {len(of_rank) for of_rank in batches} == {len(loaders[0])}
    sizes = {len(batch) for of_rank in batches for batch in of_rank}
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1
    assert max(sizes) <= max(batch_size, 2 if world_size > 1 else 1)
    assert sorted(row for of_rank in batches for batch in of_rank for row in batch) == list(range(num))


def test_labels_belong_to_their_images_in_channels_last_memory() -> None:
    for images, labels in DeviceLoader(numbered(50), 8, shuffle=True):
        assert (images.shape[1:], images.dtype, labels.dtype) == ((3, 32, 32), torch.uint8, torch.int64)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(images[:, 1, 0, 0] % 10, labels)


def test_without_shuffle_the_order_is_that_of_the_data() -> None:
    batches = rows_of(DeviceLoader(numbered(50), 8))
    assert [row for batch in batches for row in batch] == list(range(50))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        loader = DeviceLoader(numbered(100), 10, shuffle=True, seed=seed)
        loader.set_epoch(epoch)
        return rows_of(loader)

    assert order(1, 5) == order(1, 5)
    assert order(1, 5) != order(1, 6)
    assert order(1, 5) != order(2, 5)


def test_an_epoch_can_be_repeated_with_its_augmentation() -> None:
    augmentation = Augmentation(flip=True, shift=4, rotation=10, cutout=8)
    data = ImageSet(torch.randint(0, 256, (30, 32, 32, 3), dtype=torch.uint8), torch.arange(30) % 10, "test")
    loader = DeviceLoader(data, 10, shuffle=True, augmentation=augmentation)

    def pixels(epoch: int) -> torch.Tensor:
        loader.sampler.set_epoch(epoch)
        return torch.cat([images for images, _ in loader])

    first = pixels(3)
    assert not torch.equal(pixels(4), first)
    assert torch.equal(pixels(3), first)


def test_ranks_draw_different_variations() -> None:
    data = ImageSet(
        torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8).repeat(64, 1, 1, 1), torch.zeros(64).long(), ""
    )
    batches = [
        next(iter(DeviceLoader(data, 32, augmentation=Augmentation(shift=4), rank=rank, world_size=2)))[0]
        for rank in range(2)
    ]
    assert not torch.equal(*batches)


@pytest.mark.parametrize(("num", "world_size"), [(0, 1), (3, 4)])
def test_fewer_images_than_processes_raises(num: int, world_size: int) -> None:
    with pytest.raises(ValueError, match=f"{num} images can't be shared by {world_size} processes"):
        DeviceLoader(numbered(num), 1, world_size=world_size)


EVERYTHING = Augmentation(flip="alternating", shift=4, rotation=10, cutout=8)


@pytest.mark.parametrize("steps_augmented", [1, 3, 100])
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(flip=True, shift=2), EVERYTHING])
def test_streamed_batches_equal_resident_ones(
    augmentation: Augmentation, world_size: int, steps_augmented: int
) -> None:
    images = torch.randint(0, 256, (90, 32, 32, 3), dtype=torch.uint8)
    data = ImageSet(images, torch.arange(90) % 10, "test")
    for rank in range(world_size):
        options: dict[str, Any] = {
            "rows": torch.arange(5, 82),
            "shuffle": True,
            "augmentation": augmentation,
            "seed": 7,
            "rank": rank,
        }
        options |= {"world_size": world_size, "steps_augmented": steps_augmented}
        here = DeviceLoader(data, 8, **options)
        there = DeviceLoader(data, 8, **options, stream_to=torch.device("cpu"))
        for loader in (here, there):
            loader.set_epoch(1)
        assert (here.device, len(here)) == (there.device, len(there))
        for ours, theirs in zip(here, there, strict=True):
            assert torch.equal(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])
            assert theirs[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("steps_augmented", [1, 2, 50])
def test_batches_augmented_together_are_as_large_and_in_the_same_order(steps_augmented: int) -> None:
    data = numbered(101)
    alone, together = (DeviceLoader(data, 10, shuffle=True, steps_augmented=steps) for steps in (1, steps_augmented))
    assert rows_of(alone) == rows_of(together)


def test_an_epoch_over_some_rows_equals_one_over_their_subset() -> None:
    data, rows = numbered(60), torch.arange(60)[torch.arange(60) % 3 > 0]
    for shuffle in (False, True):
        part = DeviceLoader(data, 7, rows=rows, shuffle=shuffle)
        subset = DeviceLoader(data.subset(rows), 7, shuffle=shuffle)
        assert rows_of(part) == rows_of(subset)


@pytest.mark.parametrize(("num", "sizes"), [(64, {8}), (61, {8, 7}), (3, {3})])
def test_examples_are_one_batch_of_each_size_and_leave_the_epoch_as_it_is(num: int, sizes: set[int]) -> None:
    loader = DeviceLoader(numbered(num), 8, shuffle=True, augmentation=Augmentation(cutout=4), steps_augmented=4)
    before = [images for images, _ in loader]
    examples = loader.examples()
    assert {len(labels) for _, labels in examples} == sizes
    assert len(examples) == len(sizes)
    assert {(images.dtype, images.shape[1:]) for images, _ in examples} == {(torch.uint8, (3, 32, 32))}
    assert all(torch.equal(left, images) for left, (images, _) in zip(before, loader, strict=True))


def test_the_epoch_may_be_told_after_the_iterator_was_made() -> None:
    loader = DeviceLoader(numbered(20), 4, shuffle=True, seed=1)
    at_first = rows_of(loader)
    early = iter(loader)
    loader.set_epoch(3)
    found = [(images[:, 0, 0, 0].long() * 256 + images[:, 1, 0, 0]).tolist() for images, _ in early]
    assert found == rows_of(loader)
    assert found != at_first
