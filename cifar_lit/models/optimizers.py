"""Optimizers that torch does not have in the form needed here."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cifar_lit.errors import SettingError

# Quintic iteration whose fixed points lie near 1: five rounds bring singular values between 0.01 and 1 to 0.7..1.2.
_ROUNDS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(Optimizer):
    """Momentum whose update is orthogonalised, for weights of two or more dimensions; AdamW for the others.

    A convolution's weight counts as a matrix with a row for each output channel. Updates are scaled to the size that
    AdamW's have, so that one learning rate and one weight decay serve both.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the scale is that of Liu et al.,
    "Muon is Scalable for LLM Training" (2025).

    Args:
        params: weights or parameter groups.
        lr: learning rate.
        momentum: of the orthogonalised weights, with Nesterov's look-ahead.
        weight_decay: decoupled, as in AdamW.
        betas: AdamW's.
        eps: AdamW's.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.006,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ) -> None:
        if not (lr >= 0 and 0 <= momentum < 1 and weight_decay >= 0):
            raise SettingError(
                f"lr is {lr}, momentum {momentum}, weight_decay {weight_decay}; expected lr >= 0, 0 <= momentum < 1, "
                "weight_decay >= 0."
            )
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "betas": betas, "eps": eps}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                update = self._orthogonal if weight.ndim > 1 else self._adam
                weight.add_(update(weight, group), alpha=-group["lr"])
        return loss

    def _orthogonal(self, weight: Tensor, group: dict[str, Any]) -> Tensor:
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(state["momentum"], group["momentum"])
        matrix = orthogonalize(ahead.flatten(1))
        update: Tensor = matrix.view(ahead.shape) * (0.2 * max(matrix.shape) ** 0.5)
        return update

    def _adam(self, weight: Tensor, group: dict[str, Any]) -> Tensor:
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state["step"] = 0
            state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].lerp_(gradient.square(), 1 - beta2)
        mean = state["mean"] / (1 - beta1 ** state["step"])
        square = state["square"] / (1 - beta2 ** state["step"])
        update: Tensor = mean / (square.sqrt() + group["eps"])
        return update


def orthogonalize(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix, approximately: like U V^T of the singular value decomposition, with singular
    values between about 0.7 and 1.2, by a Newton-Schulz iteration in bfloat16.

    Args:
        matrix: float32 (rows, columns).

    Returns:
        float32 (rows, columns).
    """
    tall = matrix.shape[0] > matrix.shape[1]
    wide: Tensor = (matrix.T if tall else matrix).bfloat16()
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(_ROUNDS):
        gram = wide @ wide.T
        wide = _A * wide + (_B * gram + _C * gram @ gram) @ wide
    return (wide.T if tall else wide).to(matrix.dtype)
