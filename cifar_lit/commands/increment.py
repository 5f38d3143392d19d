"""`cifar-lit increment make|check`: the options; the work is in `increment_make` and `increment_check`."""

import argparse
from pathlib import Path

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.commands.data_options import add_data
from cifar_lit.commands.increment_check import check
from cifar_lit.commands.increment_make import make
from cifar_lit.commands.options import add_from, add_registry
from cifar_lit.data.pixel_layouts import LAYOUTS
from cifar_lit.data.pixel_scales import SCALES


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
    audit = actions.add_parser(
        "check",
        help=about,
        description=f"{about[0].upper()}{about[1:]}.",
        epilog="Exit status: 0 no error, 1 the audit found an error, 2 the file can't be read as an increment.",
        parents=[data, force],
    )
    audit.set_defaults(action=check)
    audit.add_argument("file", type=Path, metavar="FILE", help="npz with x_new and y_new")
    add_from(audit)
    add_registry(audit)
    audit.add_argument("--json", action="store_true", help="print the findings as one JSON object")
    audit.add_argument("--report", type=Path, metavar="DIR", help="write audit.txt, audit.json and doubts.png")
    audit.add_argument(
        "--clean", type=Path, metavar="OUT.npz", help="write the rows that no error concerns, each image once"
    )

    about = "make an increment from arrays, from images, from a slice of CIFAR-10, or from corrections"
    maker = actions.add_parser(
        "make",
        help=about,
        description=f"{about[0].upper()}{about[1:]}. What has to be converted or guessed is printed and asked for.",
        epilog="Exit status: 0 written, 1 written without some of the images, 2 nothing written.",
        parents=[data, force],
    )
    maker.set_defaults(action=make)
    maker.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    maker.add_argument("--yes", action="store_true", help="make the conversions that are printed, without asking")
    origin = maker.add_mutually_exclusive_group(required=True)
    origin.add_argument(
        "--arrays",
        type=Path,
        nargs="+",
        metavar=("FILE", "LABELS"),
        help="an npz with images and labels under any names, or images and labels as .npy; most usual forms are "
        "recognised and converted",
    )
    origin.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="images of any size in <class>/*: a folder, a zip or tar of one, or a CSV of file,label",
    )
    origin.add_argument("--split", choices=("train", "test"), help="CIFAR-10: all of it, or what the next options say")
    origin.add_argument("--corrections", type=Path, metavar="FOLDER", help="what the page collected")
    choose = maker.add_argument_group("some of --split or --arrays")
    choose.add_argument("--rows", metavar="FROM:TO", help="these rows, TO not included")
    choose.add_argument("--classes", nargs="+", choices=CLASS_NAMES, metavar="CLASS", help="only these")
    choose.add_argument("--count", type=int, metavar="N", help="so many, sampled evenly from the classes")
    choose.add_argument("--seed", type=int, default=0, help="decides which --count draws (default: %(default)s)")
    arrays = maker.add_argument_group("what --arrays can't tell from the values")
    add_keys(arrays)
    arrays.add_argument("--layout", choices=LAYOUTS, help="order of the axes; of flat rows, that of their values")
    arrays.add_argument("--range", choices=list(SCALES), metavar="SCALE", help=f"one of {', '.join(SCALES)}")
    arrays.add_argument("--first-label", type=int, choices=(0, 1), help="the number of airplane")
    return parser


def add_keys(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--x", metavar="KEY", help="array of the images")
    parser.add_argument("--y", metavar="KEY", help="array of the labels")
