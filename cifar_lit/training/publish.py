"""From a trained classifier to a version in the registry."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import cifar_lit
from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.errors import VersionDamagedError
from cifar_lit.evaluation import plots, report
from cifar_lit.evaluation.evaluation import Evaluation, evaluate
from cifar_lit.models.classifier import Classifier
from cifar_lit.models.networks import Network
from cifar_lit.registry.manifest import About
from cifar_lit.registry.registry import ChampionChangedError, Registry
from cifar_lit.registry.version import WEIGHTS, Version
from cifar_lit.registry.weights import describe, dump
from cifar_lit.seeding import global_seed
from cifar_lit.training.promotion import Decision, decide

CONFIG = "config.yaml"


@dataclass(frozen=True)
class Published:
    """What became of a training run."""

    version: Version
    decision: Decision
    evaluations: Mapping[str, Evaluation]
    """By split: "val" and "test"."""


def publish(
    classifier: Classifier,
    datamodule: CIFAR10DataModule,
    registry: Registry,
    *,
    config: str,
    training: Mapping[str, Any],
) -> Published:
    """Measures the classifier's network in full precision, single view, makes it a version, and promotes it if it is
    better than the champion.

    Args:
        classifier: trained; holds the weights to keep.
        datamodule: set up for "fit"; what it was trained on.
        registry: where the version goes.
        config: text of the config file that makes this run again.
        training: how the run went, for the manifest; `best_epoch` (from 0) is marked in the curves.

    Raises:
        RegistryError: no version could be written; the registry is as it was.
    """
    network = classifier.network
    evaluations = {
        "val": evaluate(network, datamodule.val_set),
        "test": evaluate(network, datamodule.test_set),
    }
    about = About(
        **describe(network),
        class_names=list(CLASS_NAMES),
        metrics={
            name: value for split, each in evaluations.items() for name, value in each.named_metrics(split).items()
        },
        data=datamodule.fingerprint(),
        seed=global_seed(),
        code={"cifar_lit": cifar_lit.__version__, "torch": torch.__version__},
        training=dict(training),
    )
    files = {WEIGHTS: dump(network), CONFIG: config.encode()}
    files |= _report_files(evaluations, classifier.history, training.get("best_epoch"))
    version = registry.publish(files, about)
    while True:
        champion, decision = _compare(network, datamodule, registry)
        if not decision.promote:
            version = registry.keep_as_candidate(version.id, decision.reason)
            break
        try:
            version = registry.promote(version.id, decision.reason, instead_of=champion.id if champion else None)
            break
        except ChampionChangedError:
            continue  # another run was promoted meanwhile: compare with that one
    return Published(version, decision, evaluations)


def _compare(network: Network, datamodule: CIFAR10DataModule, registry: Registry) -> tuple[Version | None, Decision]:
    try:
        champion = registry.champion()
    except VersionDamagedError as error:
        return None, Decision(False, f"there is no champion to compare it with ({error})")
    return champion, decide(network, datamodule, champion)


def _report_files(
    evaluations: Mapping[str, Evaluation], history: Sequence[Mapping[str, float]], best_epoch: int | None
) -> dict[str, bytes]:
    test = evaluations["test"]
    metrics = {split: report.as_json(each) for split, each in evaluations.items()} | {"history": list(history)}
    title = f"Test set: {test.metrics['acc']:.2%} of {len(test.labels):,} images right"
    return {
        "report/metrics.json": (json.dumps(metrics, indent=2) + "\n").encode(),
        "report/report.txt": report.classification_report(test).encode(),
        "report/confusion_matrix.png": plots.confusion_matrix(test, title),
        "report/curves.png": plots.curves(history, "Training", best_epoch),
    }
