"""Weights in npz: bit for bit there and back; refused by name where they are something else."""

import io
import json
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_network

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.errors import InputError, NpzError, WeightsError
from cifar_lit.interop import weights_npz
from cifar_lit.models.networks import Network

Arrays = dict[str, np.ndarray]


@pytest.fixture
def path(tmp_path: Path, network: Network) -> Path:
    (tmp_path / "weights.npz").write_bytes(weights_npz.dump(network, CLASS_NAMES))
    return tmp_path / "weights.npz"


def changed(path: Path, change: Callable[[Arrays], object]) -> Path:
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)
    return path


def with_header(path: Path, **fields: Any) -> Path:
    def change(arrays: Arrays) -> None:
        header = json.loads(arrays["header"].tobytes()) | fields
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)

    return changed(path, change)


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        weights_npz.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def test_there_and_back_is_bit_equal(path: Path, network: Network) -> None:
    read, class_names = weights_npz.load(path)
    assert class_names == list(CLASS_NAMES)
    assert (type(read), read.args, read.mean, read.std) == (type(network), network.args, network.mean, network.std)
    assert list(read.state_dict()) == list(network.state_dict())
    for name, value in network.state_dict().items():
        assert torch.equal(read.state_dict()[name], value), name
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(read(pixels), network(pixels))
    assert not read.training


def test_equal_networks_give_equal_bytes_and_others_do_not(network: Network) -> None:
    data = weights_npz.dump(network, CLASS_NAMES)
    assert data == weights_npz.dump(tiny_network(), CLASS_NAMES)
    assert data != weights_npz.dump(tiny_network(1), CLASS_NAMES)


def test_numpy_alone_reads_it(path: Path, network: Network) -> None:
    with np.load(path, allow_pickle=False) as file:
        assert set(file) == {"header", *network.state_dict()}
        assert np.array_equal(file["head.weight"], network.state_dict()["head.weight"].numpy())
        header = json.loads(file["header"].tobytes())
    assert header["format"] == "cifar-lit weights"
    assert header["class_names"] == list(CLASS_NAMES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: arrays.pop("header"), "it has no array 'header', so it does not say which network it is of"),
        (lambda arrays: arrays.update(header=np.zeros(3)), "'header' is float64 (3,), expected JSON as uint8 (n,)"),
        (lambda arrays: arrays.update(header=np.zeros(70_000, np.uint8)), "'header' is uint8 (70000,)"),
        (lambda arrays: arrays.update(header=np.zeros(3, np.uint8)), "'header' is not JSON"),
        (lambda arrays: arrays.update(header=np.full(60_000, ord("["), np.uint8)), "'header' is not JSON"),
        (lambda arrays: arrays.update(header=np.frombuffer(b"[]", np.uint8)), "'header' does not say"),
        (
            lambda arrays: arrays.pop("head.bias"),
            "it lacks ['head.bias'], compared with the 18 arrays of ThreeBlockCNN",
        ),
        (lambda arrays: arrays.update(more=np.zeros(3)), "it has besides ['more']"),
        (
            lambda arrays: arrays.update({"head.bias": np.zeros(11, np.float32)}),
            "'head.bias' is float32 (11,), expected float32 (10,) in this ThreeBlockCNN",
        ),
        (lambda arrays: arrays.update({"head.bias": np.zeros(10)}), "'head.bias' is float64 (10,), expected float32"),
        (
            lambda arrays: arrays.update({"head.bias": np.zeros(10, ">f4")}),
            "'head.bias' is >f4 (10,), expected float32",
        ),
        (
            lambda arrays: arrays.update({"blocks.0.2.num_batches_tracked": np.float32(1)}),
            "'blocks.0.2.num_batches_tracked' is float32 (), expected int64 ()",
        ),
        (lambda arrays: arrays["head.bias"].fill(np.nan), "'head.bias' has values that are not finite"),
        (lambda arrays: arrays["head.bias"].fill(-np.inf), "'head.bias' has values that are not finite"),
        (lambda arrays: arrays["blocks.0.2.running_var"].fill(-1), "'blocks.0.2.running_var' has negative variances"),
    ],
)
def test_wrong_arrays_are_refused_by_name(path: Path, change: Callable[[Arrays], object], words: str) -> None:
    assert words in refusal(changed(path, change))


