"""Keeps the arguments of one class from reaching another on the command line and in configs.

jsonargparse hands the arguments of a replaced class on to the class that replaces it wherever their names agree
(mauvilsa/jsonargparse#460): `--model.optimizer torch.optim.SGD` over a config with Muon ran with Muon's weight decay.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from jsonargparse import ArgumentParser
from pytorch_lightning.utilities import rank_zero_info

_DISCARD = "jsonargparse._typehints.discard_init_args_on_class_path_change"


class ClassArgumentParser(ArgumentParser):
    """A parser in which a class that replaces another starts from its own defaults.

    A line of the log names the arguments that were dropped with the replaced class.
    """

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        with _own_arguments():
            return super().parse_args(*args, **kwargs)

    def parse_object(self, *args: Any, **kwargs: Any) -> Any:
        with _own_arguments():
            return super().parse_object(*args, **kwargs)


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

    with mock.patch(_DISCARD, discard):
        yield
    for message in dropped:
        rank_zero_info(message)
