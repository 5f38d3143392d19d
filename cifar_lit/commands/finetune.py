"""`cifar-lit finetune`: new images in; a version, judged by the gate, out."""

import contextlib
import itertools
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace

from cifar_lit.commands.options import print_json
from cifar_lit.data.finetune_data import FinetuneDataModule
from cifar_lit.errors import SettingError
from cifar_lit.interop.model import Model, load_model
from cifar_lit.memory import keep_freed_memory
from cifar_lit.models.finetuner import AverageWeights, FineTuner
from cifar_lit.registry.reference import is_file
from cifar_lit.registry.registry import LATEST, Registry
from cifar_lit.training.blend import Blend
from cifar_lit.training.class_arguments import ClassArgumentParser
from cifar_lit.training.finetune import FineTuned, finetune
from cifar_lit.training.fit import OneBar, hush_lightning
from cifar_lit.training.gate import Gate
from cifar_lit.training.lean import LeanSteps
from cifar_lit.training.precision import best_precision
from cifar_lit.training.progress import ProgressLines, Tell, TellProgress, tell_nobody

_LISTS = ("--data.increments", "--data.old_increments")

_DEFAULTS: dict[str, Any] = {
    "model.optimizer": {
        "class_path": "cifar_lit.models.optimizers.Muon",
        "init_args": {"lr": 0.0005, "weight_decay": 0.2},
    },
    "model.lr_scheduler": {
        "class_path": "cifar_lit.models.schedules.OneCycle",
        "init_args": {"warmup": 0.05, "end": 1.0},
    },
    "trainer.max_epochs": 6,
    "trainer.devices": 1,
    "trainer.logger": False,
    "trainer.enable_model_summary": False,
    "trainer.enable_checkpointing": False,
    "trainer.limit_val_batches": 0,
    "trainer.num_sanity_val_steps": 0,
}


def run(args: list[str]) -> int:
    parser, args = build_parser(), _with_lists(args[1:])
    config = parser.parse_args(args)
    registry = Registry(config.registry)
    model = load_model(config["from"], registry)
    # Unless told otherwise, what the parent was not trained on judges.
    split = model.version.manifest.data["split"] if model.version else {}
    known = {"data.val_fraction": split.get("val_fraction"), "data.split_seed": split.get("seed")}
    parser.set_defaults({name: value for name, value in known.items() if value is not None})
    config = parser.parse_args(args)
    _check(config)
    registry.check_writable()
    with contextlib.redirect_stdout(sys.stderr if config.json else sys.stdout), _plain_warnings():
        result = _finetune(parser, config, model, registry)
    _tell(config, result, registry)
    return 0


def _with_lists(args: Sequence[str]) -> list[str]:
    """`--data.increments a.npz b.npz` as the one list that jsonargparse reads."""
    joined: list[str] = []
    rest = list(args)
    while rest:
        option = rest.pop(0)
        files = list(itertools.takewhile(lambda each: not each.startswith(("-", "[")), rest))
        if option in _LISTS and files:
            del rest[: len(files)]
            joined.append(f"{option}={json.dumps(files)}")
        else:
            joined.append(option)
    return joined


def build_parser() -> ClassArgumentParser:
    """All options and their defaults: the recipe."""
    parser = ClassArgumentParser(
        prog="cifar-lit finetune",
        usage="cifar-lit finetune [--config FILE] --from PARENT --data.increments A.npz [B.npz ...] [--data.* ...] "
        "[--gate.* ...] [--model.* ...] [--trainer.* ...]",  # the whole list is two screens, and hides an error
        description="Learn increments beside old images, and make the result a version if the gate lets it pass.",
    )
    parser.add_argument("--config", action="config", help="file with any of these options, as configs/finetune.yaml")
    parser.add_argument(
        "--from",
        type=str,
        default=LATEST,
        help=f"the parent: a version's id, {LATEST!r} for the champion, or a file of weights: .npz, .safetensors, .pt, "
        ".ckpt, .keras, .h5",
    )
    parser.add_argument(
        "--registry",
        type=str | None,
        default=None,
        help="folder of the versions; default: the environment's CIFAR_LIT_REGISTRY, else checkpoints",
    )
    parser.add_argument("--seed_everything", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--json", type=bool, nargs="?", const=True, default=False, help="print the version as JSON")
    parser.add_argument(
        "--progress",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help='write how far it is to standard error, as lines {"stage": "learning", "done": 0.37}',
    )
    parser.add_class_arguments(FinetuneDataModule, "data")
    parser.add_class_arguments(Gate, "gate")
    parser.add_class_arguments(FineTuner, "model", skip={"network"}, instantiate=False)
    parser.add_class_arguments(AverageWeights, "average")
    parser.add_class_arguments(Blend, "blend")
    parser.add_class_arguments(pl.Trainer, "trainer", instantiate=False)
    parser.set_defaults(_DEFAULTS)
    return parser


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings without the place in the code that gave them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _check(config: Namespace) -> None:
    if config.trainer.limit_val_batches:
        raise SettingError(
            "trainer.limit_val_batches must be 0: the validation images judge the result at the end, and must not be "
            "used before."
        )
    if config.trainer.devices not in (1, "1", "auto"):
        raise SettingError(f"trainer.devices is {config.trainer.devices}, expected 1: fine-tuning runs on one device.")


def _finetune(parser: ClassArgumentParser, config: Namespace, model: Model, registry: Registry) -> FineTuned:
    if model.version is not None:
        config["from"] = model.version.id  # "latest" will be another one when this config is run again
    tell = ProgressLines(sys.stderr) if config.progress else tell_nobody
    config.progress = False  # whoever runs the version's config again did not ask for it
    instances = parser.instantiate(config)
    tuner, trainer = build(instances, model, tell)
    return finetune(
        model,
        tuner,
        instances.data,
        trainer,
        instances.gate,
        registry,
        blend=instances.blend,
        config=parser.dump(config, skip_unset=False),
        source=Path(config["from"]) if is_file(config["from"]) else None,
        tell=tell,
    )


def build(instances: Namespace, parent: Model, tell: Tell = tell_nobody) -> tuple[FineTuner, pl.Trainer]:
    """What learns, and what makes it: from the parsed options with their classes instantiated."""
    hush_lightning()
    keep_freed_memory()
    pl.seed_everything(instances.seed_everything, workers=True, verbose=False)
    options = dict(vars(instances.trainer))
    options["devices"] = 1
    options["precision"] = options["precision"] or best_precision(options["accelerator"])
    callbacks = [*(options.pop("callbacks") or []), instances.average, LeanSteps()]
    if options["enable_progress_bar"] is not False:
        callbacks.append(OneBar())
    if tell is not tell_nobody:
        callbacks.append(TellProgress(tell))
    return FineTuner(parent.network, **vars(instances.model)), pl.Trainer(**options, callbacks=callbacks)


def _tell(config: Namespace, result: FineTuned, registry: Registry) -> None:
    version = result.published.version
    if config.json:
        champion = registry.champion()
        print_json(version.manifest.summary(champion.id if champion else None))
        return
    print(f"\n{result.report()}")
    print(f"{version.id} is {version.manifest.standing}: {version.manifest.reason}.")
    print("  ".join(f"{name} {value:.4f}" for name, value in version.manifest.metrics.items()))
    print(f"Version: {version.path}, with report/lessons.png")
