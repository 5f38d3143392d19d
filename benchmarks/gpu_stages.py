"""The stages of gpu.py, each in a process of its own: `main(name, settings as JSON, file to write)`."""

import gc
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_probe
import torch
from torch import nn

import cifar_lit.data.datamodule
from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.sources import read_split
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.training.fit import FitCLI

CONFIGS = Path(__file__).absolute().parent.parent / "configs"
GRAPHS = "reduce-overhead"
THRESHOLDS = (0.682, 0.85, 0.94)
TINY = {
    "seed": ["--model.network.init_args.width=4"],
    "quick": ["--model.network.init_args.width=4"],
    "default": ["--model.network.init_args.width=4"],
    "fast": ["--model.network.init_args.widths=[8,8,8]", "--data.batch_size=100"],
}


class Stage:
    """What all stages share.

    Args:
        settings: as gpu.py gives them.
        out: file that the figures are written to as they come.
    """

    def __init__(self, settings: dict[str, Any], out: Path) -> None:
        self.settings = settings
        self.out = out
        self.deadline = time.monotonic() + settings["limit_s"]
        self.result: dict[str, Any] = {}
        self.gpu = settings["accelerator"] == "gpu"
        self.tiny: bool = settings["tiny"]
        self.device = torch.device("cuda" if self.gpu else "cpu")
        self.cache = Path(settings["folder"], "images.pt")

    def keep(self, **values: Any) -> None:
        self.result |= values
        self.out.write_text(json.dumps(self.result))

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def images(self) -> dict[str, ImageSet]:
        saved = torch.load(self.cache, weights_only=True)
        return {name: ImageSet(*saved[name], "cached") for name in ("train", "test")}

    def fit(self, config: str, *options: str, probe: tuple[str, ...] = ()) -> tuple[FitCLI, dict[str, Any]]:
        """`cifar-lit fit` in this process, except that the images are read from a cache."""
        images = self.images()
        cifar_lit.data.datamodule.read_split = lambda split, *_, **__: images[split]  # type: ignore[assignment]
        command = self.command(config, *options)
        cli = FitCLI([*command, "--trainer.callbacks+=gpu_probe.Probe", *probe])
        (probed,) = gpu_probe.of_kind(cli.trainer, gpu_probe.Probe)
        return cli, probed.result

    def command(self, config: str, *options: str) -> list[str]:
        data = ["--data.root", self.settings["root"]] if self.settings["root"] else ["--data.source", "synthetic"]
        if self.tiny:
            data += ["--data.num_synthetic", "600", *TINY[config]]
        path = str(CONFIGS / f"{config}.yaml")
        more = ["--trainer.accelerator", self.settings["accelerator"], "--trainer.enable_progress_bar", "false"]
        more += ["--registry", f"{self.settings['folder']}/registry", "--early_stopping.patience", "1000"]
        return ["fit", "--config", path, *data, *more, *options]


def main(name: str, settings: str, out: str) -> None:
    stage = Stage(json.loads(settings), Path(out))
    torch.set_float32_matmul_precision("high")
    {
        "data": data,
        "limits": limits,
        "seed64": lambda stage: seed_recipe(stage, 64),
        "seed1024": lambda stage: seed_recipe(stage, 1024),
        "fast": fast,
        "airbench": airbench,
        "reach": reach,
        "plain": plain,
        "kernels": kernels,
    }[name](stage)


def data(stage: Stage) -> None:
    """Reads the images once for all stages."""
    began = time.monotonic()
    tiny = {"source": "synthetic", "num_synthetic": 600} if stage.tiny else {}
    sets = {name: read_split(name, Path(stage.settings["root"] or "."), **tiny) for name in ("train", "test")}
    torch.save({name: (each.images, each.labels) for name, each in sets.items()}, stage.cache)
    stage.keep(read_seconds=time.monotonic() - began, images={name: len(each) for name, each in sets.items()})


def seed_recipe(stage: Stage, batch_size: int) -> None:
    ways: dict[str, Any] = {}
    epochs = 2 if stage.tiny else 5
    modes = {"CUDA graphs": GRAPHS, "eager": None} if stage.gpu else {"eager": None, "compiled": "default"}
    for way, mode in modes.items():
        options = ["--data.batch_size", str(batch_size), "--trainer.max_epochs", str(epochs)]
        options += ["--compile", mode] if mode else []
        try:
            _, measured = stage.fit("seed", *options, probe=("--trainer.callbacks.bare=true",))
            ways[way] = figures(measured)
        except Exception as error:
            ways[way] = {"error": repr(error)[:500]}
        stage.keep(batch_size=batch_size, ways=ways)
        torch.compiler.reset()


