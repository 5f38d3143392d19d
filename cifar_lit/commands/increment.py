"""`cifar-lit increment make|check`: puts an npz increment together; audits one."""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from cifar_lit.cifar10 import CLASS_NAMES, NUM_CLASSES
from cifar_lit.commands.data_options import add_data, is_named, read_data
from cifar_lit.commands.options import add_from, add_registry, print_json, registry_of
from cifar_lit.data import corrections, image_folder, increment
from cifar_lit.data.formats import ACCEPTED
from cifar_lit.data.image_files import Skipped, summary
from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.sources import Split
from cifar_lit.errors import DataError, RegistryError, SettingError
from cifar_lit.evaluation.audit import Audit, audit
from cifar_lit.interop.model import Model, load_model
from cifar_lit.registry.registry import LATEST

_NO_MODEL = "none"


def run(args: list[str]) -> int:
    namespace = _parser().parse_args(args[1:])
    status: int = namespace.action(namespace)
    return status


def _parser() -> argparse.ArgumentParser:
    data, force = argparse.ArgumentParser(add_help=False), argparse.ArgumentParser(add_help=False)
    add_data(data)
    force.add_argument("--force", action="store_true", help="replace a file that exists")
    parser = argparse.ArgumentParser(prog="cifar-lit increment", description="Data to learn from later, as an npz.")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    about = "check a file in full, and say what to do about what is found"
    check = actions.add_parser(
        "check",
        help=about,
        description=f"{about[0].upper()}{about[1:]}.",
        epilog="Exit status: 0 no error, 1 the audit found an error, 2 the file can't be read as an increment.",
        parents=[data, force],
    )
    check.set_defaults(action=_check)
    check.add_argument("file", type=Path, metavar="FILE", help="npz with x_new and y_new")
    add_from(check)
    add_registry(check)
    check.add_argument("--json", action="store_true", help="print the findings as one JSON object")
    check.add_argument("--report", type=Path, metavar="DIR", help="write audit.txt, audit.json and doubts.png")
    check.add_argument(
        "--clean", type=Path, metavar="OUT.npz", help="write the rows that no error concerns, each picture once"
    )

    about = "make a file from pictures in folders, from a slice of CIFAR-10, or from corrections"
    make = actions.add_parser("make", help=about, description=f"{about[0].upper()}{about[1:]}.", parents=[data, force])
    make.set_defaults(action=_make)
    make.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    origin = make.add_mutually_exclusive_group(required=True)
    origin.add_argument("--images", type=Path, metavar="FOLDER", help=f"<class>/* in {ACCEPTED}, of any size")
    origin.add_argument("--split", choices=("train", "test"), help="CIFAR-10: all of it, or what the next options say")
    origin.add_argument("--corrections", type=Path, metavar="FOLDER", help="what the page collected")
    make.add_argument("--rows", metavar="FROM:TO", help="of the split: these rows, TO not included")
    make.add_argument("--classes", nargs="+", choices=CLASS_NAMES, metavar="CLASS", help="of the split: only these")
    make.add_argument("--count", type=int, metavar="N", help="of the split: so many, drawn evenly from the classes")
    make.add_argument("--seed", type=int, default=0, help="decides which --count draws (default: %(default)s)")
    return parser


# check


def _check(namespace: argparse.Namespace) -> int:
    data = increment.read(namespace.file)
    if namespace.clean is not None:
        _refuse_to_replace(namespace.clean, "--clean", namespace.force)
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
    if namespace.reference == _NO_MODEL:
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
            f"{', '.join(CLASS_NAMES)}. Name another, or {_NO_MODEL!r}."
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
    picture = found.doubts_png()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if picture is not None:
            (folder / "doubts.png").write_bytes(picture)
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


# make


def _make(namespace: argparse.Namespace) -> int:
    _refuse_to_replace(namespace.out, "--out", namespace.force)
    if namespace.split is None and (namespace.rows or namespace.classes or namespace.count is not None):
        raise SettingError("--rows, --classes and --count choose from CIFAR-10. Name --split train or test with them.")
    skipped: list[Skipped] = []
    data = _gather(namespace, skipped)
    increment.write(namespace.out, data)
    print(f"Wrote {namespace.out}: {len(data):,} image{'' if len(data) == 1 else 's'} ({data.source})")
    counts = torch.bincount(data.labels, minlength=NUM_CLASSES).tolist()
    for name, count in zip(CLASS_NAMES, counts, strict=True):
        if count:
            print(f"  {name:10}  {count:6,}")
    print(f"Next: cifar-lit increment check {namespace.out}")
    for each in skipped:
        print(f"error: {each}", file=sys.stderr)
    if skipped:
        print(summary(skipped, len(skipped) + len(data)), file=sys.stderr)
    return 1 if skipped else 0


def _gather(namespace: argparse.Namespace, skipped: list[Skipped]) -> ImageSet:
    if namespace.images is not None:
        data, left = image_folder.read_pictures(namespace.images, increment.MAX_ROWS)
        skipped += left
        return data
    if namespace.corrections is not None:
        data, torn = corrections.read(namespace.corrections)
        for each in torn:
            print(f"warning: {each}", file=sys.stderr)
        return data
    if namespace.split == "test":
        print("warning: whoever learns test images makes every test figure too good.", file=sys.stderr)
    data = read_data(namespace, namespace.split)
    return data.subset(_choose(data.labels, namespace))


def _choose(labels: Tensor, namespace: argparse.Namespace) -> Tensor:
    """int64: the rows that --rows, --classes and --count leave, ascending."""
    rows = torch.arange(len(labels))
    if namespace.rows is not None:
        rows = rows[_slice(namespace.rows, len(labels))]
    wanted = sorted(set(labels[rows].tolist()))
    if namespace.classes is not None:
        wanted = sorted({CLASS_NAMES.index(name) for name in namespace.classes})
        rows = rows[torch.isin(labels[rows], torch.tensor(wanted))]
    if not len(rows):
        raise SettingError("there is no image of these --classes in these --rows. Choose others.")
    if namespace.count is None:
        return rows
    if namespace.count < 1:
        raise SettingError(f"--count is {namespace.count}, expected 1 or more.")
    generator = torch.Generator().manual_seed(namespace.seed)
    drawn = []
    for place, label in enumerate(wanted):
        own = rows[labels[rows] == label]
        share = namespace.count // len(wanted) + (place < namespace.count % len(wanted))
        if share > len(own):
            raise SettingError(
                f"--count {namespace.count} takes {share:,} of {CLASS_NAMES[label]}, there are {len(own):,}. Ask for "
                "fewer, or of other --classes or --rows."
            )
        drawn.append(own[torch.randperm(len(own), generator=generator)[:share]])
    return torch.cat(drawn).sort().values


def _slice(text: str, length: int) -> slice:
    match = re.fullmatch(r"(\d*):(\d*)", text)
    if match:
        start, stop = int(match[1] or 0), int(match[2] or length)
        if start < stop <= length:
            return slice(start, stop)
    raise SettingError(f"--rows is {text!r}, expected FROM:TO with 0 <= FROM < TO <= {length}.")


def _refuse_to_replace(path: Path, option: str, force: bool) -> None:
    if path.exists() and not force:
        raise SettingError(f"{option} {path} exists already. Name another file, or replace it with --force.")
