"""Heat maps of "where it looked": occlusion with patches of several sizes beside Grad-CAM, on CIFAR-10 test images.

    python benchmarks/heat_maps.py --data dir [--versions v0001 v0002] [--images 200] [--out FILE]

Of each way, over the images and for the predicted class:
- rank: Spearman's correlation of its pixels with Grad-CAM's (Selvaraju et al., 2017, at the last convolution);
- deletion: mean probability of the class while the hottest 10, 20 ... 90 % of the pixels get the image's mean colour
  (Petsiuk et al., 2018); lower is better. "shuffled" is Grad-CAM's map of another image, as a floor;
- ms: CPU time of one map, on one thread, the prediction for the image itself included.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from cifar_lit.data.sources import read_split
from cifar_lit.inference import occlusion
from cifar_lit.inference.predictor import Pixels, Predictor
from cifar_lit.models.networks import Network
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.weights import load_network

Heat = npt.NDArray[np.float32]
Way = Callable[[Pixels, int], Heat]

PATCHES = ((8, 8), (16, 8), (8, 6), (12, 5), (8, 4), (12, 4), (16, 4))
SHARES = np.arange(0.1, 0.95, 0.1)


def grad_cam(network: Network) -> Way:
    last = [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1]

    def heat_map(image: Pixels, label: int) -> Heat:
        seen: list[Tensor] = []
        hook = last.register_forward_hook(lambda module, inputs, output: seen.append(output))
        logit = network(torch.tensor(image).permute(2, 0, 1).unsqueeze(0))[0, label]
        hook.remove()
        (slopes,) = torch.autograd.grad(logit, seen)
        heat = (slopes.mean(dim=(2, 3), keepdim=True) * seen[0].detach()).sum(dim=1, keepdim=True).relu()
        return np.asarray(interpolate(heat, image.shape[:2], mode="bilinear")[0, 0].numpy())

    return heat_map


def occluding(predictor: Predictor, side: int, step: int) -> Way:
    masks = occlusion.patches(side, step)
    return lambda image, label: occlusion.heat_map(lambda images: predictor.logits(images)[:, label], image, masks)


def deletion(predictor: Predictor, image: Pixels, name: str, heat: Heat) -> float:
    """Mean probability of a class while the hottest pixels go."""
    order = np.argsort(-heat.ravel(), kind="stable")
    grey = image.mean(axis=(0, 1)).round().astype(np.uint8)
    images = np.repeat(image.reshape(1, -1, 3), len(SHARES), axis=0)
    for each, share in zip(images, SHARES, strict=True):
        each[order[: round(share * len(order))]] = grey
    predictions = predictor.predict(images.reshape(-1, *image.shape))
    return float(np.mean([prediction.probabilities[name] for prediction in predictions]))


def ranks(heat: Heat) -> npt.NDArray[np.float64]:
    """From 0, equal values share their mean rank."""
    _, places, counts = np.unique(heat, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((2 * ends - counts - 1) / 2)[places.ravel()]


def correlation(one: Heat, other: Heat) -> float:
    """Not a number for a map that is all dark."""
    a, b = ranks(one), ranks(other)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else math.nan


def measure(version_id: str, images: Pixels) -> list[dict[str, Any]]:
    version = Registry(Path(__file__).parent.parent / "checkpoints").get(version_id)
    predictor = Predictor.from_version(version)
    labels = predictor.logits(images).argmax(axis=1)
    names = [predictor.class_names[label] for label in labels]
    ways = {"Grad-CAM": grad_cam(load_network(version))}
    ways |= {f"{side}x{side} every {step}": occluding(predictor, side, step) for side, step in PATCHES}
    rows: list[dict[str, Any]] = []
    reference: list[Heat] = []
    for name, way in ways.items():
        began = time.process_time()
        heats = [way(image, int(label)) for image, label in zip(images, labels, strict=True)]
        seconds = time.process_time() - began
        reference = reference or heats
        deletions = [deletion(predictor, *each) for each in zip(images, names, heats, strict=True)]
        row = {
            "version": version_id,
            "way": name,
            "rank": np.nanmean([correlation(one, other) for one, other in zip(heats, reference, strict=True)]),
            "deletion": np.mean(deletions),
            "deletion_standard_error": np.std(deletions, ddof=1) / len(deletions) ** 0.5,
            "dark": sum(not heat.any() for heat in heats),
            "ms": 1000 * seconds / len(images),
        }
        rows.append({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
        print(json.dumps(rows[-1]), flush=True)
    shuffled = [deletion(predictor, *each) for each in zip(images, names, np.roll(reference, 1, axis=0), strict=True)]
    rows.append({"version": version_id, "way": "shuffled", "deletion": round(float(np.mean(shuffled)), 4)})
    print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--versions", nargs="+", default=["v0001", "v0002"])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    test_set = read_split("test", args.data, "auto")
    rows = torch.linspace(0, len(test_set) - 1, args.images).long()
    images = test_set.images[rows].numpy()
    found = {
        "images": args.images,
        "data": test_set.source,
        "machine": platform.machine(),
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "ways": [row for version_id in args.versions for row in measure(version_id, images)],
    }
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
