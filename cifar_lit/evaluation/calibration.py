"""Calibration: how far confidence and accuracy lie apart, and the temperature that brings them together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cifar_lit.evaluation.evaluation import Evaluation

NUM_BINS = 15
_COLDEST, _HOTTEST = 0.01, 100.0
_HALVINGS = 60


@dataclass(frozen=True, eq=False)
class Reliability:
    """Predictions by their confidence, in bins of equal width over 0..1.

    Attributes:
        counts: int64 (bins,), predictions in each bin.
        confidence: float64 (bins,), their mean confidence; 0 in an empty bin.
        accuracy: float64 (bins,), share of them that are right; 0 in an empty bin.
    """

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def ece(self) -> float:
        """Expected calibration error, 0..1: the mean distance of confidence and accuracy over all predictions.

        Guo et al., "On Calibration of Modern Neural Networks" (2017).
        """
        gaps = (self.confidence - self.accuracy).abs()
        return round(float((gaps * self.counts).sum() / self.counts.sum()), 6)


def reliability(evaluation: Evaluation, num_bins: int = NUM_BINS) -> Reliability:
    """Sorts predictions into bins by the probability of the predicted class."""
    confidence, preds = evaluation.logits.double().softmax(1).max(1)
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64)[1:-1]
    bins = torch.bucketize(confidence, edges)
    counts = torch.bincount(bins, minlength=num_bins)
    sums = [
        torch.bincount(bins, weights=each, minlength=num_bins)
        for each in (confidence, (preds == evaluation.labels).double())
    ]
    confidences, accuracies = (each / counts.clamp(min=1) for each in sums)
    return Reliability(counts, confidences, accuracies)


def at_temperature(evaluation: Evaluation, temperature: float) -> Evaluation:
    """The same predictions, as confident as they are served: equal predictions, other probabilities."""
    return replace(evaluation, logits=evaluation.logits / temperature)


def fit_temperature(evaluation: Evaluation) -> float:
    """The temperature that makes the labels most likely: logits divided by it are as confident as they are right.

    Guo et al. (2017). The loss is convex in 1 / temperature, so halving an interval finds it. Labels count as
    (N + 1) / (N + 2) sure, as in Platt, "Probabilistic outputs for support vector machines" (1999): a few predictions
    that are all right do not prove a network infallible.

    Args:
        evaluation: of images that the network was not trained on; N of them, with finite logits.

    Returns:
        0.01..100; above 1 where the network is too confident, below 1 where it is too cautious.
    """
    logits, labels = evaluation.logits.double(), evaluation.labels
    doubt = 1 / (len(labels) + 2)
    of_label = logits.gather(1, labels[:, None]).squeeze(1)
    target = ((1 - doubt) * of_label + doubt * logits.mean(1)).mean()
    coldest, hottest = 1 / _COLDEST, 1 / _HOTTEST
    for _ in range(_HALVINGS):
        middle = math.sqrt(coldest * hottest)
        expected = ((middle * logits).softmax(1) * logits).sum(1).mean()
        if expected > target:  # the loss falls towards less confidence
            coldest = middle
        else:
            hottest = middle
    return round(1 / middle, 6)


def ece_metrics(evaluations: Mapping[str, Evaluation], temperature: float) -> dict[str, float]:
    """Expected calibration errors by split: `val/ece` as served, `val/ece_raw` without the temperature."""
    return {
        f"{split}/{name}": reliability(at_temperature(each, divisor)).ece
        for split, each in evaluations.items()
        for name, divisor in (("ece", temperature), ("ece_raw", 1.0))
    }
