"""`cifar-lit predict`: image files and folders in; a table, CSV or JSON out."""

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.commands.options import add_from, add_registry, registry_of
from cifar_lit.data.image_folder import list_images
from cifar_lit.data.images import decode, to_network_size
from cifar_lit.errors import DataError, ImageError
from cifar_lit.serving.predictor import Prediction, Predictor

_BATCH = 500

Rows = Sequence[tuple[Path, Prediction]]


def run(args: list[str]) -> int:
    namespace = _parser().parse_args(args[1:])
    version = registry_of(namespace).resolve(namespace.reference)
    predictor = Predictor.from_version(version, "cuda" if torch.cuda.is_available() else "cpu")
    rows, failures = _predict(predictor, _files(namespace.paths))
    text = _FORMATS[namespace.format](rows)
    if namespace.out is None:
        print(text, end="")
    else:
        try:
            namespace.out.write_text(text)
        except OSError as error:
            raise DataError(f"{namespace.out} can't be written: {error.strerror}. Name another --out.") from error
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 2 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cifar-lit predict", description="Classify images.")
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE|FOLDER", help="PNG, JPEG or WebP, of any size")
    add_from(parser)
    add_registry(parser)
    parser.add_argument("--format", choices=list(_FORMATS), default="table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there instead of to standard output")
    return parser


def _files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder.")
        found = list_images(path) if path.is_dir() else [path]
        if not found:
            raise DataError(f"{path}: no PNG, JPEG or WebP file in this folder.")
        files += found
    return files


def _predict(predictor: Predictor, files: Sequence[Path]) -> tuple[list[tuple[Path, Prediction]], list[str]]:
    """Answers in the order given, and what was wrong with the files that have none."""
    rows: list[tuple[Path, Prediction]] = []
    failures: list[str] = []
    for start in range(0, len(files), _BATCH):
        images, readable = [], []
        for path in files[start : start + _BATCH]:
            try:
                images.append(to_network_size(decode(path.read_bytes())))
                readable.append(path)
            except (ImageError, OSError) as error:
                failures.append(f"{path}: {error}")
        if images:
            rows += zip(readable, predictor.predict(torch.stack(images)), strict=True)
    return rows, failures


def _table(rows: Rows) -> str:
    width = max((len(str(path)) for path, _ in rows), default=0)
    lines = [f"{'file':{width}}  prediction  confidence  version"] if rows else []
    for path, answer in rows:
        lines.append(f"{path!s:{width}}  {answer.prediction:10}  {answer.confidence:10.4f}  {answer.version}")
    return "".join(f"{line}\n" for line in lines)


def _csv(rows: Rows) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["file", "prediction", "confidence", *CLASS_NAMES, "version"])
    for path, answer in rows:
        probs = [answer.probabilities[name] for name in CLASS_NAMES]
        writer.writerow([path, answer.prediction, answer.confidence, *probs, answer.version])
    return buffer.getvalue()


def _json(rows: Rows) -> str:
    return json.dumps([{"file": str(path), **answer.as_dict()} for path, answer in rows], indent=2) + "\n"


_FORMATS: dict[str, Callable[[Rows], str]] = {"table": _table, "csv": _csv, "json": _json}
