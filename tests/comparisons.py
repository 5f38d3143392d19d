"""Answers made up for tests: parent and child beside each other, by how many images each of them gets right."""

import torch
from torch import Tensor

from cifar_lit.evaluation.comparison import Comparison
from cifar_lit.evaluation.evaluation import Evaluation


def answers(labels: Tensor, ranks: Tensor) -> Evaluation:
    """Logits that put the label behind `ranks` other classes: rank 0 is a right answer, rank 1 names the next class."""
    logits = torch.zeros(len(labels), 10)
    rows = torch.arange(len(labels))
    for place in range(1, 10):
        logits[rows, (labels + place) % 10] = torch.where(place <= ranks, 20.0 - place, -float(place))
    logits[rows, labels] = torch.where(ranks > 0, 5.0, 20.0)
    return Evaluation(logits, labels)


def comparison(
    right: int = 0, lost: int = 0, gained: int = 0, wrong: int = 0, *, rank: int = 1, labels: Tensor | None = None
) -> Comparison:
    """Rows in this order: right both times, lost, gained, wrong both times; wrong answers have the label at `rank`."""
    counts = torch.tensor([right, lost, gained, wrong])
    labels = torch.arange(int(counts.sum())) % 10 if labels is None else labels
    before = torch.tensor([0, 0, rank, rank]).repeat_interleave(counts)
    after = torch.tensor([0, rank, 0, rank]).repeat_interleave(counts)
    return Comparison(answers(labels, before), answers(labels, after))
