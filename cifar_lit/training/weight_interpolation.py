"""Weight interpolation between a parent and what fine-tuning made of it: as much of the child as passes the gate."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import SettingError
from cifar_lit.evaluation.comparison import Comparison
from cifar_lit.evaluation.evaluation import Evaluation, evaluate
from cifar_lit.models.networks import Network
from cifar_lit.training.gate import Evidence, Gate, Verdict

EVIDENCE = ("old", "new", "earlier", "learned")
"""Names of the images that the gate decides by."""


@dataclass(frozen=True)
class Given:
    """What the gate is told besides predictions.

    Attributes:
        num_given: new images as they came.
        corrections: a person who saw the parent's predictions gave the labels.
        known: why no new image is new, in words; empty if some are.
        line: predictions of earlier versions of the parent's line to the old validation images, by id.
        generation: how many fine-tunings the parent's line has, with this one.
    """

    num_given: int
    corrections: bool = False
    known: str = ""
    line: Mapping[str, Evaluation] = field(default_factory=dict)
    generation: int = 1

    def evidence(self, comparisons: Mapping[str, Comparison]) -> Evidence:
        """All that the gate weighs, with parent and child compared on "learned" and, where there are any, on "old",
        "new" and "earlier" images."""
        old = comparisons.get("old")
        return Evidence(
            old,
            comparisons.get("new"),
            comparisons["learned"],
            self.num_given,
            earlier=comparisons.get("earlier"),
            line={} if old is None else {name: Comparison(each, old.after) for name, each in self.line.items()},
            generation=self.generation,
            corrections=self.corrections,
            known=self.known,
        )


@dataclass(frozen=True)
class Judged:
    """A network and what the gate says of it.

    Attributes:
        network: in evaluation mode.
        share: how much of it is the child's, 0..1; the rest is the parent's.
        comparisons: with the parent, by the names of the images.
        verdict: the gate's.
    """

    network: Network
    share: float
    comparisons: Mapping[str, Comparison]
    verdict: Verdict


@dataclass(frozen=True)
class WeightInterpolation:
    """Interpolates the weights of parent and child (WiSE-FT).

    Wortsman et al., "Robust fine-tuning of zero-shot models" (CVPR 2022); Ilharco et al., "Patching open-vocabulary
    models by interpolating weights" (NeurIPS 2022).

    Attributes:
        shares: of the child, tried in this order until one passes. [1.0] takes the child as it is.
    """

    shares: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4, 0.2, 0.1)

    def __post_init__(self) -> None:
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise SettingError(f"shares is {list(self.shares)}, expected one or more numbers, 0 < share <= 1.")

    def judge(self, parent: Network, child: Network, sets: Mapping[str, ImageSet], gate: Gate, given: Given) -> Judged:
        """The first mix that passes the gate; if none does, the first of all.

        A share is passed over only for what it costs: where the labels look wrong, less of them is no better.

        Args:
            parent: on the child's device.
            child: what training made of it.
            sets: images by name; "old", "new", "earlier" and "learned" are the gate's evidence; the others are
                classified by the chosen network alone.
            gate: decides.
            given: what else the gate is told.

        Raises:
            SettingError: the child's outputs are not finite.
        """
        evidence = {name: data for name, data in sets.items() if name in EVIDENCE}
        chosen = self._choose(parent, child, evidence, gate, given)
        others = {name: data for name, data in sets.items() if name not in EVIDENCE}
        compared = compare(evaluate_all(parent, others), evaluate_all(chosen.network, others))
        return replace(chosen, comparisons={**chosen.comparisons, **compared})

    def _choose(
        self, parent: Network, child: Network, evidence: Mapping[str, ImageSet], gate: Gate, given: Given
    ) -> Judged:
        before = evaluate_all(parent, evidence)
        first = None
        for share in self.shares:
            network = mix(parent, child, share)
            comparisons = compare(before, evaluate_all(network, evidence))
            judged = Judged(network, share, comparisons, gate.judge(given.evidence(comparisons)))
            if judged.verdict.status == "promoted":
                return judged
            first = first or judged
            if not judged.verdict.costly:
                break
        assert first is not None
        if first.verdict.costly and len(self.shares) > 1:
            reason = f"{first.verdict.reason}; no interpolation with its parent passes either"
            return replace(first, verdict=replace(first.verdict, reason=reason))
        return first


def evaluate_all(network: Network, sets: Mapping[str, ImageSet]) -> dict[str, Evaluation]:
    """A network's predictions for each set of images."""
    return {name: evaluate(network, data) for name, data in sets.items()}


def compare(before: Mapping[str, Evaluation], after: Mapping[str, Evaluation]) -> dict[str, Comparison]:
    """Two networks' predictions for the same sets of images.

    Raises:
        SettingError: the second one's are not finite.
    """
    if not all(math.isfinite(each.metrics["loss"]) for each in after.values()):
        raise SettingError(
            "The training diverged: its outputs are not finite, so no version was made. Lower the learning rate "
            "(--model.optimizer.lr)."
        )
    return {name: Comparison(before[name], after[name]) for name in after}


@torch.no_grad()
def mix(parent: Network, child: Network, share: float) -> Network:
    """A network with `share` of the child's weights and statistics and the rest of the parent's."""
    mixed = copy.deepcopy(child)
    for value, old in zip(mixed.state_dict().values(), parent.state_dict().values(), strict=True):
        if value.is_floating_point():
            value.lerp_(old.to(value.device), 1 - share)
    return mixed
