from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_lit.data import increment, synthetic
from cifar_lit.data.finetune_data import FinetuneDataModule
from cifar_lit.data.image_set import ImageSet, hold_out, stratified_split
from cifar_lit.data.loader import DeviceLoader
from cifar_lit.data.remembered import Remembered
from cifar_lit.data.replay import ReplayLoader
from cifar_lit.errors import IncrementError, SettingError

NUM_OLD = 200
MORE = synthetic.draw("train", 600)
OLD, NEW = synthetic.draw("train", NUM_OLD), MORE.subset(torch.arange(500, 600))

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes an increment of `data`, or of these rows of the new images, and gives its path."""

    def write_file(name: str = "new.npz", data: ImageSet | None = None, rows: range = range(100)) -> Path:
        path = tmp_path / name
        increment.write(path, NEW.subset(torch.tensor(rows)) if data is None else data)
        return path

    return write_file


def module(*files: Path, **options: object) -> FinetuneDataModule:
    """Set up, beside 200 synthetic images of which 40 are for validation."""
    settings = {"source": "synthetic", "num_synthetic": NUM_OLD} | options
    data = FinetuneDataModule(list(files), **settings)  # type: ignore[arg-type]
    data.setup("fit")
    return data


def same(left: ImageSet | None, right: ImageSet) -> bool:
    return left is not None and torch.equal(left.images, right.images) and torch.equal(left.labels, right.labels)


def with_row(data: ImageSet, row: int, image: torch.Tensor, label: int | None = None) -> ImageSet:
    images, labels = data.images.clone(), data.labels.clone()
    images[row] = image
    labels[row] = labels[row] if label is None else label
    return ImageSet(images, labels, data.source)


def noted(data: FinetuneDataModule) -> str:
    (note,) = data.notes
    return note


# What is learned, what is held out, what is replayed


def test_increments_are_learned_but_for_the_share_held_out(write: Write) -> None:
    data = module(write("a.npz", rows=range(60)), write("b.npz", rows=range(60, 100)))
    rows, held = hold_out(NEW.labels, 0.2, data.split_seed)
    assert same(data.new_train, NEW.subset(rows))
    assert same(data.new_val, NEW.subset(held))
    assert (len(data.new_train), len(data.new_val), data.num_given, data.notes) == (80, 20, 100, [])


def test_old_images_are_split_as_for_fit_and_replayed_without_their_validation_part(write: Write) -> None:
    data = module(write(), val_fraction=0.3, split_seed=4)
    train, val = stratified_split(OLD.labels, 0.3, 4)
    assert same(data.old_train, OLD.subset(train))
    assert same(data.old_val, OLD.subset(val))
    assert data.has_test
    assert len(data.test_set) == NUM_OLD


def test_increments_are_named_with_digest_and_count(write: Write) -> None:
    data = module(
        write("a.npz", rows=range(60)),
        write("b.npz", rows=range(60, 70)),
        old_increments=[write("c.npz", rows=range(80, 100))],
    )
    assert [(each["name"], each["count"]) for each in data.learned] == [("a.npz", 60), ("b.npz", 10)]
    assert data.learned[0]["sha256"] == NEW.subset(torch.arange(60)).sha256
    assert data.replayed == [{"name": "c.npz", "sha256": NEW.subset(torch.arange(80, 100)).sha256, "count": 20}]


def test_setting_up_twice_reads_once(write: Write) -> None:
    data = module(write())
    train = data.new_train
    data.setup("fit")
    assert data.new_train is train
    assert len(data.learned) == 1


@pytest.mark.parametrize(("num", "held"), [(1, 0), (4, 0), (5, 1), (9, 1)])
def test_nothing_is_held_out_of_a_handful(write: Write, num: int, held: int) -> None:
    data = module(write(rows=range(num)))
    assert (len(data.new_train), len(data.new_val)) == (num - held, held)


def test_one_class_only(write: Write) -> None:
    data = module(write(data=NEW.subset((NEW.labels == 3).nonzero().squeeze(1))))
    assert set(data.new_train.labels.tolist()) == {3}
    assert (len(data.new_train), len(data.new_val)) == (8, 2)


# Batches


def batches(data: FinetuneDataModule) -> list[torch.Tensor]:
    return [labels for _, labels in data.train_dataloader()]


@pytest.mark.parametrize(
    ("num_new", "num_old", "share"),
    [
        (1, 40_000, 0.9),
        (4_000, 40_000, 0.9),
        (10_000, 30_000, 0.75),
        (30_000, 30_000, 0.5),
        (50_000, 40_000, 0.5),
        (50_000, 1, 0.5),
    ],
)
def test_a_batch_has_old_images_as_there_are_but_no_less_than_half_and_no_more_than_nine_tenths(
    write: Write, num_new: int, num_old: int, share: float
) -> None:
    class Many:
        def __init__(self, num: int) -> None:
            self.num = num

        def __len__(self) -> int:
            return self.num

    data = module(write())
    data.new_train, data.old_train = Many(num_new), Many(num_old)  # type: ignore[assignment]
    assert data.share_of_old == pytest.approx(share)
    data.replay = 0.3
    assert data.share_of_old == 0.3


@pytest.mark.parametrize(("replay", "num_new"), [(None, 21), (0.5, 32), (0.75, 16), (0.99, 1)])
def test_batches_have_their_share_of_new_and_of_old_images(write: Write, replay: float | None, num_new: int) -> None:
    data = module(write(), replay=replay, batch_size=64)
    loader = data.train_dataloader()
    assert isinstance(loader, ReplayLoader)
    assert (loader.new.batch_size, loader.num_old) == (num_new, 64 - num_new)
    assert all(len(labels) <= 64 for labels in batches(data))


def test_an_image_alone_is_seen_often_beside_nine_times_as_many_old_ones(write: Write) -> None:
    data = module(write(rows=range(1)), batch_size=64, min_new=60)
    loader = data.train_dataloader()
    assert isinstance(loader, ReplayLoader)
    assert len(loader.new.data) == 60
    assert (loader.new.batch_size, loader.num_old) == (6, 58)
    assert len(batches(data)) == 10


@pytest.mark.parametrize(("min_new", "seen"), [(1, 80), (80, 80), (81, 160), (256, 320)])
def test_a_small_set_is_repeated_whole_until_an_epoch_shows_min_new(write: Write, min_new: int, seen: int) -> None:
    data = module(write(), min_new=min_new)
    loader = data.train_dataloader()
    assert isinstance(loader, ReplayLoader)
    assert len(loader.new.data) == seen
    times = torch.bincount(loader.new.data.labels, minlength=10) // torch.bincount(data.new_train.labels, minlength=10)
    assert times.tolist() == [seen // 80] * 10


def test_without_replay_new_images_are_alone_in_their_batches(write: Write) -> None:
    data = module(write(), replay=0.0, batch_size=16, min_new=1)
    assert isinstance(data.train_dataloader(), DeviceLoader)
    assert sum(map(len, batches(data))) == 80
    assert data.share_of_old == 0


def test_batches_are_varied_as_told(write: Write) -> None:
    data = module(write(), replay_sampling="balanced")
    loader = data.train_dataloader()
    assert isinstance(loader, ReplayLoader)
    assert (loader.new.augmentation.flip, loader.new.augmentation.shift) == (True, 3)
    assert loader._weights is not None


# What is left out


def test_copies_are_learned_once_and_named(write: Write) -> None:
    twice = with_row(NEW, 7, NEW.images[3].flip(1), label=int(NEW.labels[3]))  # mirrored
    data = module(write("a.npz", twice.subset(torch.arange(50))), write("b.npz", twice.subset(torch.arange(50, 100))))
    assert noted(data) == "1 of 100 new images are copies of others (a.npz#7)"
    assert len(data.new_train) + len(data.new_val) == 99
    assert data.num_given == 100


def test_a_copy_in_another_file_is_named_by_its_row_there(write: Write) -> None:
    data = module(write("a.npz", rows=range(40)), write("b.npz", rows=range(35, 60)))
    assert noted(data) == "5 of 65 new images are copies of others (b.npz#0, b.npz#1, b.npz#2, b.npz#3, b.npz#4)"


def test_of_many_rows_the_first_five_are_named(write: Write) -> None:
    data = module(write("a.npz", rows=range(40)), write("b.npz", rows=range(40)))
    assert noted(data).endswith("(b.npz#0, b.npz#1, b.npz#2, b.npz#3, b.npz#4, ...)")


def test_copies_with_different_labels_are_all_left_out(write: Write) -> None:
    label = (int(NEW.labels[3]) + 1) % 10
    data = module(write(data=with_row(with_row(NEW, 7, NEW.images[3], label), 9, NEW.images[3], int(NEW.labels[3]))))
    assert (
        noted(data)
        == "3 of 100 new images are copies of each other with different labels (new.npz#3, new.npz#7, new.npz#9)"
    )
    assert len(data.new_train) + len(data.new_val) == 97


def test_flat_images_are_left_out(write: Write) -> None:
    grey = torch.full((32, 32, 3), 90, dtype=torch.uint8)
    data = module(write(data=with_row(with_row(NEW, 4, grey), 8, grey + 40)))
    assert noted(data) == "2 of 100 new images show nothing (new.npz#4, new.npz#8)"


def test_copies_of_validation_images_are_left_out(write: Write) -> None:
    val = OLD.subset(stratified_split(OLD.labels, 0.2, 0)[1])
    data = module(write(data=with_row(NEW, 5, val.images[2].flip(1), int(val.labels[2]))))
    assert noted(data) == "1 of 100 new images are copies of validation images (new.npz#5)"


def train_part() -> ImageSet:
    return OLD.subset(stratified_split(OLD.labels, 0.2, 0)[0])


def test_training_images_may_be_learned_again_but_judge_nothing(write: Write) -> None:
    data = module(write(data=train_part().subset(torch.arange(50))))
    assert data.notes == []
    assert (len(data.new_train), len(data.new_val)) == (50, 0)
    assert data.known == "all 50 are training images"
    assert list(data.rows.values()) == [{"learned": [], "held_out": []}]


def test_of_images_some_of_which_are_training_images_only_the_new_ones_are_held_out(write: Write) -> None:
    known = ImageSet(train_part().images[:50].flip(2), train_part().labels[:50], "mirrored")
    data = module(write(data=known + NEW.subset(torch.arange(50))))
    assert (len(data.new_train), len(data.new_val), data.known) == (90, 10, "")
    held = hold_out(NEW.labels[:50], 0.2, 0)[1]
    assert same(data.new_val, NEW.subset(held))
    (rows,) = data.rows.values()
    assert rows["held_out"] == (held + 50).tolist()
    assert sorted(rows["learned"] + rows["held_out"]) == [*range(50, 100)]


def test_training_images_with_another_label_are_new_and_not_replayed_with_the_old_one(write: Write) -> None:
    train = train_part()
    data = module(write(data=ImageSet(train.images[:50].flip(2), (train.labels[:50] + 1) % 10, "")))
    assert (len(data.new_train), len(data.new_val), data.known) == (40, 10, "")
    assert same(data.old_train, train.subset(torch.arange(50, len(train))))


def test_copies_of_test_images_are_left_out_and_counted(write: Write) -> None:
    test = synthetic.draw("test", NUM_OLD)
    leaking = with_row(with_row(NEW, 62, test.images[9].flip(1)), 64, test.images[10])
    files = write("a.npz", leaking.subset(torch.arange(60))), write("b.npz", leaking.subset(torch.arange(60, 100)))
    data = module(*files)
    assert noted(data) == "2 of 100 new images are copies of test images (b.npz#2, b.npz#4)"
    assert len(data.new_train) + len(data.new_val) == 98


@pytest.mark.parametrize(("num_copies", "is_refused"), [(50, False), (51, True)])
def test_an_increment_is_refused_if_most_of_it_are_copies_of_test_images(
    write: Write, num_copies: int, is_refused: bool
) -> None:
    test = synthetic.draw("test", NUM_OLD)
    path = write(data=NEW.subset(torch.arange(100 - num_copies)) + test.subset(torch.arange(num_copies)))
    if not is_refused:
        assert len(module(path).new_train) > 0
        return
    with pytest.raises(IncrementError, match=r"new\.npz#49, .*: 51 of 100 images are copies of test images"):
        module(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            ImageSet(torch.full((3, 32, 32, 3), 7, dtype=torch.uint8), torch.arange(3), ""),
            "3 of 3 new images show noth",
        ),
        (ImageSet(NEW.images[:1].repeat(2, 1, 1, 1), torch.arange(2), ""), "copies of each other with different label"),
        (OLD.subset(stratified_split(OLD.labels, 0.2, 0)[1]), "40 of 40 new images are copies of validation images"),
    ],
    ids=["flat", "contradicting", "validation"],
)
def test_nothing_left_to_learn_is_refused_with_the_reason(write: Write, data: ImageSet, reason: str) -> None:
    with pytest.raises(IncrementError, match=f"Nothing is left to learn: .*{reason}"):
        module(write(data=data))


# Old increments


def test_old_increments_are_replayed_and_judge_nothing(write: Write) -> None:
    before = NEW.subset(torch.arange(50, 100))
    data = module(write("new.npz", rows=range(50)), old_increments=[write("before.npz", before)])
    train, val = stratified_split(OLD.labels, 0.2, 0)
    assert same(data.old_train, OLD.subset(train) + before)
    assert same(data.old_val, OLD.subset(val))
    assert len(data.new_train) + len(data.new_val) == 50


def remember(write: Write, rows: range, version: str = "v0001", held: tuple[int, ...] = (0, 1, 2)) -> Remembered:
    """An increment of which these rows (of its own) were held out."""
    data = NEW.subset(torch.tensor(rows))
    learned = tuple(row for row in range(len(rows)) if row not in held)
    return Remembered("before.npz", data.sha256, version, write(f"{data.sha256}.npz", data), learned, held)


def recalling(*files: Path, remembered: list[Remembered], **options: object) -> FinetuneDataModule:
    data = FinetuneDataModule(list(files), source="synthetic", num_synthetic=NUM_OLD, **options)  # type: ignore[arg-type]
    data.remembered = remembered
    data.setup("fit")
    return data


def test_remembered_increments_are_replayed_and_what_was_held_out_of_them_judges(write: Write) -> None:
    first, second = remember(write, range(50, 80)), remember(write, range(80, 100), "v0002", held=(4,))
    data = recalling(write(rows=range(50)), remembered=[first, second])
    assert same(
        data.old_train, train_part() + NEW.subset(torch.tensor([*range(53, 80), *range(80, 84), *range(85, 100)]))
    )
    assert same(data.earlier_val, NEW.subset(torch.tensor([50, 51, 52, 84])))
    assert [each["count"] for each in data.replayed] == [27, 19]
    assert (len(data.new_train), len(data.new_val), data.known) == (40, 10, "")


def test_a_remembered_increment_that_is_named_too_is_replayed_once_and_without_what_judges(write: Write) -> None:
    before = remember(write, range(50, 80))
    assert before.path is not None
    data = recalling(write(rows=range(50)), remembered=[before], old_increments=[before.path])
    assert same(data.old_train, train_part() + NEW.subset(torch.arange(53, 80)))


@pytest.mark.parametrize("is_kept", [True, False])
def test_an_increment_that_was_learned_before_is_known_whether_or_not_it_is_kept(write: Write, is_kept: bool) -> None:
    before = remember(write, range(50, 80))
    given = write("again.npz", rows=range(50, 80))
    data = recalling(given, remembered=[before if is_kept else replace(before, path=None)])
    assert data.known == f"all {27 if is_kept else 30} are already learned by v0001"
    assert len(data.new_val) == 0
    assert [note.partition(" (")[0] for note in data.notes] == (
        ["3 of 30 new images are copies of images held out of earlier increments"] if is_kept else []
    )


def test_images_known_from_several_places_are_counted_by_place(write: Write) -> None:
    data = recalling(
        write("new.npz", NEW.subset(torch.arange(53, 63)) + train_part().subset(torch.arange(5))),
        remembered=[remember(write, range(50, 80))],
    )
    assert data.known == "of 15 new images 10 are already learned by v0001, 5 are training images"


def test_a_correction_of_an_image_that_was_held_out_is_learned_and_judges_no_more(write: Write) -> None:
    before = remember(write, range(50, 80))
    data = recalling(write(rows=range(50, 51)), remembered=[before], corrections=True)
    assert same(data.new_train, NEW.subset(torch.tensor([50])))
    assert same(data.earlier_val, NEW.subset(torch.tensor([51, 52])))
    after = remember(write, range(50, 51), "v0002", held=())
    assert same(recalling(write(rows=range(10)), remembered=[before, after]).earlier_val, data.earlier_val)  # type: ignore[arg-type]


def test_the_last_label_of_an_image_counts_in_what_is_replayed(write: Write) -> None:
    """An image that was learned with a wrong label, and corrected in a later increment or in this one."""
    wrong = with_row(NEW.subset(torch.arange(50, 80)), 7, NEW.images[57], (int(NEW.labels[57]) + 1) % 10)
    path = write("wrong.npz", wrong)
    before = Remembered("wrong.npz", wrong.sha256, "v0001", path, tuple(range(30)), ())
    others = [*range(50, 57), *range(58, 80)]
    data = recalling(write(rows=range(50)), remembered=[before, remember(write, range(57, 58), "v0002", held=())])
    assert same(data.old_train, train_part() + NEW.subset(torch.tensor([*others, 57])))
    data = recalling(write(rows=range(57, 58)), remembered=[before], corrections=True)
    assert same(data.old_train, train_part() + NEW.subset(torch.tensor(others)))
    assert same(data.new_train, NEW.subset(torch.tensor([57])))
    only = wrong.subset(torch.tensor([7]))
    alone = Remembered("one.npz", only.sha256, "v0001", write("one.npz", only), (0,))
    again = [alone, remember(write, range(57, 58), "v0002", held=()), remember(write, range(60, 62), "v0003", held=())]
    data = recalling(write(rows=range(50)), remembered=again)
    assert same(data.old_train, train_part() + NEW.subset(torch.tensor([57, 60, 61])))


def test_an_image_of_an_earlier_increment_is_drawn_as_often_as_a_new_one_in_up_to_half_of_the_replay(
    write: Write,
) -> None:
    before = [remember(write, range(60, 100), held=())]
    few = recalling(write(rows=range(60)), remembered=before, holdout=0.0, min_new=1, replay=0.7, batch_size=100)
    weights = few._replay_weights(30)
    assert weights is not None
    assert (len(weights), weights.sum().item()) == (len(few.old_train or ()), pytest.approx(1))
    assert 70 * weights[-1].item() == pytest.approx(30 / 60)
    many = recalling(write(rows=range(60)), remembered=before, holdout=0.0, min_new=1, replay=0.5, batch_size=100)
    weights = many._replay_weights(50)
    assert weights is not None
    assert weights[-40:].sum().item() == pytest.approx(0.5)
    assert module(write())._replay_weights(10) is None


@pytest.mark.parametrize("harm", ["changed", "other rows", "no npz"])
def test_a_kept_increment_that_was_changed_is_refused(write: Write, harm: str) -> None:
    before = remember(write, range(50, 80), held=(99,) if harm == "other rows" else ())
    assert before.path is not None
    if harm == "changed":
        increment.write(before.path, NEW.subset(torch.arange(50, 79)))
    elif harm == "no npz":
        before.path.write_bytes(b"rubbish")
    with pytest.raises(IncrementError, match=before.sha256[:16]):
        recalling(write(rows=range(50)), remembered=[before])


# No data at hand


def test_without_old_images_a_warning_tells_what_follows(write: Write, tmp_path: Path) -> None:
    data = FinetuneDataModule([write()], root=tmp_path / "nothing")
    with pytest.warns(UserWarning, match=r"no old images under .*nothing.*will not be promoted.*--data\.root"):
        data.setup("fit")
    assert (data.old_train, data.old_val, data.has_test) == (None, None, False)
    assert data.share_of_old == 0
    assert (len(data.new_train), len(data.new_val)) == (80, 20)
    loader = data.train_dataloader()
    assert isinstance(loader, DeviceLoader)
    assert loader.batch_size == data.batch_size


# Settings and files


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"increments": []}, "increments is empty, expected one .npz file or more"),
        ({"replay": 1.0}, "replay is 1.0, expected 0 <= replay < 1"),
        ({"replay": -0.1}, "replay is -0.1"),
        ({"replay": float("nan")}, "replay is nan"),
        ({"holdout": 0.6}, "holdout is 0.6, expected 0 <= holdout <= 0.5"),
        ({"holdout": -0.1}, "holdout is -0.1"),
        ({"batch_size": 1}, "batch_size is 1 and min_new .*, expected 2 or more and 1 or more"),
        ({"min_new": 0}, "min_new 0"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        FinetuneDataModule(**({"increments": ["a.npz"]} | settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["increments", "old_increments"])
def test_a_file_that_is_no_increment_is_refused(write: Write, tmp_path: Path, name: str) -> None:
    (tmp_path / "text.npz").write_text("not an array")
    files: dict[str, Any] = {"increments": [write()], name: [tmp_path / "text.npz"]}
    with pytest.raises(IncrementError, match=r"text\.npz"):
        FinetuneDataModule(**files, source="synthetic", num_synthetic=NUM_OLD).setup("fit")
