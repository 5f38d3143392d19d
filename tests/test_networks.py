import copy
import dataclasses
import hashlib
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from cifar_lit.cifar10 import CLASS_NAMES, MEAN, STD
from cifar_lit.data import synthetic
from cifar_lit.data.loader import DeviceLoader
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.inference.predictor import Predictor
from cifar_lit.interop import onnx_model, weights_npz
from cifar_lit.models.classifier import Classifier
from cifar_lit.models.finetuner import AverageWeights, FineTuner
from cifar_lit.models.networks import NETWORKS, Network, ThreeBlockCNN, WhitenedCNN
from cifar_lit.models.optimizers import Muon
from cifar_lit.registry.version import WEIGHTS, Version
from cifar_lit.registry.weights import describe, dump, load_network
from cifar_lit.training.weight_interpolation import mix


class Normalized(Network):
    """Gives back what its preprocessing makes of the images."""

    def logits(self, images: Tensor) -> Tensor:
        return images


def kinds(network: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, kind)]


def test_the_default_network_has_the_621258_values_of_the_keras_model() -> None:
    network = ThreeBlockCNN()
    statistics = [value for name, value in network.state_dict().items() if "running_" in name]
    parameters = sum(value.numel() for value in network.parameters())
    assert parameters == 620_810
    assert sum(value.numel() for value in statistics) == 448
    assert parameters + 448 == 621_258


def test_a_block_is_convolution_relu_batch_norm_max_pool() -> None:
    for block, width in zip(kinds(ThreeBlockCNN().blocks, nn.Sequential)[1:], (32, 64, 128), strict=True):
        assert [type(layer) for layer in block] == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d, nn.MaxPool2d]
        convolution, _, norm, pool = block
        assert (convolution.out_channels, convolution.kernel_size, convolution.padding) == (width, (3, 3), (1, 1))
        assert (norm.num_features, norm.eps, norm.momentum) == (width, 1e-3, 0.01)
        assert (pool.kernel_size, pool.stride) == (2, 2)


