"""Options that several commands share."""

import argparse
import json
from pathlib import Path
from typing import Any

from cifar_lit.errors import SettingError
from cifar_lit.registry.registry import LATEST, Registry
from cifar_lit.registry.shipped import registry_to_read


def add_registry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--registry",
        metavar="DIR",
        help="folder of the versions (default: the environment's CIFAR_LIT_REGISTRY, else checkpoints)",
    )


def add_from(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="reference",
        metavar="VERSION",
        default=LATEST,
        help=f"a version's id, {LATEST!r} for the champion (default), or a file of weights: .npz, .safetensors, .pt, "
        ".ckpt, .keras, .h5",
    )


def registry_of(namespace: argparse.Namespace) -> Registry:
    return Registry(namespace.registry)


def registry_to_read_of(namespace: argparse.Namespace) -> Registry:
    """The same, or the shipped one where there is none yet."""
    return registry_to_read(namespace.registry)


def refuse_to_replace(path: Path, option: str, force: bool) -> None:
    if path.exists() and not force:
        raise SettingError(f"{option} {path} exists already. Name another file, or replace it with --force.")


def print_json(value: Any) -> None:
    """The one thing on standard output when a command is called with --json."""
    print(json.dumps(value, indent=2))
