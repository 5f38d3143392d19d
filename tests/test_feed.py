import threading

import pytest
import torch

from cifar_lit.data import feed
from cifar_lit.data.image_set import ImageSet

CPU = torch.device("cpu")
SIZES = [5, 1, 7, 7, 3, 2]


@pytest.fixture
def data() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(40) % 10, "test")


def order() -> torch.Tensor:
    return torch.randperm(40, generator=torch.Generator().manual_seed(1))[: sum(SIZES)]


@pytest.mark.parametrize("streamed", [False, True])
def test_parts_hold_the_wanted_images_their_labels_and_rows_in_order(data: ImageSet, streamed: bool) -> None:
    parts = feed.streamed(data, order(), SIZES, CPU) if streamed else feed.resident(data, order(), SIZES)
    start = 0
    for part, size in zip(parts, SIZES, strict=True):
        rows = order()[start : start + size]
        assert torch.equal(part.rows, rows)
        assert torch.equal(part.images[part.indices], data.images[rows])
        assert torch.equal(part.labels, data.labels[rows])
        start += size
    assert start == len(order())


def test_a_resident_set_is_not_copied(data: ImageSet) -> None:
    part = next(feed.resident(data, order(), SIZES))
    assert part.images.data_ptr() == data.images.data_ptr()


def test_a_streamed_part_holds_no_more_than_was_asked_for(data: ImageSet) -> None:
    assert [len(part.images) for part in feed.streamed(data, order(), SIZES, CPU)] == SIZES


def test_an_error_of_the_gathering_thread_reaches_the_training(data: ImageSet) -> None:
    with pytest.raises(IndexError):
        list(feed.streamed(data, torch.tensor([0, 400]), [1, 1], CPU))


def test_the_gathering_thread_ends_with_an_epoch_that_is_broken_off(data: ImageSet) -> None:
    def gathering() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("feed")]

    parts = feed.streamed(data, order(), SIZES, CPU)
    next(parts)
    assert gathering()
    parts.close()  # type: ignore[attr-defined]
    assert not gathering()
