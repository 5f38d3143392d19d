"""airbench's published scripts, unchanged: each finds our images where it keeps its own, and is ended after enough
runs."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from gpu_fits import mean_of
from gpu_stage import SCRIPTS, Stage

from cifar_lit.cifar10 import CLASS_NAMES


def published(stage: Stage, name: str, count: int) -> None:
    """Runs the script of a stage over `count` seeds, if time allows; the run that it calls "warmup" is left out."""
    script = Path(stage.settings["airbench"], SCRIPTS[name])
    folder = stage.folder / name
    (folder / "cifar10").mkdir(parents=True)
    sets = stage.images()
    for split, each in sets.items():
        saved = {"images": each.images, "labels": each.labels, "classes": list(CLASS_NAMES)}
        torch.save(saved, folder / "cifar10" / f"{split}.pt")
    copied = folder / script.name
    copied.write_bytes(script.read_bytes())
    stage.keep(
        script=script.name,
        num_train=len(sets["train"]),
        num_test=len(sets["test"]),
        compile_mode="as published",
        precision="as published (float16)",
    )
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, copied.name],
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
        for label, row in finished_runs(process.stdout, printed):
            if label == "warmup":  # on random labels
                stage.keep(warm_up=row, seconds_until_warm=time.monotonic() - began)
                continue
            rows.append(row)
            measures = mean_of([each["seconds"] for each in rows], [each["acc_tta"] for each in rows])
            stage.keep(rows=rows, seconds_until_last=time.monotonic() - began, **measures)
            if len(rows) >= count:
                break
    finally:
        process.kill()
        process.wait()
    if not rows:
        stage.keep(error=f"{script.name} finished no run: {' | '.join(printed[-6:])}")


def finished_runs(lines: Iterable[str], printed: list[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Each run's label, and its accuracies and training seconds, from the table that a script prints."""
    columns: list[str] = []
    label, acc = "", 0.0
    for line in lines:
        printed.append(line.strip()[:300])
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[:2] == ["run", "epoch"]:
            columns = cells
        if len(cells) != len(columns) or cells == columns:
            continue
        row = dict(zip(columns, cells, strict=True))
        label = row["run"] or label
        if row["epoch"] == "eval":
            seconds = row.get("time_seconds") or row["total_time_seconds"]
            yield label, {"acc_tta": float(row["tta_val_acc"]), "seconds": float(seconds), "acc": acc}
        else:
            acc = float(row["val_acc"])
