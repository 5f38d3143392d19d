from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from cifar_lit.errors import SettingError
from cifar_lit.models.optimizers import Muon, MuonSGD, orthogonalize, orthogonalize_stack


@pytest.mark.parametrize("shape", [(8, 8), (4, 30), (30, 4), (32, 27), (16, 3, 3, 3)])
def test_orthogonalize_keeps_directions_and_levels_singular_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape)
    left, _, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    (result,) = orthogonalize([weight], 5)
    assert result.shape == weight.shape
    assert result.dtype == torch.float32
    core = left.T @ result.flatten(1) @ right.T  # nearly diagonal, with the new singular values
    assert core.diagonal().min() > 0.5
    assert core.diagonal().max() < 1.4
    assert (core - torch.diag(core.diagonal())).abs().max() < 0.2


def test_vectors_are_trained_as_by_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(5)) for _ in range(2))
    muon = Muon([ours], lr=0.1, weight_decay=0.02, betas=(0.8, 0.95))
    adamw = AdamW([theirs], lr=0.1, weight_decay=0.02, betas=(0.8, 0.95))
    for _ in range(5):
        gradient = torch.randn(5)
        for weight, optimizer in ((ours, muon), (theirs, adamw)):
            weight.grad = gradient.clone()
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_an_update_of_a_convolution_has_the_size_of_adams() -> None:
    weight = nn.Parameter(torch.zeros(16, 8, 3, 3))
    weight.grad = torch.randn(16, 8, 3, 3)
    Muon([weight], lr=1.0, weight_decay=0.0).step()
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.2, rel=0.25)


def test_it_learns() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    inputs = torch.randn(256, 4)
    labels = (inputs[:, 0] * inputs[:, 1] > 0).long()
    optimizer = Muon(model.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    assert (model(inputs).argmax(1) == labels).float().mean() > 0.95


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"momentum": 1.0}, {"weight_decay": -0.1}])
def test_senseless_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="expected lr >= 0"):
        Muon([nn.Parameter(torch.ones(1))], **options)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 4, 30), (2, 30, 4), (1, 32, 27)])
def test_a_stack_is_orthogonalised_matrix_by_matrix(shape: tuple[int, int, int]) -> None:
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalize_stack(stack, 5)
    assert result.dtype == torch.bfloat16
    for matrix, each in zip(stack, result.float(), strict=True):
        (alone,) = orthogonalize([matrix], 5)
        assert (each - alone).norm() < 0.08 * each.norm()  # rounded at other places in bfloat16


