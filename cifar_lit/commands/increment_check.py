"""`cifar-lit increment check`: audits an increment."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, get_args

import torch

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.commands.data_options import is_named, read_data
from cifar_lit.commands.options import print_json, refuse_to_replace, registry_of
from cifar_lit.data import increment
from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.sources import Split
from cifar_lit.errors import DataError, RegistryError, SettingError
from cifar_lit.evaluation.audit import Audit, audit
from cifar_lit.interop.model import Model, load_model
from cifar_lit.registry.registry import LATEST

NO_MODEL = "none"


def check(namespace: argparse.Namespace) -> int:
    data = increment.read(namespace.file)
    if namespace.clean is not None:
        refuse_to_replace(namespace.clean, "--clean", namespace.force)
    model = _model(namespace)
    splits = _splits(namespace)
    found = audit(data, splits.get("train"), splits.get("test"), model.network if model else None)
    about = {"file": str(namespace.file), "version": model.name if model else None, **found.as_json()}
    text = f"{namespace.file}, {found.text()}"
    if namespace.json:
        print_json(about)
    else:
        print(text, end="")
    if namespace.report is not None:
        _write_report(namespace.report, found, text, about)
    if namespace.clean is not None:
        _write_clean(namespace.clean, found)
    return 0 if found.ok else 1


def _model(namespace: argparse.Namespace) -> Model | None:
    if namespace.reference == NO_MODEL:
        return None
    try:
        model = load_model(namespace.reference, registry_of(namespace), "cuda" if torch.cuda.is_available() else "cpu")
    except RegistryError as error:
        if namespace.reference != LATEST:
            raise
        print(f"warning: labels are not checked: {error}", file=sys.stderr)
        return None
    if tuple(model.class_names) != CLASS_NAMES:
        raise SettingError(
            f"--from {namespace.reference}: its classes are {', '.join(model.class_names)}, those of an increment are "
            f"{', '.join(CLASS_NAMES)}. Name another, or {NO_MODEL!r}."
        )
    return model


def _splits(namespace: argparse.Namespace) -> dict[str, ImageSet]:
    """The splits by name; one that is missing is left out, with a warning, unless a data set was named."""
    splits: dict[str, ImageSet] = {}
    missing: dict[str, str] = {}
    for split in get_args(Split):
        try:
            splits[split] = read_data(namespace, split)
        except DataError as error:
            if is_named(namespace):
                raise
            missing[split] = str(error)
    for reason in sorted(set(missing.values())):
        which = " and ".join(split for split in missing if missing[split] == reason)
        print(f"warning: copies of {which} images are not looked for: {reason}", file=sys.stderr)
    return splits


def _write_report(folder: Path, found: Audit, text: str, about: dict[str, Any]) -> None:
    files = {"audit.txt": text.encode(), "audit.json": (json.dumps(about, indent=2) + "\n").encode()}
    image = found.doubts_png()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if image is not None:
            (folder / "doubts.png").write_bytes(image)
        else:
            (folder / "doubts.png").unlink(missing_ok=True)  # of an earlier check
    except OSError as error:
        raise DataError(f"--report {folder} can't be written: {error.strerror}. Name another folder.") from error
    print(f"Report: {folder}", file=sys.stderr)


def _write_clean(path: Path, found: Audit) -> None:
    rows = found.clean_rows
    if not len(rows):
        print(f"No row is without fault: {path} was not written.", file=sys.stderr)
        return
    increment.write(path, found.data.subset(rows))
    print(f"Wrote {path}: {len(rows):,} of {len(found.data):,} images.", file=sys.stderr)
