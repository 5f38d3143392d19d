"""`cifar-lit fit` in a stage's own process, seed after seed, and its test accuracy as the published scripts take it."""

import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import gpu_probe
import torch
from gpu_stage import Stage
from torch import Tensor, nn

import cifar_lit.data.datamodule
from cifar_lit.data.image_set import ImageSet
from cifar_lit.evaluation.evaluation import classify, evaluate
from cifar_lit.training.fit import FitCLI

_JUDGED = 2000
"""Test images a step, as in the published scripts."""


class FitOnly(FitCLI):
    """`cifar-lit fit` up to the end of the training: no version is made, since it is not timed."""

    def after_fit(self) -> None:
        pass


def fit(stage: Stage, config: str, *options: str, probe: tuple[str, ...] = ()) -> tuple[FitOnly, dict[str, Any]]:
    """Trains in this process, with the images from a cache; gives what `gpu_probe.Probe` measured."""
    images = stage.images()
    cifar_lit.data.datamodule.read_split = lambda split, *_, **__: images[split]  # type: ignore[assignment]
    cli = FitOnly([*stage.command(config, *options), "--trainer.callbacks+=gpu_probe.Probe", *probe])
    (probed,) = (each for each in cli.trainer.callbacks if isinstance(each, gpu_probe.Probe))
    return cli, probed.result


def seeds(stage: Stage, config: str, mode: str | None, count: int, *, warm_up: bool) -> None:
    """Fits a config on all training images, seed after seed.

    `seconds` are those of the published scripts: the whitening layer, the epochs' steps and the predictions for
    the test images with test-time augmentation. Neither compiling is in them nor what lies between two epochs.

    Args:
        stage: keeps the rows.
        config: name of a file in configs/.
        mode: of compiling the training step and the predictions; None compiles neither.
        count: of seeds, if the stage's time allows.
        warm_up: leave out the first fit, which compiles from nothing.
    """
    options = ["--data.val_fraction", "0", *(["--compile", mode] if mode else [])]
    options += ["--trainer.max_epochs", "2"] if stage.tiny else []
    rows: list[dict[str, Any]] = []
    judge: Judge | None = None
    for seed in range(-1 if warm_up else 0, count):
        began = time.monotonic()
        cli, measured = fit(stage, config, *options, "--seed_everything", str(max(seed, 0)))
        network = cli.model.network.to(stage.device)
        if judge is None:
            judge = Judge(network, stage, cli.trainer.precision_plugin.val_step_context, mode)
            stage.keep(config=config, compile_mode=mode, tta=judge.about, batch_size=measured["batch_size"])
        row = judged(judge, network, measured) | {"seed": seed, "took_seconds": time.monotonic() - began}
        if seed < 0:
            stage.keep(warm_up=row)
            continue
        rows.append(row)
        stage.keep(rows=rows, **mean_of([row["seconds"] for row in rows], [row["acc_tta"] for row in rows]))
        stage.keep(num_train=measured["images"], num_test=len(judge.labels), precision=measured["precision"])
        stage.keep(cudagraph_skips=sum(row["cudagraph_skips"] for row in rows))
        if stage.left() < 1.5 * row["took_seconds"]:
            break


def judged(judge: "Judge", network: nn.Module, measured: dict[str, Any]) -> dict[str, Any]:
    acc_tta, tta_seconds = judge.acc_tta(network)
    train_seconds = sum(measured["train_seconds"]) + measured["prepare_seconds"]
    return {
        "seconds": train_seconds + tta_seconds,
        "train_seconds": train_seconds,
        "tta_seconds": tta_seconds,
        "acc_tta": acc_tta,
        "acc": judge.acc(network),
        "epochs": len(measured["train_seconds"]),
        **{
            name: measured.get(name)
            for name in ("whole_seconds", "prepare_seconds", "compile_seconds", "cudagraph_skips", "peak_bytes")
        },
        "epoch_train_seconds": measured["train_seconds"],
    }


