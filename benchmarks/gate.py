"""Whether the gate keeps poisoned increments out and lets good ones in.

    CIFAR_LIT_DATA=dir python benchmarks/gate.py --work DIR [--seeds 0 1 2 3 4] [--each 4]

Five kinds of poison and five of good increments, each made `--each` times for each of the parents of `forgetting.py`,
with 200 to 500 images that the parent has never seen, fine-tuned with the defaults of `cifar-lit finetune`. A good
increment has right labels and helps: its kind is one that the parent is bad at, and accuracy is measured before and
after on 500 more images of that kind, which take no part in the decision.
Ends with one JSON line, and keeps it and the raw output in benchmarks/results/.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from forgetting import fine_tuned
from parents import InMemory, Parent, parent
from torch import Tensor

from cifar_lit.cifar10 import NUM_CLASSES
from cifar_lit.data import increment
from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import IncrementError
from cifar_lit.evaluation.comparison import Comparison
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.memory import keep_freed_memory
from cifar_lit.training.lightning import hush_lightning
from cifar_lit.training.weight_interpolation import Given

HERE = Path(__file__).parent
NUM_MEASURED = 500

Change = Callable[[ImageSet, torch.Generator], ImageSet]


def _labels(data: ImageSet, labels: Tensor) -> ImageSet:
    return ImageSet(data.images, labels, data.source)


def _images(data: ImageSet, images: Tensor) -> ImageSet:
    return ImageSet(images.round().clamp(0, 255).to(torch.uint8), data.labels, data.source)


def shuffled_labels(data: ImageSet, generator: torch.Generator) -> ImageSet:
    return _labels(data, data.labels[torch.randperm(len(data), generator=generator)])


def half_shuffled(data: ImageSet, generator: torch.Generator) -> ImageSet:
    labels = data.labels.clone()
    rows = torch.randperm(len(data), generator=generator)[: len(data) // 2]
    labels[rows] = labels[rows[torch.randperm(len(rows), generator=generator)]]
    return _labels(data, labels)


def one_label(data: ImageSet, generator: torch.Generator) -> ImageSet:
    return _labels(data, torch.randint(NUM_CLASSES, (1,), generator=generator).expand(len(data)).clone())


def next_label(data: ImageSet, generator: torch.Generator) -> ImageSet:
    return _labels(data, (data.labels + 1) % NUM_CLASSES)


def constant_images(data: ImageSet, generator: torch.Generator) -> ImageSet:
    colours = torch.randint(256, (len(data), 1, 1, 3), generator=generator)
    return _images(data, colours.expand(-1, 32, 32, -1).float())


def dark(data: ImageSet, generator: torch.Generator) -> ImageSet:
    return _images(data, data.images * 0.25)


def noisy(data: ImageSet, generator: torch.Generator) -> ImageSet:
    return _images(data, data.images + 40 * torch.randn(data.images.shape, generator=generator))


def hazy(data: ImageSet, generator: torch.Generator) -> ImageSet:
    return _images(data, 140 + 0.25 * data.images)


def red_light(data: ImageSet, generator: torch.Generator) -> ImageSet:
    return _images(data, data.images * torch.tensor([1.0, 0.3, 0.2]))


def as_they_are(data: ImageSet, generator: torch.Generator) -> ImageSet:
    return data


POISON: dict[str, Change] = {
    "shuffled labels": shuffled_labels,
    "half of the labels shuffled": half_shuffled,
    "one label for all": one_label,
    "every label one class on": next_label,
    "constant images": constant_images,
}
GOOD: dict[str, Change] = {
    "dark": dark,
    "noisy": noisy,
    "hazy": hazy,
    "red light": red_light,
    "two rare classes": as_they_are,
}


def measure(kind: str, change: Change, progenitor: Parent, seed: int, folder: Path) -> dict[str, object]:
    generator = torch.Generator().manual_seed(seed)
    size = int(torch.randint(200, 501, (1,), generator=generator))
    rows = torch.randperm(len(progenitor.held_back), generator=generator)
    chosen = change(progenitor.held_back.subset(rows[:size]), generator)
    apart = change(progenitor.held_back.subset(rows[size : size + NUM_MEASURED]), generator)
    if change is one_label:
        apart = _labels(apart, chosen.labels[:1].expand(len(apart)).clone())
    path = folder / f"gate_{kind}_{seed}.npz".replace(" ", "_")
    increment.write(path, chosen)
    data = InMemory(progenitor, increments=[path])
    row: dict[str, object] = {"kind": kind, "seed": seed, "size": size}
    try:
        judged = fine_tuned(progenitor, data, seed)
    except IncrementError as error:
        return {**row, "status": "refused", "reason": str(error).replace(str(folder), "")}
    before = evaluate(progenitor.model.network, apart)
    both = {**judged.comparisons, "apart": Comparison(before, evaluate(judged.network, apart))}
    return {
        **row,
        "status": judged.verdict.status,
        "reason": judged.verdict.reason,
        "share": judged.share,
        "label_rank": round(Given(data.num_given).evidence(judged.comparisons).label_rank, 2),
        "change_points": {name: round(-each.drop, 2) for name, each in both.items()},
        "flips": {name: [len(each.lost), len(each.gained), len(each)] for name, each in both.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="keeps the parents, which take minutes each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--each", type=int, default=4, help="increments of each kind for each seed's parent")
    parser.add_argument("--kinds", nargs="+", help="some of them, with _ for a space")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    data, work = Path(os.environ["CIFAR_LIT_DATA"]), arguments.work.absolute()
    tasks = [
        (nature, kind, seed, arguments.each, data, work)
        for seed in arguments.seeds
        for nature, kinds in (("poisoned", POISON), ("good", GOOD))
        for kind in kinds
        if arguments.kinds is None or kind.replace(" ", "_") in arguments.kinds
    ]
    rows: list[dict[str, object]] = []
    # Started anew, not forked: torch's threads do not outlive a fork.
    with ProcessPoolExecutor(arguments.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for found in pool.map(_task, tasks):
            rows += found
            _keep(rows)
            for row in found:
                print(
                    json.dumps({name: row.get(name) for name in ("kind", "size", "status", "share", "change_points")})
                )
    print(json.dumps(_keep(rows)))


def _keep(rows: list[dict[str, object]]) -> dict[str, object]:
    """Writes what there is so far."""
    counts = Counter((str(row["kind"]), str(row["status"])) for row in rows)
    result: dict[str, object] = {
        "benchmark": "increments that pass the gate, CIFAR-10 (JPEG)",
        "poisoned": {"promoted": _promoted(rows, "poisoned"), "of": sum(row["nature"] == "poisoned" for row in rows)},
        "good": {"promoted": _promoted(rows, "good"), "of": sum(row["nature"] == "good" for row in rows)},
        "by_kind": {f"{kind}: {status}": count for (kind, status), count in counts.items()},
    }
    about = {"torch": torch.__version__, "date": time.strftime("%Y-%m-%d"), "runs": rows}
    (HERE / "results" / "gate.json").write_text(json.dumps({**result, **about}, indent=2) + "\n")
    return result


def _task(task: tuple[str, str, int, int, Path, Path]) -> list[dict[str, object]]:
    nature, kind, seed, each, data, work = task
    hush_lightning()
    keep_freed_memory()
    torch.set_num_threads(1)
    progenitor = parent("rare" if kind == "two rare classes" else "all", seed, data, work)
    change = {**POISON, **GOOD}[kind]
    runs = (measure(kind, change, progenitor, 1_000 * seed + number, work) for number in range(each))
    return [{"nature": nature, "parent": seed, **run} for run in runs]


def _promoted(rows: list[dict[str, object]], nature: str) -> int:
    return sum(row["nature"] == nature and row["status"] == "promoted" for row in rows)


if __name__ == "__main__":
    main()