def figures(measured: dict[str, Any]) -> dict[str, Any]:
    """Medians without the first epoch, and what follows from them; the measurements stay beside them."""
    train = statistics.median(measured["train_seconds"][1:])
    bare = statistics.median(measured["bare_seconds"][1:])
    kernel, steps = measured["kernel_ms_a_step"], measured["steps"]
    return {
        "train_seconds": train,
        "epoch_seconds": statistics.median(measured["epoch_seconds"][1:]),
        "bare_epoch_seconds": bare,
        "images_a_second": measured["images"] / train,
        "ms_a_step": train / steps * 1e3,
        "lightning_share": 1 - bare / train,
        "not_in_kernels": None if kernel is None else 1 - kernel * steps / train / 1e3,
        "ms_a_step_by_part": {part: each / steps * 1e3 for part, each in measured["part_seconds"].items()},
        "measured": measured,
    }


def fast(stage: Stage) -> None:
    """`configs/fast.yaml` seed after seed; the first, which compiles from nothing, warms up and is left out."""
    rows: list[dict[str, Any]] = []
    options = ["--compile", stage.settings["mode"]] if stage.settings["mode"] else []
    options += ["--trainer.max_epochs", "2"] if stage.tiny else []
    for seed in range(-1, stage.settings["seeds"]):
        began = time.monotonic()
        cli, measured = stage.fit("fast", *options, "--seed_everything", str(max(seed, 0)))
        network = cli.model.network.to(stage.device)
        answers, seconds = answer_test(stage, network, cli)
        train = sum(measured["train_seconds"]) + measured["prepare_seconds"]
        row = {
            "seed": seed,
            "seconds": train + seconds,
            "train_seconds": train,
            "tta_seconds": seconds,
            "whole_seconds": measured["whole_seconds"],
            "compile_seconds": measured["compile_seconds"],
            "acc_tta": answers["tta"],
            "acc": answers["plain"],
            "val_acc": measured["val_acc"],
            "peak_bytes": measured.get("peak_bytes"),
            "fit_took": time.monotonic() - began,
        }
        if seed < 0:
            stage.keep(warm_up=row)
            continue
        rows.append(row)
        stage.keep(rows=rows, **mean_of([row["seconds"] for row in rows], [row["acc_tta"] for row in rows]))
        if stage.left() < 2 * row["fit_took"]:
            break


def mean_of(seconds: list[float], accuracies: list[float]) -> dict[str, Any]:
    several = len(seconds) > 1
    return {
        "num_seeds": len(seconds),
        "mean_seconds": statistics.mean(seconds),
        "std_seconds": statistics.stdev(seconds) if several else None,
        "mean_acc": statistics.mean(accuracies),
        "std_acc": statistics.stdev(accuracies) if several else None,
    }


def answer_test(stage: Stage, network: nn.Module, cli: FitCLI) -> tuple[dict[str, float], float]:
    """Accuracies on the test images with and without TTA, and the seconds of the former, in the fit's precision."""
    test = cli.datamodule.test_set
    there = ImageSet(test.images.to(stage.device), test.labels.to(stage.device), test.source)
    with cli.trainer.precision_plugin.val_step_context():
        plain = evaluate(network, there, batch_size=2000).metrics["acc"]
        began = gpu_probe.now(stage.device)
        answers = evaluate(network, there, batch_size=2000, tta_flip=True, tta_shift=1)
        seconds = gpu_probe.now(stage.device) - began
    return {"plain": plain, "tta": answers.metrics["acc"]}, seconds


def airbench(stage: Stage) -> None:
    """The published script, unchanged: it finds our images where it keeps its own, and is ended after enough runs."""
    folder = Path(stage.settings["folder"], "airbench")
    (folder / "cifar10").mkdir(parents=True)
    for name, each in stage.images().items():
        saved = {"images": each.images, "labels": each.labels, "classes": list(CLASS_NAMES)}
        torch.save(saved, folder / "cifar10" / f"{name}.pt")
    script = Path(shutil.copy(stage.settings["airbench"], folder))
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, script.name],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    rows: list[dict[str, float]] = []
    printed: list[str] = []
    try:
        for row in finished_runs(process.stdout, printed):
            rows.append(row)
            if len(rows) == 1:  # the run that it calls "warmup", on random labels
                stage.keep(warm_up=row, seconds_until_warm=time.monotonic() - began)
                continue
            runs = rows[1:]
            measures = mean_of([each["seconds"] for each in runs], [each["acc_tta"] for each in runs])
            stage.keep(rows=runs, script=script.name, **measures)
            if len(runs) >= stage.settings["seeds"]:
                break
    finally:
        process.kill()
        process.wait()
    if len(rows) < 2:
        stage.keep(error=f"{script.name} finished no run: {' | '.join(printed[-6:])}")


