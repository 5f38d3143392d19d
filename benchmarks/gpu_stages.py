"""The stages of gpu.py, each in a process of its own: `main(name, settings as JSON, file to write)`."""

import gc
import itertools
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import gpu_probe
import torch
from gpu_fits import read_images, seed_recipe, seeds
from gpu_published import published
from gpu_stage import Stage

THRESHOLDS = (0.682, 0.85, 0.89, 0.94)
_FEW = 3
"""Seeds of what takes long."""


def main(name: str, settings: str, out: str) -> None:
    stage = Stage(json.loads(settings), Path(out))
    torch.set_float32_matmul_precision("high")
    mode, many = stage.settings["mode"], stage.settings["seeds"]
    few = min(many, _FEW)
    graphs = "reduce-overhead" if stage.gpu else None
    {
        "data": read_images,
        "seed64": partial(seed_recipe, batch_size=64),
        "seed1024": partial(seed_recipe, batch_size=1024),
        "fast": partial(seeds, config="fast", mode=mode, count=many, warm_up=True),
        "airbench": partial(published, name="airbench", count=many),
        "fast_step_graph": partial(seeds, config="fast", mode="step-graph", count=few, warm_up=True),
        "reach": reach,
        "limits": limits,
        "kernels": kernels,
        "plain": plain,
        "accurate": partial(seeds, config="accurate", mode=graphs, count=few, warm_up=False),
        "airbench95": partial(published, name="airbench95", count=few),
        "accurate_large": partial(seeds, config="accurate_large", mode=graphs, count=few, warm_up=False),
        "airbench96": partial(published, name="airbench96", count=few),
    }[name](stage)


def reach(stage: Stage) -> None:
    """Fits as anybody starts them, reading files included; torch.compile's cache may be warm from other stages."""
    ways = [("fast", "reduce-overhead"), ("seed", None), ("quick", None), ("default", None)]
    ways += [("seed", "step-graph"), ("default", "step-graph")]
    done: dict[str, Any] = {}
    for config, mode in ways:
        name = f"{config}, {mode or 'eager'}"
        if mode is not None and not stage.gpu:
            if config != "fast":
                done[name] = {"skipped": "CUDA graphs exist only on a GPU"}
                continue
            name, mode = "fast, eager", None
        done[name] = one_reach(stage, config, *(["--compile", mode] if mode else []))
        stage.keep(fits=done, accuracy="on the validation images, after an epoch")


def one_reach(stage: Stage, config: str, *options: str) -> dict[str, Any]:
    out = stage.folder / "probe.json"
    out.unlink(missing_ok=True)
    options = (*options, "--trainer.max_epochs", "1") if stage.tiny else options
    arguments = stage.command(
        config, *options, "--trainer.callbacks+=gpu_probe.Probe", f"--trainer.callbacks.out={out}"
    )
    environment = {**os.environ, gpu_probe.STARTED: str(time.time())}
    limit_s = stage.left() - 2
    if limit_s < 5:
        return {"skipped": "no time was left"}
    try:
        subprocess.run(
            [sys.executable, "-m", "cifar_lit.cli", *arguments],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"cut off after {limit_s:.0f} s"}
    except subprocess.CalledProcessError as error:
        return {"error": f"{error.stdout[-300:]} {error.stderr[-600:]}"}
    return reached(json.loads(out.read_text()))


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
        stage.keep(skipped="it reads no synthetic images")
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
