"""A fine-tuned network beside a champion that is not its parent: both classify images that neither has learned."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from cifar_lit.data import similar
from cifar_lit.data.finetune_data import FinetuneDataModule
from cifar_lit.data.image_set import ImageSet
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.models.networks import Network
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version
from cifar_lit.registry.weights import load_network
from cifar_lit.training.gate import Gate
from cifar_lit.training.line import line, remembered
from cifar_lit.training.promotion import Decision, common_validation
from cifar_lit.training.weight_interpolation import Given, compare


def beside(
    champion: Version,
    network: Network,
    datamodule: FinetuneDataModule,
    data: Mapping[str, Any],
    gate: Gate,
    given: Given,
    registry: Registry,
) -> Decision:
    """What the gate says of a network in the champion's place.

    Args:
        champion: not the network's parent.
        network: passed the gate beside its parent.
        datamodule: what it was fine-tuned on.
        data: what it and its parent were trained on, as in a manifest.
        gate: decides.
        given: what it was told beside the parent.
        registry: of both.
    """
    old = common_validation(datamodule, data, champion.manifest.data)
    if isinstance(old, str):
        return Decision(
            "candidate", f"it can't be compared with champion {champion.id}, which is not its parent: {old}"
        )
    sets = {"old": old, "learned": datamodule.new_train}
    new = _not_learned(datamodule.new_val, champion, registry)
    if len(new):
        sets["new"] = new
    rival = load_network(champion, next(network.parameters()).device)
    theirs, ours = ({name: evaluate(each, images) for name, images in sets.items()} for each in (rival, network))
    told = replace(
        given,
        num_given=sum(len(each) for name, each in sets.items() if name != "old"),
        known="" if len(new) else f"there are no held-out new images that {champion.id} is known not to have learned",
        line={},
    )
    return gate.judge(told.evidence(compare(theirs, ours)))


def _not_learned(images: ImageSet, champion: Version, registry: Registry) -> ImageSet:
    """The images that are in no increment that the champion's line learned; none where that can't be known."""
    keep = torch.ones(len(images), dtype=torch.bool)
    for each in remembered(registry, line(registry, champion)):
        if each.path is None:
            return images.subset(torch.tensor([], dtype=torch.int64))
        keep &= similar.matches(images.images, each.read(images.class_names)[0].images) < 0
    return images.subset(keep.nonzero().squeeze(1))
