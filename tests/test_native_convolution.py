"""The convolution's derivative on the tile multiplier is what PyTorch computes in double precision from the same
values."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from cifar_lit.models.networks import ThreeBlockCNN
from cifar_lit.native import convolution


def layer(channels: int, out: int, **options: object) -> nn.Conv2d:
    torch.manual_seed(out)
    return nn.Conv2d(channels, out, 3, **{"padding": 1, **options}).to(memory_format=torch.channels_last)


def images(batch: int, channels: int, height: int, width: int) -> Tensor:
    values = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(3))
    return values.contiguous(memory_format=torch.channels_last)


def fits(values: Tensor, each: nn.Conv2d) -> bool:
    with torch.autocast("cpu", torch.bfloat16):
        return convolution.fits(values, each)


needs_tiles = pytest.mark.skipif(
    not fits(images(1, 3, 32, 32), layer(3, 32)), reason="no compiled kernels, or a processor without AMX"
)


@needs_tiles
@pytest.mark.parametrize(
    ("batch", "channels", "height", "width", "out"),
    [
        (64, 3, 32, 32, 32),
        (65, 32, 16, 16, 64),
        (31, 64, 8, 8, 128),
        (1, 32, 1, 1, 32),
        (2, 4, 3, 8, 96),
        (33, 1, 2, 32, 32),
    ],
)
def test_it_is_what_pytorch_computes(batch: int, channels: int, height: int, width: int, out: int) -> None:
    each, values = layer(channels, out), images(batch, channels, height, width).requires_grad_()
    assert fits(values, each)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = convolution.convolve(values, each), each(values)
    assert torch.equal(ours, theirs)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(4)).to(torch.bfloat16)
    by_values, by_weight, by_bias = torch.autograd.grad(ours, [values, each.weight, each.bias], gradient)
    # Without rounding, from the values that the rounding to bfloat16 left.
    exact = [
        tensor.detach().to(torch.bfloat16).double().requires_grad_() for tensor in (values, each.weight, each.bias)
    ]
    wanted = torch.autograd.grad(conv2d(*exact, padding=1), exact, gradient.double())
    assert by_values.dtype == by_weight.dtype == by_bias.dtype == torch.float32
    for found, right, tolerance in zip((by_values, by_weight, by_bias), wanted, (4e-3, 2e-6, 2e-6), strict=True):
        assert (found - right).abs().max() <= tolerance * right.abs().max()


@needs_tiles
def test_the_same_twice_and_nearly_so_with_another_number_of_threads() -> None:
    each, values = layer(32, 64), images(64, 32, 16, 16)

    def gradient() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            loss = convolution.convolve(values, each).float().square().sum()
        return torch.autograd.grad(loss, each.weight)[0]

    first, threads = gradient(), torch.get_num_threads()
    assert torch.equal(first, gradient())
    try:
        torch.set_num_threads(threads + 1)
        assert torch.allclose(gradient(), first, rtol=1e-4, atol=1e-4 * float(first.abs().max()))
    finally:
        torch.set_num_threads(threads)


LIMITED = """
import torch
from torch import nn
from cifar_lit import memory
from cifar_lit.native import convolution

memory.keep_freed_memory()
torch.set_num_threads(4)
layer = nn.Conv2d(32, 32, 3, padding=1).to(memory_format=torch.channels_last)
images = torch.ones(2, 32, 4, 4)
rubbish = torch.full((1 << 22,), float("nan"))
del rubbish  # what is allocated next may lie where it was
with torch.autocast("cpu", torch.bfloat16):
    features = convolution.convolve(images, layer)
by_weight, by_bias = torch.autograd.grad(features.float().sum(), [layer.weight, layer.bias])
print(by_weight[:, :, 1, 1].unique().tolist(), by_weight[:, :, 0, 0].unique().tolist(), by_bias.unique().tolist())
"""


@needs_tiles
def test_fewer_threads_than_were_asked_for_give_the_same() -> None:
    result = subprocess.run(
        [sys.executable, "-c", LIMITED],
        env={**os.environ, "OMP_THREAD_LIMIT": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.stdout.strip() == "[32.0] [18.0] [32.0]", result.stderr  # places of two images under a weight


@needs_tiles
def test_not_a_number_stays_one() -> None:
    each, values = layer(32, 32), images(2, 32, 4, 4)
    values[0, 5, 1, 1] = float("nan")
    with torch.autocast("cpu", torch.bfloat16):
        loss = convolution.convolve(values, each).sum()
    (by_weight,) = torch.autograd.grad(loss, each.weight)
    assert by_weight[:, 5].isnan().all()
    assert not by_weight[:, :5].isnan().any()


@needs_tiles
def test_what_does_not_fit_is_left_to_pytorch() -> None:
    values = images(2, 32, 8, 8)
    assert fits(values, layer(32, 32))
    assert not convolution.fits(values, layer(32, 32))  # float32
    for each in (
        layer(32, 32, padding=0),
        layer(32, 32, stride=2),
        layer(32, 32, dilation=2),
        layer(32, 32, groups=2),
        layer(32, 32, bias=False),
        layer(32, 32, padding_mode="reflect"),
        layer(32, 16),
        layer(32, 32).double(),
        layer(32, 32).requires_grad_(False),
        nn.Conv2d(32, 32, 5, padding=2),
    ):
        assert not fits(values, each), each
    assert not fits(images(2, 3, 8, 8), layer(3, 32))  # a row of 24 values
    with torch.no_grad():
        assert not fits(values, layer(32, 32))


@needs_tiles
def test_the_network_uses_it_when_it_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = convolution.convolve
    monkeypatch.setattr(convolution, "convolve", lambda *arguments: seen.append(1) or original(*arguments))
    network, pixels = ThreeBlockCNN(), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        network(pixels)
        assert len(seen) == 3
        with torch.no_grad():
            network.eval()(pixels)
    network(pixels)
    assert len(seen) == 3


@needs_tiles
def test_who_watches_a_convolution_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "convolve", lambda *_: pytest.fail("the hook is passed over"))
    network, seen = ThreeBlockCNN(depth=1), []
    network.blocks[0][0].register_forward_hook(lambda *_: seen.append(1))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert seen == [1]


@needs_tiles
def test_a_training_takes_the_same_course(monkeypatch: pytest.MonkeyPatch) -> None:
    def losses() -> list[float]:
        torch.manual_seed(0)
        network = ThreeBlockCNN(hidden=32, dropout=0.0, bn_momentum=0.1)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
        pixels, labels = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8), torch.arange(64) % 10
        found = []
        for _ in range(12):
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(network(pixels), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    ours = losses()
    monkeypatch.setattr(convolution, "fits", lambda *_: False)
    theirs = losses()
    assert theirs[-1] < theirs[0] / 2
    assert ours == pytest.approx(theirs, rel=0.05, abs=0.01)
