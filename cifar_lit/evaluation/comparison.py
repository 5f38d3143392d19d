"""What changed between the predictions of two networks for the same images, and whether that can be chance."""

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import torch
from torch import Tensor

from cifar_lit.evaluation.evaluation import Evaluation


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two evaluations of the same images, in the same order.

    Attributes:
        before: the predictions of the older network, the parent.
        after: the predictions of the newer one.
    """

    before: Evaluation
    after: Evaluation

    def __post_init__(self) -> None:
        if not torch.equal(self.before.labels, self.after.labels):
            raise ValueError("the two evaluations are not of the same images")

    def __len__(self) -> int:
        return len(self.before.labels)

    @cached_property
    def lost(self) -> Tensor:
        """int64: rows predicted right before and wrong after."""
        return (self._right(self.before) & ~self._right(self.after)).nonzero().squeeze(1)

    @cached_property
    def gained(self) -> Tensor:
        """int64: rows predicted wrong before and right after."""
        return (~self._right(self.before) & self._right(self.after)).nonzero().squeeze(1)

    @property
    def change(self) -> float:
        """Accuracy gained, in points (of 100); negative if it fell."""
        return 100 * (len(self.gained) - len(self.lost)) / len(self)

    @property
    def drop(self) -> float:
        """Accuracy lost, in points (of 100); negative if it rose."""
        return 100 * (len(self.lost) - len(self.gained)) / len(self)

    def noninferiority_p_value(self, max_drop: float) -> float:
        """Chance of a drop as small as this one if the true drop were `max_drop` points: small means it is smaller.

        Score test for the difference of paired proportions: Tango, "Equivalence test and confidence interval for the
        difference in proportions for the paired-sample design", Statistics in Medicine 17 (1998).
        """
        num, lost, gained, margin = len(self), len(self.lost), len(self.gained), max_drop / 100
        # The most likely chance of a gain, given that losses outweigh gains by exactly the margin.
        b = -lost - gained + (2 * num - lost + gained) * margin
        c = -gained * margin * (1 - margin)
        chance = (math.sqrt(b * b - 8 * num * c) - b) / (4 * num)
        variance = num * (2 * chance + margin * (1 - margin))
        excess = lost - gained - num * margin
        if variance <= 0:
            return 0.0 if excess < 0 else 1.0
        return NormalDist().cdf(excess / math.sqrt(variance))

    def rise_p_value(self) -> float:
        """Chance of as many gains among the flipped predictions, or more, if gains and losses were equally likely.

        Exact and one-sided: McNemar's test as a sign test.
        """
        return _upper_tail(len(self.gained), len(self.gained) + len(self.lost))

    def fall_p_value(self) -> float:
        """The same for losses."""
        return _upper_tail(len(self.lost), len(self.gained) + len(self.lost))

    @staticmethod
    def _right(evaluation: Evaluation) -> Tensor:
        return evaluation.preds == evaluation.labels


def _upper_tail(successes: int, trials: int) -> float:
    """P(X >= successes) for X ~ Binomial(trials, 1/2)."""
    ways = total = math.comb(trials, successes)
    for each in range(successes, trials):
        ways = ways * (trials - each) // (each + 1)
        total += ways
    return float(total / 2**trials)
