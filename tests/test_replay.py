from itertools import pairwise

import pytest
import torch
from torch import Tensor

from cifar_lit.data.augment import Augmentation
from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.loader import DeviceLoader
from cifar_lit.data.replay import ReplayLoader

NEW, OLD = 1, 2


def marked(mark: int, labels: Tensor) -> ImageSet:
    """Images whose first pixel has a mark and their own row number."""
    images = torch.zeros(len(labels), 32, 32, 3, dtype=torch.uint8)
    rows = torch.arange(len(labels))
    images[:, 0, 0] = torch.stack([torch.full_like(rows, mark), rows // 256, rows % 256], 1).to(torch.uint8)
    return ImageSet(images, labels, "test")


def loader(
    old_labels: Tensor, num_old: int = 6, num_new: int = 20, *, batch_size: int = 4, seed: int = 0, **options: str
) -> ReplayLoader:
    new = DeviceLoader(marked(NEW, torch.arange(num_new) % 10), batch_size, shuffle=True, seed=seed)
    return ReplayLoader(new, marked(OLD, old_labels), num_old, **options)  # type: ignore[arg-type]


def pixels(images: Tensor) -> tuple[list[int], list[int]]:
    """The marks and the row numbers of a batch."""
    first = images[:, :, 0, 0].long()
    return first[:, 0].tolist(), (first[:, 1] * 256 + first[:, 2]).tolist()


def drawn(of: ReplayLoader, epoch: int = 0) -> list[int]:
    """Rows of the old images of an epoch."""
    of.sampler.set_epoch(epoch)
    return [row for images, _ in of for row in pixels(images)[1][-of.num_old :]]


def test_each_batch_has_its_new_images_and_then_as_many_old_ones_as_asked_for() -> None:
    seen = []
    for images, labels in loader(torch.arange(300) % 10):
        marks, rows = pixels(images)
        assert marks == [NEW] * 4 + [OLD] * 6
        assert (labels.dtype, images.shape[1:]) == (torch.int64, (3, 32, 32))
        assert labels.tolist() == [row % 10 for row in rows]
        seen += rows[:4]
    assert sorted(seen) == [*range(20)]  # the new images are seen once an epoch, whatever is replayed


@pytest.mark.parametrize(("num_new", "batch_size"), [(20, 4), (21, 4), (3, 8), (1, 1)])
def test_an_epoch_is_one_pass_over_the_new_images(num_new: int, batch_size: int) -> None:
    replay = loader(torch.arange(30) % 10, num_new=num_new, batch_size=batch_size)
    assert len(replay) == len(replay.new) == len(list(replay)) == -(-num_new // batch_size)


def test_weights_decide_how_often_an_image_is_drawn() -> None:
    labels = torch.tensor([0] * 90 + [7] * 10)
    weights = torch.tensor([0.5 / 90] * 90 + [0.5 / 10] * 10, dtype=torch.float64)
    rows = drawn(loader(labels, num_old=100, num_new=80, weights=weights))  # type: ignore[arg-type]
    assert sum(row >= 90 for row in rows) / len(rows) == pytest.approx(0.5, abs=0.05)
    # Each class equally often, and inside a class by the weights
    weights = torch.tensor([1.0] * 80 + [8.0] * 10 + [1.0] * 10, dtype=torch.float64)
    rows = drawn(loader(labels, num_old=100, num_new=80, sampling="balanced", weights=weights))  # type: ignore[arg-type]
    assert sum(row >= 90 for row in rows) / len(rows) == pytest.approx(0.5, abs=0.05)
    assert sum(80 <= row < 90 for row in rows) / len(rows) == pytest.approx(0.25, abs=0.05)


def test_uniform_sampling_draws_every_old_image_equally_often() -> None:
    labels = torch.tensor([0] * 90 + [7] * 10)
    counts = torch.bincount(torch.tensor(drawn(loader(labels, num_old=4_000))), minlength=100)
    assert counts.sum() == 20_000
    # 200 draws of each image expected, with a standard deviation of 14; 6 of them on either side.
    assert counts.min() > 115
    assert counts.max() < 285
    assert 1_740 < counts[90:].sum() < 2_260


def test_balanced_sampling_draws_every_class_that_occurs_equally_often_from_a_long_tail() -> None:
    sizes = torch.tensor([500, 250, 120, 60, 30, 15, 8, 4, 0, 1])
    labels = torch.arange(10).repeat_interleave(sizes)
    rows = torch.tensor(drawn(loader(labels, num_old=3_600, sampling="balanced")))
    by_class = torch.bincount(labels[rows], minlength=10)
    assert by_class[8] == 0
    # 18,000 draws, 2,000 of each of 9 classes expected, with a standard deviation of 42; 6 of them on either side.
    assert ((by_class - 2_000).abs() < 252)[sizes > 0].all()
    within = torch.bincount(rows, minlength=len(labels))[labels == 4]  # 67 of each, with a standard deviation of 8
    assert ((within - 67).abs() < 50).all()


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_old_images_are_those_of_the_old_set_with_their_own_labels(sampling: str) -> None:
    labels = torch.tensor([3, 3, 3, 5, 8])
    for images, given in loader(labels, num_old=50, sampling=sampling):
        marks, rows = pixels(images)
        assert marks[4:] == [OLD] * 50
        assert set(rows[4:]) <= set(range(5))
        assert torch.equal(given[4:], labels[rows[4:]])


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_what_is_replayed_depends_on_seed_and_epoch_alone(sampling: str) -> None:
    labels = torch.arange(1_000) % 10
    first = loader(labels, seed=1, sampling=sampling)
    assert drawn(first, epoch=5) == drawn(first, epoch=5)
    assert drawn(first, epoch=5) == drawn(loader(labels, seed=1, sampling=sampling), epoch=5)
    assert drawn(first, epoch=5) != drawn(first, epoch=6)
    assert drawn(first, epoch=5) != drawn(loader(labels, seed=2, sampling=sampling), epoch=5)


def test_the_batches_of_an_epoch_replay_different_images() -> None:
    rows = drawn(loader(torch.arange(5_000) % 10))
    batches = [rows[start : start + 6] for start in range(0, len(rows), 6)]
    assert all(left != right for left, right in pairwise(batches))


def test_lightning_sets_the_epoch_by_the_sampler() -> None:
    replay = loader(torch.arange(30) % 10)
    replay.sampler.set_epoch(3)
    assert replay.new.epoch == 3


def test_old_images_are_varied_as_the_new_ones_are_and_an_epoch_can_be_repeated() -> None:
    generator = torch.Generator().manual_seed(0)
    old = ImageSet(torch.randint(256, (1, 32, 32, 3), generator=generator).byte(), torch.tensor([0]), "test")
    new = DeviceLoader(marked(NEW, torch.zeros(4).long()), 4, augmentation=Augmentation(flip=True, shift=4))
    replay = ReplayLoader(new, old, 16)
    first, again = (next(iter(replay))[0][4:] for _ in range(2))
    assert torch.equal(first, again)
    assert len(first.flatten(1).unique(dim=0)) > 10
    new.set_epoch(1)
    assert not torch.equal(next(iter(replay))[0][4:], first)


def test_ranks_replay_different_images() -> None:
    data, old = marked(NEW, torch.arange(40) % 10), marked(OLD, torch.arange(1_000) % 10)
    both = [ReplayLoader(DeviceLoader(data, 4, rank=rank, world_size=2), old, 6) for rank in range(2)]
    assert drawn(both[0]) != drawn(both[1])
