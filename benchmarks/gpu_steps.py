"""A training step on one batch that stays where it is: what arithmetic, precision and compiler make of it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gpu_probe import now
from products import step_products
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cifar_lit.models.networks import Network, ThreeBlockCNN
from cifar_lit.models.optimizers import MuonSGD
from cifar_lit.models.whitened_cnn import WhitenedCNN

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32}
_FORMATS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass(frozen=True)
class Recipe:
    """A network, its optimizer and its batch."""

    name: str
    network: Callable[[], Network]
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    batch_size: int
    dtype: torch.dtype


def recipes(tiny: bool) -> list[Recipe]:
    on_gpu = torch.cuda.is_available()
    small = partial(ThreeBlockCNN, width=4) if tiny else ThreeBlockCNN
    fast = partial(WhitenedCNN, widths=(8, 8, 8)) if tiny else WhitenedCNN
    adam = partial(torch.optim.Adam, lr=1e-3, fused=True)
    sizes = (8, 16, 20) if tiny or not on_gpu else (64, 1024, 2000)
    return [
        Recipe(f"seed, batch {sizes[0]}", small, adam, sizes[0], torch.float32),
        Recipe(f"seed, batch {sizes[1]}", small, adam, sizes[1], torch.float32),
        Recipe(f"fast, batch {sizes[2]}", fast, MuonSGD, sizes[2], torch.uint8),
    ]


def variants(device: torch.device, tiny: bool) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Names and measurements, those that say most first."""
    modes = [None, "reduce-overhead", "default"] if device.type == "cuda" else [None, "default"]
    first = [(mode, "bf16", "channels-last") for mode in modes]
    others = [
        (modes[1], "fp16", "channels-last"),
        (modes[1], "bf16", "contiguous"),
        (modes[1], "tf32", "channels-last"),
    ]
    eager = [(None, "fp16", "channels-last"), (None, "bf16", "contiguous"), (None, "tf32", "channels-last")]
    if tiny:
        others = []
    if device.type != "cuda":
        eager = [each for each in eager if each[1] != "fp16"]
    autotuned = [("max-autotune", "bf16", "channels-last")] if device.type == "cuda" else []
    for ways in (eager, first[:2], others, first[2:], autotuned):
        for recipe in recipes(tiny)[:1] if tiny and ways is not eager else recipes(tiny):
            for mode, precision, layout in ways:
                name = f"{recipe.name}, {mode or 'eager'}, {precision}, {layout}"
                yield name, partial(measure, recipe, device, mode, precision, layout, 3 if tiny else 100)


def measure(
    recipe: Recipe, device: torch.device, mode: str | None, precision: str, layout: str, times: int
) -> dict[str, Any]:
    """Milliseconds of a step: forward, loss, backward, optimizer."""
    torch.manual_seed(0)
    network = recipe.network().to(device).to(memory_format=_FORMATS[layout]).train()
    optimizer = recipe.optimizer([weight for weight in network.parameters() if weight.requires_grad])
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    images = torch.randint(0, 256, (recipe.batch_size, 3, 32, 32), device=device).to(recipe.dtype)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (recipe.batch_size,), device=device)
    dtype = _DTYPES[precision]

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            normalized = (images - network._shift) * network._scale
            return cross_entropy(network.logits(normalized.contiguous(memory_format=_FORMATS[layout])), labels)

    compiled = torch.compile(loss_of, mode=mode, dynamic=False, fullgraph=True) if mode else loss_of

    def step() -> None:
        optimizer.zero_grad()
        torch.compiler.cudagraph_mark_step_begin()
        scaler.scale(compiled(images, labels)).backward()
        scaler.step(optimizer)
        scaler.update()

    began = now(device)
    for _ in range(4):
        step()
    warm_up = now(device) - began
    began = now(device)
    for _ in range(times):
        step()
    return {
        "ms": (now(device) - began) / times * 1e3,
        "warm_up_seconds": warm_up,
        "optimizer": type(optimizer).__name__,
    }


def large_products(device: torch.device, size: int) -> dict[str, float]:
    """TFLOP a second of a square product."""
    found = {}
    for name in ("bf16", "tf32"):
        square = torch.randn(size, size, device=device, dtype=_DTYPES[name])
        found[f"{name}_tflops"] = 2 * size**3 / seconds_of(partial(torch.mm, square, square), device) / 1e12
    return found


def own_products(device: torch.device, tiny: bool) -> list[dict[str, Any]]:
    """Milliseconds a step would take if it did nothing but its convolutions and matrix products, both ways."""
    return [products(recipe, device, precision) for recipe in recipes(tiny) for precision in ("bf16", "tf32")]


def products(recipe: Recipe, device: torch.device, precision: str) -> dict[str, Any]:
    images = torch.randint(0, 256, (recipe.batch_size, 3, 32, 32), device=device).float()
    images = images.contiguous(memory_format=torch.channels_last)
    flop, calls = step_products(recipe.network().to(device), images, _DTYPES[precision])
    seconds = sum(seconds_of(call, device) for call in calls)
    return {
        "recipe": recipe.name,
        "precision": precision,
        "gflop_a_step": flop / 1e9,
        "ms_of_own_products": seconds * 1e3,
        "tflops": flop / seconds / 1e12,
    }


def seconds_of(call: Callable[[], object], device: torch.device, times: int = 20) -> float:
    """Of one call among many, without the time to start it on a GPU: they are replayed as a CUDA graph."""
    if device.type != "cuda":
        call()
        began = time.perf_counter()
        for _ in range(3):
            call()
        return (time.perf_counter() - began) / 3
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            call()
    graph.replay()
    began = now(device)
    for _ in range(3):
        graph.replay()
    return (now(device) - began) / 3 / times
