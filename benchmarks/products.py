"""What a network multiplies in a training step: its convolutions and matrix products, forward and backward."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn


def step_products(network: nn.Module, images: Tensor, dtype: torch.dtype) -> tuple[float, list[Callable[[], object]]]:
    """The multiplications of a step, each ready to be called at its own shapes, and nothing else of it.

    Args:
        network: goes over the images once, as in training.
        images: (B, 3, 32, 32), 0..255.
        dtype: of the multiplications.

    Returns:
        Floating-point operations of all calls together, and the calls.
    """
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output: seen.append((layer, inputs[0], output)))
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        network.train()(images)
    for hook in hooks:
        hook.remove()
    flop, calls = 0.0, []
    for index, (layer, inputs, output) in enumerate(seen):
        wanted = (index > 0, layer.weight.requires_grad)  # pixels need no derivative
        flop += 2 * output.numel() * layer.weight[0].numel() * (1 + sum(wanted))
        calls += _calls(layer, inputs.to(dtype), output.to(dtype), *wanted)
    return flop, calls


def _calls(
    layer: nn.Module, inputs: Tensor, output: Tensor, by_inputs: bool, by_weight: bool
) -> list[Callable[[], object]]:
    weight = layer.weight.detach().to(inputs.dtype)
    if isinstance(layer, nn.Linear):
        backward = [partial(torch.mm, output, weight)] * by_inputs + [partial(torch.mm, output.T, inputs)] * by_weight
        return [partial(torch.mm, inputs, weight.T), *backward]
    geometry = (layer.stride, layer.padding, layer.dilation, False, [0, 0], layer.groups)
    calls: list[Callable[[], object]] = [partial(torch.convolution, inputs, weight, None, *geometry)]
    if by_inputs or by_weight:
        wanted = [by_inputs, by_weight, False]
        calls.append(partial(torch.ops.aten.convolution_backward, output, inputs, weight, None, *geometry, wanted))
    return calls
