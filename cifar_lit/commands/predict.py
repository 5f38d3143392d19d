"""`cifar-lit predict`: image files, folders and arrays of pixels in; a table, CSV or JSON out."""

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.commands.options import add_from, add_registry, registry_of
from cifar_lit.data import arrays
from cifar_lit.data.image_folder import list_images
from cifar_lit.data.images import decode, to_network_size
from cifar_lit.errors import DataError, ImageError, NpzError
from cifar_lit.interop.model import load_model
from cifar_lit.serving.predictor import Prediction, Predictor

_BATCH = 500
_ARRAYS = (".npz", ".npy")

Rows = Sequence[tuple[Path, Prediction]]


def run(args: list[str]) -> int:
    namespace = _parser().parse_args(args[1:])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(namespace.reference, registry_of(namespace), device)
    predictor = Predictor(model.network, model.class_names, model.name)
    rows, failures = _predict(predictor, _files(namespace.paths), namespace.x)
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
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="FILE|FOLDER|ARRAYS.npz",
        help="pictures of any size; an .npz or .npy of images, in most usual forms",
    )
    parser.add_argument("--x", metavar="KEY", help="array of the images, where an npz has several")
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


def _predict(
    predictor: Predictor, files: Sequence[Path], key: str | None
) -> tuple[list[tuple[Path, Prediction]], list[str]]:
    """Answers in the order given, and what was wrong with the files that have none."""
    rows: list[tuple[Path, Prediction]] = []
    failures: list[str] = []
    images = _images(files, key, failures)
    while batch := list(islice(images, _BATCH)):
        names, pictures = zip(*batch, strict=True)
        rows += zip(names, predictor.predict(torch.stack(pictures)), strict=True)
    return rows, failures


def _images(files: Sequence[Path], key: str | None, failures: list[str]) -> Iterator[tuple[Path, Tensor]]:
    """Images, uint8 (32, 32, 3), and what they are called; notes what is wrong with files that can't be read."""
    for path in files:
        try:
            if path.suffix.lower() in _ARRAYS:
                read, words = arrays.read_images(path, key)
                for each in words:
                    print(f"{path}: convert: {each}", file=sys.stderr)
                yield from ((Path(f"{path}#{row}"), image) for row, image in enumerate(read))
            else:
                yield path, to_network_size(decode(path.read_bytes()))
        except NpzError as error:
            failures.append(str(error))
        except (ImageError, OSError) as error:
            failures.append(f"{path}: {error}")


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
