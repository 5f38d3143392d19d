"""The gate: whether a fine-tuned network may take its parent's place."""

import math
from dataclasses import dataclass

import torch

from cifar_lit.errors import SettingError
from cifar_lit.evaluation.comparison import Comparison
from cifar_lit.evaluation.evaluation import Evaluation
from cifar_lit.training.promotion import Decision


@dataclass(frozen=True)
class Evidence:
    """What is known of a parent and its child.

    Attributes:
        old: both on old validation images, which neither learned from; none if there are none at hand.
        new: both on the part of the new images that was held out; none if they were too few to hold any out.
        learned: both on the new images that the child learned from.
        num_given: new images as they came, before copies and the like were left out.
    """

    old: Comparison | None
    new: Comparison | None
    learned: Comparison
    num_given: int

    @property
    def label_rank(self) -> float:
        """Mean place of the given labels in the parent's order of classes: 0 if it would give them itself, 4.5 if they
        have nothing to do with the images."""
        parts = [part.before for part in (self.new, self.learned) if part is not None]
        return torch.cat([_ranks(part) for part in parts]).mean().item()

    @property
    def rise_p_value(self) -> float:
        """How likely as many held-out labels would have come true if the labels meant nothing: by chance, or by a mere
        leaning to these classes, which shows on old images of other classes. 1 if none were held out."""
        if self.new is None:
            return 1.0
        by_chance = self.new.rise_p_value()
        if self.old is None:
            return by_chance
        leaning = _leaning(self.old)[self.new.before.labels]
        wrong_before = self.new.before.preds != self.new.before.labels
        return max(by_chance, _poisson_tail(len(self.new.gained), float(leaning[wrong_before].sum())))

    @property
    def num_usable(self) -> int:
        return len(self.learned) + (0 if self.new is None else len(self.new))


@dataclass(frozen=True)
class Verdict(Decision):
    """A decision of the gate.

    Attributes:
        costly: it was rejected for what it costs, so that less of the change may pass.
    """

    costly: bool = False


@dataclass(frozen=True)
class Gate:
    """The conditions that a fine-tuned network must meet, all of them.

    Attributes:
        max_drop: largest loss of accuracy on old images, in points (of 100).
        confidence: how sure it must be that the loss is no larger, and how sure that new images are not answered worse
            before that counts against it. 0.5 goes by the figures alone.
        max_label_rank: mean place of the given labels in the parent's order of classes up to which they count as
            plausible. Beyond it, they must show their worth: learning them has to make held-out ones come true.
        rise_p_value: how unlikely that must be as chance, or as a mere leaning to the classes that were given.
    """

    max_drop: float = 0.5
    confidence: float = 0.9
    max_label_rank: float = 1.5
    rise_p_value: float = 0.05

    def __post_init__(self) -> None:
        if not (0 <= self.max_drop <= 100 and 0.5 <= self.confidence < 1):
            raise SettingError(
                f"max_drop is {self.max_drop} and confidence {self.confidence}, expected 0..100 points and "
                "0.5 <= confidence < 1."
            )
        if not (self.max_label_rank >= 0 and 0 < self.rise_p_value < 1):
            raise SettingError(
                f"max_label_rank is {self.max_label_rank} and rise_p_value {self.rise_p_value}, expected 0 or more "
                "and 0 < rise_p_value < 1."
            )

    def judge(self, evidence: Evidence) -> Verdict:
        """Weighs the evidence; the reason tells the figures."""
        old, new = evidence.old, evidence.new
        if evidence.num_usable * 2 < evidence.num_given:
            return Verdict(
                "rejected",
                f"only {evidence.num_usable:,} of {evidence.num_given:,} new images could be used: the rest are "
                "copies, show nothing or judge the result",
            )
        if not self._labels_hold(evidence):
            return Verdict(
                "rejected",
                f"the labels look wrong: on average the parent has {evidence.label_rank:.1f} other classes before the "
                f"given one (4.5 if labels were drawn by lot), and learning them did not make more held-out ones come "
                f"true than chance may"
                f"{f' ({_change(new)})' if new is not None else ''}",
            )
        if old is None:
            return Verdict(
                "candidate", "there were no old images to tell what was forgotten; promote it by hand if it is good"
            )
        p_value = old.drop_p_value(self.max_drop)
        if p_value > 1 - self.confidence:
            return Verdict(
                "rejected",
                f"old accuracy {_change(old)}: that it fell by more than {self.max_drop:g} points can't be ruled out "
                f"(p = {p_value:.2g}, {1 - self.confidence:.2g} or less is asked for)",
                costly=True,
            )
        if new is not None and new.fall_p_value() <= 1 - self.confidence:
            return Verdict("rejected", f"new accuracy fell, {_change(new)}", costly=True)
        told = f"new accuracy {_change(new)}" if new is not None else "new images were too few to hold any out"
        return Verdict("promoted", f"{told}; old accuracy {_change(old)} (p = {p_value:.2g})")

    def _labels_hold(self, evidence: Evidence) -> bool:
        if evidence.label_rank <= self.max_label_rank:
            return True
        return evidence.rise_p_value <= self.rise_p_value


def _leaning(comparison: Comparison) -> torch.Tensor:
    """float64 (K,): share of the images of other classes, not taken for this one before, that are taken for it now."""
    labels, before, after = comparison.before.labels, comparison.before.preds, comparison.after.preds
    shares = torch.zeros(comparison.before.num_classes, dtype=torch.float64)
    for label in range(len(shares)):
        others = (labels != label) & (before != label)
        shares[label] = (after[others] == label).sum() / others.sum().clamp(min=1)
    return shares


def _poisson_tail(count: int, mean: float) -> float:
    """P(X >= count) for X ~ Poisson(mean)."""
    if mean == 0:
        return 1.0 if count == 0 else 0.0
    below = sum(math.exp(each * math.log(mean) - mean - math.lgamma(each + 1)) for each in range(count))
    return max(0.0, 1 - below)


def _change(comparison: Comparison) -> str:
    before, after = (each.metrics["acc"] for each in (comparison.before, comparison.after))
    flips = f"lost {len(comparison.lost):,}, gained {len(comparison.gained):,}"
    return f"{before:.4f} -> {after:.4f} on {len(comparison):,} images ({flips})"


def _ranks(evaluation: Evaluation) -> torch.Tensor:
    """float32 (N,): how many classes stand before the label, 0..K-1."""
    given = evaluation.logits.gather(1, evaluation.labels[:, None])
    return (evaluation.logits > given).sum(1).float()
