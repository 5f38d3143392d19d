import io
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from comparisons import answers, comparison
from PIL import Image

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.evaluation import forgetting_report
from cifar_lit.evaluation.comparison import Comparison


def of(labels: list[int], before: list[int], after: list[int]) -> Comparison:
    """By label and rank of the right answer."""
    given = torch.tensor(labels)
    return Comparison(answers(given, torch.tensor(before)), answers(given, torch.tensor(after)))


# Four cats, of which two are lost and one gained; two dogs, of which one is gained; no other class.
SMALL = of([3, 3, 3, 3, 5, 5], before=[0, 0, 0, 1, 1, 0], after=[1, 0, 2, 0, 0, 0])


def test_forgetting_is_what_a_class_lost_and_zero_for_what_it_gained() -> None:
    forgotten = forgetting_report.forgetting(SMALL)
    assert forgotten.shape == (10,)
    assert forgotten[3].item() == pytest.approx(25)
    assert forgotten.sum().item() == pytest.approx(25)


def test_recalls_are_those_before_and_after() -> None:
    before, after, support = forgetting_report.recalls(SMALL)
    assert support.tolist() == [0, 0, 0, 4, 0, 2, 0, 0, 0, 0]
    assert (before[3].item(), after[3].item()) == (0.75, 0.5)
    assert (before[5].item(), after[5].item()) == (0.5, 1.0)


def test_overview_has_a_row_for_each_set_with_its_figures() -> None:
    rows = forgetting_report.overview(
        {"old": comparison(right=700, lost=2, gained=5, wrong=293), "new": SMALL}
    ).splitlines()
    assert rows[0].split() == ["images", "before", "after", "change", "lost", "gained"]
    assert rows[1].split()[:7] == ["old", "1,000", "0.7020", "0.7050", "+0.30", "2", "5"]
    assert rows[1].endswith("old images, held out from all training")
    assert rows[2].split()[:7] == ["new", "6", "0.6667", "0.6667", "+0.00", "2", "2"]


def test_by_class_leaves_out_classes_without_images() -> None:
    rows = forgetting_report.by_class("new", SMALL).splitlines()
    assert [row.split()[0] for row in rows] == ["new,", "cat", "dog", "mean"]
    assert rows[1].split() == ["cat", "4", "0.7500", "0.5000", "-25.00", "25.00"]
    assert rows[2].split() == ["dog", "2", "0.5000", "1.0000", "+50.00", "0.00"]
    assert rows[3].split() == ["mean", "forgetting", "12.50"]


def test_text_has_the_overview_each_set_by_class_and_the_rows_that_flipped() -> None:
    both = {"old": comparison(right=700, lost=22, wrong=278), "new": SMALL}
    text = forgetting_report.text(both)
    assert text.startswith(forgetting_report.overview(both))
    assert all(forgetting_report.by_class(name, each) in text for name, each in both.items())
    of_old, of_new = text[text.index("old, lost\n") :].split("\n\n", 1)
    assert of_new == (
        "new, lost\n  #0 cat: cat -> deer\n  #2 cat: cat -> deer\n\n"
        "new, gained\n  #3 cat: deer -> cat\n  #4 dog: frog -> dog\n"
    )
    # Of many the first twenty
    assert of_old.splitlines()[1] == "  #700 airplane: airplane -> automobile"
    assert of_old.splitlines()[20:] == ["  #719 truck: truck -> airplane", "  and 2 more, in forgetting.json"]


def test_other_class_names_are_used() -> None:
    names = [f"kind {index}" for index in range(10)]
    renamed = Comparison(*(replace(each, class_names=names) for each in (SMALL.before, SMALL.after)))
    assert "kind 3 " in forgetting_report.text({"new": renamed})
    assert set(forgetting_report.as_json({"new": renamed})["new"]["per_class"]) == {"kind 3", "kind 5"}


def test_json_has_figures_per_class_and_the_rows_that_flipped() -> None:
    value = json.loads(json.dumps(forgetting_report.as_json({"new": SMALL})))["new"]
    assert value["count"] == 6
    assert value["before"]["acc"] == value["after"]["acc"] == pytest.approx(4 / 6, abs=1e-6)
    assert str(value["change_points"]) == "0.0"  # and not "-0.0"
    assert value["mean_forgetting_points"] == pytest.approx(12.5)
    assert value["per_class"] == {
        "cat": {"count": 4, "before": 0.75, "after": 0.5, "forgetting_points": pytest.approx(25)},
        "dog": {"count": 2, "before": 0.5, "after": 1.0, "forgetting_points": 0},
    }
    assert value["flipped"] == [
        {"row": 0, "label": "cat", "before": "cat", "after": "deer"},
        {"row": 2, "label": "cat", "before": "cat", "after": "deer"},
        {"row": 3, "label": "cat", "before": "deer", "after": "cat"},
        {"row": 4, "label": "dog", "before": "frog", "after": "dog"},
    ]


