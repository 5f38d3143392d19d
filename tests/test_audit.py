import io

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data import synthetic
from cifar_lit.data.image_set import ImageSet
from cifar_lit.evaluation.audit import Audit, Finding, audit

TRAIN = synthetic.draw("train", 400)
TEST = synthetic.draw("test", 200)
NEW = TRAIN.subset(torch.arange(300, 400))
KNOWN = TRAIN.subset(torch.arange(300))


class NearestMean(nn.Module):
    """Knows the synthetic classes; `sharpness` makes it more or less sure of its answers."""

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__()
        pixels = KNOWN.images.permute(0, 3, 1, 2).flatten(1).float()
        self.means = nn.Parameter(torch.stack([pixels[KNOWN.labels == label].mean(0) for label in range(10)]))
        self.sharpness = sharpness

    def forward(self, images: Tensor) -> Tensor:
        return -torch.cdist(images.flatten(1).float(), self.means) / 30 * self.sharpness


def labelled(labels: Tensor, images: Tensor = NEW.images) -> ImageSet:
    return ImageSet(images, labels, "made")


def checked(data: ImageSet, network: nn.Module | None = None) -> Audit:
    return audit(data, KNOWN, TEST, network or NearestMean())


def codes(found: Audit) -> list[str]:
    return [finding.code for finding in found.findings]


def the(code: str, found: Audit) -> Finding:
    (finding,) = [finding for finding in found.findings if finding.code == code]
    return finding


def jpeg(images: Tensor) -> Tensor:
    decoded = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.numpy()).save(buffer, "JPEG", quality=85)
        decoded.append(torch.frombuffer(bytearray(Image.open(buffer).tobytes()), dtype=torch.uint8))
    return torch.stack(decoded).reshape(-1, 32, 32, 3)


def test_sound_data_have_no_findings() -> None:
    found = checked(NEW)
    assert codes(found) == []
    assert found.ok
    assert found.faulty_rows.tolist() == []
    assert found.clean_rows.tolist() == [*range(100)]
    assert found.text() == (
        "100 images: airplane 10, automobile 10, bird 10, cat 10, deer 10, dog 10, frog 10, horse 10, ship\n"
        "10, truck 10\n\n0 errors, 0 warnings.\n"
    )
    assert found.doubts_png() is None


# Labels and their balance


def test_one_image_of_one_class() -> None:
    found = checked(NEW.subset(torch.tensor([3])))
    assert codes(found) == ["one_class"]
    assert "one class only, cat" in found.findings[0].message
    assert found.ok


def test_missing_classes_are_named() -> None:
    found = checked(NEW.subset((NEW.labels < 8).nonzero().squeeze(1)))
    assert codes(found) == ["missing_classes"]
    assert "2 of the 10 classes do not occur: ship, truck." in found.findings[0].message


@pytest.mark.parametrize(
    ("airplanes", "cats", "expected"), [(20, 4, True), (21, 5, False), (25, 5, True), (19, 1, False)]
)
def test_classes_out_of_balance(airplanes: int, cats: int, expected: bool) -> None:
    rows = torch.cat([(KNOWN.labels == label).nonzero().squeeze(1)[:n] for label, n in ((0, airplanes), (3, cats))])
    found = audit(KNOWN.subset(rows))
    assert codes(found) == ["missing_classes"] + ["unbalanced"] * expected
    if expected:
        assert f"{airplanes} of airplane, {cats} of cat" in the("unbalanced", found).message


# Copies


def test_copies_inside_are_warned_of_and_left_out_of_the_clean_rows() -> None:
    rows = torch.tensor([*range(20), 4, 4])
    data = ImageSet(torch.cat([NEW.images[rows], jpeg(NEW.images[7:8])]), NEW.labels[torch.tensor([*rows, 7])], "made")
    found = checked(data)
    finding = the("duplicates", found)
    assert (finding.severity, finding.rows) == ("warning", (20, 21, 22))
    assert [detail["copy_of"] for detail in finding.details] == [4, 4, 7]
    assert found.ok
    assert found.clean_rows.tolist() == [*range(20)]
    assert "Rows: 20 = 4; 21 = 4; 22 = 7." in found.text()


