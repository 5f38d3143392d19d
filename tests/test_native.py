"""The compiled ReLU, batch norm and max-pooling give what PyTorch's own three give, and stay out where they don't fit.

PyTorch computes in double precision here: its float32 batch norm in channels-last memory is off by some 1e-3.
"""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, max_pool2d

from cifar_lit.models.networks import ThreeBlockCNN
from cifar_lit.native import block, library

needs_library = pytest.mark.skipif(
    library.library() is None, reason=f"there are no compiled kernels: {library.unavailable_reason()}"
)

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 4e-3}


def batch_norm(channels: int, *, train: bool) -> nn.BatchNorm2d:
    torch.manual_seed(channels)
    norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.1)
    nn.init.normal_(norm.weight)  # half of them turn the order round
    nn.init.normal_(norm.bias)
    norm.running_mean.uniform_(0, 1)
    norm.running_var.uniform_(0.5, 2)
    return norm.train(train)


def features(*shape: int, dtype: torch.dtype = torch.float32, ties: bool = False) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    if ties:
        values = (values * 2).round() / 2
    return values.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()


def plain(values: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    return max_pool2d(norm(values.double().relu()), 2)


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    """Within `tolerance` of the largest value, whatever the scale."""
    ours, theirs = ours.double(), theirs.double()
    return bool((ours - theirs).abs().max() <= tolerance * theirs.abs().max().clamp(min=1e-6))


@needs_library
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 32, 32, 32), (5, 7, 6, 10), (1, 1, 2, 2), (2, 200, 4, 2)])
@pytest.mark.parametrize("ties", [False, True])
def test_it_is_what_pytorch_computes(
    shape: tuple[int, int, int, int], dtype: torch.dtype, train: bool, ties: bool
) -> None:
    norm = batch_norm(shape[1], train=train)
    other = copy.deepcopy(norm).double()
    values = features(*shape, dtype=dtype, ties=ties)
    assert block.fits(values, norm)
    ours, theirs = block.relu_norm_pool(values, norm), plain(values, other)
    assert ours.dtype == dtype
    assert ours.shape == theirs.shape
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert close(ours, theirs, TOLERANCE[dtype])
    gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    by_ours = torch.autograd.grad(ours, [values, norm.weight, norm.bias], gradient)
    by_theirs = torch.autograd.grad(theirs, [values, other.weight, other.bias], gradient.double())
    for mine, other_one in zip(by_ours, by_theirs, strict=True):
        assert close(mine, other_one, TOLERANCE[dtype])
    for (name, mine), other_one in zip(norm.named_buffers(), other.buffers(), strict=True):
        assert torch.allclose(mine.double(), other_one.double(), rtol=1e-6, atol=1e-7), name


