"""The options that name a data set, and reading it."""

import argparse
import os
from typing import get_args

from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.sources import ROOT_VARIABLE, Source, Split, read_split, resolve_root
from cifar_lit.errors import DataError, SettingError


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data.root",
        dest="data_root",
        metavar="DIR",
        help=f"folder of CIFAR-10 (default: the environment's {ROOT_VARIABLE}, else data)",
    )
    parser.add_argument(
        "--data.source",
        dest="data_source",
        choices=get_args(Source),
        help="which kind of data set that is; 'synthetic' draws images and needs no folder (default: auto)",
    )
    parser.add_argument(
        "--data.num_synthetic",
        dest="num_synthetic",
        type=int,
        default=5_000,
        metavar="N",
        help="images that 'synthetic' draws (default: %(default)s)",
    )

    parser.add_argument(
        "--data.verify",
        dest="verify",
        choices=("true", "false"),
        default="true",
        help="refuse files in the official form whose content is another one (default: %(default)s)",
    )


def read_data(namespace: argparse.Namespace, split: Split) -> ImageSet:
    """One split of the data set that the options name.

    Raises:
        DataError: it is missing or damaged.
        SettingError: no image is asked for.
    """
    if namespace.num_synthetic < 1:
        raise SettingError(f"--data.num_synthetic is {namespace.num_synthetic}, expected 1 or more.")
    source: Source = namespace.data_source or "auto"
    return read_split(
        split,
        resolve_root(namespace.data_root),
        source,
        num_synthetic=namespace.num_synthetic,
        verify=namespace.verify == "true",
    )


def is_named(namespace: argparse.Namespace) -> bool:
    """Whether a data set was asked for, which must exist then."""
    return bool(namespace.data_root or namespace.data_source or os.environ.get(ROOT_VARIABLE))


def find_test_set(namespace: argparse.Namespace) -> ImageSet | None:
    """The test split; none if no data set was named and there is none in the usual place.

    Raises:
        DataError: the named data set is missing or damaged.
        SettingError: no image is asked for.
    """
    try:
        return read_data(namespace, "test")
    except DataError:
        if is_named(namespace):
            raise
        return None
