"""`cifar-lit validate|test`: measures a version with Lightning's Trainer, or on labelled arrays in a file."""

import argparse
import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from cifar_lit.commands.options import add_from, add_registry, print_json, registry_to_read_of
from cifar_lit.data.arrays import Form, open_labelled
from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import DataError, NpzError, SettingError
from cifar_lit.evaluation import plots
from cifar_lit.evaluation.calibration import at_temperature, ece_metrics
from cifar_lit.evaluation.evaluation import Evaluation, evaluate
from cifar_lit.interop.model import Model, load_model
from cifar_lit.models.classifier import Classifier
from cifar_lit.training.class_arguments import ClassArgumentParser
from cifar_lit.training.lightning import hush_lightning

_SPLITS = {"validate": "val", "test": "test"}
_TRAINER_DEFAULTS = {
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def run(args: list[str]) -> int:
    verb, *rest = args
    own, rest = _own_parser(verb).parse_known_args(rest)
    parser = _lightning_parser(verb)
    if own.help:
        _own_parser(verb).print_help()
        print()
        parser.print_help()
        return 0
    if own.npz is not None:
        return _test_on_arrays(own, rest)
    model = load_model(own.reference, registry_to_read_of(own))
    split = model.version.manifest.data["split"] if model.version else {"val_fraction": None, "seed": None}
    if None not in split.values():
        # Unless told otherwise, validation means the images that this version was not trained on.
        parser.set_defaults({"data.val_fraction": split["val_fraction"], "data.split_seed": split["seed"]})
    elif verb == "validate":
        print(f"{model.name} does not say what it was trained on: it may know these images.", file=sys.stderr)
    config = parser.parse_args(rest)
    name = _SPLITS[verb]
    # With --json, standard output is for the result alone.
    with contextlib.redirect_stdout(sys.stderr):
        hush_lightning()
        instances = parser.instantiate(config)
        classifier = Classifier(model.network, tta_flip=own.tta_flip, tta_shift=own.tta_shift)
        classifier.class_names = model.class_names
        trainer: pl.Trainer = instances.trainer
        (trainer.test if verb == "test" else trainer.validate)(classifier, instances.data, verbose=False)
    if trainer.is_global_zero:
        data = instances.data.test_set if verb == "test" else instances.data.val_set
        about = f"{len(data):,} {'test' if verb == 'test' else 'validation'} images\n({data.source})"
        # Outputs from several processes come in another order than the images.
        _tell(own, model, classifier.evaluations[name], about, name, data if trainer.world_size == 1 else None)
    return 0


def _test_on_arrays(own: argparse.Namespace, rest: list[str]) -> int:
    if rest:
        raise SettingError(f"{rest[0]} has no effect with --data.npz. Leave it out.")
    if len(own.npz) > 2:
        raise SettingError(f"--data.npz names {len(own.npz)} files, expected FILE, or images and labels.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(own.reference, registry_to_read_of(own), device)
    try:
        with open_labelled(own.npz, Form(own.x, own.y), prefer="x_test") as arrays:
            for each in (*arrays.notes, *(f"convert: {each}" for each in arrays.words)):
                print(each, file=sys.stderr)
            data = arrays.convert()
    except NpzError as error:
        advice = (
            f" `cifar-lit increment make --arrays {own.npz[0]} ...` takes more options." if "--" in str(error) else ""
        )
        raise NpzError(f"{error}{advice}", error.fault) from error
    data = replace(data, class_names=tuple(model.class_names))
    evaluation = evaluate(model.network, data, tta_flip=own.tta_flip, tta_shift=own.tta_shift)
    _tell(own, model, evaluation, f"{len(data):,} images ({data.source})", "test", data)
    return 0


def _own_parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"cifar-lit {verb}",
        add_help=False,
        allow_abbrev=False,
        description=f"Measure a version on the {'test' if verb == 'test' else 'validation'} images.",
        usage=f"cifar-lit {verb} [--from VERSION|FILE] [--json] [--report DIR] [--data.* ...] [--trainer.* ...]",
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this and the --data and --trainer options")
    add_from(parser)
    add_registry(parser)
    if verb == "test":
        parser.add_argument(
            "--data.npz",
            dest="npz",
            type=Path,
            nargs="+",
            metavar=("FILE", "LABELS"),
            help="measure on the labelled images of an npz, or of two .npy, instead; most usual forms are recognised",
        )
        parser.add_argument("--x", metavar="KEY", help="with --data.npz: array of the images")
        parser.add_argument("--y", metavar="KEY", help="with --data.npz: array of the labels")
    else:
        parser.set_defaults(npz=None)
    parser.add_argument("--json", action="store_true", help="print the metrics as one JSON object")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write metrics.json, report.txt, and confusion_matrix, calibration and samples as png",
    )
    parser.add_argument("--tta_flip", action="store_true", help="average the predictions for an image and its mirror")
    parser.add_argument(
        "--tta_shift", type=int, default=0, metavar="N", help="and to the image moved by N pixels, both ways; N 0..31"
    )
    return parser


def _lightning_parser(verb: str) -> ClassArgumentParser:
    parser = ClassArgumentParser(prog=f"cifar-lit {verb}", description="Data and Trainer.", exit_on_error=True)
    parser.add_argument("--config", action="config", help="file with `data` and `trainer` options")
    parser.add_class_arguments(CIFAR10DataModule, "data")
    parser.add_class_arguments(pl.Trainer, "trainer")
    parser.set_defaults({f"trainer.{name}": value for name, value in _TRAINER_DEFAULTS.items()})
    return parser


def _tell(
    own: argparse.Namespace, model: Model, evaluation: Evaluation, about: str, split: str, data: ImageSet | None
) -> None:
    """Prints an evaluation and writes the report; without `data`, one without images."""
    temperature = model.network.temperature
    errors = ece_metrics({split: evaluation}, temperature)
    if own.json:
        print_json(evaluation.named_metrics(split) | errors)
    else:
        print(f"{model.name} on {about}\n")
        print(evaluation.classification_report(), end="")
        served, raw = errors.values()
        print(f"calibration error: {served:.4f} as served, at temperature {temperature:.4g}; {raw:.4f} without it")
    if own.report is None:
        return
    title = f"{model.name}: {evaluation.metrics['acc']:.2%} of {len(evaluation.labels):,} images right"
    files: dict[str, Any] = {
        "metrics.json": (json.dumps({split: evaluation.as_json()}, indent=2) + "\n").encode(),
        "report.txt": evaluation.classification_report().encode(),
        "confusion_matrix.png": plots.confusion_matrix(evaluation, title),
        "calibration.png": plots.calibration(evaluation, temperature),
    }
    if data is not None:
        files["samples.png"] = plots.sample_grid(data.images, at_temperature(evaluation, temperature), title)
    try:
        own.report.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (own.report / name).write_bytes(content)
    except OSError as error:
        raise DataError(f"--report {own.report} can't be written: {error.strerror}. Name another folder.") from error
    print(f"Report: {own.report}", file=sys.stderr)