@pytest.mark.usefixtures("unabridged")
@pytest.mark.parametrize(
    "comparisons",
    [
        {"learned": of([7], [1], [0])},  # one image
        {"old": comparison(right=80, lost=3, wrong=17), "new": SMALL, "learned": SMALL, "test": comparison(right=10)},
    ],
    ids=["one image", "all sets"],
)
def test_png_is_an_image_of_every_set(comparisons: forgetting_report.Comparisons) -> None:
    sizes = []
    for shown in (comparisons, {"old": comparison(right=80, lost=3, wrong=17)}):
        image = Image.open(io.BytesIO(forgetting_report.png(shown, "Learned and lost")))
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 200
        sizes.append(image.size)
    assert len(comparisons) == 1 or sizes[0] != sizes[1]


def test_png_shows_accuracy_of_all_and_of_each_class_that_has_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        forgetting_report.plots, "before_and_after", lambda panels, title: seen.append((panels, title)) or b""
    )
    forgetting_report.png({"new": SMALL}, "a title")
    (panel, rows), title = seen[0][0][0], seen[0][1]
    assert (panel, title) == ("new images, held out (6)", "a title")
    assert rows == [
        ("all", pytest.approx(4 / 6, abs=1e-6), pytest.approx(4 / 6, abs=1e-6)),
        ("cat", 0.75, 0.5),
        ("dog", 0.5, 1.0),
    ]
    assert {name for name, _, _ in rows[1:]} < set(CLASS_NAMES)


def test_flipped_images_are_shown_as_gained_and_lost_the_most_confident_of_each_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, Any] = {}

    def grid(groups: list[tuple[str, bool, torch.Tensor, list[tuple[str, str]]]], title: str) -> bytes:
        seen.update(groups=groups, title=title)
        return b"png"

    monkeypatch.setattr(forgetting_report.plots, "groups_of_images", grid)
    old = comparison(right=70, lost=9, gained=1, wrong=20)
    old.after.logits[73] *= 0.01  # the least sure of the nine losses
    images = {"old": torch.arange(100), "new": torch.arange(200, 206)}
    pixels = {name: rows[:, None, None, None].expand(-1, 32, 32, 3).byte() for name, rows in images.items()}
    assert forgetting_report.flipped_png({"old": old, "new": SMALL}, pixels, "a title") == b"png"
    gained, lost = seen["groups"]
    assert (gained[0], gained[1]) == ("Gained: wrong before, right now", True)
    assert (lost[0], lost[1]) == ("Lost: right before, wrong now", False)
    of_gained, of_lost = (group[2][:, 0, 0, 0].tolist() for group in (gained, lost))
    assert (of_gained[0], sorted(of_gained[1:])) == (79, [203, 204])
    assert (sorted(of_lost[:8]), sorted(of_lost[8:])) == ([70, 71, 72, 74, 75, 76, 77, 78], [200, 202])
    assert ("frog → dog", "new #4, dog") in gained[3]
    assert [len(group[3]) for group in (gained, lost)] == [3, 10]
    assert seen["title"] == "a title"
    # A group without images is left out
    forgetting_report.flipped_png({"new": of([3], [1], [0])}, pixels, "")
    assert [group[1] for group in seen["groups"]] == [True]


@pytest.mark.usefixtures("unabridged")
def test_a_change_of_nothing_has_no_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    text = forgetting_report.text({"old": comparison(right=700, wrong=300)})
    assert "-0.00" not in text
    # 1 of 10,000 lost is 0.01 points, which an image rounds away
    drawn: list[str] = []
    monkeypatch.setattr("matplotlib.axes.Axes.annotate", lambda self, text, *_, **__: drawn.append(text))
    forgetting_report.png({"old": comparison(right=9_000, lost=1, wrong=999)}, "")
    assert "-0.0" not in drawn
    assert "+0.0" in drawn


def test_no_image_is_made_if_no_answer_flipped() -> None:
    assert (
        forgetting_report.flipped_png({"old": comparison(right=10, wrong=2)}, {"old": torch.zeros(12, 32, 32, 3)}, "")
        is None
    )
