"""Ten fine-tunings after each other: what is left of the official accuracy, and of what the earlier ones taught.

    CIFAR_LIT_DATA=dir python benchmarks/generations.py --work DIR [--orders 0 1 2] [--systems ours replay e14267a]

The first parent is the shipped v0001. It has never seen the test images and the 2,500 validation images that judge.
So the increments are made of a random half of the test images, and all is measured on the other half: ten increments
of 500 images, five kinds in a random order, then in another one. After each, the accuracy of the version that is served
then on the 5,000 test images as they are, and on 2,500 of them changed to each kind. Three systems:

- ours: `cifar-lit finetune` from the champion with its defaults, in a registry of its own;
- e14267a: the same with the code of that commit, before versions remembered increments;
- replay: Avalanche's ReplayPlugin with an experience-balanced buffer, in our own words: 2,000 images divided evenly
  between the training set and the increments so far; each step sees 64 new and 64 buffered images; SGD, learning rate
  0.01, momentum 0.9, twelve times as many new images as in the increment, as ours. Whatever comes out is served.

Goes on where it was stopped. Ends with one JSON line, and keeps the raw output in benchmarks/results/.
"""

import argparse
import copy
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy

import cifar_lit
from cifar_lit.commands.finetune import build, build_parser
from cifar_lit.data import increment
from cifar_lit.data.augment import Augmentation
from cifar_lit.data.finetune_data import FinetuneDataModule
from cifar_lit.data.image_folder import read
from cifar_lit.data.image_set import ImageSet
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.interop.model import load_model
from cifar_lit.memory import keep_freed_memory
from cifar_lit.models.networks import Network
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version
from cifar_lit.registry.weights import load_network
from cifar_lit.training.finetune import finetune
from cifar_lit.training.lightning import hush_lightning

HERE = Path(__file__).parent
RESULT = HERE / "results" / "generations.json"
NUM_STEPS, NUM_MEASURED = 10, 2_500
BEFORE = "e14267a"
SYSTEMS = ("ours", "replay", BEFORE)
BUFFER, HALF_BATCH, NUM_IMAGES = 2_000, 64, 12 * 400

Row = dict[str, Any]


def _changed(images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    return change(images.float()).round().clamp(0, 255).to(torch.uint8)


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "dark": lambda x: x * 0.25,
    "noisy": lambda x: x + 40 * torch.randn(x.shape, generator=torch.Generator().manual_seed(len(x))),
    "hazy": lambda x: 140 + 0.25 * x,
    "red light": lambda x: x * torch.tensor([1.0, 0.3, 0.2]),
    "blurred": lambda x: avg_pool2d(x.permute(0, 3, 1, 2), 5, stride=1, padding=2).permute(0, 2, 3, 1),
}


def of_kind(data: ImageSet, kind: str) -> ImageSet:
    return ImageSet(_changed(data.images, KINDS[kind]), data.labels, kind)


@dataclass(frozen=True)
class Images:
    """CIFAR-10; of the test images, one half is held back for increments."""

    train: ImageSet
    test: ImageSet
    held_back: ImageSet


class InMemory(FinetuneDataModule):
    """Fine-tuning data whose old images were read already."""

    def __init__(self, images: Images, path: Path, version: Version) -> None:
        split = version.manifest.data["split"]
        super().__init__([path], source="synthetic", val_fraction=split["val_fraction"], split_seed=split["seed"])
        self._splits = {"train": images.train, "test": images.test}


def read_images(order: int, data: Path) -> Images:
    test = read(data, "test")
    held_back, rest = torch.randperm(len(test), generator=torch.Generator().manual_seed(order)).chunk(2)
    return Images(read(data, "train"), test.subset(rest), test.subset(held_back))


