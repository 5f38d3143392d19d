import json

import pytest
import torch

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.evaluation.evaluation import Evaluation

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
