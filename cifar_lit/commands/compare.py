"""`cifar-lit compare`: two versions on the same images, and whether their difference can be chance."""

import argparse
import json
import sys
from pathlib import Path
from typing import get_args

import torch

from cifar_lit.commands.data_options import add_data, read_data
from cifar_lit.commands.options import add_registry, print_json, registry_of
from cifar_lit.data.sources import Split
from cifar_lit.errors import DataError
from cifar_lit.evaluation import plots, version_comparison
from cifar_lit.evaluation.comparison import Comparison
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.interop.model import KINDS, load_model


def run(args: list[str]) -> int:
    own = _parser().parse_args(args[1:])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = [load_model(each, registry_of(own), device) for each in (own.first, own.second)]
    data = read_data(own, own.split)
    first, second = (evaluate(each.network, data) for each in models)
    comparison = Comparison(first, second)
    names = models[0].name, models[1].name
    temperatures = models[0].network.temperature, models[1].network.temperature
    values = version_comparison.as_json(comparison, names, temperatures)
    text = version_comparison.text(comparison, names, temperatures)
    if own.json:
        print_json(values)
    else:
        print(f"{names[0]} and {names[1]} on {len(data):,} images ({data.source})\n\n{text}", end="")
    if own.report is not None:
        files = {
            "compare.txt": text.encode(),
            "compare.json": (json.dumps(values, indent=2) + "\n").encode(),
            "disagreements.png": version_comparison.png(data.images, comparison, names),
            "calibration_first.png": plots.calibration(first, temperatures[0]),
            "calibration_second.png": plots.calibration(second, temperatures[1]),
        }
        _write(own.report, files)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cifar-lit compare",
        description="Compare two versions on the same images: accuracies with McNemar's test, classes, calibration, "
        "and the images on which they disagree.",
    )
    for name in ("first", "second"):
        parser.add_argument(name, metavar=name.upper(), help=f"an id, 'latest', or a file: {KINDS}")
    parser.add_argument("--split", choices=get_args(Split), default="test", help="of the data set (default: test)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write the text, the JSON and images there")
    add_registry(parser)
    add_data(parser)
    return parser


def _write(folder: Path, files: dict[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise DataError(f"--report {folder} can't be written: {error.strerror}. Name another folder.") from error
    print(f"Report: {folder}", file=sys.stderr)
