"""What the command line says: which classes an option takes, and one line for what it can't take."""

import difflib
import inspect
import re
from collections.abc import Iterable, Sequence

from jsonargparse import ArgumentParser
from jsonargparse._typehints import ActionTypeHint, get_all_subclass_paths
from jsonargparse._util import import_object
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

_UNKNOWN_OPTION = re.compile(r"(?:unrecognized arguments: -*|option '|Key ')([\w.]+)")
_KEY = re.compile(r'Parser key "([\w.]+)"')
_CLASS = re.compile(r"class_path[ =]'([\w.]+)'")
_UNKNOWN_ARGUMENT = re.compile(r"Option '([\w.]+)' is not accepted")
_MISSING = re.compile(r"the following arguments are required: ([\w, ]+(?:\.\w+)*)")
_UNKNOWN_CLASS = re.compile(r"(?:dot import path string: |has no attribute ')([\w.]+)")
_EXPECTED = re.compile(r"Expected an? (<class '\w+'>|\w+)")
_GOT = re.compile(r"(?:Got|Given) value: (.*)")
_MAX_CHARACTERS = 400
_NOT_GIVEN = ("params", "optimizer", "args", "kwargs")
"""What a class gets from its maker, not from the command line."""


_FIT = """\
usage: cifar-lit fit --config FILE [options]

Train a network on CIFAR-10, keep its best epoch, and make it a version.

  cifar-lit fit --config configs/smoke.yaml                      try it without data, in seconds
  cifar-lit fit --config configs/default.yaml --data.root DIR    the best result for a CPU

  --config FILE          options as YAML, such as configs/*.yaml; later ones and the command line overrule it
  --data.root DIR        CIFAR-10: the official files, or folders {train,test}/<class>/
  --data.batch_size N    images a step                     --trainer.max_epochs N   passes over the images
  --seed_everything N    of all random choices             --trainer.devices N      processes or GPUs
  --best.monitor METRIC  decides which epoch is kept       --ckpt_path last         go on with the newest run
  --registry DIR         where the version goes            --print_config           show all options and end
  --model.optimizer CLASS --model.optimizer.lr 0.1         a class and its arguments; so for all that is a CLASS
  --model.optimizer.help [CLASS]                           which classes there are, or the arguments of one
"""


def fit_screen(ours: Sequence[type]) -> str:
    """What `cifar-lit fit --help` begins with: usual options, and our classes with a line each."""
    kinds: dict[str, list[type]] = {
        "--model.network": [each for each in ours if issubclass(each, Module)],
        "--model.optimizer, beside torch's": [each for each in ours if issubclass(each, Optimizer)],
        "--model.lr_scheduler, beside torch's": [each for each in ours if issubclass(each, LRScheduler)],
    }
    return _FIT + "".join(f"\n{title}\n{class_lines(classes)}\n" for title, classes in kinds.items())


def one_line(parser: ArgumentParser, message: str) -> str:
    """What jsonargparse says in a page, with the likely spelling of what is not known.

    Args:
        parser: whose options are meant; its subcommands' too.
        message: jsonargparse's.
    """
    key = ".".join(_KEY.findall(message))
    option = f"--{key}"
    named = _CLASS.search(message)
    name = named[1].rpartition(".")[2] if named else "it"
    if unknown := _UNKNOWN_ARGUMENT.search(message):
        if named is None:
            return f"{option} has no argument {unknown[1]!r}."
        taken = [each for each in inspect.signature(import_object(named[1])).parameters if each not in _NOT_GIVEN]
        return (
            f"{option}: {name} has no argument {unknown[1]!r}.{_likely(unknown[1], taken)} It takes {', '.join(taken)}."
        )
    if not key and (missing := _MISSING.search(message)):
        return f"--{missing[1].strip()} is required, and is not given."
    if missing := _MISSING.search(message):
        first = missing[1].split(", ")[0]
        return f"{option}: {name} needs {missing[1]}. Set {option}.{first} and so on, or choose another class."
    if unknown := _UNKNOWN_CLASS.search(message):
        word = unknown[1].rpartition(".")[2]
        known = [path.rpartition(".")[2] for path in _class_paths(parser, key)]
        return f"{option}: there is no class {word!r}.{_likely(word, known)} `{option}.help` lists what there is."
    if (got := _GOT.search(message)) and (expected := _EXPECTED.findall(message)):
        kinds = dict.fromkeys(re.sub(r"<class '(\w+)'>", r"\1", each).replace("NoneType", "null") for each in expected)
        return f"{option} is {got[1]}, expected {' or '.join(kinds)}."
    flat = " ".join(message.split())
    likely = (unknown := _UNKNOWN_OPTION.search(message)) and _likely(unknown[1], _option_names(parser))
    return f"{flat:.{_MAX_CHARACTERS}}{likely and f'.{likely}' or ''}"


def classes_help(bases: Sequence[type], ours: Iterable[type]) -> str:
    """The classes that an option takes: ours with a line each, the others' names."""
    own = [each for each in ours if issubclass(each, tuple(bases))]
    paths = {path for base in bases for path in get_all_subclass_paths(base)}
    others = sorted(path for path in paths if not path.startswith("cifar_lit."))
    lines = [f"Of this project, by their short names:\n{class_lines(own)}"] if own else []
    if others:
        lines.append("Others, by their paths:\n" + "\n".join(f"  {path}" for path in others))
    return "\n\n".join([*lines, "With a class after it, this option lists that class's arguments.\n"])


def class_lines(classes: Sequence[type]) -> str:
    """A line for each class: its name, and what its docstring begins with."""
    firsts = [" ".join(str(inspect.getdoc(each)).split("\n\n")[0].split()) for each in classes]
    width = max(len(each.__name__) for each in classes)
    return "\n".join(f"  {each.__name__:{width}}  {text}" for each, text in zip(classes, firsts, strict=True))


def _likely(word: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, list(known), 1)
    return f" Did you mean {found[0]}?" if found else ""


def _class_paths(parser: ArgumentParser, key: str) -> list[str]:
    for each in with_subcommands(parser):
        for action in each._actions:
            if action.dest == key and isinstance(action, ActionTypeHint):
                return list(get_all_subclass_paths(action._typehint))
    return []


def _option_names(parser: ArgumentParser) -> list[str]:
    """Of the parser and its subcommands, without dashes."""
    return [
        option.lstrip("-")
        for each in with_subcommands(parser)
        for action in each._actions
        for option in action.option_strings
    ]


def with_subcommands(parser: ArgumentParser) -> list[ArgumentParser]:
    """A parser and those of its subcommands."""
    found = [parser]
    for action in parser._actions:
        if isinstance(action.choices, dict):
            found += [each for sub in action.choices.values() for each in with_subcommands(sub)]
    return found