@needs_library
def test_a_tie_goes_to_the_first_of_its_window() -> None:
    norm = batch_norm(3, train=False)
    values = torch.ones(1, 3, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    (ours,) = torch.autograd.grad(block.relu_norm_pool(values, norm).sum(), values)
    (theirs,) = torch.autograd.grad(plain(values, norm.double()).sum(), values)
    assert torch.allclose(ours, theirs, rtol=1e-6)
    assert (ours != 0).sum() == 3 * 4


@needs_library
@pytest.mark.parametrize("train", [True, False])
def test_not_a_number_stays_one(train: bool) -> None:
    norm = batch_norm(2, train=train)
    values = torch.full((2, 2, 4, 4), float("nan"), dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    assert block.relu_norm_pool(values, norm).isnan().all()


@needs_library
def test_the_same_twice_and_nearly_so_with_another_number_of_threads() -> None:
    values = features(32, 32, 16, 16)

    def gradient() -> Tensor:
        norm = batch_norm(32, train=True)
        return torch.autograd.grad(block.relu_norm_pool(values, norm).square().sum(), values)[0]

    first, threads = gradient(), torch.get_num_threads()
    assert torch.equal(first, gradient())
    try:
        torch.set_num_threads(threads + 1)
        assert close(gradient(), first, 1e-5)
    finally:
        torch.set_num_threads(threads)


@needs_library
def test_one_value_a_channel_can_not_be_normalised_in_training() -> None:
    with pytest.raises(ValueError, match="more than 1 value"):
        block.relu_norm_pool(torch.ones(0, 2, 2, 2), batch_norm(2, train=True))


@needs_library
@pytest.mark.parametrize(
    ("values", "norm"),
    [
        (features(2, 4, 5, 6), batch_norm(4, train=True)),
        (features(2, 4, 6, 5), batch_norm(4, train=True)),
        (torch.ones(2, 4, 6, 6), batch_norm(4, train=True)),
        (features(2, 4, 6, 6, dtype=torch.float64), batch_norm(4, train=True)),
        (features(2, 4, 6, 6), nn.BatchNorm2d(4, affine=False)),
        (features(2, 4, 6, 6), nn.BatchNorm2d(4, track_running_stats=False)),
        (features(2, 4, 6, 6), nn.BatchNorm2d(4, momentum=None)),
        (features(2, 4, 6, 6), nn.BatchNorm2d(4).to(torch.bfloat16)),
        (torch.ones(2, 4, 6, 6, device="meta"), batch_norm(4, train=True)),
    ],
    ids=[
        "odd height",
        "odd width",
        "channels first",
        "float64",
        "no scale",
        "no statistics",
        "mean of all",
        "bf16",
        "meta",
    ],
)
def test_what_does_not_fit_is_left_to_pytorch(values: Tensor, norm: nn.BatchNorm2d) -> None:
    assert not block.fits(values, norm)


def losses(dtype: torch.dtype) -> list[float]:
    """Of a small training."""
    torch.manual_seed(0)
    network = ThreeBlockCNN(width=8, hidden=32, dropout=0.0, bn_momentum=0.1).to(dtype)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(64) % 10
    found = []
    for _ in range(15):
        loss = cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.slow
@needs_library
def test_a_training_takes_the_same_course() -> None:
    theirs = losses(torch.float64)  # does not fit: PyTorch's own
    assert theirs[-1] < theirs[0] / 2
    assert losses(torch.float32) == pytest.approx(theirs, rel=1e-3)


@needs_library
def test_the_network_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = block.relu_norm_pool
    monkeypatch.setattr(block, "relu_norm_pool", lambda *arguments: seen.append(1) or original(*arguments))
    ThreeBlockCNN(width=8)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert len(seen) == 3


SAY = "from cifar_lit.native import library; print(library.unavailable_reason())"


def say(tmp_path: Path, **environment: str) -> str:
    """What a fresh process says of the library."""
    variables = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", **environment}
    result = subprocess.run([sys.executable, "-c", SAY], env=variables, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the library in it; compiling takes seconds."""
    folder = tmp_path_factory.mktemp("cache")
    assert say(folder) == "None"
    return folder / "cifar_lit"


@pytest.fixture
def kept(compiled: Path, tmp_path: Path) -> Path:
    """The library in a cache folder of one's own."""
    (file,) = shutil.copytree(compiled, tmp_path / "cifar_lit").iterdir()
    return file


@needs_library
def test_it_is_compiled_once(kept: Path, tmp_path: Path) -> None:
    made = kept.stat().st_mtime_ns
    assert say(tmp_path) == "None"
    assert [each.stat().st_mtime_ns for each in kept.parent.iterdir()] == [made]


@needs_library
def test_a_damaged_copy_is_made_again(kept: Path, tmp_path: Path) -> None:
    kept.write_bytes(b"cut off")
    assert say(tmp_path) == "None"
    assert kept.stat().st_size > 1000


@needs_library
def test_a_folder_that_others_can_write_is_not_trusted(kept: Path, tmp_path: Path) -> None:
    kept.write_bytes(b"planted")
    kept.parent.chmod(0o777)
    assert say(tmp_path) == "None"
    assert kept.read_bytes() == b"planted"  # neither read nor replaced


@needs_library
def test_without_a_place_to_keep_it_it_is_made_each_time(tmp_path: Path) -> None:
    (tmp_path / "cifar_lit").write_text("in the way")
    assert say(tmp_path) == "None"


def test_it_says_why_there_is_none(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert say(tmp_path, CIFAR_LIT_NATIVE="0") == "CIFAR_LIT_NATIVE is 0"
    if sys.platform == "linux":
        assert say(tmp_path, PATH=str(empty), CXX="") == "there is no C++ compiler; install g++"
        broken = empty / "g++"
        broken.write_text("#!/bin/sh\n[ $1 = --version ] || { echo it is broken >&2; exit 1; }\n")
        broken.chmod(0o755)
        assert say(tmp_path, PATH=f"{empty}:/bin", CXX="") == "g++ could not make them: it is broken"
