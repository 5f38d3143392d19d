"""What an evaluation measures, and how it reads as text and as JSON."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import tiny_network
from torch import Tensor, nn

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data.image_set import ImageSet
from cifar_lit.evaluation.evaluation import Evaluation, classify, evaluate
from cifar_lit.models.networks import Network


def answers(preds: list[int], labels: list[int], num_classes: int) -> Evaluation:
    """An evaluation with the given answers, each with logit 1 beside zeros."""
    return Evaluation(torch.eye(num_classes)[torch.tensor(preds)], torch.tensor(labels))


def image_set(count: int) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(count) % 10, "drawn")


def test_metrics_of_a_case_worked_out_by_hand() -> None:
    evaluation = answers(preds=[0, 0, 1, 1, 2], labels=[0, 1, 1, 1, 0], num_classes=3)
    assert evaluation.confusion_matrix.tolist() == [[1, 0, 1], [1, 2, 0], [0, 0, 0]]
    assert evaluation.per_class["precision"].tolist() == pytest.approx([1 / 2, 1, 0])
    assert evaluation.per_class["recall"].tolist() == pytest.approx([1 / 2, 2 / 3, 0])
    assert evaluation.per_class["f1"].tolist() == pytest.approx([1 / 2, 4 / 5, 0])
    assert evaluation.per_class["support"].tolist() == [2, 3, 0]
    right, wrong = math.log(1 + 2 / math.e), math.log(math.e + 2)
    assert evaluation.metrics == pytest.approx(
        {
            "loss": (3 * right + 2 * wrong) / 5,
            "acc": 3 / 5,
            "precision": (1 / 2 + 1 + 0) / 3,
            "recall": (1 / 2 + 2 / 3 + 0) / 3,
            "f1": (1 / 2 + 4 / 5 + 0) / 3,
        },
        abs=1e-6,
    )


@pytest.mark.parametrize(("count", "num_classes"), [(500, 10), (1, 10), (7, 3)])
def test_metrics_equal_their_formulas(count: int, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(count)
    logits = torch.randn(count, num_classes, generator=generator)
    labels = torch.randint(0, num_classes, (count,), generator=generator)
    evaluation = Evaluation(logits, labels)
    preds = [max(range(num_classes), key=row.__getitem__) for row in logits.tolist()]
    truth = labels.tolist()
    pairs = list(zip(truth, preds, strict=True))
    counts = [[pairs.count((row, column)) for column in range(num_classes)] for row in range(num_classes)]
    precision, recall, f1 = [], [], []
    for k in range(num_classes):
        hits, predicted, true = counts[k][k], preds.count(k), truth.count(k)
        precision.append(hits / predicted if predicted else 0)
        recall.append(hits / true if true else 0)
        f1.append(2 * hits / (predicted + true) if predicted + true else 0)
    occurring = len(set(preds) | set(truth))
    losses = [math.log(sum(map(math.exp, row))) - row[label] for row, label in zip(logits.tolist(), truth, strict=True)]
    assert evaluation.preds.tolist() == preds
    assert evaluation.confusion_matrix.tolist() == counts
    assert evaluation.per_class["precision"].tolist() == pytest.approx(precision)
    assert evaluation.per_class["recall"].tolist() == pytest.approx(recall)
    assert evaluation.per_class["f1"].tolist() == pytest.approx(f1)
    assert evaluation.metrics == pytest.approx(
        {
            "loss": sum(losses) / count,
            "acc": sum(row == column for row, column in pairs) / count,
            "precision": sum(precision) / occurring,
            "recall": sum(recall) / occurring,
            "f1": sum(f1) / occurring,
        },
        abs=2e-6,
    )


def test_a_class_that_never_occurs_is_left_out_of_the_means() -> None:
    evaluation = answers(preds=[0, 1], labels=[0, 1], num_classes=10)
    assert [evaluation.metrics[name] for name in ("acc", "precision", "recall", "f1")] == [1, 1, 1, 1]
    assert evaluation.per_class["recall"].tolist() == [1, 1, *[0] * 8]


def test_probs_sum_to_one() -> None:
    evaluation = Evaluation(100 * torch.randn(50, 10), torch.zeros(50, dtype=torch.int64))
    torch.testing.assert_close(evaluation.probs.sum(1), torch.ones(50))


def test_named_metrics_carry_the_split() -> None:
    named = answers([0], [0], 2).named_metrics("test")
    assert list(named) == ["test/loss", "test/acc", "test/precision", "test/recall", "test/f1"]
    assert named["test/acc"] == 1.0


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_runs_in_evaluation_mode_and_restores_the_mode(training: bool) -> None:
    network, data = tiny_network().train(training), image_set(20)
    first, second = evaluate(network, data), evaluate(network, data)
    assert torch.equal(first.logits, second.logits), "no dropout"
    assert network.training is training
    assert torch.equal(first.labels, data.labels)


def test_evaluate_restores_the_mode_after_an_error() -> None:
    class Broken(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("broken")

    network = Broken(1, 1).train()
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(network, image_set(3))
    assert network.training


@pytest.mark.parametrize("batch_size", [1, 7, 30, 500])
def test_evaluate_does_not_depend_on_the_batch_size(network: Network, batch_size: int) -> None:
    data = image_set(30)
    expected = evaluate(network, data)
    evaluation = evaluate(network, data, batch_size=batch_size)
    torch.testing.assert_close(evaluation.logits, expected.logits, rtol=1e-5, atol=1e-5)
    assert evaluation.metrics == pytest.approx(expected.metrics, abs=2e-6)


def test_evaluate_answers_in_the_order_of_the_images(network: Network) -> None:
    data = image_set(12)
    with torch.inference_mode():
        expected = torch.cat([network(image[None].permute(0, 3, 1, 2)) for image in data.images])
    torch.testing.assert_close(evaluate(network, data, batch_size=5).logits, expected, rtol=1e-5, atol=1e-5)


def test_tta_flip_is_the_mean_over_an_image_and_its_mirror(network: Network) -> None:
    data = image_set(6)
    mirrored = ImageSet(data.images.flip(2), data.labels, "mirrored")
    both = evaluate(network, data, tta_flip=True).logits
    mean = (evaluate(network, data).logits + evaluate(network, mirrored).logits) / 2
    torch.testing.assert_close(both, mean)
    torch.testing.assert_close(both, evaluate(network, mirrored, tta_flip=True).logits)


def test_classify_gives_float32() -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    half = nn.Flatten()
    half.register_forward_hook(lambda module, args, output: output.half())
    assert classify(half, images, tta_flip=True).dtype == torch.float32


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [1, 2, 5])
def test_tta_shift_is_the_mean_over_an_image_and_the_moved_ones(network: Network, flip: bool, shift: int) -> None:
    data = image_set(6)
    padded = np.pad(data.images.numpy(), ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="reflect")
    far = 32 + 2 * shift
    corners = padded[:, :32, :32], padded[:, far - 32 :, far - 32 :]
    views = [data, *(ImageSet(torch.from_numpy(each.copy()), data.labels, "moved") for each in corners)]
    plain, *moved = (evaluate(network, each, tta_flip=flip).logits for each in views)
    expected = plain / 2 + sum(moved) / 4
    torch.testing.assert_close(evaluate(network, data, tta_flip=flip, tta_shift=shift).logits, expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
def test_the_views_keep_the_dtype_of_the_images(dtype: torch.dtype) -> None:
    seen = []

    class Answer(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append((images.dtype, images.shape))
            return images.float().mean((2, 3))

    classify(Answer(), torch.zeros(2, 3, 32, 32, dtype=dtype), tta_flip=True, tta_shift=1)
    assert seen == [(dtype, (2, 3, 32, 32))] * 6


NAMES = ["cat", "dog", "frog"]
EVALUATION = Evaluation(torch.eye(3)[torch.tensor([0, 0, 1, 1, 2])], torch.tensor([0, 1, 1, 1, 0]), NAMES)

TEXT = """\
               precision  recall      f1  support
