"""Beside a champion that is not the parent, only images judge that neither has learned."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_promotion import Knows

from cifar_lit.data import increment, synthetic
from cifar_lit.data.finetune_data import FinetuneDataModule
from cifar_lit.models.networks import Network
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version
from cifar_lit.training import promotion
from cifar_lit.training.gate import Gate, Verdict
from cifar_lit.training.publish import Candidate
from cifar_lit.training.weight_interpolation import Given

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