def increments(images: Images, order: int, work: Path) -> list[tuple[str, Path]]:
    """Kind and file of each."""
    generator = torch.Generator().manual_seed(order)
    kinds = [list(KINDS)[row] for _ in range(2) for row in torch.randperm(len(KINDS), generator=generator).tolist()]
    parts = torch.arange(len(images.held_back)).chunk(NUM_STEPS)
    found = []
    for number, (kind, part) in enumerate(zip(kinds, parts, strict=True)):
        path = work / f"generation-{order}-{number}.npz"
        if not path.exists():
            increment.write(path, of_kind(images.held_back.subset(part), kind))
        found.append((kind, path))
    return found


def measured(network: Network, test: ImageSet) -> Row:
    apart = test.subset(torch.arange(0, len(test), len(test) // NUM_MEASURED))
    kinds = {kind: evaluate(network, of_kind(apart, kind)).metrics["acc"] for kind in KINDS}
    return {"test": evaluate(network, test).metrics["acc"], "kinds": kinds}


def by_registry(images: Images, path: Path, last: Row, registry: Registry, seed: int, **options: Any) -> Row:
    """Fine-tunes the champion by this project's code, as the command does."""
    if registry.pointer() != last["champion"]:  # a run that was stopped before it was written down
        registry.promote(last["champion"], "the benchmark goes on from here")
    before = load_model(last["champion"], registry)
    parser = build_parser()
    given = [f"--data.increments=[{path}]", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    config = parser.parse_args([*given, f"--seed_everything={seed}"])
    instances = parser.instantiate(config)
    tuner, trainer = build(instances, before)
    assert before.version is not None
    data = InMemory(images, path, before.version)
    name = "interpolation" if "interpolation" in instances else "blend"  # as e14267a called it
    options |= {name: instances[name], "config": ""}
    done = finetune(before, tuner, data, trainer, instances.gate, registry, **options)
    manifest = getattr(done, "published", done).version.manifest  # e14267a wrapped it
    status = manifest.status if hasattr(manifest, "status") else manifest.standing  # as e14267a called it
    about = {"status": status, "reason": manifest.reason, "share": manifest.training["share_of_child"]}
    return {**about, "champion": registry.resolve("latest").id}


def by_replay(first: Network, train: ImageSet, paths: list[Path], weights: Path, seed: int) -> Network:
    """Trains on the last increment beside a buffer with as many images of each experience before it."""
    network = copy.deepcopy(first)
    if weights.exists():
        network.load_state_dict(safetensors.torch.load_file(weights))
    generator = torch.Generator().manual_seed(seed)
    *before, new = [increment.read(path) for path in paths]
    experiences = [train, *before]
    each = BUFFER // len(experiences)
    parts = [data.subset(torch.randperm(len(data), generator=generator)[:each]) for data in experiences]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    augmentation = Augmentation(flip=True, shift=3)
    network.train()
    for _ in range(NUM_IMAGES // HALF_BATCH):
        rows = torch.randint(len(new), (HALF_BATCH,), generator=generator)
        sampled = [(new, rows)]
        for part, count in zip(parts, torch.arange(HALF_BATCH).tensor_split(len(parts)), strict=True):
            sampled.append((part, torch.randint(len(part), (len(count),), generator=generator)))
        images = torch.cat(
            [augmentation.sample(data.images, chosen, generator, epoch=0, seed=seed) for data, chosen in sampled]
        )
        labels = torch.cat([data.labels[chosen] for data, chosen in sampled])
        optimizer.zero_grad()
        cross_entropy(network(images), labels).backward()
        optimizer.step()
    state = {name: value.contiguous() for name, value in network.state_dict().items()}  # training may lay them out anew
    safetensors.torch.save_file(state, weights)
    return network.eval()


def step(system: str, order: int, number: int, last: Row, data: Path, work: Path) -> Row:
    """One fine-tuning, in whatever code is imported."""
    hush_lightning()
    keep_freed_memory()
    images = read_images(order, data)
    given = increments(images, order, work)
    shipped = Registry(Path(cifar_lit.__file__).parent.parent / "checkpoints").get("v0001")
    first, folder = load_network(shipped), work / f"generations-{system}-{order}"
    if number < 0:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(shipped.path, folder / "checkpoints" / "v0001")
        Registry(folder / "checkpoints").promote("v0001", "the first parent")
        return {"champion": "v0001", **measured(first, images.test)}
    seed = 100 * order + number
    row: Row = {"kind": given[number][0]}
    if system == "replay":
        paths = [path for _, path in given[: number + 1]]
        network = by_replay(first, images.train, paths, folder / "last.safetensors", seed)
    else:
        registry = Registry(folder / "checkpoints")
        options = {"keep_mib": 1024} if system == "ours" else {}
        row |= by_registry(images, given[number][1], last, registry, seed, **options)
        network = load_network(registry.get(row["champion"]))
    return {**row, **measured(network, images.test)}


def summary(rows: list[Row]) -> Row:
    """Points of test accuracy since the start, and the share that is left of what each kind gained, by system."""
    found: Row = {}
    for system in SYSTEMS:
        changes: dict[int, list[float]] = {}
        left = []
        for order in sorted({row["order"] for row in rows if row["system"] == system}):
            start, *steps = [row for row in rows if (row["system"], row["order"]) == (system, order)]
            for number, row in enumerate(steps):
                changes.setdefault(number, []).append(100 * (row["test"] - start["test"]))
            for kind in KINDS:
                curve = [row["kinds"][kind] - start["kinds"][kind] for row in steps]
                learned = next((number for number, row in enumerate(steps) if row["kind"] == kind), None)
                if learned is not None and curve[learned] > 0:
                    left.append(min(curve[learned:]) / curve[learned])
        if changes:
            means = [sum(values) / len(values) for values in changes.values()]
            found[system] = {
                "orders": max(map(len, changes.values())),
                "steps": len(changes),
                "test_points_lowest_mean": round(min(means), 2),
                "test_points_worst": round(min(min(values) for values in changes.values()), 2),
                "test_points_at_the_end": round(means[-1], 2),
                "left_of_gains_least": round(min(left), 3) if left else None,
                "left_of_gains_mean": round(sum(left) / len(left), 3) if left else None,
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="keeps increments and registries, to go on later")
    parser.add_argument("--orders", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="fewer, for a rehearsal")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    data, work = Path(os.environ["CIFAR_LIT_DATA"]), arguments.work.absolute()
    if arguments.one is not None:
        print(json.dumps(step(*arguments.one, data, work)))
        return
    work.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else []
    for order in arguments.orders:
        for system in arguments.systems:
            done = [row for row in rows if (row["system"], row["order"]) == (system, order)]
            for number in range(len(done) - 1, arguments.steps):
                row = {"system": system, "order": order, **_in_code_of(system, order, number, done, work)}
                done.append(row)
                rows.append(row)
                about = {"torch": torch.__version__, "date": time.strftime("%Y-%m-%d"), "runs": rows}
                RESULT.write_text(json.dumps({"summary": summary(rows), **about}, indent=2) + "\n")
                print(json.dumps({name: value for name, value in row.items() if name != "reason"}), flush=True)
    print(json.dumps({"benchmark": "ten fine-tunings after each other, CIFAR-10 (JPEG)", **summary(rows)}))


def _in_code_of(system: str, order: int, number: int, done: list[Row], work: Path) -> Row:
    """Runs a step in a process of its own, with the system's code."""
    tree = HERE.parent
    if system == BEFORE:
        tree = work / BEFORE
        if not tree.exists():
            tree.mkdir()
            archive = subprocess.run(["git", "archive", BEFORE], check=True, cwd=HERE, stdout=subprocess.PIPE).stdout
            subprocess.run(["tar", "-x", "-C", tree], check=True, input=archive)
    one = json.dumps([system, order, number, done[-1] if done else {}])
    command = [sys.executable, __file__, "--work", str(work), "--one", one]
    began = time.perf_counter()
    output = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(tree)}
    ).stdout
    row: Row = json.loads(output.splitlines()[-1])
    return {**row, "seconds": round(time.perf_counter() - began, 1)}


if __name__ == "__main__":
    main()