cat               0.5000  0.5000  0.5000        2
dog               1.0000  0.6667  0.8000        3
frog              0.0000  0.0000  0.0000        0

accuracy                          0.6000        5
macro mean        0.5000  0.3889  0.4333        5
weighted mean     0.8000  0.6000  0.6800        5
cross-entropy                     0.9514        5
"""


def test_the_text_has_a_row_a_class_then_accuracy_and_means() -> None:
    assert EVALUATION.classification_report() == TEXT


def test_the_columns_stay_in_place_for_ten_thousand_images_and_for_long_names() -> None:
    labels = torch.arange(10_000) % 10
    text = Evaluation(torch.eye(10)[labels], labels, ["a" * 30, *CLASS_NAMES[1:]]).classification_report()
    rows = [line for line in text.splitlines() if line]
    assert len({len(row) for row in rows}) == 1
    assert rows[1].split() == ["a" * 30, "1.0000", "1.0000", "1.0000", "1000"]


def test_the_json_has_metrics_classes_and_confusion_matrix() -> None:
    values = EVALUATION.as_json()
    assert json.loads(json.dumps(values)) == values
    assert list(values) == ["loss", "acc", "precision", "recall", "f1", "count", "per_class", "confusion_matrix"]
    assert (values["acc"], values["count"]) == (0.6, 5)
    assert values["per_class"]["dog"] == {
        "precision": 1.0,
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(0.8),
        "support": 3,
    }
    assert values["confusion_matrix"] == [[1, 0, 1], [1, 2, 0], [0, 0, 0]]