def test_one_image_with_two_labels_is_an_error_whichever_is_right() -> None:
    images = torch.cat([NEW.images[:20], jpeg(NEW.images[4:5]), NEW.images[7:8]])
    labels = torch.cat([NEW.labels[:20], torch.tensor([9]), NEW.labels[7:8]])
    found = audit(ImageSet(images, labels, "made"))
    finding = the("conflicting_labels", found)
    assert (finding.severity, finding.rows) == ("error", (4, 20))
    assert "4 is deer; 20 is truck like 4." in found.text()
    assert the("duplicates", found).rows == (21,)
    assert not found.ok
    assert found.faulty_rows.tolist() == [4, 20]
    assert found.clean_rows.tolist() == [row for row in range(20) if row != 4]


@pytest.mark.parametrize(("count", "severity"), [(2, "warning"), (3, "error")])
def test_copies_of_test_images_are_an_error_if_they_are_most(count: int, severity: str) -> None:
    found = checked(NEW.subset(torch.tensor([0, 11])) + TEST.subset(torch.arange(10, 10 + count)))
    assert the("test_overlap", found).severity == severity
    assert found.clean_rows.tolist() == [0, 1]


def test_copies_of_test_and_of_training_images_are_warned_of() -> None:
    images = torch.cat([NEW.images[:10], TEST.images[5:6], jpeg(TEST.images[15:16]), KNOWN.images[30:31].flip(2)])
    labels = torch.cat([NEW.labels[:10], TEST.labels[[5, 15]], torch.tensor([8])])
    found = checked(ImageSet(images, labels, "made"))
    test, train = the("test_overlap", found), the("train_overlap", found)
    assert (test.severity, test.rows) == ("warning", (10, 11))
    assert [(detail["copy_of"], detail["exact"]) for detail in test.details] == [(5, True), (15, False)]
    assert "2 images are copies of test images: 1 pixel for pixel, 1 altered a little." in test.message
    assert (train.severity, train.rows) == ("warning", (12,))
    assert train.details[0] == {
        "row": 12,
        "copy_of": 30,
        "exact": False,
        "label": "ship",
        "label_there": "airplane",
    }
    assert "1 with another label than there" in train.message
    assert "Rows: 12 = train 30 (airplane there)." in found.text()
    assert found.clean_rows.tolist() == [*range(10), 12]


# Flat images


@pytest.mark.parametrize(("count", "severity"), [(1, "warning"), (50, "warning"), (51, "error"), (100, "error")])
def test_flat_images_are_an_error_if_they_are_most(count: int, severity: str) -> None:
    images = NEW.images.clone()
    images[:count] = torch.arange(count, dtype=torch.uint8)[:, None, None, None]
    found = checked(labelled(NEW.labels, images))
    finding = the("flat_images", found)
    assert (finding.severity, finding.rows) == (severity, tuple(range(count)))
    assert found.ok == (severity == "warning")
    assert found.faulty_rows.tolist() == ([*range(count)] if severity == "error" else [])
    assert codes(found) == ["flat_images"], "a network's opinion of a flat image is not asked"


# Doubted labels


def test_wrong_labels_are_doubted_and_ranked() -> None:
    labels = NEW.labels.clone()
    wrong = [2, 30, 77]
    labels[wrong] = (labels[wrong] + 3) % 10
    found = audit(labelled(labels), network=NearestMean(sharpness=0.15))
    finding = the("doubted_labels", found)
    assert finding.severity == "warning"
    assert sorted(finding.rows) == wrong
    assert [detail["row"] for detail in finding.details] == [*finding.rows]
    assert [detail["rank"] for detail in finding.details] == [1, 2, 3]
    own = [detail["probability"] for detail in finding.details]
    assert own == sorted(set(own))
    for detail in finding.details:
        assert detail["label"] == CLASS_NAMES[labels[detail["row"]]]
        assert detail["predicted"] == CLASS_NAMES[NEW.labels[detail["row"]]]
        assert detail["predicted_probability"] > detail["probability"]
    assert found.ok
    assert found.clean_rows.tolist() == [*range(100)]
    assert "labels_look_wrong" not in codes(found)


def test_an_unsure_network_doubts_nothing() -> None:
    assert codes(checked(labelled((NEW.labels + 1) % 10), NearestMean(sharpness=0.001))) == ["labels_look_wrong"]