class Judge:
    """The test images on the device, classified in the training's precision with test-time augmentation (mirror, and
    both moves by one pixel), compiled once for all seeds.

    Attributes:
        about: how it is compiled; with `error` if compiling failed, and then it runs eagerly.
    """

    def __init__(self, network: nn.Module, stage: Stage, context: Callable[[], Any], mode: str | None) -> None:
        test = stage.images()["test"]
        self._test = ImageSet(test.images.to(stage.device), test.labels.to(stage.device), test.source)
        self.labels = self._test.labels
        self._network = deepcopy(network).eval()
        self._context = context
        self._device = stage.device
        self._classify: Callable[[Tensor], Tensor] = self._all_views
        # A step graph is one of a training step.
        mode = "reduce-overhead" if mode == "step-graph" else mode
        self.about: dict[str, Any] = {"compile_mode": mode}
        if mode is None:
            return
        began, eager = gpu_probe.now(stage.device), self._classify
        try:
            self._classify = torch.compile(eager, mode=mode, dynamic=False)
            for _ in range(3):  # a CUDA graph is warmed up, recorded and replayed
                self._logits()
        except Exception as error:
            self._classify = eager
            self.about["error"] = repr(error)[:500]
        self.about["compile_seconds"] = gpu_probe.now(stage.device) - began

    def acc_tta(self, network: nn.Module) -> tuple[float, float]:
        """Accuracy, and the seconds until it is known."""
        self._network.load_state_dict(network.state_dict())
        began = gpu_probe.now(self._device)
        acc = (self._logits().argmax(1) == self.labels).float().mean().item()
        return acc, gpu_probe.now(self._device) - began

    def acc(self, network: nn.Module) -> float:
        """Of a single view."""
        with self._context():
            return evaluate(network, self._test, batch_size=_JUDGED).metrics["acc"]

    def _all_views(self, images: Tensor) -> Tensor:
        return classify(self._network, images, tta_flip=True, tta_shift=1)

    @torch.no_grad()
    def _logits(self) -> Tensor:
        found = []
        with self._context():
            for images in torch.split(self._test.images, _JUDGED):
                torch.compiler.cudagraph_mark_step_begin()
                found.append(self._classify(images.permute(0, 3, 1, 2)).clone())  # a replay overwrites the last one's
        return torch.cat(found)


def mean_of(seconds: list[float], accuracies: list[float]) -> dict[str, Any]:
    several = len(seconds) > 1
    return {
        "num_seeds": len(seconds),
        "mean_seconds": statistics.mean(seconds),
        "std_seconds": statistics.stdev(seconds) if several else None,
        "mean_acc": statistics.mean(accuracies),
        "std_acc": statistics.stdev(accuracies) if several else None,
    }


def seed_recipe(stage: Stage, batch_size: int) -> None:
    """Epochs of the seed recipe, eager and compiled, and the same steps without Lightning."""
    epochs = 3 if stage.tiny else 5
    ways: dict[str, Any] = {}
    if stage.gpu:
        modes = {"eager": None, "step graph": "step-graph", "CUDA graphs": "reduce-overhead"}
    else:
        modes = {"eager": None, "compiled": "default"}
        ways = {way: {"skipped": "CUDA graphs exist only on a GPU"} for way in ("step graph", "CUDA graphs")}
    for way, mode in modes.items():
        options = ["--data.batch_size", str(batch_size), "--trainer.max_epochs", str(epochs)]
        options += ["--compile", mode] if mode else []
        probe = ("--trainer.callbacks.bare=true", "--trainer.callbacks.profiled=true")
        try:
            _, measured = fit(stage, "seed", *options, probe=probe)
            ways[way] = epoch_figures(measured)
        except Exception as error:
            ways[way] = {"error": repr(error)[:500]}
        stage.keep(batch_size=batch_size, ways=ways)
        torch.compiler.reset()


def epoch_figures(measured: dict[str, Any]) -> dict[str, Any]:
    """Medians without the first epoch, which warms up, and the last, which was profiled; and the measurements."""
    train, epoch = (statistics.median(measured[name][1:-1]) for name in ("train_seconds", "epoch_seconds"))
    kernel, steps = measured["kernel_ms_a_step"], measured["steps"]
    found = {
        "train_seconds": train,
        "epoch_seconds": epoch,
        "images_a_second": measured["images"] / train,
        "ms_a_step": train / steps * 1e3,
        "not_in_kernels": None if kernel is None else 1 - kernel * steps / train / 1e3,
        "cudagraph_skips": measured["cudagraph_skips"],
    }
    bare = statistics.median(measured["bare_seconds"][1:])
    return {
        **found,
        "bare_epoch_seconds": bare,
        "lightning_share": 1 - bare / train,
        "ms_a_step_by_part": {part: each / steps * 1e3 for part, each in measured["part_seconds"].items()},
        "measured": measured,
    }


def read_images(stage: Stage) -> None:
    """Unpacks and reads the images once for all stages."""
    from cifar_lit.data.sources import read_split

    began = time.monotonic()
    root = stage.unpacked()
    unpacked = time.monotonic()
    options: dict[str, Any] = {"source": "synthetic", "num_synthetic": 600} if root is None else {}
    sets = {name: read_split(name, root or Path(), **options) for name in ("train", "test")}
    stage.save(sets)
    stage.keep(
        root=str(root) if root else None,
        unpack_seconds=unpacked - began,
        read_seconds=time.monotonic() - unpacked,
        images={name: len(each) for name, each in sets.items()},
        source=sets["train"].source,
        sha256={name: each.sha256 for name, each in sets.items()},
    )
