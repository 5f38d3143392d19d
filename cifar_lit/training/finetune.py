"""Fine-tuning: new images in, a judged version out."""

import hashlib
import json
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.utilities import rank_zero_warn

from cifar_lit.data.finetune_data import FinetuneDataModule
from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import SettingError
from cifar_lit.evaluation import forgetting_report
from cifar_lit.evaluation.evaluation import Evaluation, evaluate
from cifar_lit.interop.model import Model
from cifar_lit.models.finetuner import FineTuner
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version
from cifar_lit.registry.weights import load_network
from cifar_lit.seeding import global_seed
from cifar_lit.training.gate import Gate, Verdict
from cifar_lit.training.lightning import hardware
from cifar_lit.training.line import ROWS, keep, line, references, remembered
from cifar_lit.training.progress import Tell, tell_nobody
from cifar_lit.training.promotion import beside
from cifar_lit.training.publish import Candidate, Published, publish
from cifar_lit.training.weight_interpolation import Given, WeightInterpolation


def finetune(
    parent: Model,
    tuner: FineTuner,
    datamodule: FinetuneDataModule,
    trainer: pl.Trainer,
    gate: Gate,
    registry: Registry,
    *,
    interpolation: WeightInterpolation,
    config: str,
    reference: Version | None = None,
    keep_mib: int = 0,
    source: Path | None = None,
    tell: Tell = tell_nobody,
) -> Published:
    """Trains `tuner`, made from the parent's network, compares the two, and publishes the result with the status that
    the gate gives it.

    Args:
        parent: what training starts from.
        tuner: holds a copy of the parent's network.
        datamodule: increments, and old images if there are any at hand.
        trainer: runs no validation: what judges the result must not choose among its epochs.
        gate: decides.
        interpolation: how much of what was learned is kept.
        registry: where the version goes.
        config: text of the config file that makes this run again.
        reference: what the loss of a whole line is measured against. Default: the first and the most accurate version
            of the parent's line.
        keep_mib: MiB that the increments kept in the registry may take; 0 keeps none.
        source: the file that the parent was read from, if it is no version.
        tell: gets each stage as it begins, and the end of the last; `TellProgress` among the trainer's callbacks tells
            of the learning.

    Raises:
        KeyboardInterrupt: Ctrl-C; no version was made unless this came while one was published.
        SettingError: no training step was made, or the training diverged.
        RegistryError: no version could be written; the registry is as it was.
    """
    tell("reading data", 0.0)
    versions = line(registry, parent.version)
    datamodule.remembered = remembered(registry, versions)
    datamodule.prepare_data()
    datamodule.setup("fit")
    for note in [*datamodule.notes, *_doubts(parent, datamodule)]:
        rank_zero_warn(f"{note}.")
    began = time.monotonic()
    learn(tuner, datamodule, trainer)
    training = {"seconds": round(time.monotonic() - began, 1), **_training(parent, tuner, datamodule, trainer, source)}
    tell("judging", 0.0)
    device = trainer.strategy.root_device  # Lightning's teardown has moved the network to the CPU
    child = tuner.network.float().to(device).eval()
    sets = judges(datamodule)
    given = _given(parent, datamodule, reference, versions, device)
    judged = interpolation.judge(parent.network.to(device), child, sets, gate, given)
    candidate = Candidate(
        network=judged.network,
        images=next(iter(sets.values())),
        evaluations=_reported({name: each.after for name, each in judged.comparisons.items()}),
        data=_fingerprint(parent, datamodule),
        config=config,
        training={**training, "share_of_child": judged.share},
        history=tuner.history,
        seed=global_seed(),
        parent=parent.version.id if parent.version else None,
        comparisons=judged.comparisons,
        files={
            ROWS: (json.dumps(datamodule.rows) + "\n").encode(),
            **_forgetting_files(judged.comparisons, sets, parent.name),
        },
    )

    def decide(champion: Version | None) -> Verdict:
        verdict = judged.verdict
        if verdict.status != "promoted" or champion is None or champion.id == parent.name:
            return verdict
        decision = beside(champion, candidate, datamodule, gate, given, registry)
        if decision.status == "promoted":
            return Verdict("promoted", f"{verdict.reason}; beside champion {champion.id}: {decision.reason}")
        return Verdict("candidate", f"{verdict.reason}; but beside champion {champion.id}: {decision.reason}")

    tell("publishing", 0.0)
    if judged.verdict.status != "rejected":
        keep(datamodule, registry, keep_mib)
    published = publish(candidate, registry, decide)
    tell("publishing", 1.0)
    return published


def _training(
    parent: Model, tuner: FineTuner, datamodule: FinetuneDataModule, trainer: pl.Trainer, source: Path | None
) -> dict[str, Any]:
    """How the learning went, for the manifest."""
    return {
        "epochs": len(tuner.history),
        **hardware(trainer),
        "from": parent.name,
        "share_of_old": round(datamodule.share_of_old, 4),
        "batch_norm": tuner.batch_norm,
        "distill": tuner.distill,
        "weights_averaged": any(isinstance(each, WeightAveraging) for each in trainer.callbacks),  # type: ignore[attr-defined]
        "held_out": len(datamodule.new_val),
        "left_out": datamodule.notes,
        **({} if source is None else {"from_sha256": hashlib.sha256(source.read_bytes()).hexdigest()}),
    }


