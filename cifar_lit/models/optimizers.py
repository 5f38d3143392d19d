"""Optimizers that torch does not have in the form needed here. No step reads a value back from the device."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from cifar_lit.errors import SettingError

# Quintic iteration whose fixed points lie near 1: five steps bring singular values between 0.01 and 1 to 0.7..1.2.
_NS_STEPS = 5
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
            matrices = [weight for weight in group["params"] if weight.grad is not None and weight.ndim > 1]
            vectors = [weight for weight in group["params"] if weight.grad is not None and weight.ndim <= 1]
            if matrices:
                self._step_matrices(matrices, group)
            if vectors:
                self._step_vectors(vectors, group)
        return loss

    def _step_matrices(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        gradients = _gradients(weights)
        momenta = [self._state(weight, "momentum") for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = orthogonalize(torch._foreach_lerp(gradients, momenta, group["momentum"]), _NS_STEPS)
        # Scaled to the size that AdamW's updates have.
        torch._foreach_mul_(updates, [0.2 * max(len(each), each[0].numel()) ** 0.5 for each in updates])
        torch._foreach_mul_(updates, group["lr"])
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_sub_(weights, updates)

    def _step_vectors(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for weight in weights:  # not "step", which torch would leave on the CPU when it loads a state
            if "num_steps" not in self.state[weight]:
                self.state[weight]["num_steps"] = torch.zeros((), device=weight.device)
        adamw(
            weights,
            _gradients(weights),
            [self._state(weight, "exp_avg") for weight in weights],
            [self._state(weight, "exp_avg_sq") for weight in weights],
            [],
            [self.state[weight]["num_steps"] for weight in weights],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _state(self, weight: Tensor, name: str) -> Tensor:
        """A value for each of the weight's, 0 at first."""
        state = self.state[weight]
        if name not in state:
            state[name] = torch.zeros_like(weight)
        value: Tensor = state[name]
        return value


