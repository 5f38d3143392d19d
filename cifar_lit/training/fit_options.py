"""What `cifar-lit fit` makes of its options before training begins."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit.data.sources import class_names, is_at_hand, resolve_root
from cifar_lit.errors import SettingError
from cifar_lit.training.best_checkpoint import LAST, METRICS, Mode, mode_of

_LOGGERS = ("pytorch_lightning.loggers.CSVLogger", "pytorch_lightning.loggers.TensorBoardLogger")


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def stopping_mode(monitor: str | None, mode: Mode | None) -> Mode:
    return mode or mode_of(monitor or "loss")


def check_plateau(model: Namespace, *, validates: bool) -> None:
    """Finds out before training whether a `ReduceLROnPlateau` will have something to watch.

    Args:
        model: the classifier's options.
        validates: whether there will be validation.

    Raises:
        SettingError: it watches a metric that does not exist, or is to step where none is known.
    """
    if model.lr_scheduler is None or not model.lr_scheduler.class_path.endswith("ReduceLROnPlateau"):
        return
    known = [each for each in METRICS if validates or each.startswith("train/")]
    if model.monitor not in known:
        why = "" if validates else ", since nothing is validated"
        raise SettingError(
            f"model.monitor, which ReduceLROnPlateau watches, is {model.monitor!r}, expected one of: "
            f"{', '.join(known)}{why}."
        )
    if model.lr_interval == "step":
        raise SettingError(
            "ReduceLROnPlateau watches a metric that is known once an epoch. Leave out --model.lr_interval step."
        )


def several_devices(num: int, batch_size: int) -> str:
    return (
        f"{num} processes: a step learns from {num * batch_size:,} images, not {batch_size:,}. To train as one process "
        f"does, set --data.batch_size {max(1, batch_size // num)}. To keep the larger steps, multiply the learning "
        f"rate by {num} for SGD, by {num**0.5:.2f} for Adam and Muon (docs/scaling.md)."
    )


def take_classes_from_data(network: Namespace, data: Namespace) -> None:
    """Sets a network's number of classes to the data's; data that is yet to be downloaded is CIFAR-10.

    Raises:
        DataError: there is no data, or it is damaged.
    """
    root = resolve_root(data.root)
    if "num_classes" not in network.init_args or (data.download and not is_at_hand(root, data.source)):
        return
    before, names = network.init_args.num_classes, class_names(root, data.source, verify=data.verify)
    if before != len(names):
        rank_zero_info(f"model.network.num_classes is {len(names)}, as in the data, instead of {before}.")
        network.init_args.num_classes = len(names)


def refuse_lost_results(trainer: pl.Trainer, strategy: Any) -> None:
    """Refuses strategies that train in processes which end with what they know.

    Raises:
        SettingError: it is one.
    """
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise SettingError(
            f"trainer.strategy is {strategy!r}, whose processes do not give their results back, so that no version "
            "could be made. Choose ddp."
        )


def refuse_uploads(loggers: Any) -> None:
    """Refuses loggers that are to upload checkpoints: Lightning has them do so for its own checkpoint callback alone.

    Args:
        loggers: one of the Trainer's loggers or a list of them, not built yet.

    Raises:
        SettingError: one is.
    """
    for each in as_list(loggers):
        if isinstance(each, Namespace) and each.get("init_args.log_model"):
            name = each.class_path.rpartition(".")[2]
            raise SettingError(
                f"trainer.logger: {name} can't upload checkpoints, which stay in the run's folder. Leave out its "
                "log_model; the version that is made holds the best weights."
            )


def root_cause(error: BaseException) -> BaseException:
    """The error that the others were raised from, which says what was wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def loggers(folder: str) -> list[Namespace]:
    """Of a run without a logger of its own: files in a folder of the run."""

    def namespace(**values: Any) -> Namespace:
        return Namespace(**values)  # type: ignore[no-untyped-call]

    arguments = {"save_dir": folder, "name": None, "version": None}
    return [namespace(class_path=path, init_args=namespace(**arguments)) for path in _LOGGERS]


def newest_checkpoint(runs: Path) -> str:
    """The state to resume from that was written last.

    Raises:
        SettingError: there is none.
    """
    found = sorted(runs.rglob(LAST), key=lambda path: path.stat().st_mtime)
    if not found:
        raise SettingError(f"ckpt_path is 'last', and there is no {LAST} under {runs}/. Name a file, or leave it out.")
    return str(found[-1])