def learn(tuner: FineTuner, datamodule: FinetuneDataModule, trainer: pl.Trainer) -> None:
    """Trains.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        SettingError: no epoch was finished.
    """
    datamodule.setup("fit")
    if datamodule.old_train is None:
        tuner.without_replay()
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(tuner, datamodule=datamodule)
    except SystemExit as ended:  # Lightning makes status 1 of Ctrl-C, and ignores it from then on
        signal.signal(signal.SIGINT, on_interrupt)
        raise KeyboardInterrupt from ended
    if not tuner.history or trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise SettingError(
            "No epoch was finished, so nothing was learned and no version was made. Train for one epoch or more, "
            "without --trainer.fast_dev_run."
        )


def _forgetting_files(
    comparisons: forgetting_report.Comparisons, sets: dict[str, ImageSet], parent: str
) -> dict[str, bytes]:
    flipped = forgetting_report.flipped_png(
        comparisons, {name: each.images for name, each in sets.items()}, f"Predictions that flipped since {parent}"
    )
    return {
        "report/forgetting.txt": forgetting_report.text(comparisons).encode(),
        "report/forgetting.json": (json.dumps(forgetting_report.as_json(comparisons), indent=2) + "\n").encode(),
        "report/forgetting.png": forgetting_report.png(comparisons, f"Learned and lost since {parent}"),
        **({} if flipped is None else {"report/flipped.png": flipped}),
    }


def judges(datamodule: FinetuneDataModule) -> dict[str, ImageSet]:
    """The images that parent and child are compared on, by the names of `forgetting_report.MEANING`."""
    sets = {
        "old": datamodule.old_val,
        "earlier": datamodule.earlier_val,
        "new": datamodule.new_val,
        "learned": datamodule.new_train,
    }
    if datamodule.has_test:
        sets["test"] = datamodule.test_set
    return {name: data for name, data in sets.items() if data is not None and len(data)}


def _reported(after: dict[str, Evaluation]) -> dict[str, Evaluation]:
    """As in every version: "val" are the old images held out, "test" the test images; without them, the new."""
    named = {"val": "old", "test": "test"}
    found = {split: after[name] for split, name in named.items() if name in after}
    return found or {"new": after.get("new", after["learned"])}


def _given(
    parent: Model,
    datamodule: FinetuneDataModule,
    reference: Version | None,
    versions: list[Version],
    device: torch.device,
) -> Given:
    """What the gate is told besides predictions."""
    given = Given(datamodule.num_given, datamodule.corrections, datamodule.known)
    old = datamodule.old_val
    if old is None:
        return given
    chosen = references(versions, datamodule.fingerprint()) if reference is None else [reference]
    predictions = {each.id: evaluate(load_network(each, device), old) for each in chosen if each.id != parent.name}
    return replace(given, line=predictions, generation=max(1, len(versions)))


def _fingerprint(parent: Model, datamodule: FinetuneDataModule) -> dict[str, Any]:
    """What parent and child together were trained on: the parent's data, or the old images where that is not known, and
    the increments. Validation images are those of which neither learned."""
    known = dict(parent.version.manifest.data) if parent.version else {}
    ours = datamodule.fingerprint() if datamodule.has_test else None
    theirs = known.get("train", {}).get("sha256")
    if ours is not None and theirs is None:
        known = {**ours, "unknown_data_of": parent.name}
    elif ours is not None and theirs != ours["train"]["sha256"]:
        known["unknown_data_of"] = parent.name
    elif ours is not None and known["split"] != ours["split"]:
        seed, seeds = known["split"]["seed"], {known["split"]["seed"], ours["split"]["seed"]}
        least = min(known["split"]["val_fraction"], ours["split"]["val_fraction"])
        known["split"] = {"seed": seed, "val_fraction": least if len(seeds) == 1 else 0.0}
    if not known:
        unknown: dict[str, Any] = {"count": None, "sha256": None}
        split = {"seed": None, "val_fraction": None}
        known = {"source": f"unknown, of {parent.name}", "train": unknown, "test": unknown, "split": split}
    return {**known, "increments": [*known.get("increments", []), *datamodule.learned]}


def _doubts(parent: Model, datamodule: FinetuneDataModule) -> list[str]:
    """What makes the comparison less certain than it looks."""
    known = parent.version.manifest.data if parent.version else {}
    doubts = []
    if datamodule.has_test:
        ours, theirs = datamodule.fingerprint(), known
        if theirs.get("train", {}).get("sha256") != ours["train"]["sha256"]:
            doubts.append(f"{parent.name} was trained on other data than the old images at hand, or unknown data")
        elif theirs["split"] != ours["split"]:
            doubts.append(
                f"{parent.name} was trained with the split {theirs['split']}, not {ours['split']}: it may have learned "
                "some of the images that judge it"
            )
    at_hand = {each["sha256"] for each in [*datamodule.learned, *datamodule.replayed]}
    for increment in datamodule.remembered:
        if increment.path is None and increment.sha256 not in at_hand:
            doubts.append(
                f"{parent.name} learned {increment.name}, which is not replayed and may be forgotten: name it with "
                "--data.old_increments"
            )
    return doubts