def args(**values: Any) -> dict[str, Any]:
    return {"network": {"name": "ThreeBlockCNN", "args": {"width": 4, "depth": 2, "hidden": 8} | values}}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"format": "other"}, "'header' does not say"),
        ({"format_version": 2}, '"format_version": 1'),
        ({"more": 1}, "'header' must hold class_names, format, "),
        ({"network": "ThreeBlockCNN"}, "with a name and args in `network`"),
        ({"network": {"name": "Evil", "args": {}}}, "its network 'Evil' is unknown, this code has ThreeBlockCNN"),
        ({"network": {"name": ["a"], "args": {}}}, "its network ['a'] is unknown"),
        ({"network": {"name": "ThreeBlockCNN", "args": [1]}}, "the arguments of ThreeBlockCNN are [1]"),
        (args(width=10**6), "has width = 1000000, expected a finite number up to 8,192"),
        (args(width=10**30), "has width = 1000"),
        (args(width=float("inf")), "has width = inf"),
        (args(width={"a": 1}), "has width = {'a': 1}"),
        (args(width=[[1]]), "has width = [[1]]"),
        (args(width=[1]), "there is no ThreeBlockCNN with"),
        (args(width=0), "there is no ThreeBlockCNN with"),
        (args(width=-4), "there is no ThreeBlockCNN with"),
        (args(width="wide"), "there is no ThreeBlockCNN with"),
        (args(depth=6), "depth is 6, expected 1..5"),
        (args(depth=None), "there is no ThreeBlockCNN with"),
        (args(bad=1), "there is no ThreeBlockCNN with"),
        (args(mean=1), "there is no ThreeBlockCNN with"),
        (args(num_classes=7), "tells 7 classes apart, expected 10"),
        (args(width=5), "'blocks.0.0.weight' is float32 (4, 3, 3, 3), expected float32 (5, 3, 3, 3)"),
        ({"mean": [0, 0]}, "mean is [0, 0], expected three numbers"),
        ({"mean": [0, 0, None]}, "mean is [0, 0, None], expected three numbers"),
        ({"mean": 1}, "mean is 1, expected three numbers"),
        ({"mean": [0, 0, float("nan")]}, "mean is [0, 0, nan], expected three numbers"),
        ({"std": [1, 1, 0]}, "std is [1, 1, 0], expected"),
        ({"std": [1, 1, 10**400]}, "std is [1, 1, 1000"),
        ({"class_names": ["cat", "cat"]}, "class_names must be a list of words that differ"),
        ({"class_names": ["cat", "dog"]}, "tells 10 classes apart, expected 2"),
        ({"class_names": 10}, "class_names must be a list of words"),
    ],
)
def test_a_wrong_header_is_refused(path: Path, fields: dict[str, Any], words: str) -> None:
    assert words in refusal(with_header(path, **fields))


def test_claims_allocate_nothing(path: Path) -> None:
    """The network that this header claims has nine billion values."""
    with_header(path, **args(width=8_192, hidden=8_192))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "expected float32 (8192, 3, 3, 3)" in refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_pickles_and_other_files_are_refused(path: Path, tmp_path: Path) -> None:
    class Canary:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "canary",))

    canary = np.empty(1, object)
    canary[0] = Canary()
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, header=canary)
    for content in (buffer.getvalue(), b"", b"nothing", path.read_bytes()[:-9]):
        path.write_bytes(content)
        with pytest.raises(NpzError):
            weights_npz.load(path)
    assert not (tmp_path / "canary").exists()


def test_damage_anywhere_is_refused_or_harmless(path: Path, network: Network) -> None:
    """What is read in spite of damage elsewhere, such as in a time stamp, is what was written."""
    data = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        if rng.random() < 0.2:
            del damaged[rng.randrange(len(data)) :]
        else:
            start = rng.randrange(len(data))
            damaged[start : start + 4] = rng.randbytes(4)
        path.write_bytes(damaged)
        try:
            read, _ = weights_npz.load(path)
        except InputError:
            refused += 1
        else:
            assert torch.equal(read.state_dict()["dense.weight"], network.state_dict()["dense.weight"])
    assert refused > 100
