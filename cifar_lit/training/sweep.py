"""Several trainings of one configuration: which there are, running those that are not done yet, and their table.

Each training is `cifar-lit fit` in a process and a folder of its own. A sweep that was stopped goes on where it was.
"""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

from cifar_lit.errors import SettingError
from cifar_lit.files import hold, replace_synced
from cifar_lit.registry.registry import Registry
from cifar_lit.training.best_checkpoint import LAST

PLAN, TABLE_JSON, TABLE_MD = "sweep.json", "table.json", "table.md"
_RESULT, _LOG, _REGISTRY = "result.json", "log.txt", "checkpoints"
_LOCK_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        folder: of its registry, logs and checkpoints.
        setting: the options that the grid varies, by name, with this run's values.
        seed: of all its random choices.
    """

    folder: Path
    setting: Mapping[str, str]
    seed: int

    @property
    def result(self) -> dict[str, Any] | None:
        """Its version's metrics and training; none if it is not done."""
        with suppress(FileNotFoundError):
            values: dict[str, Any] = json.loads((self.folder / _RESULT).read_text())
            return values
        return None

    @property
    def registry(self) -> Registry:
        return Registry(self.folder / _REGISTRY)


@dataclass(frozen=True)
class Sweep:
    """All trainings of a grid of settings with each of several seeds.

    Attributes:
        folder: where everything of it lies.
        options: of `cifar-lit fit`, the same in all runs.
        grid: values of the options that are varied, by the option's name.
        seeds: of each setting's runs.
    """

    folder: Path
    options: Sequence[str]
    grid: Mapping[str, Sequence[str]]
    seeds: Sequence[int]

    @property
    def runs(self) -> list[Run]:
        """Seed by seed, so that a sweep that is stopped early has compared all settings."""
        settings = [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]
        return [
            Run(self.folder / f"setting{number}_seed{seed}", setting, seed)
            for seed in self.seeds
            for number, setting in enumerate(settings)
        ]

    def start(self) -> None:
        """Makes the folder, or finds this sweep in it.

        Raises:
            SettingError: the folder holds another one.
        """
        plan = {"options": list(self.options), "grid": {name: list(values) for name, values in self.grid.items()}}
        path = self.folder / PLAN
        if path.exists() and json.loads(path.read_text()) != plan:
            raise SettingError(
                f"{self.folder} holds a sweep with other options: {path.read_text().strip()}. Name another --out, or "
                "give the same options (--seeds may be others)."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_synced(path, json.dumps(plan).encode())

    def go(self, devices: Sequence[str | None] = (None,)) -> Iterator[tuple[Run, str]]:
        """Does the runs that are not done, as many at a time as there are devices.

        Args:
            devices: numbers of GPUs, one a process; None for what `fit` chooses.

        Yields:
            Each of them and what was wrong with it; empty if nothing was.

        Raises:
            RegistryError: another process works at this sweep.
        """
        free: SimpleQueue[str | None] = SimpleQueue()
        for each in devices:
            free.put(each)
        children: list[subprocess.Popen[bytes]] = []
        stopping = Event()

        def work(run: Run) -> str:
            device = free.get()
            try:
                if stopping.is_set():
                    raise KeyboardInterrupt
                return self._train(run, device, children)
            except KeyboardInterrupt:
                stopping.set()
                raise
            finally:
                free.put(device)

        waiting = [run for run in self.runs if run.result is None]
        with hold(self.folder / ".lock", _LOCK_TIMEOUT_S), ThreadPoolExecutor(len(devices)) as pool:
            try:
                yield from zip(waiting, pool.map(work, waiting), strict=True)
            finally:  # stopped: the child has its whole epochs on the disk
                stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                for child in children:
                    child.terminate()

    def _train(self, run: Run, device: str | None, children: list[subprocess.Popen[bytes]]) -> str:
        run.folder.mkdir(exist_ok=True)
        own = [f"--seed_everything={run.seed}", *(f"{name}={value}" for name, value in run.setting.items())]
        own += [f"--registry={run.registry.root}", f"--trainer.default_root_dir={run.folder}"]
        if any(run.folder.rglob(LAST)):
            own.append("--ckpt_path=last")
        environment = os.environ | ({} if device is None else {"CUDA_VISIBLE_DEVICES": device})
        with (run.folder / _LOG).open("wb") as log:
            command = [sys.executable, "-m", "cifar_lit.cli", "fit", *self.options, *own]
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
            children.append(child)
            status = child.wait()
        if status == 128 + signal.SIGINT:  # Ctrl-C goes to both, and may come to this process later
            raise KeyboardInterrupt
        if status:
            lines = (run.folder / _LOG).read_text(errors="replace").split("\n")
            told = [line for line in lines if line.startswith("error:")] or [line for line in lines if line] or [""]
            return f"exit status {status}, {told[-1]} ({run.folder / _LOG})"
        manifest = run.registry.versions()[-1].manifest
        result = {"version": manifest.id, "metrics": manifest.metrics, "training": manifest.training}
        replace_synced(run.folder / _RESULT, json.dumps(result).encode())
        return ""

    def table(self, metric: str) -> list[dict[str, Any]]:
        """A row for each setting with a run that is done, the best first.

        Args:
            metric: `val/acc`, for example, which decides what is best; its mean over the seeds does.

        Raises:
            SettingError: the runs have no such metric.
        """
        rows: list[dict[str, Any]] = []
        for setting in {json.dumps(run.setting): run.setting for run in self.runs}.values():
            results = {run.seed: run.result for run in self.runs if run.setting == setting}
            done = {seed: each for seed, each in results.items() if each is not None}
            if done:
                metrics = [each["metrics"] for each in done.values()]
                seconds = [each["training"]["seconds"] for each in done.values()]
                row = {"setting": dict(setting), "seeds": list(done), "seconds": statistics.mean(seconds)}
                rows.append(row | {name: _spread([each[name] for each in metrics]) for name in metrics[0]})
        if rows and metric not in rows[0]:
            known = ", ".join(name for name in rows[0] if "/" in name)
            raise SettingError(f"--metric is {metric!r}, which these runs have not measured. Expected one of: {known}.")
        return sorted(
            rows, key=lambda row: row[metric]["mean"], reverse=not metric.endswith(("loss", "ece", "ece_raw"))
        )

    def best(self, metric: str) -> Run:
        """The run of the best setting whose own value is best."""
        first = self.table(metric)[0]
        runs = [run for run in self.runs if run.setting == first["setting"] and run.result is not None]
        choose = min if metric.endswith(("loss", "ece", "ece_raw")) else max
        return choose(runs, key=lambda run: (run.result or {})["metrics"][metric])

    def write_table(self, metric: str) -> str:
        """Writes the table as JSON and as Markdown, and returns the latter."""
        rows = self.table(metric)
        text = markdown(rows, metric)
        replace_synced(self.folder / TABLE_JSON, (json.dumps(rows, indent=2) + "\n").encode())
        replace_synced(self.folder / TABLE_MD, text.encode())
        return text


def markdown(rows: Iterable[Mapping[str, Any]], metric: str) -> str:
    """The table for people: mean and standard deviation over the seeds, the deciding metric first."""
    names = list(dict.fromkeys([metric, "val/acc", "test/acc", "test/loss", "test/ece"]))
    lines = [f"| setting | seeds | {' | '.join(names)} | seconds |", f"|---|---|{'---|' * len(names)}---|"]
    for row in rows:
        setting = " ".join(f"{name}={value}" for name, value in row["setting"].items()) or "as configured"
        figures = [_figure(row.get(name)) for name in names]
        seeds = ", ".join(map(str, row["seeds"]))
        lines.append(f"| {setting} | {seeds} | {' | '.join(figures)} | {row['seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def parse_seeds(text: str) -> list[int]:
    """The seeds that "0..4", "0,3,7" or "5" mean.

    Raises:
        SettingError: it means none.
    """
    if span := re.fullmatch(r"(\d+)\.\.(\d+)", text):
        seeds = list(range(int(span[1]), int(span[2]) + 1))
    elif re.fullmatch(r"\d+(,\d+)*", text):
        seeds = list(dict.fromkeys(map(int, text.split(","))))
    else:
        seeds = []
    if not seeds:
        raise SettingError(f"--seeds is {text!r}, expected FIRST..LAST, or numbers with commas: 0..4, or 0,3,7.")
    return seeds


def parse_axis(text: str) -> tuple[str, list[str]]:
    """An option and its values: `--model.label_smoothing=0.1,0.2`. Commas in brackets or quotes divide nothing.

    Raises:
        SettingError: it is none.
    """
    name, equals, values = text.partition("=")
    found = re.findall(r"(?:\[[^]]*\]|\{[^}]*\}|\"[^\"]*\"|[^,\[{\"])+", values)
    if not (name.startswith("--") and equals and found):
        raise SettingError(f"--grid is {text!r}, expected an option with its values: --model.label_smoothing=0.1,0.2.")
    return name, found


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}


def _figure(value: Mapping[str, float] | None) -> str:
    return "-" if value is None else f"{value['mean']:.4f} ± {value['sd']:.4f}"