def test_a_stack_may_hold_matrices_of_any_size_of_entries() -> None:
    stack = torch.randn(1, 6, 10, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([1e-4, 1.0, 1e4]).view(3, 1, 1)
    small, plain, large = orthogonalize_stack(stack * sizes, 3).float()
    torch.testing.assert_close(small, plain, atol=0.03, rtol=0)
    torch.testing.assert_close(large, plain, atol=0.03, rtol=0)


def filters_head_and_bias() -> list[nn.Parameter]:
    """Three filters, two of one shape and one with more rows than columns, a head and two vectors."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 4, 3, 3), (16, 1, 3, 3), (8, 4, 3, 3), (5, 6), (5,), (7,)]
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def train(weights: list[nn.Parameter], optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_filters_keep_their_length_and_move_along_the_orthogonalised_nesterov_momentum(
    memory_format: torch.memory_format,
) -> None:
    weights = [nn.Parameter(each.detach().to(memory_format=memory_format)) for each in filters_head_and_bias()[:3]]
    expected = [weight.detach().clone() for weight in weights]
    momenta = [torch.zeros_like(weight) for weight in expected]
    optimizer = MuonSGD(weights, lr=0.3, momentum=0.6, ns_steps=3)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        for weight, momentum in zip(expected, momenta, strict=True):
            gradient = torch.randn(weight.shape, generator=generator)
            momentum.mul_(0.6).add_(gradient)
            (direction,) = orthogonalize_stack((gradient + 0.6 * momentum).flatten(1)[None], 3).float()
            weight.mul_(len(weight) ** 0.5 / weight.norm()).sub_(0.3 * direction.view(weight.shape))
        train(weights, optimizer, range(seed, seed + 1))
    for weight, each in zip(weights, expected, strict=True):
        assert weight.is_contiguous(memory_format=memory_format)
        assert (weight - each).norm() < 0.02 * each.norm()  # stacks round differently in bfloat16


def test_heads_and_biases_are_trained_as_by_nesterov_sgd() -> None:
    weights, others = filters_head_and_bias()[3:], filters_head_and_bias()[3:]
    head, *biases = others
    sgd = SGD(
        [{"params": [head], "lr": 0.2, "weight_decay": 0.05 / 0.2}, {"params": biases, "weight_decay": 0.05 / 3}],
        lr=3.0,
        momentum=0.8,
        nesterov=True,
    )
    ours = MuonSGD(weights, head_lr=0.2, bias_lr=3.0, sgd_momentum=0.8, weight_decay=0.05)
    train(weights, ours, range(4))
    train(others, sgd, range(4))
    for weight, other in zip(weights, others, strict=True):
        torch.testing.assert_close(weight, other)


def test_groups_keep_their_names_and_have_rates_by_dimension() -> None:
    first, second, third, head, bias, other = filters_head_and_bias()
    groups = [
        {"params": [first, second, head], "name": "deep"},
        {"params": bias, "name": "shift", "weight_decay": 0.0},
        {"params": [third, other], "name": "rest"},
    ]
    optimizer = MuonSGD(groups, lr=0.1, head_lr=0.2, bias_lr=0.4, weight_decay=0.04)
    found = [
        (group["name"], group["lr"], group["weight_decay"], {id(weight) for weight in group["params"]})
        for group in optimizer.param_groups
    ]
    assert found == [
        ("deep", 0.2, pytest.approx(0.2), {id(head)}),
        ("deep", 0.1, 0.0, {id(first), id(second)}),
        ("shift", 0.4, pytest.approx(0.1), {id(bias)}),
        ("rest", 0.4, pytest.approx(0.1), {id(other)}),
        ("rest", 0.1, 0.0, {id(third)}),
    ]


def test_weights_without_a_gradient_stay_as_they_are() -> None:
    weights = filters_head_and_bias()
    before = [weight.detach().clone() for weight in weights]
    optimizer = MuonSGD(weights)
    train(weights[::2], optimizer, range(1))
    changed = [not torch.equal(weight, each) for weight, each in zip(weights, before, strict=True)]
    assert changed == [True, False] * 3


def test_a_filter_of_zeros_is_moved_too() -> None:
    weight = nn.Parameter(torch.zeros(4, 2, 3, 3))
    train([weight], MuonSGD([weight], lr=0.1), range(1))
    assert weight.norm().item() == pytest.approx(0.1 * 2, rel=0.4)


@pytest.mark.parametrize("kind", [Muon, MuonSGD])
def test_a_rate_may_be_a_tensor_on_the_device(kind: type[Muon] | type[MuonSGD]) -> None:
    """So that a captured step can be replayed at another rate."""
    plain, others = filters_head_and_bias(), filters_head_and_bias()
    optimizer, by_tensor = kind(plain), kind(others)
    for group in by_tensor.param_groups:
        group["lr"] = torch.tensor(group["lr"])
    train(plain, optimizer, range(2))
    train(others, by_tensor, range(2))
    for weight, other in zip(plain, others, strict=True):
        torch.testing.assert_close(weight, other)


@pytest.mark.parametrize("kind", [Muon, MuonSGD])
def test_training_goes_on_after_a_reload_as_without_it(kind: type[Muon] | type[MuonSGD]) -> None:
    whole, halves = filters_head_and_bias(), filters_head_and_bias()
    train(whole, kind(whole), range(4))
    first = kind(halves)
    train(halves, first, range(2))
    second = kind(halves)
    second.load_state_dict(first.state_dict())
    train(halves, second, range(2, 4))
    assert all(torch.equal(weight, other) for weight, other in zip(whole, halves, strict=True))


@pytest.mark.parametrize(
    "options",
    [{"lr": -1.0}, {"head_lr": 0.0}, {"bias_lr": -3.0}, {"momentum": 1.0}, {"sgd_momentum": -0.1}],
)
def test_senseless_rates_of_muon_sgd_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="expected rates above 0 and 0 <= momentum < 1"):
        MuonSGD([nn.Parameter(torch.ones(1))], **options)


@pytest.mark.parametrize("options", [{"weight_decay": -0.1}, {"ns_steps": 0}])
def test_senseless_decay_and_ns_steps_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="expected 0 or more and 1 or more"):
        MuonSGD([nn.Parameter(torch.ones(1))], **options)


def test_the_state_of_an_earlier_release_is_read() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3))
    state = MuonSGD([weight], ns_steps=4).state_dict()
    for group in state["param_groups"]:
        group["rounds"] = group.pop("ns_steps")
    optimizer = MuonSGD([weight])
    optimizer.load_state_dict(state)
    assert [group["ns_steps"] for group in optimizer.param_groups] == [4]


def test_an_earlier_release_called_the_newton_schulz_steps_rounds() -> None:
    optimizer = MuonSGD([torch.nn.Parameter(torch.randn(4, 3, 3, 3))], rounds=4)
    assert [group["ns_steps"] for group in optimizer.param_groups] == [4]
