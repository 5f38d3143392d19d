import io
from collections.abc import Callable

import pytest
import torch
from PIL import Image

from cifar_lit.evaluation import plots
from cifar_lit.evaluation.evaluation import Evaluation

pytestmark = pytest.mark.usefixtures("unabridged")

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (30, 32, 32, 3), dtype=torch.uint8, generator=GENERATOR)
LABELS = torch.arange(30) % 10
GUESSED = Evaluation(torch.randn(30, 10, generator=GENERATOR), LABELS)
RIGHT = Evaluation(torch.eye(10)[LABELS], LABELS)
WRONG = Evaluation(torch.eye(10)[(LABELS + 1) % 10], LABELS)
HISTORY = [
    {"epoch": epoch, "lr": 0.1, "train/loss": 2.0 / (epoch + 1), "train/acc": 0.5, "val/loss": 1.0, "val/acc": 0.6}
    for epoch in range(4)
]
TRAIN_ONLY = [{name: value for name, value in row.items() if "val/" not in name} for row in HISTORY]


def grid(evaluation: Evaluation, count: int = 30, num_images: int = 40) -> bytes:
    few = Evaluation(evaluation.logits[:count], evaluation.labels[:count])
    return plots.sample_grid(IMAGES[:count], few, "Title", num_images=num_images)


@pytest.mark.parametrize(
    ("draw", "size"),
    [
        (lambda: plots.confusion_matrix(GUESSED, "Title"), (960, 840)),
        (lambda: plots.confusion_matrix(RIGHT, "Title"), (960, 840)),
        (lambda: plots.curves(HISTORY, "Title", best_epoch=2), (1200, 480)),
        (lambda: plots.curves(HISTORY[:1], "one epoch"), (1200, 480)),
        (lambda: plots.curves(TRAIN_ONLY, "no validation", best_epoch=0), (1200, 480)),
        (lambda: plots.curves([], "nothing"), (1200, 480)),
        (lambda: grid(GUESSED, num_images=20), (1620, 480)),
        (lambda: grid(RIGHT), (1620, 690)),  # no mistakes: all 30
        (lambda: grid(WRONG), (1620, 480)),  # nothing but mistakes: half of 40
        (lambda: grid(GUESSED, count=3), (1620, 270)),  # fewer than asked
    ],
    ids=lambda value: "" if callable(value) else None,
)
def test_images_are_png_of_a_known_size(draw: Callable[[], bytes], size: tuple[int, int]) -> None:
    data = draw()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == size
        assert image.convert("L").getextrema()[0] < 100, "something is drawn"


@pytest.mark.parametrize("counts", [(3, 20), (1, 1), (9,)])
def test_groups_of_images_lie_under_each_other(counts: tuple[int, ...]) -> None:
    captions = [("cat → dog", "old #1, dog")] * 30
    groups = [(f"Group {i}", not i, IMAGES[:count], captions[:count]) for i, count in enumerate(counts)]
    data = plots.groups_of_images(groups, "Title")
    assert data == plots.groups_of_images(groups, "Title")
    with Image.open(io.BytesIO(data)) as image:
        lines = sum(-(-count // 8) for count in counts)
        assert image.size == (1632, round(120 * (2.1 * lines + 0.5 * (len(counts) + 1))))
    assert data != plots.groups_of_images(
        [(name, not good, images, texts) for name, good, images, texts in groups], "Title"
    )


def test_equal_input_gives_equal_bytes() -> None:
    assert grid(GUESSED, count=4) == grid(GUESSED, count=4)
    assert plots.curves(HISTORY, "Title") == plots.curves(HISTORY, "Title")
    assert plots.confusion_matrix(GUESSED, "Title") == plots.confusion_matrix(GUESSED, "Title")


def test_the_kept_epoch_and_validation_are_drawn() -> None:
    assert plots.curves(HISTORY, "") != plots.curves(HISTORY, "", best_epoch=1) != plots.curves(TRAIN_ONLY, "")


def test_a_wrong_answer_is_drawn_unlike_a_right_one() -> None:
    assert grid(RIGHT, count=1) != grid(WRONG, count=1)


def test_a_reliability_diagram_is_drawn_before_and_after() -> None:
    before, after = (plots.calibration(GUESSED, temperature) for temperature in (1.0, 2.0))
    assert Image.open(io.BytesIO(after)).size == (960, 552)
    assert before != after
