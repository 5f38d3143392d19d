"""What is promoted beside a champion: only images judge that neither has learned."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cifar_lit.data import increment, synthetic
from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.data.finetune_data import FinetuneDataModule
from cifar_lit.models.networks import Network
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version
from cifar_lit.training import promotion
from cifar_lit.training.gate import Gate, Verdict
from cifar_lit.training.promotion import decide
from cifar_lit.training.publish import Candidate
from cifar_lit.training.weight_interpolation import Given


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


def test_without_a_champion_the_first_result_is_promoted() -> None:
    module = data(0.2)
    network = Knows(module.val_set.images[:0], module.val_set.labels[:0])
    assert decide(network, module, None).status == "promoted"


def compare(
    ours: CIFAR10DataModule,
    theirs: CIFAR10DataModule,
    network: Network,
    champion: Network,
    monkeypatch: pytest.MonkeyPatch,
) -> Verdict:
    class Manifest:
        data = theirs.fingerprint()

    class Version:
        id = "v0001"
        manifest = Manifest()

    monkeypatch.setattr(promotion, "load_network", lambda version, device: champion)
    return decide(network, ours, Version())  # type: ignore[arg-type]


def test_only_images_that_neither_was_trained_on_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = data(0.1), data(0.3)
    # The champion was trained on all but the small split's images and knows them by heart, and no others.
    champion = Knows(small.train_set.images, small.train_set.labels)
    network = Knows(small.val_set.images[:8], small.val_set.labels[:8])
    decision = compare(large, small, network, champion, monkeypatch)
    assert decision.status == "promoted"
    assert "on the same 40 images" in decision.reason


def test_an_equally_good_result_is_not_promoted(monkeypatch: pytest.MonkeyPatch) -> None:
    module = data(0.2)
    network = Knows(module.val_set.images, module.val_set.labels)
    decision = compare(module, module, network, network, monkeypatch)
    assert decision.status == "candidate"
    assert "val/acc 1.0000 is not above champion v0001's 1.0000" in decision.reason


NUM_OLD = 400
NEW = synthetic.draw("train", 600).subset(torch.arange(NUM_OLD, 600))


@pytest.fixture
def datamodule(tmp_path: Path) -> FinetuneDataModule:
    increment.write(tmp_path / "new.npz", NEW)
    data = FinetuneDataModule(
        [tmp_path / "new.npz"], source="synthetic", num_synthetic=NUM_OLD, val_fraction=0.3, split_seed=2
    )
    data.setup("fit")
    return data


Judge = Callable[..., Verdict]


@pytest.fixture
def judge(
    datamodule: FinetuneDataModule, registry: Registry, publish: Callable[..., Version], monkeypatch: pytest.MonkeyPatch
) -> Judge:
    """Judges `network` beside a champion with that network and those changes to its data."""

    def judge_beside(network: Network, champion: Network, **data: Any) -> Verdict:
        ours = datamodule.fingerprint()
        version = publish()
        theirs = replace(version.manifest, data={**ours, "split": {"seed": 2, "val_fraction": 0.1}, **data})
        monkeypatch.setattr(promotion, "load_network", lambda *_: champion)
        given, gate = Given(datamodule.num_given, line={"v0009": None}), Gate(max_drop=10)  # type: ignore[dict-item]
        candidate = Candidate(network, datamodule.new_val, {}, ours, "", {}, [], seed=None)
        return promotion.beside(Version(version.path, theirs), candidate, datamodule, gate, given, registry)

    return judge_beside


def knows(*sets: Any) -> Network:
    return Knows(torch.cat([each.images for each in sets]), torch.cat([each.labels for each in sets]))


def test_validation_images_that_the_champion_was_trained_on_do_not_count(
    datamodule: FinetuneDataModule, judge: Judge
) -> None:
    learned = datamodule.split("train")
    assert datamodule.old_val is not None
    # The champion knows by heart what it was trained on, and the candidate nothing but a little of the rest.
    theirs = judge(knows(datamodule.old_val, datamodule.new_train, NEW), knows(datamodule.new_train))
    assert theirs.status == "promoted"
    assert " on 40 images " in theirs.reason
    assert "v0009" not in theirs.reason
    assert judge(knows(NEW), knows(learned, datamodule.new_train)).status == "rejected"


@pytest.mark.parametrize("is_kept", [True, False])
def test_new_images_that_the_champion_has_learned_or_may_have_do_not_count(
    is_kept: bool, datamodule: FinetuneDataModule, judge: Judge, registry: Registry
) -> None:
    assert datamodule.old_val is not None
    ours, champion = knows(datamodule.old_val, NEW), knows(datamodule.old_val, datamodule.new_train)
    assert judge(ours, champion).status == "promoted"
    if is_kept:
        registry.increments.folder.mkdir()
        increment.write(registry.increments.path(NEW.sha256), NEW)
    decision = judge(ours, champion, increments=[{"name": "a.npz", "sha256": NEW.sha256, "count": len(NEW)}])
    assert decision.status == "candidate"
    assert decision.reason == "there are no held-out new images that v0002 is known not to have learned"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"train": {"count": 1, "sha256": "0" * 64}}, "their training data differ"),
        ({"train": {"count": None, "sha256": None}}, "what one of them was trained on is not known"),
        ({"unknown_data_of": "v0001"}, "what one of them was trained on is not known"),
        ({"split": {"seed": 3, "val_fraction": 0.1}}, "the seeds of their validation splits differ"),
        ({"split": {"seed": 2, "val_fraction": 0.0}}, "there are no images that neither was trained on"),
    ],
)
def test_without_images_that_neither_has_learned_the_result_is_a_candidate(
    data: dict[str, Any], reason: str, judge: Judge
) -> None:
    decision = judge(knows(NEW), knows(NEW), **data)
    assert decision == Verdict(
        "candidate", f"it can't be compared with champion v0001, which is not its parent: {reason}"
    )