class MuonSGD(Optimizer):
    """Orthogonalised momentum for filters of fixed length; SGD with Nesterov momentum for all other weights.

    Before each step every convolution's weight is scaled to a norm of sqrt(output channels). So its rate is a share
    of its length, and it needs no decay. Filters of equal shape are worked on together.

    The optimizer and the defaults, at batch 2000, of airbench94_muon (Jordan, 2024). There the loss is a sum over the
    batch and the head's outputs are divided by its width of 256; here the loss is a mean, and the same steps have
    other rates: 106 is 2000 x 0.053, and 0.02045 is 2000 x 0.67 / 256^2.

    Args:
        params: weights or parameter groups; each is split by number of dimensions, and keeps its other entries.
        lr: learning rate of weights of three or more dimensions.
        momentum: theirs, with Nesterov's look-ahead.
        ns_steps: of the Newton-Schulz iteration that orthogonalises.
        head_lr: learning rate of weights of two dimensions.
        bias_lr: learning rate of weights of fewer dimensions.
        sgd_momentum: of weights of two or fewer dimensions.
        weight_decay: share that these lose in a step at their full rate, before momentum.
        rounds: `ns_steps`, as earlier releases called it; configs and checkpoints of theirs name it.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.24,
        momentum: float = 0.6,
        ns_steps: int = 3,
        head_lr: float = 0.02045,
        bias_lr: float = 106.0,
        sgd_momentum: float = 0.85,
        weight_decay: float = 0.004,
        rounds: int | None = None,
    ) -> None:
        ns_steps = ns_steps if rounds is None else rounds
        if not (min(lr, head_lr, bias_lr) > 0 and 0 <= min(momentum, sgd_momentum) <= max(momentum, sgd_momentum) < 1):
            raise SettingError(
                f"lr is {lr}, head_lr {head_lr}, bias_lr {bias_lr}, momentum {momentum}, sgd_momentum {sgd_momentum}; "
                "expected rates above 0 and 0 <= momentum < 1."
            )
        if not (weight_decay >= 0 and ns_steps >= 1):
            raise SettingError(
                f"weight_decay is {weight_decay} and ns_steps {ns_steps}, expected 0 or more and 1 or more."
            )
        sgd = {"momentum": sgd_momentum, "ns_steps": 0}
        kinds: list[dict[str, Any]] = [
            {"lr": bias_lr, "weight_decay": weight_decay / bias_lr, **sgd},
            {"lr": head_lr, "weight_decay": weight_decay / head_lr, **sgd},
            {"lr": lr, "weight_decay": 0.0, "momentum": momentum, "ns_steps": ns_steps},
        ]
        groups = []
        for given in _as_groups(params):
            split: list[list[Tensor]] = [[], [], []]
            for weight in given["params"]:
                split[min(max(weight.ndim, 1), 3) - 1].append(weight)
            groups += [
                {**given, **kind, "params": weights} for kind, weights in zip(kinds, split, strict=True) if weights
            ]
        super().__init__(groups, {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # of a checkpoint of an earlier release
            if "rounds" in group:
                group["ns_steps"] = group.pop("rounds")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._update(weights, group)
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        gradients = _gradients(weights)
        for weight in weights:
            if weight not in self.state:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        momenta = [self.state[weight]["momentum"] for weight in weights]
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, gradients)
        updates = list(torch._foreach_add(gradients, momenta, alpha=group["momentum"]))
        if group["ns_steps"]:
            norms = torch._foreach_norm(weights)
            torch._foreach_clamp_min_(norms, 1e-12)  # a weight of zeros stays one
            lengths = [len(weight) ** 0.5 for weight in weights]
            torch._foreach_div_(weights, torch._foreach_div(norms, lengths))
            updates = orthogonalize(updates, group["ns_steps"])
        torch._foreach_mul_(updates, group["lr"])
        torch._foreach_sub_(weights, updates)


def orthogonalize_stack(matrices: Tensor, ns_steps: int) -> Tensor:
    """The nearest semi-orthogonal matrices, approximately: like U V^T of the singular value decomposition, by a
    Newton-Schulz iteration in bfloat16.

    Args:
        matrices: float (n, rows, columns), or one as (rows, columns), which a CPU is faster at.
        ns_steps: 5 bring singular values to between about 0.7 and 1.2. 3 are enough where the rate is high; they are
            then between about 0.3 and 1.2.

    Returns:
        bfloat16, of the same shape.
    """
    add_product = torch.addmm if matrices.ndim == 2 else torch.baddbmm
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = (matrices.mT if tall else matrices).bfloat16()
    wide = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ns_steps):
        gram = wide @ wide.mT
        wide = add_product(wide, add_product(gram, gram, gram, beta=_B, alpha=_C), wide, beta=_A)
    return wide.mT if tall else wide


def orthogonalize(updates: Sequence[Tensor], ns_steps: int) -> list[Tensor]:
    """`orthogonalize_stack` for weights of several shapes, each as a matrix with a row for each output channel.

    Args:
        updates: float tensors of two or more dimensions; those of equal shape go as one stack.
        ns_steps: as in `orthogonalize_stack`.

    Returns:
        New tensors, each of the shape, dtype and memory format of its update.
    """
    places: dict[torch.Size, list[int]] = {}
    for place, update in enumerate(updates):
        places.setdefault(update.shape, []).append(place)
    result = list(updates)
    for members in places.values():
        lasts = [updates[place].movedim(1, -1) for place in members]  # free in channels-last memory
        flat = [last.flatten(1) for last in lasts]
        stack = torch.stack(flat) if len(flat) > 1 else flat[0]
        matrices = orthogonalize_stack(stack, ns_steps).to(stack.dtype).view(-1, *flat[0].shape)
        for place, last, matrix in zip(members, lasts, matrices, strict=True):
            result[place] = matrix.reshape(last.shape).movedim(-1, 1)
    return result


def _gradients(weights: Sequence[Tensor]) -> list[Tensor]:
    return [weight.grad for weight in weights if weight.grad is not None]


def _as_groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    """Weights as one group, groups as they are."""
    given = list(params)
    if all(isinstance(each, Mapping) for each in given):
        return [{**each, "params": _as_list(each["params"])} for each in given]
    return [{"params": given}]


def _as_list(weights: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [weights] if isinstance(weights, Tensor) else list(weights)
