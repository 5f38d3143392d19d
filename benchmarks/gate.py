"""Whether the gate keeps poisoned increments out and lets good ones in.

    CIFAR_LIT_DATA=dir python benchmarks/gate.py --work DIR [--seeds 0 1 2 3 4] [--each 4]

Five kinds of poison and five of good increments, each made `--each` times for each of the parents of `forgetting.py`,
with 100 to 400 images that the parent has never seen, fine-tuned with the defaults of `cifar-lit finetune`. A good
increment has right labels and helps: its kind is one that the parent is bad at, and accuracy is measured before and
after on 500 more images of that kind, which take no part in the decision.
Ends with one JSON line, and keeps it and the raw output in benchmarks/results/.
"""

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from forgetting import ours
from parents import InMemory, Parent, parent
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from cifar_lit.cifar10 import NUM_CLASSES
from cifar_lit.data import increment
from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import IncrementError
from cifar_lit.evaluation.comparison import Comparison
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.training.fit import hush_lightning
from cifar_lit.training.gate import Evidence, Gate
from cifar_lit.training.memory import keep_freed_memory

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


def blurred(data: ImageSet, generator: torch.Generator) -> ImageSet:
    small = avg_pool2d(data.images.permute(0, 3, 1, 2).float(), 4)
    return _images(data, interpolate(small, scale_factor=4, mode="bilinear").permute(0, 2, 3, 1))


def upside_down(data: ImageSet, generator: torch.Generator) -> ImageSet:
    return _images(data, data.images.flip(1).float())


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
    "blurred": blurred,
    "upside down": upside_down,
    "two rare classes": as_they_are,
}


def measure(kind: str, change: Change, progenitor: Parent, seed: int, folder: Path) -> dict[str, object]:
    generator = torch.Generator().manual_seed(seed)
    size = int(torch.randint(100, 401, (1,), generator=generator))
    rows = torch.randperm(len(progenitor.held_back), generator=generator)
    chosen = change(progenitor.held_back.subset(rows[:size]), generator)
    apart = change(progenitor.held_back.subset(rows[size : size + NUM_MEASURED]), generator)
    path = folder / f"gate{seed}.npz"
    increment.write(path, chosen)
    data = InMemory(progenitor, increments=[path])
    row: dict[str, object] = {"kind": kind, "seed": seed, "size": size}
    try:
        network = ours(progenitor, data, seed)
    except IncrementError as error:
        return {**row, "standing": "refused", "reason": str(error).replace(str(folder), "")}
    sets = {"old": data.old_val, "new": data.new_val, "learned": data.new_train, "apart": apart}
    both = {
        name: Comparison(evaluate(progenitor.model.network, each), evaluate(network, each))
        for name, each in sets.items()
        if each is not None
    }
    evidence = Evidence(both["old"], both["new"], both["learned"], data.num_given)
    decision = Gate().judge(evidence)
    return {
        **row,
        "standing": decision.standing,
        "reason": decision.reason,
        "label_rank": round(evidence.label_rank, 2),
        "change_points": {name: round(-each.drop, 2) for name, each in both.items()},
        "flips": {name: [len(each.lost), len(each.gained), len(each)] for name, each in both.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="keeps the parents, which take minutes each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--each", type=int, default=4, help="increments of each kind for each seed's parent")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gate.json")
    arguments = parser.parse_args()
    hush_lightning()
    keep_freed_memory()
    data, work = Path(os.environ["CIFAR_LIT_DATA"]), arguments.work.absolute()
    rows: list[dict[str, object]] = []
    for seed in arguments.seeds:
        for nature, kinds in (("poisoned", POISON), ("good", GOOD)):
            for kind, change in kinds.items():
                progenitor = parent("rare" if kind == "two rare classes" else "all", seed, data, work)
                for number in range(arguments.each):
                    row = measure(kind, change, progenitor, 1_000 * seed + number, work)
                    rows.append({"nature": nature, "parent": seed, **row})
                    print(
                        json.dumps({name: rows[-1].get(name) for name in ("kind", "size", "standing", "change_points")})
                    )
    counts = Counter((str(row["nature"]), str(row["kind"]), str(row["standing"])) for row in rows)
    result = {
        "benchmark": "increments that pass the gate, CIFAR-10 (JPEG)",
        "poisoned": {"promoted": _promoted(rows, "poisoned"), "of": sum(row["nature"] == "poisoned" for row in rows)},
        "good": {"promoted": _promoted(rows, "good"), "of": sum(row["nature"] == "good" for row in rows)},
        "by_kind": {f"{kind}: {standing}": count for (_, kind, standing), count in counts.items()},
    }
    about = {"torch": torch.__version__, "date": time.strftime("%Y-%m-%d"), "runs": rows}
    arguments.out.write_text(json.dumps({**result, **about}, indent=2) + "\n")
    print(json.dumps(result))


def _promoted(rows: list[dict[str, object]], nature: str) -> int:
    return sum(row["nature"] == nature and row["standing"] == "promoted" for row in rows)


if __name__ == "__main__":
    main()
