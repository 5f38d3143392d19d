import pytest
import torch
from torch import nn
from torch.optim import AdamW

from cifar_lit.errors import SettingError
from cifar_lit.models.optimizers import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(8, 8), (4, 30), (30, 4), (32, 27)])
def test_orthogonalize_keeps_directions_and_levels_singular_values(shape: tuple[int, int]):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalize(matrix)
    assert result.shape == matrix.shape
    assert result.dtype == torch.float32
    core = left.T @ result @ right.T  # nearly diagonal, with the new singular values
    assert core.diagonal().min() > 0.5
    assert core.diagonal().max() < 1.4
    assert (core - torch.diag(core.diagonal())).abs().max() < 0.2


def test_vectors_are_trained_as_by_adamw():
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


def test_an_update_of_a_convolution_has_the_size_of_adams():
    weight = nn.Parameter(torch.zeros(16, 8, 3, 3))
    weight.grad = torch.randn(16, 8, 3, 3)
    Muon([weight], lr=1.0, weight_decay=0.0).step()
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.2, rel=0.25)


def test_training_goes_on_after_a_reload_as_without_it():
    def steps(weight: nn.Parameter, optimizer: Muon, seeds: range) -> None:
        for seed in seeds:
            weight.grad = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
            optimizer.step()

    whole, halves = (nn.Parameter(torch.ones(6, 4)) for _ in range(2))
    steps(whole, Muon([whole]), range(4))
    first = Muon([halves])
    steps(halves, first, range(2))
    second = Muon([halves])
    second.load_state_dict(first.state_dict())
    steps(halves, second, range(2, 4))
    assert torch.equal(whole, halves)


def test_it_learns():
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
def test_senseless_settings_are_refused(options: dict[str, float]):
    with pytest.raises(SettingError, match="expected lr >= 0"):
        Muon([nn.Parameter(torch.ones(1))], **options)
