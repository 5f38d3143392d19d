"""The baseline: the seed recipe as most people write it, with Lightning, a DataLoader and torchvision's transforms.

Nothing of cifar_lit's training code is used; only the images come from its reader, so that both see the same pixels.
Prints one JSON line with the seconds of each epoch, validation included.
"""

import argparse
import json
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms

from cifar_lit.data.image_set import ImageSet, stratified_split
from cifar_lit.data.sources import read_split


class Images(Dataset):
    def __init__(self, data: ImageSet, transform) -> None:
        self.images = [transforms.functional.to_pil_image(image.permute(2, 0, 1)) for image in data.images]
        self.labels = data.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(self.images[row]), self.labels[row]


class PlainClassifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        layers = []
        for before, after in ((3, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(after), nn.MaxPool2d(2)]
        dense = [nn.Flatten(), nn.Linear(2048, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10)]
        self.network = nn.Sequential(*layers, *dense)
        self.accuracy = MulticlassAccuracy(10, average="micro")
        self.seconds: list[float] = []

    def training_step(self, batch, batch_idx):
        images, labels = batch
        logits = self.network(images)
        loss = cross_entropy(logits, labels)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.accuracy(self.network(images), labels)
        self.log("val/acc", self.accuracy)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)

    def on_train_epoch_start(self) -> None:
        self.began = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="CIFAR-10, as cifar_lit reads it")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--accelerator", default="cpu")
    arguments = parser.parse_args()
    pl.seed_everything(0)
    data = read_split("train", arguments.root)
    rows, val_rows = stratified_split(data.labels, 0.2, seed=0)
    augment = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomAffine(degrees=36, scale=(0.9, 1.1), interpolation=transforms.InterpolationMode.BILINEAR),
            transforms.ToTensor(),
        ]
    )
    options = {"batch_size": 64, "num_workers": arguments.workers, "persistent_workers": arguments.workers > 0}
    train = DataLoader(Images(data.subset(rows), augment), shuffle=True, **options)
    val = DataLoader(Images(data.subset(val_rows), transforms.ToTensor()), **options)
    classifier = PlainClassifier()
    trainer = pl.Trainer(
        max_epochs=arguments.epochs,
        accelerator=arguments.accelerator,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(classifier, train, val)
    print(json.dumps({"epoch_seconds": classifier.seconds, "precision": trainer.precision}))


if __name__ == "__main__":
    main()