def test_sureness_is_that_of_the_test_set() -> None:
    labels = NEW.labels.clone()
    labels[:20] = (labels[:20] + 1) % 10
    network = NearestMean(sharpness=0.2)
    probs = network(NEW.images.permute(0, 3, 1, 2)).softmax(1).amax(1)
    known = network(TEST.images.permute(0, 3, 1, 2)).softmax(1)[torch.arange(200), TEST.labels]
    means = torch.stack([known[TEST.labels == label].mean() for label in range(10)])
    assert means.min() > 0.5
    sure = [row for row in range(20) if probs[row] >= means[NEW.labels[row]]]
    assert 0 < len(sure) < 20
    assert sorted(the("doubted_labels", checked(labelled(labels), network)).rows) == sure


@pytest.mark.parametrize("with_test", [True, False])
@pytest.mark.parametrize(
    "labels",
    [NEW.labels[torch.randperm(100, generator=torch.Generator().manual_seed(0))], torch.full((100,), 3)],
    ids=["shuffled", "one label for all"],
)
def test_labels_that_are_wrong_as_a_whole(labels: Tensor, with_test: bool) -> None:
    found = audit(labelled(labels), KNOWN, TEST if with_test else None, NearestMean(3))
    finding = the("labels_look_wrong", found)
    assert finding.severity == "warning"
    assert finding.message.startswith("THE LABELS AS A WHOLE LOOK WRONG: the network agrees with")
    assert len(the("doubted_labels", found).rows) > 50


def test_some_wrong_labels_or_a_few_images_are_not_wrong_as_a_whole() -> None:
    labels = NEW.labels.clone()
    labels[:40] = (labels[:40] + 1) % 10
    assert "labels_look_wrong" not in codes(checked(labelled(labels)))
    few = labelled(labels).subset(torch.arange(9))
    assert "labels_look_wrong" not in codes(checked(few))
    assert "labels_look_wrong" in codes(checked(labelled(labels).subset(torch.arange(10))))


@pytest.mark.parametrize("labels", [NEW.labels, torch.full((100,), 3)])
def test_one_image_a_hundred_times(labels: Tensor) -> None:
    found = checked(labelled(labels, NEW.images[:1].repeat(100, 1, 1, 1)))
    if len(labels.unique()) == 1:
        assert the("duplicates", found).rows == tuple(range(1, 100))
        assert found.clean_rows.tolist() == [0]
    else:
        assert the("conflicting_labels", found).rows == tuple(range(100))
        assert found.clean_rows.tolist() == []


# What cannot be checked, and how it is told


def test_what_could_not_be_checked_is_said() -> None:
    found = audit(NEW)
    assert found.not_checked == ("copies of training images", "copies of test images", "doubtful labels")
    assert "Not checked: copies of training images, copies of test images, doubtful labels." in found.text()
    assert audit(NEW, None, TEST, None).not_checked == ("copies of training images", "doubtful labels")


def test_json_has_everything_as_plain_values() -> None:
    labels = NEW.labels.clone()
    labels[0] = 5
    found = checked(labelled(labels, torch.cat([NEW.images[:99], NEW.images[:1]])))
    about = found.as_json()
    assert list(about) == ["count", "ok", "classes", "findings", "faulty_rows", "not_checked"]
    assert (about["count"], about["ok"], about["faulty_rows"]) == (100, False, [0, 99])
    assert about["classes"] == dict(zip(CLASS_NAMES, [9, 10, 10, 10, 10, 11, 10, 10, 10, 10], strict=True))
    conflict = about["findings"][0]
    assert list(conflict) == ["severity", "code", "message", "suggestion", "rows", "details"]
    assert conflict["details"] == [
        {"row": 0, "copy_of": 0, "label": "dog"},
        {"row": 99, "copy_of": 0, "label": "truck"},
    ]


def test_long_lists_of_rows_are_shortened_in_the_text_only() -> None:
    found = checked(NEW.subset(torch.zeros(50, dtype=torch.int64)))
    assert len(the("duplicates", found).details) == 49
    assert "and 37 more." in found.text().replace("\n  ", " ")
    assert all(len(line) <= 100 for line in found.text().splitlines())


@pytest.mark.usefixtures("unabridged")
def test_the_figure_shows_the_most_doubtful_first() -> None:
    labels = (NEW.labels + 1) % 10
    found = checked(labelled(labels), NearestMean(3))
    figure = found.doubts_png(num_images=9)
    assert figure is not None
    with Image.open(io.BytesIO(figure)) as image:
        assert image.size == (1632, 564)  # two lines of eight
    assert figure != checked(labelled((NEW.labels + 2) % 10), NearestMean(3)).doubts_png(num_images=9)
