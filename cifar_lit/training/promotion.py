"""The rule by which `fit` promotes its result: better than the champion on images that neither was trained on."""

from dataclasses import dataclass

from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.data.image_set import stratified_split
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.models.networks import Network
from cifar_lit.registry.manifest import Standing
from cifar_lit.registry.version import Version
from cifar_lit.registry.weights import load_network


@dataclass(frozen=True)
class Decision:
    """What a new version is to be, and why."""

    standing: Standing
    reason: str


def decide(network: Network, datamodule: CIFAR10DataModule, champion: Version | None) -> Decision:
    """Compares `network`, trained on `datamodule`, with the champion.

    Both answer to the validation images of the smaller of their two validation splits, which is part of the larger, so
    neither has seen one of them. Without such images (other data, another split seed) there is no comparison and no
    promotion: what the champion does with images it may have learned by heart says nothing.
    """
    if champion is None:
        return Decision("promoted", "there was no champion yet")
    ours, theirs = datamodule.fingerprint(), champion.manifest.data
    for name, in_ours, in_theirs in (
        ("training data", ours["train"]["sha256"], theirs.get("train", {}).get("sha256")),
        ("split seed", ours["split"]["seed"], theirs.get("split", {}).get("seed")),
    ):
        if in_ours != in_theirs:
            return Decision(
                "candidate",
                f"it can't be compared with champion {champion.id}, whose {name} is another; "
                "`cifar-lit versions promote` makes it the champion",
            )
    val_fraction = min(ours["split"]["val_fraction"], theirs["split"]["val_fraction"])
    if not val_fraction:
        return Decision(
            "candidate",
            f"it can't be compared with champion {champion.id}: there are no images that neither was trained on; "
            "`cifar-lit versions promote` makes it the champion",
        )
    train = datamodule.split("train")
    _, rows = stratified_split(train.labels, val_fraction, datamodule.split_seed)
    held_out = train.subset(rows)
    device = next(network.parameters()).device
    acc = evaluate(network, held_out).metrics["acc"]
    champion_acc = evaluate(load_network(champion, device), held_out).metrics["acc"]
    better = acc > champion_acc
    return Decision(
        "promoted" if better else "candidate",
        f"val/acc {acc:.4f} is {'above' if better else 'not above'} champion {champion.id}'s {champion_acc:.4f} "
        f"on the same {len(rows):,} images",
    )
