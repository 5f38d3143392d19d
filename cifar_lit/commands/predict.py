"""`cifar-lit predict`: image files, folders and arrays of pixels in; a table, CSV or JSON out."""

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cifar_lit.api import load_predictor
from cifar_lit.commands.options import add_from, add_registry, registry_to_read_of
from cifar_lit.data import arrays
from cifar_lit.data.formats import ACCEPTED
from cifar_lit.data.image_files import Skipped, list_files, read_image, skipped, summary
from cifar_lit.data.images import Pixels
from cifar_lit.errors import DataError, ImageError, NpzError
from cifar_lit.inference.predictor import Prediction, Predictor

_BATCH = 500
_ARRAYS = (".npz", ".npy")


class Row(NamedTuple):
    """The prediction for the image of this name."""

    path: Path
    prediction: Prediction
    note: str


Rows = Sequence[Row]


def run(args: list[str]) -> int:
    namespace = _parser().parse_args(args[1:])
    predictor = load_predictor(namespace.reference, registry_to_read_of(namespace))
    files = _files(namespace.paths)
    rows, left = _predict(predictor, files, namespace.x)
    text = _FORMATS[namespace.format](rows)
    if namespace.out is None:
        print(text, end="")
    else:
        try:
            namespace.out.write_text(text)
        except OSError as error:
            raise DataError(f"{namespace.out} can't be written: {error.strerror}. Name another --out.") from error
    for row in rows:
        if row.note:
            print(f"note: {row.path}: {row.note}", file=sys.stderr)
    for each in left:
        print(f"error: {each}", file=sys.stderr)
    if left and len(files) > 1:
        print(summary(left, len(files)), file=sys.stderr)
    return (1 if rows else 2) if left else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cifar-lit predict", description="Classify images.")
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="FILE|FOLDER|ARRAYS.npz",
        help=f"{ACCEPTED}, of any size; an .npz or .npy of images, in most usual forms",
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
        found, num_hidden = list_files(path) if path.is_dir() else ([path], 0)
        if not found:
            raise DataError(f"{path}: no file in this folder.")
        if num_hidden:
            print(f"note: {path}: {num_hidden:,} hidden file{'s' * (num_hidden > 1)} passed over", file=sys.stderr)
        files += found
    return files


def _predict(predictor: Predictor, files: Sequence[Path], key: str | None) -> tuple[Rows, list[Skipped]]:
    """Predictions in the order given, and the files that have none."""
    rows: list[Row] = []
    left: list[Skipped] = []
    images = _images(files, key, left)
    while batch := list(islice(images, _BATCH)):
        predictions = predictor.predict(np.stack([image for _, image, _ in batch]))
        rows += [Row(path, prediction, note) for (path, _, note), prediction in zip(batch, predictions, strict=True)]
    return rows, left


def _images(files: Sequence[Path], key: str | None, left: list[Skipped]) -> Iterator[tuple[Path, Pixels, str]]:
    """Of each image its name, uint8 (32, 32, 3) and a note; puts aside the files that can't be read."""
    for path in files:
        try:
            if path.suffix.lower() in _ARRAYS:
                read, words = arrays.read_images(path, key)
                for each in words:
                    print(f"{path}: convert: {each}", file=sys.stderr)
                yield from ((Path(f"{path}#{row}"), image, "") for row, image in enumerate(read))
            else:
                decoded = read_image(path)
                yield path, decoded.network_pixels, decoded.note
        except NpzError as error:
            left.append(Skipped(path, "npz without images", str(error).removeprefix(f"{path}: ")))
        except (ImageError, OSError) as error:
            left.append(skipped(path, error))


def _table(rows: Rows) -> str:
    width = max((len(str(path)) for path, _, _ in rows), default=0)
    lines = [f"{'file':{width}}  prediction  confidence  version"] if rows else []
    for path, prediction, _ in rows:
        lines.append(
            f"{path!s:{width}}  {prediction.prediction:10}  {prediction.confidence:10.4f}  {prediction.version}"
        )
    return "".join(f"{line}\n" for line in lines)


def _csv(rows: Rows) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = list(rows[0].prediction.probabilities) if rows else []
    writer.writerow(["file", "prediction", "confidence", *names, "version"])
    for path, prediction, _ in rows:
        writer.writerow(
            [path, prediction.prediction, prediction.confidence, *prediction.probabilities.values(), prediction.version]
        )
    return buffer.getvalue()


def _json(rows: Rows) -> str:
    found = [
        {"file": str(path), **prediction.as_dict(), **({"note": note} if note else {})}
        for path, prediction, note in rows
    ]
    return json.dumps(found, indent=2) + "\n"


_FORMATS: dict[str, Callable[[Rows], str]] = {"table": _table, "csv": _csv, "json": _json}
