"""From a trained network to a version in the registry."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import cifar_lit
from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import RegistryError, VersionDamagedError
from cifar_lit.evaluation import plots, report
from cifar_lit.evaluation.calibration import ece_metrics, fit_temperature
from cifar_lit.evaluation.evaluation import Evaluation
from cifar_lit.interop import onnx_model
from cifar_lit.models.networks import Network
from cifar_lit.registry.manifest import About
from cifar_lit.registry.registry import ChampionChangedError, Registry
from cifar_lit.registry.version import CALIBRATION, ONNX, WEIGHTS, Version
from cifar_lit.registry.weights import describe, dump, load_network
from cifar_lit.training.promotion import Decision

CONFIG = "config.yaml"


@dataclass(frozen=True)
class Published:
    """What became of a training run."""

    version: Version
    decision: Decision
    evaluations: Mapping[str, Evaluation]
    """By split: "val" and "test"."""


def publish(
    network: Network,
    registry: Registry,
    *,
    images: ImageSet,
    evaluations: Mapping[str, Evaluation],
    decide: Callable[[Version | None], Decision],
    data: Mapping[str, Any],
    config: str,
    training: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
    seed: int | None,
    parent: str | None = None,
    extra_files: Mapping[str, bytes] | None = None,
) -> Published:
    """Makes a network a version, with the status that `decide` gives it and the temperature that fits its predictions
    to the validation images ("val"); without such images it keeps the one that it has.

    Args:
        network: holds the weights to keep; gets the temperature.
        registry: where the version goes.
        images: some of those that it was measured on; its ONNX graph is compared with it on them. A network that can't
            be exported becomes a candidate without a graph.
        evaluations: of the network in full precision, single view, by split; at least one. The last is reported.
        decide: compares with a champion (none if there is none); asked again if the champion changes meanwhile.
        data: fingerprint of what it learned from, for the manifest.
        config: text of the config file that makes this run again.
        training: how the run went, for the manifest; `best_epoch` (from 0) is marked in the curves.
        history: one mapping an epoch, for the curves.
        seed: of all random choices; None if none was given.
        parent: id of the version that training started from.
        extra_files: more files of the version, by their path inside.

    Raises:
        RegistryError: no version could be written; the registry is as it was.
    """
    if "val" in evaluations:
        network.temperature = fit_temperature(evaluations["val"])
    metrics = {name: value for split, each in evaluations.items() for name, value in each.named_metrics(split).items()}
    metrics |= ece_metrics(evaluations, network.temperature)
    about = About(
        **describe(network),
        class_names=list(next(iter(evaluations.values())).class_names),
        metrics=metrics,
        data=dict(data),
        seed=seed,
        code={"cifar_lit": cifar_lit.__version__, "torch": torch.__version__},
        training=dict(training),
        parent=parent,
    )
    files = {WEIGHTS: dump(network), CONFIG: config.encode(), **(extra_files or {})}
    files |= _report_files(evaluations, history, training.get("best_epoch"))
    files[CALIBRATION] = plots.calibration(list(evaluations.values())[-1], network.temperature)
    try:
        files[ONNX], _ = onnx_model.dump(network, about.class_names, onnx_model.some_images(images))
    except onnx_model.ExportError as error:
        decide = _can_not_be_served(error)
    champion, decision = _compare(registry, decide)
    if decision.status != "promoted":
        # One step: it is never seen with another status than the one it was given.
        version = registry.publish(files, about, status=decision.status, reason=decision.reason)
        return Published(version, decision, evaluations)
    version = registry.publish(files, about)
    while decision.status == "promoted":
        try:
            load_network(version)  # nothing is served that can't be loaded again
            version = registry.promote(version.id, decision.reason, instead_of=champion.id if champion else None)
            return Published(version, decision, evaluations)
        except ChampionChangedError:  # another run was promoted meanwhile: compare with that one
            champion, decision = _compare(registry, decide)
        except VersionDamagedError as error:
            decision = Decision("candidate", f"it can't be loaded again ({error})")
    enter = registry.reject if decision.status == "rejected" else registry.keep_as_candidate
    return Published(enter(version.id, decision.reason), decision, evaluations)


def _can_not_be_served(error: onnx_model.ExportError) -> Callable[[Version | None], Decision]:
    return lambda champion: Decision("candidate", f"it can't be served, there is no ONNX graph of it: {error}")


def _compare(registry: Registry, decide: Callable[[Version | None], Decision]) -> tuple[Version | None, Decision]:
    """The champion and the decision: a candidate where no comparison is possible, since the training is done."""
    try:
        champion = registry.champion()
    except RegistryError as error:
        return None, Decision("candidate", f"there is no champion to compare it with ({error})")
    try:
        return champion, decide(champion)
    except Exception as error:  # the champion's network may be anybody's code
        if champion is None:
            raise
        return champion, Decision("candidate", f"it can't be compared with champion {champion.id} ({error})")


def _report_files(
    evaluations: Mapping[str, Evaluation], history: Sequence[Mapping[str, float]], best_epoch: int | None
) -> dict[str, bytes]:
    split, shown = list(evaluations.items())[-1]
    metrics = {name: report.as_json(each) for name, each in evaluations.items()} | {"history": list(history)}
    name = {"test": "Test set", "val": "Validation images"}.get(split, split)
    title = f"{name}: {shown.metrics['acc']:.2%} of {len(shown.labels):,} images right"
    return {
        "report/metrics.json": (json.dumps(metrics, indent=2) + "\n").encode(),
        "report/report.txt": report.classification_report(shown).encode(),
        "report/confusion_matrix.png": plots.confusion_matrix(shown, title),
        "report/curves.png": plots.curves(history, "Training", best_epoch),
    }
