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
import torch
from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from torch import Tensor

from cifar_lit.commands.options import print_json
from cifar_lit.data.finetune_data import FinetuneDataModule
from cifar_lit.errors import SettingError
from cifar_lit.evaluation import forgetting_report
from cifar_lit.evaluation.comparison import Comparison
from cifar_lit.interop.model import Model, load_model
from cifar_lit.models.finetuner import AverageWeights, FineTuner
from cifar_lit.registry.reference import is_file
from cifar_lit.registry.registry import LATEST, Registry
from cifar_lit.training.class_arguments import ClassArgumentParser
from cifar_lit.training.finetune import finetune
from cifar_lit.training.gate import Gate
from cifar_lit.training.lightning import (
    ReduceStepOverhead,
    best_precision,
    free_cores,
    hush_lightning,
    speed_up,
    use_threads,
)
from cifar_lit.training.progress import OneBar, ProgressLines, Tell, TellProgress, tell_nobody
from cifar_lit.training.publish import Published
from cifar_lit.training.weight_interpolation import WeightInterpolation

NOT_PROMOTED = 3
"""Exit status when the version that was made is a candidate or rejected."""

_LISTS = ("--data.increments", "--data.old_increments")

_DEFAULTS: dict[str, Any] = {
    "model.optimizer": {
        "class_path": "cifar_lit.models.optimizers.Muon",
        "init_args": {"lr": 0.0015, "weight_decay": 0.2},
    },
    "model.lr_scheduler": {
        "class_path": "cifar_lit.models.schedules.OneCycle",
        "init_args": {"warmup": 0.05, "end": 0.0},
    },
    "trainer.max_epochs": 12,
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
    config.threads = config.threads or min(torch.get_num_threads(), free_cores())
    before = registry.ids()
    try:
        with (
            contextlib.redirect_stdout(sys.stderr if config.json else sys.stdout),
            _plain_warnings(),
            use_threads(config.threads),
        ):
            published = _finetune(parser, config, model, registry)
    except KeyboardInterrupt as error:
        made = [each for each in registry.ids() if each not in before]
        kept = f"{', '.join(made)} was made meanwhile." if made else "No version was made; the registry is as it was."
        raise KeyboardInterrupt(kept) from error
    _tell(config, published, registry)
    return 0 if config.any_status or published.version.manifest.status == "promoted" else NOT_PROMOTED


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
        description="Learn increments beside old images, make the result a version, and promote it if it passes the "
        "gate. Exit status: 0 promoted, 3 candidate or rejected, 2 no version, 130 Ctrl-C.",
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
    parser.add_argument(
        "--any-status",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="exit with 0 also if the version is a candidate or rejected",
    )
    parser.add_argument(
        "--reference",
        type=str | None,
        default=None,
        help="version against which the loss of the whole line is measured (--gate.max_line_drop); default: the first "
        "and the best one of the parent's line",
    )
    parser.add_argument(
        "--keep_increments_mib",
        type=NonNegativeInt,
        default=1024,
        help="MiB that the registry's increments/ may take: what was learned is kept there, replayed later and judges "
        "later results; 0 keeps none, for data that may not be kept",
    )
    parser.add_argument(
        "--threads",
        type=PositiveInt | None,
        default=None,
        help="threads of PyTorch; default: as many as cores are free",
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
    parser.add_class_arguments(WeightInterpolation, "interpolation")
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


def _finetune(parser: ClassArgumentParser, config: Namespace, model: Model, registry: Registry) -> Published:
    if model.version is not None:
        config["from"] = model.version.id  # "latest" will be another one when this config is run again
    tell = ProgressLines(sys.stderr) if config.progress else tell_nobody
    config.progress = False  # whoever runs the version's config again did not ask for it
    instances = parser.instantiate(config)
    instances.data.parent_classes = tuple(model.class_names)
    tuner, trainer = build(instances, model, tell)
    tuner.class_names = model.class_names
    return finetune(
        model,
        tuner,
        instances.data,
        trainer,
        instances.gate,
        registry,
        interpolation=instances.interpolation,
        config=parser.dump(config, skip_unset=False),
        reference=None if config.reference is None else registry.resolve(config.reference),
        keep_mib=config.keep_increments_mib,
        source=Path(config["from"]) if is_file(config["from"]) else None,
        tell=tell,
    )


def build(instances: Namespace, parent: Model, tell: Tell = tell_nobody) -> tuple[FineTuner, pl.Trainer]:
    """What learns, and what makes it: from the parsed options with their classes instantiated."""
    hush_lightning()
    speed_up(instances.trainer.accelerator)
    pl.seed_everything(instances.seed_everything, workers=True, verbose=False)
    options = dict(vars(instances.trainer))
    options["devices"] = 1
    options["precision"] = options["precision"] or best_precision(options["accelerator"])
    callbacks = [*(options.pop("callbacks") or []), instances.average, ReduceStepOverhead()]
    if options["enable_progress_bar"] is not False:
        callbacks.append(OneBar())
    if tell is not tell_nobody:
        callbacks.append(TellProgress(tell))
    return FineTuner(parent.network, **vars(instances.model)), pl.Trainer(**options, callbacks=callbacks)


def _tell(config: Namespace, published: Published, registry: Registry) -> None:
    version, candidate = published.version, published.candidate
    if config.json:
        champion = registry.champion()
        print_json(version.manifest.summary(champion.id if champion else None))
        return
    print(f"\n{forgetting_report.summary(candidate.comparisons)}")
    print(f"{version.id} is {version.manifest.status}: {version.manifest.reason}.")
    share = candidate.training["share_of_child"]
    print(f"Weights: {share:.0%} of the fine-tuned network and {1 - share:.0%} of its parent (WiSE-FT).")
    print("p is the chance of such figures if the true loss were as large as the limit; of new images, if nothing had")
    print("been learned.")
    print("  ".join(f"{name} {value:.4f}" for name, value in version.manifest.metrics.items()))
    print(f"Version: {version.path}, with report/forgetting.png")
    if version.manifest.status != "promoted":
        print(_advice(config, published))


def _advice(config: Namespace, published: Published) -> str:
    """What to do about a result that was not promoted."""
    version, comparisons = published.version, published.candidate.comparisons
    files = " ".join(map(str, config.data.increments))
    check = f"`cifar-lit increment check {files} --report audit`"
    new = comparisons.get("new", comparisons["learned"])
    old = comparisons.get("old", new)
    wrong = _classes(new, new.after.preds != new.after.labels)
    steps = {
        "unusable": f"{check} lists the copies. Give other images.",
        "labels": f"{check} shows the labels that are doubted most. Correct them.",
        "no old images": "Name the training set with --data.root (or CIFAR_LIT_DATA).",
        "forgets": f"Give fewer new images, or add some{_classes(old, old.lost)}, of which most were lost."
        if len(old.lost)
        else "Give fewer new images.",
        "new fell": f"{check} shows the labels that are doubted most. If they are right, give more images{wrong}.",
        "no gain": f"Give more images{wrong}.",
        "too few": "Give more images: one of every five is held out, and some dozens of these show a gain.",
        "known": f"{check} lists the copies. Give other images.",
    }
    step = steps.get(published.verdict.cause, "")
    by_hand = f"`cifar-lit versions promote {version.id}` makes it the champion all the same."
    return f"{step} {by_hand}".strip()


def _classes(comparison: Comparison, rows: Tensor) -> str:
    """The classes that most of the rows have, up to three, as in " of cat, dog, deer"; empty if there are no rows."""
    class_names = comparison.after.class_names
    counts = torch.bincount(comparison.after.labels[rows], minlength=len(class_names))
    names = [class_names[label] for label in counts.argsort(descending=True)[:3].tolist() if counts[label]]
    return f" of {', '.join(names)}" if names else ""
