"""Parsing of options that name a class: it has its own defaults, and a short name means ours where there is one.
What can't be is refused in one line.

jsonargparse hands the arguments of a replaced class on to the class that replaces it wherever their names agree
(mauvilsa/jsonargparse#460): `--model.optimizer torch.optim.SGD` over a config with Muon ran with Muon's weight decay.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import UnionType
from typing import Any, NoReturn
from unittest import mock

import pytorch_lightning as pl
from jsonargparse import ArgumentParser
from jsonargparse import _typehints as typehints
from jsonargparse._actions import _ActionHelpClassPath
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.utilities import rank_zero_info
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cifar_lit.models.networks import NETWORKS
from cifar_lit.models.optimizers import Muon, MuonSGD
from cifar_lit.models.own_network import as_network, make_working_folder_importable
from cifar_lit.models.schedules import OneCycle
from cifar_lit.registry.shipped import config_path
from cifar_lit.training.option_help import classes_help, fit_screen, one_line, with_subcommands
from cifar_lit.training.renamed import with_new_name, with_new_names

OURS: dict[str, type] = {each.__name__: each for each in (*NETWORKS.values(), Muon, MuonSGD, OneCycle)}

_MEANT = OURS | {"ReduceLROnPlateau": ReduceLROnPlateau}
"""Short names that would mean another class, or several."""


class ClassArgumentParser(ArgumentParser):
    """A parser in which a class that replaces another starts from its own defaults.

    A line of the log names the arguments that were dropped with the replaced class. Classes may lie in the working
    folder, and any module is made a `Network`.
    """

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        given, *rest = args or (None,)
        for parser in with_subcommands(self):
            for action in parser._actions:
                if isinstance(action, _ActionHelpClassPath) and action.nargs is None:
                    action.nargs = "?"  # a class need not be named where there are several bases either
        make_working_folder_importable()
        args_given = sys.argv[1:] if given is None else given
        with TemporaryDirectory() as folder, _own_arguments(), _own_names(), _own_help():
            return super().parse_args(_with_configs(args_given, Path(folder)), *rest, **kwargs)

    def parse_object(self, *args: Any, **kwargs: Any) -> Any:
        with _own_arguments(), _own_names(), _own_help():
            return super().parse_object(*args, **kwargs)

    def instantiate(self, *args: Any, instantiators: Any = (), **kwargs: Any) -> Any:
        return super().instantiate(*args, instantiators=[*(instantiators or ()), (_build, nn.Module, True)], **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        self.exit(2, f"error: {one_line(self, message)}\n")


class FitParser(ClassArgumentParser, LightningArgumentParser):
    """The parser of `cifar-lit fit`, whose help begins with a screen for people."""

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        text: str = super().format_help(*args, **kwargs)
        if not self.prog.endswith("fit"):
            return text
        _, _, options = text.partition("\n\n")  # the usage names every option once more
        return f"{fit_screen(list(OURS.values()))}\nAll options\n\n{options}"


def _with_configs(args: Sequence[str], folder: Path) -> list[str]:
    """`--config quick` as `--config .../quick.yaml`, and what was renamed under its name of today."""
    found = []
    for before, arg in zip(["", *args], args, strict=False):
        if before == "--config":
            arg = with_new_names(config_path(arg), folder)
        elif arg.startswith("--config="):
            arg = f"--config={with_new_names(config_path(arg.removeprefix('--config=')), folder)}"
        found.append(with_new_name(arg))
    return found


def _build(cls: Any, /, *args: Any, **kwargs: Any) -> Any:
    return (cls if issubclass(cls, pl.LightningModule) else as_network(cls))(*args, **kwargs)


@contextmanager
def _own_arguments() -> Iterator[None]:
    dropped: dict[str, None] = {}  # parsing goes over a value several times: each is told once

    def discard(_: Any, previous: Any, value: Any) -> None:
        if not previous or previous["class_path"] == value["class_path"] or not previous.get("init_args"):
            return
        arguments = previous["init_args"]
        values = {name: arguments.pop(name) for name in list(vars(arguments))}
        told = ", ".join(f"{name}={each}" for name, each in values.items() if each is not None)
        if told:
            dropped[f"{value['class_path']} replaces {previous['class_path']} and drops its {told}."] = None

    with mock.patch.object(typehints, "discard_init_args_on_class_path_change", discard):
        yield
    for message in dropped:
        rank_zero_info(message)


@contextmanager
def _own_names() -> Iterator[None]:
    """`Muon` is ours, not torch's, which takes matrices only."""
    theirs: Callable[[Any, str], str] = typehints.resolve_class_path_by_name

    def resolve(base: Any, name: str) -> str:
        own = _MEANT.get(name)
        is_wanted = own is not None and isinstance(base, type | tuple | UnionType) and issubclass(own, base)
        return f"{own.__module__}.{name}" if is_wanted else theirs(base, name)

    with mock.patch.object(typehints, "resolve_class_path_by_name", resolve):
        yield


@contextmanager
def _own_help() -> Iterator[None]:
    """`--model.optimizer.help` alone lists the classes; jsonargparse shows the arguments of the abstract one."""
    theirs = _ActionHelpClassPath.print_help

    def print_help(self: Any, call_args: Any) -> None:
        parser, _, value, _ = call_args
        if value is None:
            print(classes_help(self._help_types, OURS.values()), end="")
            parser.exit()
        theirs(self, call_args)  # type: ignore[no-untyped-call]

    with mock.patch.object(_ActionHelpClassPath, "print_help", print_help):
        yield
