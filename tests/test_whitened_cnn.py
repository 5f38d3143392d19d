from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cifar_lit.models.whitened_cnn import WhitenedCNN

IMAGES = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def kinds(network: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, kind)]


def small(**options: Any) -> Any:
    torch.manual_seed(0)
    return WhitenedCNN(**{"widths": [8, 16], **options})


def smooth(num: int, seed: int) -> Tensor:
    """Images whose neighbouring pixels are alike, float (num, 3, 32, 32), 0..255."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num, 3, 8, 8, generator=generator)
    noise = torch.rand(num, 3, 32, 32, generator=generator)
    return 255 * (0.9 * nn.functional.interpolate(coarse, (32, 32), mode="bilinear") + 0.1 * noise)


def test_the_default_network_has_the_published_size_and_layers() -> None:
    network: Any = WhitenedCNN()
    assert sum(weight.numel() for weight in network.parameters() if weight.requires_grad) == 1_971_352
    shapes = [tuple(layer.weight.shape) for layer in kinds(network, nn.Conv2d)]
    assert shapes == [
        (24, 3, 2, 2),
        (64, 24, 3, 3),
        (64, 64, 3, 3),
        (256, 64, 3, 3),
        (256, 256, 3, 3),
        (256, 256, 3, 3),
        (256, 256, 3, 3),
    ]
    names = [type(layer).__name__ for layer in network.blocks[0]]
    assert names == ["Conv2d", "MaxPool2d", "BatchNorm2d", "GELU", "Conv2d", "BatchNorm2d", "GELU"]
    assert {(norm.eps, norm.momentum) for norm in kinds(network, nn.BatchNorm2d)} == {(1e-12, 0.4)}
    assert (network.head.bias, tuple(network.head.weight.shape)) == (None, (10, 256))
    assert network.pool.kernel_size == 3


def test_a_convolution_starts_by_handing_on_its_inputs() -> None:
    network = small()
    for block in network.blocks:
        for convolution in (block[0], block[4]):
            same = min(convolution.weight.shape[:2])
            features = torch.randn(2, convolution.in_channels, 6, 6)
            torch.testing.assert_close(convolution(features)[:, :same], features[:, :same])
    rest = WhitenedCNN(widths=[24, 96]).get_parameter("blocks.1.0.weight")[24:]
    bound = (24 * 9) ** -0.5
    assert 0.95 * bound < rest.abs().max() <= bound


def test_logits_start_small() -> None:
    head = WhitenedCNN().head.weight
    assert head.std().item() == pytest.approx(1 / 256, rel=0.05)
    assert head.abs().max() <= 3**0.5 / 256


def test_scales_of_batch_norm_and_the_whitening_filters_are_not_trained() -> None:
    network = small()
    frozen = {name for name, weight in network.named_parameters() if not weight.requires_grad}
    assert frozen == {"whitening.weight"} | {f"blocks.{block}.{layer}.weight" for block in (0, 1) for layer in (2, 5)}


def test_groups_are_all_trained_weights_once() -> None:
    network = small()
    groups = network.param_groups()
    assert list(groups) == ["filters", "head", "shifts", "whitening"]
    assert {weight.ndim for weight in groups["filters"]} == {4}
    assert groups["whitening"] == [network.whitening.bias]
    grouped = [id(weight) for weights in groups.values() for weight in weights]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(weight) for weight in network.parameters() if weight.requires_grad}


def test_whitened_patches_are_uncorrelated_with_equal_variance() -> None:
    images = smooth(300, 1)
    network = small()
    network.prepare([images])
    with torch.no_grad():
        network.whitening.bias.zero_()
        normalized = (images - network._shift) * network._scale
        values = network.whitening(normalized).transpose(0, 1).flatten(1)
    torch.testing.assert_close(values[:12], -values[12:])
    covariance = values[:12].double() @ values[:12].double().T / values.shape[1]
    variances = covariance.diagonal()
    assert variances.max() < 1.05
    assert variances.min() > 0.5  # the least ones are held down by what is added to them
    correlation = covariance / (variances[:, None] * variances).sqrt()
    assert (correlation - torch.eye(12)).abs().max() < 0.05


def test_filters_are_the_scaled_principal_directions_of_patches() -> None:
    """Against numpy's way to the same: one patch after the other."""
    images = smooth(4, 2)
    network = small()
    network.prepare([images])
    normalized = ((images - network._shift) * network._scale).double()
    patches = torch.stack(
        [
            normalized[image, :, row : row + 2, column : column + 2].flatten()
            for image in range(4)
            for row in range(31)
            for column in range(31)
        ]
    )
    variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    expected = directions.T / (variances + 5e-4).sqrt()[:, None]
    found = network.whitening.weight[:12].flatten(1).double()
    signs = (found * expected).sum(1, keepdim=True).sign()
    torch.testing.assert_close(found * signs, expected, rtol=0, atol=0.03 * expected.abs().max().item())


