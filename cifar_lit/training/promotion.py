"""A new network beside the champion: both classify images that neither has learned.

`fit` promotes what is better there (`decide`); `finetune` asks the gate (`beside`) if the champion is not the parent.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from cifar_lit.data import similar
from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.data.finetune_data import FinetuneDataModule
from cifar_lit.data.image_set import ImageSet, stratified_split
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.models.networks import Network
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version
from cifar_lit.registry.weights import load_network
from cifar_lit.training.gate import Gate, Verdict
from cifar_lit.training.line import line, remembered
from cifar_lit.training.publish import Candidate
from cifar_lit.training.weight_interpolation import Given, compare, evaluate_all


def common_validation(datamodule: CIFAR10DataModule, *trained_on: Mapping[str, Any]) -> ImageSet | str:
    """The validation images of the smallest of several validation splits, which is part of the larger ones: none of the
    networks was trained on them. If there are none, why.

    Args:
        datamodule: what one network was trained on.
        trained_on: the data of others, as in their manifests.
    """
    ours = datamodule.fingerprint()
    for each in trained_on:
        if each.get("unknown_data_of") or each.get("train", {}).get("sha256") is None:
            return "what one of them was trained on is not known"
        if each["train"]["sha256"] != ours["train"]["sha256"]:
            return "their training data differ"
        if each["split"]["seed"] != ours["split"]["seed"]:
            return "the seeds of their validation splits differ"
    val_fraction = min(each["split"]["val_fraction"] for each in (ours, *trained_on))
    if not val_fraction:
        return "there are no images that neither was trained on"
    train = datamodule.split("train")
    return train.subset(stratified_split(train.labels, val_fraction, datamodule.split_seed)[1])


def decide(network: Network, datamodule: CIFAR10DataModule, champion: Version | None) -> Verdict:
    """Compares `network`, trained on `datamodule`, with the champion, on images that neither was trained on.

    Without such images (other data, another split seed) there is no comparison and no promotion: what the champion does
    with images it may have learned by heart says nothing.
    """
    if champion is None:
        return Verdict("promoted", "there was no champion yet")
    held_out = common_validation(datamodule, champion.manifest.data)
    if isinstance(held_out, str):
        return Verdict(
            "candidate",
            f"it can't be compared with champion {champion.id}: {held_out}; `cifar-lit versions promote` makes it the "
            "champion",
        )
    device = next(network.parameters()).device
    acc = evaluate(network, held_out).metrics["acc"]
    champion_acc = evaluate(load_network(champion, device), held_out).metrics["acc"]
    better = acc > champion_acc
    return Verdict(
        "promoted" if better else "candidate",
        f"val/acc {acc:.4f} is {'above' if better else 'not above'} champion {champion.id}'s {champion_acc:.4f} "
        f"on the same {len(held_out):,} images",
    )


def beside(
    champion: Version,
    candidate: Candidate,
    datamodule: FinetuneDataModule,
    gate: Gate,
    given: Given,
    registry: Registry,
) -> Verdict:
    """What the gate says of a candidate in the champion's place.

    Args:
        champion: not the candidate's parent.
        candidate: passed the gate beside its parent.
        datamodule: what it was fine-tuned on.
        gate: decides.
        given: what it was told beside the parent.
        registry: of both.
    """
    old = common_validation(datamodule, candidate.data, champion.manifest.data)
    if isinstance(old, str):
        return Verdict("candidate", f"it can't be compared with champion {champion.id}, which is not its parent: {old}")
    sets = {"old": old, "learned": datamodule.new_train}
    new = _not_learned(datamodule.new_val, champion, registry)
    if len(new):
        sets["new"] = new
    rival = load_network(champion, next(candidate.network.parameters()).device)
    theirs, ours = (evaluate_all(each, sets) for each in (rival, candidate.network))
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
