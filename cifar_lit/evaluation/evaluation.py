"""What a network predicts for labelled images, and the measures of how good that is, as numbers, text and JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data.image_set import ImageSet


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions beside labels.

    Attributes:
        logits: float32 (N, K), on the CPU.
        labels: int64 (N,), on the CPU.
        class_names: in label order.
    """

    logits: Tensor
    labels: Tensor
    class_names: Sequence[str] = CLASS_NAMES

    @property
    def num_classes(self) -> int:
        return self.logits.shape[1]

    @cached_property
    def probs(self) -> Tensor:
        """float32 (N, K); rows sum to 1."""
        return self.logits.softmax(1)

    @cached_property
    def preds(self) -> Tensor:
        """int64 (N,): the most probable class of each image."""
        return self.logits.argmax(1)

    @cached_property
    def confusion_matrix(self) -> Tensor:
        """int64 (K, K): rows are true classes, columns predicted ones."""
        return multiclass_confusion_matrix(self.preds, self.labels, self.num_classes)

    @cached_property
    def per_class(self) -> dict[str, Tensor]:
        """`precision`, `recall` and `f1`, float32 (K,) each, and `support`, int64 (K,)."""
        arguments = (self.preds, self.labels, self.num_classes)
        return {
            "precision": multiclass_precision(*arguments, average=None),
            "recall": multiclass_recall(*arguments, average=None),
            "f1": multiclass_f1_score(*arguments, average=None),
            "support": torch.bincount(self.labels, minlength=self.num_classes),
        }

    @cached_property
    def metrics(self) -> dict[str, float]:
        """`loss` (mean cross-entropy in nats), `acc`, and `precision`, `recall`, `f1` as means over the classes that
        occur among labels or predictions."""
        arguments = (self.preds, self.labels, self.num_classes)
        values = {
            "loss": cross_entropy(self.logits, self.labels),
            "acc": multiclass_accuracy(*arguments, average="micro"),
            "precision": multiclass_precision(*arguments, average="macro"),
            "recall": multiclass_recall(*arguments, average="macro"),
            "f1": multiclass_f1_score(*arguments, average="macro"),
        }
        # float32 sums leave noise in the seventh digit, such as an accuracy above 1
        return {name: round(value.item(), 6) for name, value in values.items()}

    def named_metrics(self, split: str) -> dict[str, float]:
        """The metrics under the names they are logged by: `test/acc` and so on."""
        return {f"{split}/{name}": value for name, value in self.metrics.items()}

    def classification_report(self) -> str:
        """A table of precision, recall, F1 and support, a row a class, then accuracy and the means."""
        columns, class_names = self.per_class, self.class_names
        support = columns["support"]
        width = max(map(len, (*class_names, "weighted mean")))
        lines = [f"{'':{width}}  precision  recall      f1  support"]
        names = ("precision", "recall", "f1")

        def row(title: str, values: Sequence[float], count: int) -> str:
            precision, recall, f1 = values
            return f"{title:{width}}  {precision:9.4f}  {recall:6.4f}  {f1:6.4f}  {count:7d}"

        for index, title in enumerate(class_names):
            lines.append(row(title, [columns[name][index].item() for name in names], int(support[index])))
        metrics, total = self.metrics, int(support.sum())
        weighted = [float((columns[name] * support).sum() / total) for name in names]
        lines += [
            "",
            f"{'accuracy':{width}}  {'':9}  {'':6}  {metrics['acc']:6.4f}  {total:7d}",
            row("macro mean", [metrics[name] for name in names], total),
            row("weighted mean", weighted, total),
            f"{'cross-entropy':{width}}  {'':9}  {'':6}  {metrics['loss']:6.4f}  {total:7d}",
        ]
        return "\n".join(lines) + "\n"

    def as_json(self) -> dict[str, Any]:
        """The metrics, those of each class, and the confusion matrix (rows are true classes), as plain JSON values."""
        columns = {name: values.tolist() for name, values in self.per_class.items()}
        return {
            **self.metrics,
            "count": len(self.labels),
            "per_class": {
                title: {name: values[index] for name, values in columns.items()}
                for index, title in enumerate(self.class_names)
            },
            "confusion_matrix": self.confusion_matrix.tolist(),
        }


def classify(network: nn.Module, images: Tensor, *, tta_flip: bool = False, tta_shift: int = 0) -> Tensor:
    """Logits, test-time augmentation (TTA) included: the mean over several views of each image.

    Args:
        network: gives logits (B, K).
        images: (B, 3, 32, 32), 0..255.
        tta_flip: each view counts half as it is and half mirrored.
        tta_shift: half of the mean are the images, a quarter each are the images moved by this many pixels up and
            left, and down and right.

    Returns:
        float32 (B, K).
    """
    if tta_shift:
        moved = [_moved(images, by) for by in (-tta_shift, tta_shift)]
        left_up, right_down = (classify(network, each, tta_flip=tta_flip) for each in moved)
        return classify(network, images, tta_flip=tta_flip) / 2 + (left_up + right_down) / 4
    logits: Tensor = network(images)
    if tta_flip:
        logits = (logits + network(images.flip(-1))) / 2
    return logits.float()


@torch.inference_mode()
def evaluate(
    network: nn.Module, data: ImageSet, *, tta_flip: bool = False, tta_shift: int = 0, batch_size: int = 500
) -> Evaluation:
    """Runs `network` over `data` in evaluation mode and full precision, on the network's device."""
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    try:
        logits = [
            classify(network, images.to(device).permute(0, 3, 1, 2), tta_flip=tta_flip, tta_shift=tta_shift).cpu()
            for images in torch.split(data.images, batch_size)
        ]
    finally:
        network.train(was_training)
    return Evaluation(torch.cat(logits), data.labels.cpu(), data.class_names)


def _moved(images: Tensor, by: int) -> Tensor:
    """Images (B, C, H, W) down and right by so many pixels, or up and left; what comes in is their mirror image beyond
    the outermost pixel."""
    for dim in (2, 3):
        size = images.shape[dim]
        kept, edge = (0, 1) if by > 0 else (-by, size - 1 + by)
        inside = images.narrow(dim, kept, size - abs(by))
        outside = images.narrow(dim, edge, abs(by)).flip(dim)
        images = torch.cat([outside, inside] if by > 0 else [inside, outside], dim)
    return images