def test_filters_are_the_same_in_bfloat16() -> None:
    network = small()
    network.prepare([smooth(50, 3)])
    assert torch.equal(network.whitening.weight, network.whitening.weight.bfloat16().float())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_how_images_are_batched_does_not_matter(dtype: torch.dtype) -> None:
    images = smooth(60, 4).to(dtype)
    first, second = small(), small()
    first.prepare([images])
    second.prepare(images.split(7))
    torch.testing.assert_close(first.whitening.weight, second.whitening.weight, rtol=0.01, atol=0.02)


def test_no_more_batches_are_read_than_needed_and_none_when_it_is_prepared() -> None:
    read = []

    def batches() -> Iterator[Tensor]:
        for number in range(10):
            read.append(number)
            yield smooth(3_000, number)

    network = small()
    network.prepare(batches())
    assert read == [0, 1]
    exact = small()
    exact.prepare([torch.cat([smooth(3_000, 0), smooth(3_000, 1)])[:5_000]])
    torch.testing.assert_close(network.whitening.weight, exact.whitening.weight, rtol=0.01, atol=0.04)

    before = network.whitening.weight.clone()
    network.prepare(batches())
    assert read == [0, 1]
    assert torch.equal(network.whitening.weight, before)
    loaded = small()
    loaded.load_state_dict(network.state_dict())
    loaded.prepare(batches())
    assert read == [0, 1]


def test_without_images_it_is_not_prepared() -> None:
    with pytest.raises(ValueError, match="computed from training images, and there are none"):
        small().prepare([])


def test_preparing_changes_the_whitening_filters_and_nothing_else() -> None:
    network = small()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.prepare([IMAGES])
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"whitening.weight", "prepared"}


@pytest.mark.parametrize("widths", [[4], [4, 8], [4, 8, 8, 8]])
def test_widths_decide_the_number_of_blocks(widths: list[int]) -> None:
    network = WhitenedCNN(num_classes=7, widths=widths).eval()
    assert len(network.blocks) == len(widths)
    assert network(IMAGES[:3]).shape == (3, 7)


@pytest.mark.parametrize("widths", [[], [4] * 5])
def test_a_bad_number_of_blocks_raises(widths: list[int]) -> None:
    with pytest.raises(ValueError, match=f"widths has {len(widths)} blocks, expected 1..4"):
        WhitenedCNN(widths=widths)


def test_blocks_of_three_convolutions_add_what_enters_the_second_to_what_leaves_the_third() -> None:
    network = small(depth=3).eval()
    network.prepare([IMAGES])
    block = network.blocks[0]
    features = torch.randn(2, 24, 31, 31)
    with torch.no_grad():
        entered = nn.functional.gelu(block.entry[2](block.entry[1](block.entry[0](features))))
        second, norm2, _, third, norm3 = block.residual
        expected = nn.functional.gelu(entered + norm3(third(nn.functional.gelu(norm2(second(entered))))))
        torch.testing.assert_close(block(features), expected)
    assert len(kinds(network, nn.Conv2d)) == 1 + 2 * 3


def test_the_large_network_has_the_published_size() -> None:
    network = WhitenedCNN(widths=[128, 384, 512], depth=3)
    filters = [24 * 128, 128 * 128 * 2, 128 * 384, 384 * 384 * 2, 384 * 512, 512 * 512 * 2]
    trained = 9 * sum(filters) + 3 * (128 + 384 + 512) + 10 * 512 + 24
    assert sum(weight.numel() for weight in network.parameters() if weight.requires_grad) == trained
    assert set(map(id, sum(network.param_groups().values(), []))) == {
        id(weight) for weight in network.parameters() if weight.requires_grad
    }


@pytest.mark.parametrize("depth", [1, 4])
def test_a_bad_depth_raises(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth is {depth}, expected 2 or 3 convolutions"):
        small(depth=depth)
