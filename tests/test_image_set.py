from fractions import Fraction

import pytest
import torch

from cifar_lit.data.image_set import ImageSet, hold_out, stratified_split

LABELS = torch.arange(10).repeat_interleave(torch.tensor([10, 20, 30, 40, 50, 60, 70, 80, 90, 101]))


def image_set(num: int = 6) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (num, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(num) % 10, "test")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        # images
        (
            torch.zeros(4, 3, 32, 32, dtype=torch.uint8),
            torch.zeros(4, dtype=torch.int64),
            r"images: .*\(4, 3, 32, 32\)",
        ),
        (
            torch.zeros(4, 28, 28, 1, dtype=torch.uint8),
            torch.zeros(4, dtype=torch.int64),
            r"images: .*\(4, 28, 28, 1\)",
        ),
        (torch.zeros(4, 32, 32, 3), torch.zeros(4, dtype=torch.int64), r"torch\.float32 .*expected torch\.uint8"),
        # labels
        (
            torch.zeros(4, 32, 32, 3, dtype=torch.uint8),
            torch.zeros(4),
            r"labels: torch\.float32 .*expected torch\.int64",
        ),
        (torch.zeros(4, 32, 32, 3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), r"\(3,\), expected .*\(4,\)"),
        (torch.zeros(4, 32, 32, 3, dtype=torch.uint8), torch.zeros(4, 1, dtype=torch.int64), r"labels: .*\(4, 1\)"),
    ],
)
def test_wrong_shape_or_dtype_raises(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageSet(images, labels, "test")


def test_subset_keeps_the_given_order() -> None:
    data = image_set()
    part = data.subset(torch.tensor([4, 1]))
    assert part.labels.tolist() == [4, 1]
    assert torch.equal(part.images[0], data.images[4])
    assert (len(part), part.source) == (2, data.source)


def test_equal_data_has_equal_sha256_whatever_its_memory_layout() -> None:
    data = image_set()
    strided = data.images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert ImageSet(strided, data.labels.clone(), "elsewhere").sha256 == data.sha256


@pytest.mark.parametrize("change", ["pixel", "label", "order"])
def test_sha256_changes_with_pixels_labels_and_order(change: str) -> None:
    data = image_set()
    images, labels = data.images.clone(), data.labels.clone()
    if change == "pixel":
        images[3, 4, 5, 2] ^= 1
    elif change == "label":
        labels[3] = 9
    else:
        images, labels = images.flip(0), labels.flip(0)
    assert ImageSet(images, labels, "test").sha256 != data.sha256


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.2, 0.5, 0.99])
def test_split_is_disjoint_complete_and_stratified(fraction: float) -> None:
    train, val = stratified_split(LABELS, fraction, seed=0)
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(len(LABELS)))
    assert torch.equal(train, train.sort().values)
    assert torch.equal(val, val.sort().values)
    counts = torch.bincount(LABELS[val], minlength=10)
    assert counts.tolist() == [round(n * fraction) for n in torch.bincount(LABELS).tolist()]


def test_split_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    first, again, other = (stratified_split(LABELS, 0.2, seed)[1] for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_smaller_fraction_is_a_subset_of_a_larger_one() -> None:
    splits = [set(stratified_split(LABELS, fraction, seed=3)[1].tolist()) for fraction in (0.05, 0.1, 0.2, 0.5, 0.9)]
    assert all(small < large for small, large in zip(splits, splits[1:], strict=False))


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, float("nan")])
def test_fraction_out_of_range_raises(fraction: float) -> None:
    with pytest.raises(ValueError, match="val_fraction is .*expected 0 <= val_fraction < 1"):
        stratified_split(LABELS, fraction, seed=0)


FRACTIONS = [
    Fraction(text) for text in ("0", "0.05", "0.1", "0.15", "0.2", "0.25", "0.29", "0.3", "0.35", "0.5", "0.7", "0.99")
]


@pytest.mark.parametrize("fraction", FRACTIONS, ids=float)
def test_hold_out_of_any_number_of_images_is_exact_disjoint_and_complete(fraction: Fraction) -> None:
    for num in [*range(31), 100, 999, 1_000, 12_345]:
        learned, held = hold_out(torch.arange(num) % 7, float(fraction), seed=0)
        assert len(held) == int(num * fraction), num
        assert torch.equal(torch.cat([learned, held]).sort().values, torch.arange(num))
        assert torch.equal(learned, learned.sort().values)
        assert torch.equal(held, held.sort().values)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize(
    "counts",
    [[101, 20, 30, 4, 50, 6, 0, 1, 90, 10], [1] * 10, [0, 0, 0, 57, 0, 0, 0, 0, 0, 0], [3, 4, 0, 2, 0, 1, 0, 9, 2, 2]],
    ids=str,
)
def test_hold_out_takes_each_class_its_share_within_one_image(fraction: float, counts: list[int]) -> None:
    labels = torch.arange(10).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    for seed in range(5):
        taken = torch.bincount(labels[hold_out(labels, fraction, seed)[1]], minlength=10)
        assert ((taken - torch.tensor(counts) * fraction).abs() < 1).all()


def test_hold_out_takes_nothing_of_fewer_images_than_one_in_its_fraction() -> None:
    for num in range(5):
        assert len(hold_out(torch.zeros(num, dtype=torch.int64), 0.2, seed=0)[1]) == 0
    assert len(hold_out(torch.zeros(5, dtype=torch.int64), 0.2, seed=0)[1]) == 1


def test_hold_out_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    first, again, other = (hold_out(LABELS, 0.2, seed)[1] for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_hold_out_does_not_favour_a_place_in_the_set() -> None:
    labels = torch.zeros(10, dtype=torch.int64)
    times = sum(torch.bincount(hold_out(labels, 0.2, seed)[1], minlength=10) for seed in range(1_000))
    assert ((times - 200).abs() < 76).all()  # 6 standard deviations


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_hold_out_of_a_fraction_out_of_range_raises(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction is .*expected 0 <= fraction < 1"):
        hold_out(LABELS, fraction, seed=0)


def test_two_sets_added_are_one_after_the_other() -> None:
    first, second = image_set(6), image_set(3)
    both = first + second
    assert both.labels.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert torch.equal(both.images, torch.cat([first.images, second.images]))
    assert both.source == "test + test"
    assert (len(first), len(second)) == (6, 3)


def test_a_split_of_many_classes_keeps_each_of_them() -> None:
    labels = torch.arange(1000) % 100
    _, val = stratified_split(labels, 0.2, seed=0)
    assert torch.bincount(labels[val], minlength=100).tolist() == [2] * 100


def test_class_names_go_with_the_images() -> None:
    names = tuple(f"kind {label}" for label in range(300))
    images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    data = ImageSet(images, torch.tensor([1, 257]), "drawn", names)
    assert data.subset(torch.tensor([1])).class_names == (data + data).class_names == names
    other = ImageSet(images, torch.tensor([1, 1]), "drawn", names)
    assert data.sha256 != other.sha256
