"""How far to go from the parent to what fine-tuning made of it."""

import copy
from dataclasses import dataclass

import torch

from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import SettingError
from cifar_lit.evaluation.comparison import Comparison
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.models.networks import Network

_SHARES = (1.0, 0.8, 0.6, 0.4, 0.2)


@dataclass(frozen=True)
class Blend:
    """Mixes the weights of parent and child: as much of the child as costs no more than is allowed on old images.

    Ilharco et al., "Patching open-vocabulary models by interpolating weights" (NeurIPS 2022).

    Attributes:
        max_drop: largest loss of accuracy, in points (of 100), on old training images that were set aside from replay.
            They are not those of the gate, which so stays unbiased. 100 takes the child as it is.
    """

    max_drop: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 100:
            raise SettingError(f"max_drop is {self.max_drop}, expected 0..100 points.")

    def share_of_child(self, parent: Network, child: Network, probe: ImageSet) -> float:
        """The largest of 1, 0.8, 0.6, 0.4, 0.2 that keeps within `max_drop` on `probe`; the smallest if none does."""
        before = evaluate(parent, probe)
        for share in _SHARES:
            if Comparison(before, evaluate(mix(parent, child, share), probe)).drop <= self.max_drop:
                return share
        return _SHARES[-1]


@torch.no_grad()
def mix(parent: Network, child: Network, share: float) -> Network:
    """A network with `share` of the child's weights and statistics and the rest of the parent's."""
    mixed = copy.deepcopy(child)
    for value, old in zip(mixed.state_dict().values(), parent.state_dict().values(), strict=True):
        if value.is_floating_point():
            value.lerp_(old.to(value.device), 1 - share)
    return mixed
