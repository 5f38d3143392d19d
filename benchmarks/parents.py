"""Parents for the fine-tuning benchmarks: trained with images held back, so that increments are truly new to them.

CIFAR-10 must be an image folder here: what a parent is trained on is laid out as a folder of links.
"""

import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data import similar
from cifar_lit.data.finetune_data import FinetuneDataModule
from cifar_lit.data.image_files import list_files
from cifar_lit.data.image_folder import read
from cifar_lit.data.image_set import ImageSet, stratified_split
from cifar_lit.interop.model import Model, load_model
from cifar_lit.registry.registry import Registry

HERE = Path(__file__).parent
HELD_BACK_OF_ALL = 500
SEEN_OF_RARE = 500
EPOCHS = 15
VAL_FRACTION = 0.1


@dataclass(frozen=True)
class Parent:
    """A trained network, what it was trained on, and what it has never seen.

    Attributes:
        known: images that it learned from.
        rare: the two labels of which it saw 500 images each; none if 500 of every class were held back instead.
    """

    model: Model
    train: ImageSet
    test: ImageSet
    held_back: ImageSet
    known: ImageSet
    rare: tuple[int, int] | None


class InMemory(FinetuneDataModule):
    """Fine-tuning data whose old images were read already."""

    def __init__(self, parent: Parent, **options: object) -> None:
        super().__init__(source="synthetic", val_fraction=VAL_FRACTION, **options)
        self._splits = {"train": parent.train, "test": parent.test}


def parent(kind: str, seed: int, data: Path, work: Path) -> Parent:
    """The parent of that kind ("all" or "rare") and seed; trained by `cifar-lit fit` if it is not in `work` yet."""
    rare = (2 * seed % 10, 2 * seed % 10 + 1) if kind == "rare" else None
    name = f"{kind}{seed}"
    root, registry = work / name, Registry(work / "registries" / name)
    kept = torch.zeros(len(list_files(data / "train")[0]), dtype=torch.bool)
    chance = random.Random(seed)
    for label, class_name in enumerate(CLASS_NAMES):
        files = list_files(data / "train" / class_name)[0]
        chance.shuffle(files)
        if rare is None:
            files = files[HELD_BACK_OF_ALL:]
        elif label in rare:
            files = files[-SEEN_OF_RARE:]
        kept[[int(path.stem) for path in files]] = True
        folder = root / "train" / class_name
        if not folder.exists():
            folder.mkdir(parents=True)
            for path in files:
                (folder / path.name).symlink_to(path.absolute())
    if not (root / "test").exists():
        (root / "test").symlink_to((data / "test").absolute())
    if registry.champion() is None:
        command = [sys.executable, "-m", "cifar_lit.cli", "fit", "--config", str(HERE.parent / "configs/default.yaml")]
        command += ["--data.root", str(root), "--data.val_fraction", str(VAL_FRACTION), "--seed_everything", str(seed)]
        command += ["--trainer.max_epochs", str(EPOCHS), "--registry", str(registry.root)]
        command += ["--trainer.enable_progress_bar", "false"]
        subprocess.run(command, check=True, cwd=work, env={**os.environ, "PYTHONPATH": str(HERE.parent)})
    whole, test = _whole(data)
    train, held_back = (whole.subset(mask.nonzero().squeeze(1)) for mask in (kept, ~kept))
    model = load_model("latest", registry)
    assert model.version is not None
    assert model.version.manifest.data["train"]["sha256"] == train.sha256
    # Copies of test images are refused, and would make a clean comparison impossible.
    rows, _ = stratified_split(train.labels, VAL_FRACTION, 0)
    known = _without_copies(
        train.subset(rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:1_000]]), test
    )
    return Parent(model, train, test, _without_copies(held_back, test), known, rare)


_read: dict[Path, tuple[ImageSet, ImageSet]] = {}


def _whole(data: Path) -> tuple[ImageSet, ImageSet]:
    if data not in _read:
        _read[data] = read(data, "train"), read(data, "test")
    return _read[data]


def _without_copies(images: ImageSet, test: ImageSet) -> ImageSet:
    return images.subset((similar.matches(images.images, test.images) < 0).nonzero().squeeze(1))
