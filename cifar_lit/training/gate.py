"""The gate: whether a fine-tuned network may take its parent's place."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from cifar_lit.errors import SettingError
from cifar_lit.evaluation.comparison import Comparison
from cifar_lit.evaluation.evaluation import Evaluation
from cifar_lit.registry.manifest import Status

Cause = Literal["", "unusable", "labels", "no old images", "forgets", "new fell", "known", "too few", "no gain"]


@dataclass(frozen=True)
class Evidence:
    """What is known of a parent and its child.

    Attributes:
        old: both on old validation images, which neither learned from; none if there are none at hand.
        new: both on the part of the new images that was held out; none if they were too few to hold any out, or none of
            them was new.
        learned: both on the new images that the child learned from.
        num_given: new images as they came, before copies and the like were left out.
        earlier: both on what was held out of the increments that the parent's line learned before; none if none was.
        line: by id, earlier versions of the parent's line and the child on old validation images.
        generation: how many fine-tunings the line has, this one included: all were judged by the same images.
        corrections: a person who saw the parent's predictions gave the labels.
        known: why no new image is new, in words; empty if some are.
    """

    old: Comparison | None
    new: Comparison | None
    learned: Comparison
    num_given: int
    earlier: Comparison | None = None
    line: Mapping[str, Comparison] = field(default_factory=dict)
    generation: int = 1
    corrections: bool = False
    known: str = ""

    @property
    def label_rank(self) -> float:
        """Mean place of the given labels in the parent's order of classes: 0 if it would give them itself, 4.5 if they
        have nothing to do with the images."""
        return torch.cat([_ranks(part.before) for part in self._new_images]).mean().item()

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
        return sum(map(len, self._new_images))

    @property
    def mistakes(self) -> tuple[int, int, int]:
        """Of all new images: how many the parent gets wrong, how many of these the child gets right, and how many the
        child alone gets wrong."""
        gained, lost = (sum(len(getattr(part, name)) for part in self._new_images) for name in ("gained", "lost"))
        right = sum(int((part.before.preds == part.before.labels).sum()) for part in self._new_images)
        return self.num_usable - right, gained, lost

    @property
    def _new_images(self) -> list[Comparison]:
        return [part for part in (self.new, self.learned) if part is not None]


@dataclass(frozen=True)
class Verdict:
    """What a new version is to be.

    Attributes:
        status: candidate, promoted or rejected.
        reason: why, with the figures.
        cause: what kept it from being promoted, if the gate did.
    """

    status: Status
    reason: str
    cause: Cause = ""

    @property
    def costly(self) -> bool:
        """Whether it was rejected for what it costs, so that less of the change may pass."""
        return self.cause in ("forgets", "new fell")


@dataclass(frozen=True)
class Gate:
    """The conditions that a fine-tuned network must meet, all of them.

    Attributes:
        max_drop: largest loss of accuracy on old images against the parent, in points (of 100).
        max_line_drop: largest loss against the first and the best version of the parent's line, in points: the budget
            of all fine-tunings of a line together. Each of them chose by the same images, so the chance of error that
            `confidence` leaves is divided by their number (Bonferroni).
        confidence: how sure it must be that the loss is no larger, and how sure that new images are not predicted worse
            before that counts against it. 0.5 goes by the figures alone.
        max_label_rank: mean place of the given labels in the parent's order of classes up to which they count as
            plausible. Beyond it, learning them must improve accuracy on the held-out ones, corrections or not.
        rise_p_value: how unlikely that improvement must be as chance, or as a mere leaning to the classes that were
            given.
    """

    max_drop: float = 0.5
    max_line_drop: float = 0.5
    confidence: float = 0.9
    max_label_rank: float = 1.5
    rise_p_value: float = 0.05

    def __post_init__(self) -> None:
        if not (0 <= self.max_drop <= 100 and 0 <= self.max_line_drop <= 100 and 0.5 <= self.confidence < 1):
            raise SettingError(
                f"max_drop is {self.max_drop}, max_line_drop {self.max_line_drop} and confidence {self.confidence}, "
                "expected 0..100 points, 0..100 points and 0.5 <= confidence < 1."
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
                "unusable",
            )
        if not self._labels_hold(evidence):
            return Verdict(
                "rejected",
                f"the labels look wrong: on average the parent has {evidence.label_rank:.1f} other classes before the "
                f"given one (4.5 if labels were random), and learning them did not improve accuracy on held-out "
                f"ones beyond chance{f' ({_change(new)})' if new is not None else ''}",
                "labels",
            )
        if old is None:
            return Verdict(
                "candidate",
                "there were no old images to tell what was forgotten; promote it by hand if it is good",
                "no old images",
            )
        lost = self._forgets(evidence)
        if lost is not None:
            return lost
        unproven = self._unproven(evidence)
        if unproven is not None:
            return unproven
        kept = f"old accuracy {_change(old)} (p = {old.noninferiority_p_value(self.max_drop):.2g})"
        for version, line in evidence.line.items():
            kept += f"; since {version} {_change(line)} (p = {line.noninferiority_p_value(self.max_line_drop):.2g})"
        return Verdict("promoted", f"{_gain(evidence)}; {kept}")

    def _forgets(self, evidence: Evidence) -> Verdict | None:
        """What was lost of the old, of earlier increments and of the new."""
        error = 1 - self.confidence
        limits = [("", evidence.old, self.max_drop, error)]
        for version, line in evidence.line.items():
            limits.append((f"since {version}, of its line, ", line, self.max_line_drop, error / evidence.generation))
        for named, old, max_drop, most in limits:
            if old is not None and old.noninferiority_p_value(max_drop) > most:
                return Verdict(
                    "rejected",
                    f"old accuracy {named}{_change(old)}: that it fell by more than {max_drop:g} points can't be ruled "
                    f"out (p = {old.noninferiority_p_value(max_drop):.2g}, {most:.2g} or less is asked for)",
                    "forgets",
                )
        earlier, new = evidence.earlier, evidence.new
        if earlier is not None and earlier.fall_p_value() <= 1 - self.confidence:
            return Verdict(
                "rejected", f"accuracy on images held out of earlier increments fell, {_change(earlier)}", "forgets"
            )
        if new is not None and new.fall_p_value() <= 1 - self.confidence:
            return Verdict("rejected", f"new accuracy fell, {_change(new)}", "new fell")
        return None

    def _unproven(self, evidence: Evidence) -> Verdict | None:
        """Why nothing shows that the child is better than the parent; none if something does."""
        wrong, gained, lost = evidence.mistakes
        if evidence.corrections and gained > lost and 2 * gained > wrong:
            return None
        if evidence.new is not None and evidence.rise_p_value <= self.rise_p_value:
            return None
        if evidence.corrections:
            said = f"of {evidence.num_usable:,} corrections the parent gets {wrong:,} wrong"
            return Verdict("candidate", f"{said}, and of these the child gets {gained:,} right", "no gain")
        if evidence.known:
            return Verdict("candidate", evidence.known, "known")
        if evidence.new is None:
            return Verdict(
                "candidate",
                f"{len(evidence.learned):,} new images are too few to hold any out, so nothing shows that learning "
                "them helps",
                "too few",
            )
        return Verdict(
            "candidate",
            f"new accuracy {_change(evidence.new)}: no improvement beyond chance (p = {evidence.rise_p_value:.2g}, "
            f"{self.rise_p_value:.2g} or less is asked for)",
            "no gain",
        )

    def _labels_hold(self, evidence: Evidence) -> bool:
        if evidence.label_rank <= self.max_label_rank:
            return True
        return evidence.rise_p_value <= self.rise_p_value


def _gain(evidence: Evidence) -> str:
    if evidence.new is not None and not evidence.corrections:
        return f"new accuracy {_change(evidence.new)}"
    wrong, gained, _ = evidence.mistakes
    return f"{gained:,} of {wrong:,} mistakes corrected"


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
