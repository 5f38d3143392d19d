"""From a trained network to a version in the registry."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

import cifar_lit
from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import RegistryError, VersionDamagedError
from cifar_lit.evaluation import plots
from cifar_lit.evaluation.calibration import ece_metrics, fit_temperature
from cifar_lit.evaluation.comparison import Comparison
from cifar_lit.evaluation.evaluation import Evaluation
from cifar_lit.interop import onnx_model
from cifar_lit.models.networks import Network
from cifar_lit.registry.manifest import About
from cifar_lit.registry.registry import ChampionChangedError, Registry
from cifar_lit.registry.version import CALIBRATION, ONNX, WEIGHTS, Version
from cifar_lit.registry.weights import describe, dump, load_network
from cifar_lit.training.gate import Verdict

CONFIG = "config.yaml"


@dataclass(frozen=True)
class Candidate:
    """A trained network with all that is known of it: what learning makes, judging measures and publishing keeps.

    Attributes:
        network: holds the weights to keep. `publish` sets its temperature.
        images: some that it was measured on; its ONNX graph is compared with it on them.
        evaluations: of the network in full precision, single view, by split; at least one. The last is reported.
        data: fingerprint of what it learned from, for the manifest.
        config: text of the config file that makes this run again.
        training: how the run went, for the manifest; `best_epoch` (from 0) is marked in the curves.
        history: one mapping an epoch, for the curves.
        seed: of all random choices; None if none was given.
        parent: id of the version that training started from.
        comparisons: with the parent, by the names of `forgetting_report.MEANING`.
        files: more files of the version, by their path inside.
    """

    network: Network
    images: ImageSet
    evaluations: Mapping[str, Evaluation]
    data: Mapping[str, Any]
    config: str
    training: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]
    seed: int | None
    parent: str | None = None
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """What became of a candidate."""

    version: Version
    verdict: Verdict
    candidate: Candidate


def publish(candidate: Candidate, registry: Registry, decide: Callable[[Version | None], Verdict]) -> Published:
    """Makes a candidate a version, with the status that `decide` gives it and the temperature that fits its predictions
    to the validation images ("val"); without such images it keeps the one that it has.

    Args:
        candidate: one that can't be exported to ONNX stays a candidate, without a graph.
        registry: where the version goes.
        decide: compares with a champion (none if there is none); asked again if the champion changes meanwhile.

    Raises:
        RegistryError: no version could be written; the registry is as it was.
    """
    network, evaluations = candidate.network, candidate.evaluations
    if "val" in evaluations:
        network.temperature = fit_temperature(evaluations["val"])
    metrics = {name: value for split, each in evaluations.items() for name, value in each.named_metrics(split).items()}
    metrics |= ece_metrics(evaluations, network.temperature)
    about = About(
        **describe(network),
        class_names=list(next(iter(evaluations.values())).class_names),
        metrics=metrics,
        data=dict(candidate.data),
        seed=candidate.seed,
        code={"cifar_lit": cifar_lit.__version__, "torch": torch.__version__},
        training=dict(candidate.training),
        parent=candidate.parent,
    )
    files = {WEIGHTS: dump(network), CONFIG: candidate.config.encode(), **candidate.files, **_report_files(candidate)}
    files[CALIBRATION] = plots.calibration(list(evaluations.values())[-1], network.temperature)
    try:
        files[ONNX], _ = onnx_model.dump(network, about.class_names, onnx_model.some_images(candidate.images))
    except onnx_model.ExportError as error:
        decide = _can_not_be_served(error)
    champion, verdict = _compare(registry, decide)
    if verdict.status != "promoted":
        # One step: it is never seen with another status than the one it was given.
        version = registry.publish(files, about, status=verdict.status, reason=verdict.reason)
        return Published(version, verdict, candidate)
    version = registry.publish(files, about)
    while verdict.status == "promoted":
        try:
            load_network(version)  # nothing is served that can't be loaded again
            version = registry.promote(version.id, verdict.reason, instead_of=champion.id if champion else None)
            return Published(version, verdict, candidate)
        except ChampionChangedError:  # another run was promoted meanwhile: compare with that one
            champion, verdict = _compare(registry, decide)
        except VersionDamagedError as error:
            verdict = Verdict("candidate", f"it can't be loaded again ({error})")
    enter = registry.reject if verdict.status == "rejected" else registry.keep_as_candidate
    return Published(enter(version.id, verdict.reason), verdict, candidate)


def _can_not_be_served(error: onnx_model.ExportError) -> Callable[[Version | None], Verdict]:
    return lambda champion: Verdict("candidate", f"it can't be served, there is no ONNX graph of it: {error}")


def _compare(registry: Registry, decide: Callable[[Version | None], Verdict]) -> tuple[Version | None, Verdict]:
    """The champion and the verdict: a candidate where no comparison is possible, since the training is done."""
    try:
        champion = registry.champion()
    except RegistryError as error:
        return None, Verdict("candidate", f"there is no champion to compare it with ({error})")
    try:
        return champion, decide(champion)
    except Exception as error:  # the champion's network may be anybody's code
        if champion is None:
            raise
        return champion, Verdict("candidate", f"it can't be compared with champion {champion.id} ({error})")


def _report_files(candidate: Candidate) -> dict[str, bytes]:
    split, shown = list(candidate.evaluations.items())[-1]
    metrics: dict[str, Any] = {name: each.as_json() for name, each in candidate.evaluations.items()}
    metrics["history"] = list(candidate.history)
    name = {"test": "Test set", "val": "Validation images"}.get(split, split)
    title = f"{name}: {shown.metrics['acc']:.2%} of {len(shown.labels):,} images right"
    return {
        "report/metrics.json": (json.dumps(metrics, indent=2) + "\n").encode(),
        "report/report.txt": shown.classification_report().encode(),
        "report/confusion_matrix.png": plots.confusion_matrix(shown, title),
        "report/curves.png": plots.curves(candidate.history, "Training", candidate.training.get("best_epoch")),
    }