def test_biases_start_at_zero_and_weights_within_the_glorot_bounds() -> None:
    network = ThreeBlockCNN()
    for layer in kinds(network, nn.Conv2d) + kinds(network, nn.Linear):
        assert not layer.bias.any()
        outputs, inputs, *kernel = layer.weight.shape
        bound = math.sqrt(6 / ((inputs + outputs) * math.prod(kernel)))
        assert 0.95 * bound < layer.weight.abs().max().item() <= bound * (1 + 1e-6)
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_batch_norm_starts_as_the_identity() -> None:
    for norm in kinds(ThreeBlockCNN(), nn.BatchNorm2d):
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert not norm.bias.any()
        assert not norm.running_mean.any()
        assert torch.equal(norm.running_var, torch.ones_like(norm.running_var))


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_arguments_change_what_they_say(depth: int) -> None:
    network = ThreeBlockCNN(num_classes=7, width=2, depth=depth, hidden=11, dropout=0.3, bn_momentum=0.5)
    assert [layer.out_channels for layer in kinds(network, nn.Conv2d)] == [2 * 2**block for block in range(depth)]
    assert network.dense.in_features == 2 ** (depth) * (32 // 2**depth) ** 2
    assert (network.dense.out_features, network.head.in_features, network.head.out_features) == (11, 11, 7)
    assert network.dropout.p == 0.3
    assert {norm.momentum for norm in kinds(network, nn.BatchNorm2d)} == {0.5}
    assert network(torch.zeros(3, 3, 32, 32)).shape == (3, 7)


def test_args_build_the_same_network_again() -> None:
    network = ThreeBlockCNN(num_classes=7, width=2, depth=4, hidden=11, dropout=0.3, bn_momentum=0.5)
    again = NETWORKS["ThreeBlockCNN"](**network.args)
    assert again.args == network.args
    assert again.load_state_dict(network.state_dict())


@pytest.mark.parametrize("depth", [0, -1, 6])
def test_a_bad_depth_raises(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth is {depth}, expected 1..5"):
        ThreeBlockCNN(depth=depth)


def test_uint8_and_float_images_give_equal_logits(network: Network) -> None:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        logits = network(images)
        assert torch.equal(logits, network(images.float()))
    assert logits.dtype == torch.float32


@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), ((0.0, 0.5, 1.0), (1.0, 0.5, 0.1))])
def test_normalisation_is_pixels_over_255_minus_mean_over_std(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    expected = (images.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(Normalized({}, mean, std)(images), expected.float(), rtol=1e-5, atol=1e-5)


def test_mean_and_std_are_not_among_the_weights() -> None:
    assert not [name for name in ThreeBlockCNN().state_dict() if "shift" in name or "scale" in name]


def test_features_are_flattened_in_height_width_channel_order() -> None:
    network: Any = ThreeBlockCNN().eval()
    network.blocks = network.dense = network.head = nn.Identity()
    features = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)  # B, C, H, W
    flat = network.logits(features)
    expected = [
        [
            features[image, channel, row, column].item()
            for row in range(4)
            for column in range(5)
            for channel in range(3)
        ]
        for image in range(2)
    ]
    assert flat.tolist() == expected


def test_logits_do_not_depend_on_the_memory_format(network: Network) -> None:
    images = torch.rand(4, 3, 32, 32) * 255
    with torch.inference_mode():
        assert torch.equal(network(images), network(images.contiguous(memory_format=torch.channels_last)))


def test_dropout_works_in_training_only() -> None:
    network = ThreeBlockCNN(width=4, depth=2, hidden=64)
    images = torch.rand(4, 3, 32, 32) * 255
    assert not torch.equal(network.train()(images), network(images))
    assert torch.equal(network.eval()(images), network(images))


# What each network must be fit for

IMAGES = torch.randint(0, 256, (65, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SMALL: dict[str, Callable[[], Network]] = {
    "ThreeBlockCNN": partial(ThreeBlockCNN, width=4, depth=2, hidden=8, bn_momentum=0.1),
    "WhitenedCNN": partial(WhitenedCNN, widths=[4, 8]),
    "WhitenedCNN, skips": partial(WhitenedCNN, widths=[8, 16], depth=3),
}


@pytest.fixture(params=list(SMALL))
def trained(request: pytest.FixtureRequest) -> Network:
    """Prepared, with statistics of some images, in evaluation mode."""
    torch.manual_seed(0)
    network = SMALL[request.param]()
    network.prepare([IMAGES])
    network.train()(IMAGES)
    return network.eval()


def equal(left: nn.Module, right: nn.Module) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_version_of_it_comes_back_bit_for_bit(trained: Network, publish: Callable[..., Version]) -> None:
    version = publish()
    weights = dump(trained)
    (version.path / WEIGHTS).write_bytes(weights)
    files = version.manifest.files | {WEIGHTS: hashlib.sha256(weights).hexdigest()}
    manifest = dataclasses.replace(version.manifest, files=files, **describe(trained))
    loaded = load_network(Version(version.path, manifest))
    assert equal(loaded, trained)
    assert [weight.requires_grad for weight in loaded.parameters()] == [
        weight.requires_grad for weight in trained.parameters()
    ]


def test_it_goes_through_npz(trained: Network, tmp_path: Path) -> None:
    (tmp_path / "weights.npz").write_bytes(weights_npz.dump(trained, CLASS_NAMES))
    loaded, _ = weights_npz.load(tmp_path / "weights.npz")
    assert equal(loaded, trained)


@torch.inference_mode()
def test_an_image_alone_gets_the_answer_it_gets_among_others(trained: Network) -> None:
    together = trained(IMAGES)
    alone = torch.cat([trained(image[None]) for image in IMAGES[:9]])
    torch.testing.assert_close(alone, together[:9], rtol=1e-4, atol=1e-5)
    assert together.std(dim=0).min() > 0  # answers differ from image to image


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_answers_nearly_alike(trained: Network, dtype: torch.dtype) -> None:
    with torch.inference_mode():
        full = trained(IMAGES)
        with torch.autocast("cpu", dtype):
            half = trained(IMAGES)
    assert half.dtype == dtype
    assert (half.float() - full).norm() < 0.05 * full.norm()


def test_weights_are_in_channels_last_memory(trained: Network) -> None:
    for layer in kinds(trained, nn.Conv2d):
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)


def test_it_has_one_graph_without_values_read_from_the_device(trained: Network) -> None:
    compiled = torch.compile(copy.deepcopy(trained).train(), backend="eager", fullgraph=True, dynamic=False)
    torch.manual_seed(1)
    logits = compiled(IMAGES)
    torch.manual_seed(1)
    expected = trained.train()(IMAGES)
    assert (logits - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.usefixtures("unabridged")
def test_onnx_runtime_answers_alike(trained: Network) -> None:
    images = IMAGES.permute(0, 2, 3, 1)
    graph, _ = onnx_model.dump(trained, CLASS_NAMES, images)
    logits = Predictor(graph, list(CLASS_NAMES), "v0001").logits(images.contiguous().numpy())
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(logits), trained(IMAGES), rtol=1e-4, atol=1e-4)


def test_training_from_scratch_learns_and_fine_tuning_goes_on_from_there(trained: Network) -> None:
    network = type(trained)(**trained.args)
    data = synthetic.draw("train", 400)

    def fit(classifier: Classifier, *callbacks: pl.Callback, epochs: int) -> None:
        pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=epochs,
            callbacks=[*callbacks],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(classifier, DeviceLoader(data, 50, shuffle=True))

    fit(Classifier(network, partial(Muon, lr=0.05)), epochs=5)
    before = evaluate(network, data).metrics
    assert before["acc"] > 0.4
    parent = copy.deepcopy(network)
    tuner = FineTuner(network, partial(Muon, lr=0.003), label_smoothing=0.0)
    fit(tuner, AverageWeights(), epochs=3)
    assert equal(network, parent)
    statistics = [name for name in network.state_dict() if "running_" in name or name in ("prepared",)]
    child = tuner.network.state_dict()
    assert all(torch.equal(network.state_dict()[name], child[name]) for name in statistics)
    half = mix(network, tuner.network.eval(), 0.5)
    assert evaluate(tuner.network, data).metrics["loss"] < before["loss"]
    assert evaluate(half, data).metrics["loss"] < before["loss"]
