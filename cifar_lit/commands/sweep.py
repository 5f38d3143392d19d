"""`cifar-lit sweep`: several seeds and settings of one training, and their table."""

import argparse
import signal
import sys
from dataclasses import fields
from pathlib import Path

from cifar_lit.commands.options import add_registry, registry_of
from cifar_lit.errors import SettingError
from cifar_lit.registry.manifest import About
from cifar_lit.registry.model_card import CARD
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version
from cifar_lit.training.sweep import TABLE_MD, Run, Sweep, parse_axis, parse_seeds

_FORBIDDEN = ("--seed_everything", "--ckpt_path", "--trainer.default_root_dir")


def run(args: list[str]) -> int:
    own, options = _parser().parse_known_args(_joined(args[1:]))
    for each in options:
        if each.split("=")[0] in _FORBIDDEN:
            raise SettingError(f"{each.split('=')[0]} differs between the runs of a sweep. Leave it out.")
    if own.config:
        options = ["--config", own.config, *options]
    out = own.out or Path("runs", f"sweep_{Path(own.config or 'fit').stem}")
    sweep = Sweep(out, options, dict(map(parse_axis, own.grid)), parse_seeds(own.seeds))
    sweep.start()
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        wrong = _train(sweep, own.gpus.split(",") if own.gpus else [None])
    finally:
        signal.signal(signal.SIGTERM, before)
    if not sweep.table(own.metric):
        raise SettingError(f"No run was done: {wrong[0]}")
    print(f"\n{sweep.write_table(own.metric)}\nTable: {out / TABLE_MD}")
    if own.publish:
        _publish(sweep.best(own.metric), registry_of(own), f"the best of sweep {out} by {own.metric}")
    return 1 if wrong else 0


def _joined(args: list[str]) -> list[str]:
    """`--grid` and the option after it as one word, which argparse would take for two options."""
    joined: list[str] = []
    for each in args:
        if joined and joined[-1] == "--grid":
            joined[-1] = f"--grid={each}"
        else:
            joined.append(each)
    return joined


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cifar-lit sweep",
        allow_abbrev=False,
        description="Train with several seeds, and with each setting of a grid; write a table with the mean and the "
        "standard deviation over the seeds, best first. Stopped, it goes on when it is called again. All other options "
        "are `cifar-lit fit`'s.",
    )
    parser.add_argument("--config", metavar="FILE", help="as for `cifar-lit fit`")
    parser.add_argument("--seeds", default="0..4", help="0..4, or 0,3,7 (default: %(default)s)")
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="--OPTION=A,B",
        help="an option to vary, with its values: --model.label_smoothing=0.1,0.2; several make all combinations",
    )
    parser.add_argument("--metric", default="val/acc", help="decides what is best (default: %(default)s)")
    parser.add_argument("--gpus", metavar="N,N", help="train on these GPUs, a run on each at a time")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="of the runs and the table (default: runs/sweep_CONFIG)"
    )
    parser.add_argument("--publish", action="store_true", help="make the best run a version")
    add_registry(parser)
    return parser


def _train(sweep: Sweep, devices: list[str | None]) -> list[str]:
    """Does what is left to do, and tells of each run; returns what went wrong."""
    total, done = len(sweep.runs), sum(run.result is not None for run in sweep.runs)
    print(f"{total} runs, {done} done before.", flush=True)
    wrong = []
    for each, problem in sweep.go(devices):
        name = " ".join([*(f"{name}={value}" for name, value in each.setting.items()), f"seed {each.seed}"])
        if problem:
            wrong.append(f"{name}: {problem}")
            print(f"failed: {wrong[-1]}", file=sys.stderr, flush=True)
        elif result := each.result:
            done += 1
            figures = ", ".join(
                f"{key} {result['metrics'][key]:.4f}" for key in ("val/acc", "test/acc") if key in result["metrics"]
            )
            print(f"{done} of {total}: {name}: {figures}", flush=True)
    return wrong


def _publish(best: Run, registry: Registry, reason: str) -> Version:
    """Copies a run's version into the registry; it is promoted only if there is no champion to compare it with."""
    found = best.registry.versions()[-1]
    about = About(**{each.name: getattr(found.manifest, each.name) for each in fields(About)})
    files = {name: found.read(name) for name in found.manifest.files if name != CARD}
    version = registry.publish(files, about, reason=reason)
    if registry.champion() is None:
        version = registry.promote(version.id, f"{reason}; there was no champion yet")
    print(f"{version.id} is {version.manifest.status}: {version.manifest.reason}.")
    if version.manifest.status != "promoted":
        print(f"`cifar-lit versions promote {version.id}` makes it the champion.")
    return version
