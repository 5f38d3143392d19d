"""Optimizers and schedules as plain values, so that a checkpoint can hold them and give them back."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from cifar_lit.errors import SettingError

_KINDS = (Optimizer, LRScheduler, ReduceLROnPlateau)


def plain(factory: Callable[..., Any] | None) -> dict[str, Any] | None:
    """`class_path` and `init_args` of a class of optimizers or schedules, alone or in a `partial` with arguments.

    None for anything else: a function of the user's own can't be written down.
    """
    parts = [factory.func, *factory.args] if isinstance(factory, partial) else [factory]
    classes = [each for each in parts if isinstance(each, type) and issubclass(each, _KINDS)]
    if not classes:
        return None
    arguments = dict(factory.keywords) if isinstance(factory, partial) else {}
    return {"class_path": f"{classes[-1].__module__}.{classes[-1].__qualname__}", "init_args": arguments}


def factory(about: Mapping[str, Any] | None) -> Callable[..., Any] | None:
    """The other way round.

    Raises:
        SettingError: there is no such class of optimizers or schedules.
    """
    if about is None:
        return None
    module, _, name = str(about["class_path"]).rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingError(
            f"{about['class_path']} can't be imported ({error}). Install it, or name another."
        ) from error
    if not isinstance(cls, type) or not issubclass(cls, _KINDS):
        raise SettingError(f"{about['class_path']} is neither an optimizer nor a schedule. Name another one.")
    return partial(cls, **about["init_args"])
