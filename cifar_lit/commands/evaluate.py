"""`cifar-lit validate|test`: measures a version with Lightning's Trainer."""

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from cifar_lit.commands.options import add_from, add_registry, print_json, registry_of
from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.errors import DataError
from cifar_lit.evaluation import plots, report
from cifar_lit.interop.model import load_model
from cifar_lit.models.classifier import Classifier
from cifar_lit.training.class_arguments import ClassArgumentParser
from cifar_lit.training.fit import hush_lightning

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
    model = load_model(own.reference, registry_of(own))
    split = model.version.manifest.data["split"] if model.version else {"val_fraction": None, "seed": None}
    if None not in split.values():
        # Unless told otherwise, validation means the images that this version was not trained on.
        parser.set_defaults({"data.val_fraction": split["val_fraction"], "data.split_seed": split["seed"]})
    elif verb == "validate":
        print(f"{model.name} does not say what it was trained on: it may know these images.", file=sys.stderr)
    config = parser.parse_args(rest)
    name = _SPLITS[verb]
    # With --json, standard output is for the answer alone.
    with contextlib.redirect_stdout(sys.stderr):
        hush_lightning()
        instances = parser.instantiate(config)
        classifier = Classifier(model.network, tta_flip=own.tta_flip, tta_shift=own.tta_shift)
        trainer: pl.Trainer = instances.trainer
        (trainer.test if verb == "test" else trainer.validate)(classifier, instances.data, verbose=False)
    if trainer.is_global_zero:
        _tell(own, model.name, classifier, instances.data, name)
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
    parser.add_argument("--json", action="store_true", help="print the metrics as one JSON object")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write metrics.json, report.txt, confusion_matrix.png, samples.png"
    )
    parser.add_argument("--tta_flip", action="store_true", help="average the answers to an image and its mirror")
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
    own: argparse.Namespace, model_name: str, classifier: Classifier, datamodule: CIFAR10DataModule, split: str
) -> None:
    evaluation = classifier.evaluations[split]
    data = datamodule.test_set if split == "test" else datamodule.val_set
    if own.json:
        print_json(evaluation.named_metrics(split))
    else:
        print(f"{model_name} on {len(evaluation.labels):,} {'test' if split == 'test' else 'validation'} images")
        print(f"({data.source})\n")
        print(report.classification_report(evaluation), end="")
    if own.report is None:
        return
    title = f"{model_name}: {evaluation.metrics['acc']:.2%} of {len(evaluation.labels):,} images right"
    files: dict[str, Any] = {
        "metrics.json": (json.dumps({split: report.as_json(evaluation)}, indent=2) + "\n").encode(),
        "report.txt": report.classification_report(evaluation).encode(),
        "confusion_matrix.png": plots.confusion_matrix(evaluation, title),
    }
    if classifier.trainer.world_size == 1:  # answers from several processes come in another order than the images
        files["samples.png"] = plots.sample_grid(data.images, evaluation, title)
    try:
        own.report.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (own.report / name).write_bytes(content)
    except OSError as error:
        raise DataError(f"--report {own.report} can't be written: {error.strerror}. Name another folder.") from error
    print(f"Report: {own.report}", file=sys.stderr)
