"""Fits the temperature of versions that were made before there was one."""

import logging
import os

from cifar_lit.data.image_set import ImageSet, stratified_split
from cifar_lit.data.sources import Split, read_split, resolve_root
from cifar_lit.errors import CifarLitError, DataError
from cifar_lit.evaluation import plots
from cifar_lit.evaluation.calibration import ece_metrics, fit_temperature
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.registry.manifest import Manifest
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import CALIBRATION, Version
from cifar_lit.registry.weights import load_network

_log = logging.getLogger(__name__)


def calibrate_all(registry: Registry, root: str | os.PathLike[str] | None = None) -> list[Version]:
    """Gives each version without a temperature the one that fits its predictions to its own validation images.

    A version whose images are not at hand is left as it is, with a warning.

    Args:
        registry: whose versions.
        root: folder of the data set. Default: the environment's CIFAR_LIT_DATA, else `data`.

    Returns:
        The versions that got one.

    Raises:
        RegistryError: one can't be written.
    """
    read: dict[Split, ImageSet] = {}
    done = []
    for version in registry.versions():
        if version.manifest.is_calibrated:
            continue
        try:
            sets = {"val": _held_out(version.manifest, _split("train", version.manifest, root, read))}
            sets["test"] = _split("test", version.manifest, root, read)
            network = load_network(version)
        except CifarLitError as error:
            _log.warning("%s has no temperature yet: %s", version.id, error)
            continue
        evaluations = {split: evaluate(network, data) for split, data in sets.items()}
        temperature = fit_temperature(evaluations["val"])
        metrics = version.manifest.metrics | ece_metrics(evaluations, temperature)
        figure = plots.calibration(evaluations["test"], temperature)
        done.append(registry.amend(version.id, {CALIBRATION: figure}, temperature=temperature, metrics=metrics))
    return done


def _split(
    split: Split, manifest: Manifest, root: str | os.PathLike[str] | None, read: dict[Split, ImageSet]
) -> ImageSet:
    """The split that the manifest names.

    Raises:
        DataError: it is another one, or there is none.
    """
    wanted = manifest.data.get(split, {}).get("sha256")
    if wanted is None:
        raise DataError(
            f"its manifest does not say which {split} images are its own, so that none can be fitted. Fine-tune it: "
            "the result has one."
        )
    if split not in read:
        read[split] = read_split(split, resolve_root(root))
    if read[split].sha256 != wanted:
        raise DataError(f"the {split} images at hand are not those of its manifest. Name them with --data.root.")
    return read[split]


def _held_out(manifest: Manifest, train: ImageSet) -> ImageSet:
    split = manifest.data["split"]
    if not split.get("val_fraction"):
        raise DataError(
            "it was trained on all images, so that none are left to fit one to. Train with --data.val_fraction above 0."
        )
    return train.subset(stratified_split(train.labels, split["val_fraction"], split["seed"])[1])
