"""What fine-tuning learns and what it forgets, on images that the parents have never seen.

    CIFAR_LIT_DATA=dir python benchmarks/forgetting.py --work DIR [--seeds 0 1 2 3 4]

Three increments a seed: (a) 500 images of all classes, held back from the parent; (b) 2,500 of two classes of which the
parent saw 500 images each (another pair each seed, so that all ten classes have their turn); (c) 500 images that the
parent was trained on. Four fifths are learned from, one fifth is held out. Four ways:

- ours: `cifar-lit finetune` with its defaults;
- ours, no old images: the same where the old images are not at hand, so that nothing is replayed;
- DER++ (Buzzega et al., "Dark Experience for General Continual Learning", NeurIPS 2020), the strongest of the simple
  replay methods in the surveys, with the settings of its paper for CIFAR-10 (SGD 0.03, alpha 0.1, beta 0.5, equal parts
  of new images, replayed predictions and replayed labels), as many steps and images a step as ours;
- the original's: 2 epochs on the new images alone, Adam 1e-3, batch 32, no augmentation.

Accuracy on old images is that on the parent's validation split (4,500 or 4,100 images, never trained on); "own kind" is
(a) the images held back and not in the increment, (b) the test images of the two classes, (c) the test images.
Ends with one JSON line; table and raw output lie in benchmarks/results/.
"""

import argparse
import json
import os
import statistics
import time
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from parents import InMemory, Parent, parent
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from cifar_lit.commands.finetune import build, build_parser
from cifar_lit.data import increment
from cifar_lit.data.augment import Augmentation
from cifar_lit.data.image_set import ImageSet
from cifar_lit.evaluation.comparison import Comparison
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.memory import keep_freed_memory
from cifar_lit.models.finetuner import FineTuner
from cifar_lit.models.networks import Network
from cifar_lit.training.finetune import judges, learn
from cifar_lit.training.gate import Gate
from cifar_lit.training.lightning import best_precision, hush_lightning
from cifar_lit.training.weight_interpolation import Given, Judged

HERE = Path(__file__).parent
SIZES = {"a": 500, "b": 2_500, "c": 500}


class DarkExperience(FineTuner):
    """DER++: replayed images keep the parent's logits (first half of them) and their labels (second half)."""

    alpha, beta, num_new = 0.1, 0.5, 0

    def loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        new, old = self.num_new, self.num_new + (len(labels) - self.num_new) // 2
        with torch.no_grad():
            before = self.parent(images[new:old])
        return (
            cross_entropy(logits[:new], labels[:new])
            + self.alpha * mse_loss(logits[new:old].float(), before.float())
            + self.beta * cross_entropy(logits[old:], labels[old:])
        )


def ours(parent: Parent, data: InMemory, seed: int) -> Network:
    return fine_tuned(parent, data, seed).network


def fine_tuned(parent: Parent, data: InMemory, seed: int) -> Judged:
    """What `cifar-lit finetune` makes with its defaults, short of publishing it."""
    parser = build_parser()
    options = [f"--data.increments={json.dumps([str(path) for path in data.increments])}", "--trainer.accelerator=cpu"]
    config = parser.parse_args([*options, f"--seed_everything={seed}", "--trainer.enable_progress_bar=false"])
    instances = parser.instantiate(config)
    tuner, trainer = build(instances, parent.model)
    learn(tuner, data, trainer)
    sets = {name: each for name, each in judges(data).items() if name != "test"}
    child = tuner.network.eval()
    given = Given(data.num_given, known=data.known)
    return instances.interpolation.judge(parent.model.network, child, sets, instances.gate, given)


def dark_experience(parent: Parent, data: InMemory, seed: int) -> Network:
    data.setup("fit")
    steps = build_parser().get_defaults().trainer.max_epochs * len(data.train_dataloader())
    data.replay = 2 / 3
    data.augment = Augmentation(flip=True, shift=3)
    tuner = DarkExperience(parent.model.network, partial(torch.optim.SGD, lr=0.03), label_smoothing=0.0, distill=1.0)
    tuner.num_new = round(data.batch_size / 3)
    _fit(tuner, data, seed, max_steps=steps, max_epochs=-1)
    return tuner.network.eval()


def original(parent: Parent, data: InMemory, seed: int) -> Network:
    data.replay, data.min_new, data.batch_size, data.augment = 0.0, 1, 32, Augmentation()
    tuner = FineTuner(parent.model.network, partial(torch.optim.Adam, lr=1e-3), label_smoothing=0.0)
    _fit(tuner, data, seed, max_epochs=2)
    return tuner.network.eval()


