import torch
from torch import Tensor

from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.models.networks import Network
from cifar_lit.training import promotion
from cifar_lit.training.promotion import decide


class Knows(Network):
    """Answers right to the images whose mean brightness is in a table, and "0" to the others."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__({}, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
        self.weight = torch.nn.Parameter(torch.zeros(1))
        means = images.double().mean((1, 2, 3))
        self.table = {round(mean.item(), 4): label for mean, label in zip(means, labels.tolist(), strict=True)}

    def logits(self, images: Tensor) -> Tensor:
        keys = [round(mean.item(), 4) for mean in images.double().mean((1, 2, 3))]
        return torch.eye(10)[[self.table.get(key, 0) for key in keys]] * 10


def data(val_fraction: float) -> CIFAR10DataModule:
    module = CIFAR10DataModule(source="synthetic", num_synthetic=400, val_fraction=val_fraction)
    module.setup("fit")
    return module


def test_without_a_champion_the_first_result_is_promoted():
    module = data(0.2)
    network = Knows(module.val_set.images[:0], module.val_set.labels[:0])
    assert decide(network, module, None).status == "promoted"


def compare(ours: CIFAR10DataModule, theirs: CIFAR10DataModule, network: Network, champion: Network, monkeypatch):
    class Manifest:
        data = theirs.fingerprint()

    class Version:
        id = "v0001"
        manifest = Manifest()

    monkeypatch.setattr(promotion, "load_network", lambda version, device: champion)
    return decide(network, ours, Version())  # type: ignore[arg-type]


def test_only_images_that_neither_was_trained_on_are_compared(monkeypatch):
    small, large = data(0.1), data(0.3)
    # The champion was trained on all but the small split's images and knows them by heart, and no others.
    champion = Knows(small.train_set.images, small.train_set.labels)
    network = Knows(small.val_set.images[:8], small.val_set.labels[:8])
    decision = compare(large, small, network, champion, monkeypatch)
    assert decision.status == "promoted"
    assert "on the same 40 images" in decision.reason


def test_an_equally_good_result_is_not_promoted(monkeypatch):
    module = data(0.2)
    network = Knows(module.val_set.images, module.val_set.labels)
    decision = compare(module, module, network, network, monkeypatch)
    assert decision.status == "candidate"
    assert "val/acc 1.0000 is not above champion v0001's 1.0000" in decision.reason
