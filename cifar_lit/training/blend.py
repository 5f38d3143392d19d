"""How far to go from the parent to what fine-tuning made of it: as far as the gate lets it."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import SettingError
from cifar_lit.evaluation.comparison import Comparison
from cifar_lit.evaluation.evaluation import Evaluation, evaluate
from cifar_lit.models.networks import Network
from cifar_lit.training.gate import Evidence, Gate, Verdict


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
class Blend:
    """Mixes the weights of parent and child: as much of the child as passes the gate.

    Ilharco et al., "Patching open-vocabulary models by interpolating weights" (NeurIPS 2022).

    Attributes:
        shares: of the child, tried in this order until one passes. [1.0] takes the child as it is.
    """

    shares: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4, 0.2)

    def __post_init__(self) -> None:
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise SettingError(f"shares is {list(self.shares)}, expected one or more numbers, 0 < share <= 1.")

    def judge(
        self, parent: Network, child: Network, sets: Mapping[str, ImageSet], gate: Gate, num_given: int
    ) -> Judged:
        """The first mix that passes the gate; if none does, the first of all.

        A share is passed over only for what it costs: where the labels look wrong, less of them is no better.

        Args:
            parent: on the child's device.
            child: what training made of it.
            sets: images by name; "old", "new" and "learned" are the gate's evidence.
            gate: decides.
            num_given: new images as they came.

        Raises:
            SettingError: the child's answers are not finite.
        """
        before = {name: evaluate(parent, data) for name, data in sets.items()}
        first = None
        for share in self.shares:
            network = mix(parent, child, share)
            after = {name: evaluate(network, data) for name, data in sets.items()}
            comparisons = compare(before, after)
            judged = Judged(network, share, comparisons, gate.judge(evidence(comparisons, num_given)))
            if judged.verdict.standing == "promoted":
                return judged
            first = first or judged
            if not judged.verdict.costly:
                break
        assert first is not None
        if first.verdict.costly and len(self.shares) > 1:
            reason = f"{first.verdict.reason}; mixed with its parent it did not pass either"
            return replace(first, verdict=replace(first.verdict, reason=reason))
        return first


def compare(before: Mapping[str, Evaluation], after: Mapping[str, Evaluation]) -> dict[str, Comparison]:
    """Two networks' answers to the same sets of images.

    Raises:
        SettingError: the second one's are not finite.
    """
    if not all(math.isfinite(each.metrics["loss"]) for each in after.values()):
        raise SettingError(
            "The training diverged: its answers are not finite, so no version was made. Lower the learning rate "
            "(--model.optimizer.lr)."
        )
    return {name: Comparison(before[name], after[name]) for name in after}


def evidence(comparisons: Mapping[str, Comparison], num_given: int) -> Evidence:
    """What the gate asks for, of the comparisons that there are."""
    return Evidence(comparisons.get("old"), comparisons.get("new"), comparisons["learned"], num_given)


@torch.no_grad()
def mix(parent: Network, child: Network, share: float) -> Network:
    """A network with `share` of the child's weights and statistics and the rest of the parent's."""
    mixed = copy.deepcopy(child)
    for value, old in zip(mixed.state_dict().values(), parent.state_dict().values(), strict=True):
        if value.is_floating_point():
            value.lerp_(old.to(value.device), 1 - share)
    return mixed
