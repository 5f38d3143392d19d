"""`cifar-lit import`: a Keras model or a file of weights becomes a version."""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import torch

import cifar_lit
from cifar_lit.commands.data_options import add_data, find_test_set
from cifar_lit.commands.options import add_registry, print_json, registry_of
from cifar_lit.data.image_set import ImageSet
from cifar_lit.evaluation import plots
from cifar_lit.evaluation.evaluation import Evaluation, evaluate
from cifar_lit.interop import onnx_model
from cifar_lit.interop.model import KINDS, Model, load_file
from cifar_lit.registry.manifest import About
from cifar_lit.registry.version import ONNX, WEIGHTS
from cifar_lit.registry.weights import describe, dump


def run(args: list[str]) -> int:
    namespace = _parser().parse_args(args[1:])
    path: Path = namespace.path
    registry = registry_of(namespace)
    model = load_file(path, mean=namespace.mean, std=namespace.std)
    test_set = find_test_set(namespace)
    if test_set is None:
        print("Not measured: no CIFAR-10 found (--data.root names it).", file=sys.stderr)
    evaluation = None if test_set is None else evaluate(model.network, test_set)
    graph, _ = onnx_model.dump(model.network, model.class_names, onnx_model.some_images(test_set))
    files = {WEIGHTS: dump(model.network), ONNX: graph} | (_report_files(evaluation) if evaluation else {})
    about = _about(model, _sha256(path), test_set, evaluation)
    version = registry.publish(files, about)
    version = registry.keep_as_candidate(version.id, f"imported from {model.name}")
    if namespace.json:
        print_json(version.manifest.summary(None))
        return 0
    print(f"{version.id}: {version.manifest.status}, {version.manifest.reason}")
    if test_set is not None:
        print(f"On {len(test_set):,} images ({test_set.source}):")
        print(", ".join(f"{name} {value:.4f}" for name, value in version.manifest.metrics.items()))
    print(f"`cifar-lit versions promote {version.id}` makes it the champion.")
    return 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cifar-lit import",
        description="Make a version of a Keras model (the seed recipe's three-block architecture) or of weights of one "
        "of this project's networks. It stays a candidate. If CIFAR-10 is found, it is measured on the test images.",
    )
    parser.add_argument("path", type=Path, metavar="FILE", help=f"weights in {KINDS}")
    for name, about in (("mean", "is subtracted from each channel"), ("std", "each channel is divided by")):
        parser.add_argument(
            f"--{name}",
            type=float,
            nargs=3,
            metavar=("R", "G", "B"),
            help=f"what {about}, on the scale 0..1, where a state dictionary does not say it (default: CIFAR-10's)",
        )
    parser.add_argument("--json", action="store_true", help="print the version as one JSON object")
    add_registry(parser)
    add_data(parser)
    return parser


def _about(model: Model, sha256: str, test_set: ImageSet | None, evaluation: Evaluation | None) -> About:
    """What is known of an import. Nobody told what it was trained on, so that stays open."""
    return About(
        **describe(model.network),
        class_names=model.class_names,
        metrics=evaluation.named_metrics("test") if evaluation else {},
        data={
            "source": f"unknown, imported from {model.name}",
            "train": {"count": None, "sha256": None},
            "test": {"count": len(test_set), "sha256": test_set.sha256}
            if test_set is not None
            else {"count": None, "sha256": None},
            "split": {"seed": None, "val_fraction": None},
        },
        seed=None,
        code={"cifar_lit": cifar_lit.__version__, "torch": torch.__version__},
        training={"imported_from": model.name, "sha256": sha256},
    )


def _report_files(evaluation: Evaluation) -> dict[str, bytes]:
    title = f"Test set: {evaluation.metrics['acc']:.2%} of {len(evaluation.labels):,} images right"
    return {
        "report/metrics.json": (json.dumps({"test": evaluation.as_json()}, indent=2) + "\n").encode(),
        "report/report.txt": evaluation.classification_report().encode(),
        "report/confusion_matrix.png": plots.confusion_matrix(evaluation, title),
    }
