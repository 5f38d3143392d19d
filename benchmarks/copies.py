"""How well copies of images are told from other images: `cifar_lit.data.similar` beside perceptual hashes.

    CIFAR_LIT_DATA=dir python benchmarks/copies.py [--images 2000] [--grid pairs.png]

Recall: training images, altered, are looked for among all training images. Alarms: training images that are said to be
copies of a test image; many truly are (`--grid` draws the pairs, least alike first, to be judged by eye). Each other
measure is given the threshold at which it finds as many of the altered images, and its alarms are counted there. One
core. Ends with one JSON line, and keeps it in benchmarks/results/.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate, normalize
from torchvision.io import decode_jpeg, encode_jpeg, write_png

from cifar_lit.data import similar
from cifar_lit.data.sources import read_split, resolve_root

HERE = Path(__file__).parent

Change = Callable[[Tensor], Tensor]
"""uint8 (N, 3, 32, 32) to the same."""


def pixels(change: Change) -> Change:
    return lambda images: change(images.float()).clamp(0, 255).round().to(torch.uint8)


def jpeg(quality: int) -> Change:
    return lambda images: torch.stack([decode_jpeg(encode_jpeg(image.contiguous(), quality)) for image in images])


def resized(size: int, mode: str = "bilinear") -> Change:
    def there_and_back(images: Tensor) -> Tensor:
        for side in (size, 32):
            images = interpolate(images, size=(side, side), mode=mode, antialias=True)
        return images

    return pixels(there_and_back)


def contrast(factor: float) -> Change:
    return pixels(lambda images: images.mean((1, 2, 3), keepdim=True).lerp(images, torch.tensor(factor)))


def chained(*changes: Change) -> Change:
    def change(images: Tensor) -> Tensor:
        for each in changes:
            images = each(images)
        return images

    return change


ALTERATIONS: dict[str, Change] = {
    "JPEG quality 50": jpeg(50),
    "JPEG quality 75": jpeg(75),
    "JPEG quality 95": jpeg(95),
    "times 1.1": pixels(lambda images: images * 1.1),
    "times 0.9": pixels(lambda images: images * 0.9),
    "20 levels brighter": pixels(lambda images: images + 20),
    "20 levels darker": pixels(lambda images: images - 20),
    "contrast 0.8": contrast(0.8),
    "contrast 1.2": contrast(1.2),
    "warmer by 5 %": pixels(lambda images: images * torch.tensor([1.05, 1, 0.95]).view(3, 1, 1)),
    "to 24 pixels and back": resized(24),
    "to 48 pixels and back, bicubic": resized(48, "bicubic"),
    "to 64 pixels and back": resized(64),
    "mirrored": lambda images: images.flip(-1),
    "mirrored, to 48 and back, times 1.1, plus 8, JPEG quality 60": chained(
        lambda images: images.flip(-1), resized(48), pixels(lambda images: images * 1.1 + 8), jpeg(60)
    ),
}


def difference_hash(images: Tensor) -> Tensor:
    """128 bits: is a place of an 8x9 (9x8) image brighter than the one before it."""
    grey = images.float().mean(1, keepdim=True)
    across = interpolate(grey, size=(8, 9), mode="bilinear", antialias=True)
    down = interpolate(grey, size=(9, 8), mode="bilinear", antialias=True)
    return signs(torch.cat([across.diff(dim=3).flatten(1), down.diff(dim=2).flatten(1)], 1))


def cosine_hash(images: Tensor) -> Tensor:
    """63 bits: is a coefficient of the 8x8 slowest cosines, the constant left out, above their median ("pHash")."""
    waves = torch.tensor([[math.cos(math.pi * (2 * x + 1) * k / 64) for x in range(32)] for k in range(8)])
    coefficients = (waves @ images.float().mean(1) @ waves.T).flatten(1)[:, 1:]
    return signs(coefficients - coefficients.median(1, keepdim=True).values)


def signs(values: Tensor) -> Tensor:
    return ((values > 0).float() * 2 - 1) / values.shape[1] ** 0.5


def small(size: int, *, colour: bool) -> Change:
    def vectors(images: Tensor) -> Tensor:
        grey_or_colour = images.float() if colour else images.float().mean(1, keepdim=True)
        values = adaptive_avg_pool2d(grey_or_colour, size).flatten(2)
        return normalize((values - values.mean(2, keepdim=True)).flatten(1), eps=1e-3)

    return vectors


OTHERS: dict[str, Change] = {
    "difference hash, 128 bits": difference_hash,
    "cosine hash, 63 bits": cosine_hash,
    "correlation of grey 8x8": small(8, colour=False),
    "correlation of colour 8x8": small(8, colour=True),
    "correlation of colour 16x16": small(16, colour=True),
    "fine correlation alone": lambda images: similar._fine(images.permute(0, 2, 3, 1)),
}


def alarms_of(vectors: Change, images: Tensor, altered: list[Tensor], recall: float, train: Tensor, test: Tensor):
    """Threshold at which a measure finds the share `recall` of the altered images, and its alarms there."""
    own = vectors(images)
    scores = [torch.maximum((vectors(a) * own).sum(1), (vectors(a.flip(-1)) * own).sum(1)) for a in altered]
    threshold = torch.cat(scores).sort(descending=True).values[math.ceil(recall * len(images) * len(altered)) - 1]
    theirs = torch.cat([vectors(part) for part in test.split(2_000)])
    alarms = 0
    for part in train.split(2_000):
        nearest = [(vectors(each) @ theirs.T).amax(1) for each in (part, part.flip(-1))]
        alarms += int((torch.maximum(*nearest) >= threshold).sum())
    return {"threshold": round(threshold.item(), 4), "training_images_said_to_be_test_images": alarms}


def timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    start = time.perf_counter()
    result = work()
    return result, round(time.perf_counter() - start, 2)


def draw_pairs(path: Path, images: Tensor, others: Tensor, columns: int = 10) -> None:
    """Writes pairs of uint8 (N, 3, 32, 32) beside each other, twice as large."""
    cells = torch.nn.functional.pad(torch.cat([images, others], 3), (2, 6, 2, 2), value=255)
    cells = torch.cat([cells, cells.new_full((-len(cells) % columns, *cells.shape[1:]), 255)])
    lines = [torch.cat([*line], 2) for line in cells.split(columns)]
    write_png(torch.cat(lines, 1).repeat_interleave(2, 1).repeat_interleave(2, 2), str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2_000, help="how many are altered")
    parser.add_argument("--grid", type=Path, metavar="FILE", help="draw the pairs of training and test images")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train, test = (read_split(split, resolve_root(None)) for split in ("train", "test"))
    everything = torch.cat([train.images, test.images])
    rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: arguments.images]
    images = train.images[rows].permute(0, 3, 1, 2)
    altered = {name: change(images) for name, change in ALTERATIONS.items()}

    recall, right = {}, {}
    for name, each in altered.items():
        found = similar.matches(each.permute(0, 2, 3, 1).contiguous(), train.images)
        recall[name] = (found >= 0).float().mean().item()
        right[name] = (found == rows).float().mean().item()
        print(f"{name}: {recall[name]:.4f} found, {right[name]:.4f} as the very row", flush=True)
    total = sum(recall.values()) / len(recall)

    alarms, seconds_test = timed(lambda: similar.matches(train.images, test.images))
    _, seconds_few = timed(lambda: similar.matches(train.images[rows[:500]], everything))
    _, seconds_all = timed(lambda: similar.matches((train.images // 2) * 2, everything))
    alarmed = (alarms >= 0).nonzero().squeeze(1)
    train_images, test_images = train.images.permute(0, 3, 1, 2), test.images.permute(0, 3, 1, 2)
    if arguments.grid is not None:
        mine, other = train.images[alarmed], test.images[alarms[alarmed]]
        alike = [
            (similar._fine(mine, mirrored=flip) * similar._fine(other)).sum(1) for flip in (False, True)
        ]  # a pair counts in the orientation in which it is more alike
        order = torch.maximum(*alike).argsort()
        draw_pairs(arguments.grid, train_images[alarmed[order]], test_images[alarms[alarmed[order]]])
    result = {
        "benchmark": f"copies: {arguments.images:,} training images altered in {len(altered)} ways",
        "thresholds": {"fine": similar.FINE_CORRELATION, "coarse": similar.COARSE_CORRELATION},
        "recall_mean": total,
        "recall": recall,
        "recall_of_the_very_row": right,
        "training_images_said_to_be_test_images": len(alarmed),
        "test_images_said_to_be_training_images": len(alarms[alarmed].unique()),
        "others_at_the_same_recall": {
            name: alarms_of(vectors, images, list(altered.values()), total, train_images, test_images)
            for name, vectors in OTHERS.items()
        },
        "seconds": {
            "500 against 60,000": seconds_few,
            "50,000 against 10,000": seconds_test,
            "50,000 against 60,000": seconds_all,
        },
        "data": {"source": train.source, "train": train.sha256, "test": test.sha256},
        "cpu": torch.cpu.get_capabilities().get("cpu_name", "") if hasattr(torch.cpu, "get_capabilities") else "",
        "cores": f"1 of {os.cpu_count()}",
        "torch": torch.__version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (HERE / "results" / "copies.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