def without_old(parent: Parent, data: InMemory, seed: int) -> Network:
    data.setup("fit")
    old_val = data.old_val
    data.old_train = data.old_val = None
    network = ours(parent, data, seed)
    data.old_val = old_val  # to measure on
    return network


WAYS = {"ours": ours, "ours, no old images": without_old, "DER++": dark_experience, "original": original}


def _fit(tuner: FineTuner, data: InMemory, seed: int, **options: int) -> None:
    pl.seed_everything(seed, workers=True, verbose=False)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    quiet |= {"enable_model_summary": False}
    pl.Trainer(accelerator="cpu", precision=best_precision("cpu"), **quiet, **options).fit(tuner, datamodule=data)


def increment_of(case: str, parent: Parent, seed: int) -> tuple[ImageSet, ImageSet]:
    """The images of a case, and others of their own kind to measure on."""
    generator = torch.Generator().manual_seed(seed)
    source = parent.held_back if case != "c" else parent.known
    rows = torch.randperm(len(source), generator=generator)
    chosen, rest = source.subset(rows[: SIZES[case]]), source.subset(rows[SIZES[case] :])
    if case == "a":
        return chosen, rest
    if case == "c":
        return chosen, parent.test
    of_kind = torch.isin(parent.test.labels, torch.tensor(parent.rare))
    return chosen, parent.test.subset(of_kind.nonzero().squeeze(1))


def measure(way: str, case: str, parent: Parent, seed: int, folder: Path) -> dict[str, object]:
    path = folder / f"{case}{seed}.npz"
    chosen, own_kind = increment_of(case, parent, seed)
    increment.write(path, chosen)
    data = InMemory(parent, increments=[path])
    began = time.perf_counter()
    network = WAYS[way](parent, data, seed)
    seconds = time.perf_counter() - began
    assert data.old_val is not None
    sets = {"old": data.old_val, "own_kind": own_kind, "test": parent.test}
    if parent.rare is not None:
        common = ~torch.isin(parent.test.labels, torch.tensor(parent.rare))
        sets["test_others"] = parent.test.subset(common.nonzero().squeeze(1))
    sets |= {"new": data.new_val} if len(data.new_val) else {}  # of images that the parent knows none is held out
    sets["learned"] = data.new_train
    before = {name: evaluate(parent.model.network, each) for name, each in sets.items()}
    both = {name: Comparison(before[name], evaluate(network, each)) for name, each in sets.items()}
    decision = Gate().judge(Given(data.num_given, known=data.known).evidence(both))
    return {
        "way": way,
        "case": case,
        "seed": seed,
        "seconds": round(seconds, 1),
        "change_points": {name: round(-each.drop, 3) for name, each in both.items()},
        "before": {name: each.before.metrics["acc"] for name, each in both.items()},
        "flips": {name: [len(each.lost), len(each.gained), len(each)] for name, each in both.items()},
        "gate": decision.status,
        "reason": decision.reason,
    }


def table(rows: list[dict[str, object]]) -> str:
    """Mean and standard deviation over the seeds, in points of accuracy."""
    lines = [
        "| increment | way | old validation | own kind | test | held-out new | passes the gate |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in SIZES:
        for way in WAYS:
            runs = [row for row in rows if row["case"] == case and row["way"] == way]
            cells = []
            for name in ("old", "own_kind", "test", "new"):
                changes = [row["change_points"][name] for row in runs if name in row["change_points"]]
                spread = statistics.stdev(changes) if len(changes) > 1 else 0.0
                cells.append(f"{statistics.mean(changes):+.2f} ± {spread:.2f}" if changes else "-")
            promoted = sum(row["gate"] == "promoted" for row in runs)
            lines.append(f"| ({case}) | {way} | {' | '.join(cells)} | {promoted} of {len(runs)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="keeps the parents, which take minutes each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args()
    hush_lightning()
    keep_freed_memory()
    data, work = Path(os.environ["CIFAR_LIT_DATA"]), arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in arguments.seeds:
        for case in SIZES:
            progenitor = parent("rare" if case == "b" else "all", seed, data, work)
            for way in WAYS:
                rows.append(measure(way, case, progenitor, seed, work))
                print(json.dumps({name: rows[-1][name] for name in ("way", "case", "seed", "change_points", "gate")}))
    result = {
        "benchmark": "points of accuracy that fine-tuning gains and loses, CIFAR-10 (JPEG)",
        "seeds": arguments.seeds,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d"),
        "runs": rows,
    }
    (HERE / "results" / "forgetting.json").write_text(json.dumps(result, indent=2) + "\n")
    (HERE / "results" / "forgetting.md").write_text(table(rows))
    print(table(rows))
    print(json.dumps({"benchmark": result["benchmark"], "runs": len(rows)}))


if __name__ == "__main__":
    main()
