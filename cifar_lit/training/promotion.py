"""The rule by which `fit` promotes its result: better than the champion on images that neither was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.data.image_set import ImageSet, stratified_split
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.models.networks import Network
from cifar_lit.registry.manifest import Status
from cifar_lit.registry.version import Version
from cifar_lit.registry.weights import load_network


@dataclass(frozen=True)
class Decision:
    """What a new version is to be, and why."""

    status: Status
    reason: str


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


def decide(network: Network, datamodule: CIFAR10DataModule, champion: Version | None) -> Decision:
    """Compares `network`, trained on `datamodule`, with the champion, on images that neither was trained on.

    Without such images (other data, another split seed) there is no comparison and no promotion: what the champion does
    with images it may have learned by heart says nothing.
    """
    if champion is None:
        return Decision("promoted", "there was no champion yet")
    held_out = common_validation(datamodule, champion.manifest.data)
    if isinstance(held_out, str):
        return Decision(
            "candidate",
            f"it can't be compared with champion {champion.id}: {held_out}; `cifar-lit versions promote` makes it the "
            "champion",
        )
    device = next(network.parameters()).device
    acc = evaluate(network, held_out).metrics["acc"]
    champion_acc = evaluate(load_network(champion, device), held_out).metrics["acc"]
    better = acc > champion_acc
    return Decision(
        "promoted" if better else "candidate",
        f"val/acc {acc:.4f} is {'above' if better else 'not above'} champion {champion.id}'s {champion_acc:.4f} "
        f"on the same {len(held_out):,} images",
    )