def finished_runs(lines: Iterator[str], printed: list[str]) -> Iterator[dict[str, float]]:
    """Accuracies and training seconds of each run, from the table that the script prints."""
    acc = 0.0
    for line in lines:
        printed.append(line.strip()[:300])
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 6 or cells[1] == "epoch":
            continue
        if cells[1] == "eval":
            yield {"acc_tta": float(cells[4]), "seconds": float(cells[5]), "acc": acc}
        else:
            acc = float(cells[3])


def reach(stage: Stage) -> None:
    """Fits as anybody starts them, reading files included."""
    mode = stage.settings["mode"]
    fits = {"fast": ["--compile", mode] if mode else [], "seed": [], "quick": [], "default": []}
    if stage.gpu:
        fits |= {"seed, CUDA graphs": ["--compile", GRAPHS], "default, CUDA graphs": ["--compile", GRAPHS]}
    done: dict[str, Any] = {}
    for name, options in fits.items():
        config, out = name.split(",")[0], Path(stage.settings["folder"], "probe.json")
        options = [*options, "--trainer.max_epochs", "1"] if stage.tiny else options
        arguments = stage.command(config, *options, "--trainer.callbacks+=gpu_probe.Probe")
        command = [sys.executable, "-m", "cifar_lit.cli", *arguments, f"--trainer.callbacks.out={out}"]
        environment = {**os.environ, gpu_probe.STARTED: str(time.time())}
        try:
            subprocess.run(
                command, env=environment, check=True, capture_output=True, text=True, timeout=max(5.0, stage.left() - 2)
            )
            done[name] = reached(json.loads(out.read_text()))
        except subprocess.TimeoutExpired:
            done[name] = {"error": "no time was left"}
        except subprocess.CalledProcessError as error:
            done[name] = {"error": f"{error.stdout[-300:]} {error.stderr[-600:]}"}
        stage.keep(fits=done, accuracy="on the validation images, after an epoch")


def reached(measured: dict[str, Any]) -> dict[str, Any]:
    """Seconds until validation first found each accuracy; from the training's start without compiling."""
    ends = list(itertools.accumulate(measured["epoch_seconds"], initial=measured["prepare_seconds"]))[1:]
    before = measured["process_seconds"] + measured["compile_seconds"]
    found: dict[str, Any] = {}
    for threshold in THRESHOLDS:
        times = [end for end, acc in zip(ends, measured["val_acc"], strict=True) if acc >= threshold]
        found[f"{threshold:.1%}"] = (
            {"from_training_start": times[0], "from_process_start": times[0] + before} if times else None
        )
    return {"reached": found, "compile_seconds": measured["compile_seconds"], "measured": measured}


def plain(stage: Stage) -> None:
    """Plain Lightning with as many workers as there are cores."""
    if stage.tiny or not stage.settings["root"]:
        stage.keep(skipped="it has no drawn images")
        return
    script = Path(__file__).with_name("plain_lightning.py")
    command = [sys.executable, str(script), "--root", stage.settings["root"], "--epochs", "2"]
    command += ["--accelerator", stage.settings["accelerator"], "--workers", str(min(os.cpu_count() or 1, 16))]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds = json.loads(printed.splitlines()[-1])["epoch_seconds"]
    stage.keep(epoch_seconds=seconds[-1], all_seconds=seconds)


def limits(stage: Stage) -> None:
    from gpu_steps import large_products, own_products

    stage.keep(large_products=large_products(stage.device, 256 if stage.tiny else 8192))
    stage.keep(own_products=own_products(stage.device, stage.tiny))


def kernels(stage: Stage) -> None:
    from gpu_steps import variants

    rows: list[dict[str, Any]] = []
    for name, measure in variants(stage.device, stage.tiny):
        if stage.left() < 15:
            break
        began = time.monotonic()
        try:
            row = measure()
        except Exception as error:
            row = {"error": repr(error)[:500]}
        rows.append({"step": name, **row, "took_seconds": round(time.monotonic() - began, 1)})
        stage.keep(rows=rows)
        torch.compiler.reset()
        gc.collect()
