import pytest
import torch
from torch import nn

from cifar_lit.models.resnet import ResNet

IMAGES = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_default_is_the_resnet_18_of_cifar() -> None:
    network = ResNet()
    assert sum(weight.numel() for weight in network.parameters()) == 11_172_170
    convolutions = [each for each in network.modules() if isinstance(each, nn.Conv2d) and each.kernel_size == (3, 3)]
    assert [each.out_channels for each in convolutions] == [64] * 5 + [128] * 4 + [256] * 4 + [512] * 4
    assert [each.stride[0] for each in convolutions] == [1] * 5 + [2, 1, 1, 1] * 3


def test_wide_residual_networks_are_among_them() -> None:
    with torch.device("meta"):
        network = ResNet(widths=[160, 320, 640], blocks=4)
    assert sum(weight.numel() for weight in network.parameters()) == pytest.approx(36.5e6, rel=0.01)  # as published


def test_a_block_adds_to_what_goes_past_it() -> None:
    network = ResNet(widths=[4, 8], blocks=2).eval()
    features = torch.randn(2, 4, 8, 8)
    same, wider = network.stages[0], network.stages[2]
    nn.init.zeros_(same.conv2.weight)
    assert torch.equal(same(features), features)
    nn.init.zeros_(wider.conv2.weight)
    expected = wider.shortcut(torch.relu(wider.norm1(features)))
    assert torch.equal(wider(features), expected)
    assert expected.shape == (2, 8, 4, 4)


def test_features_keep_their_size_through_the_layers_at_the_start() -> None:
    """Kaiming's initialisation: neither do they die out nor do they explode."""
    torch.manual_seed(0)
    network = ResNet(widths=[32, 64, 64], blocks=3).train()
    logits = network(IMAGES)
    assert 0.05 < logits.std() < 5


@pytest.mark.parametrize(("widths", "blocks"), [([4], 1), ([4, 4, 8], 2), ([8, 4], 3)])
def test_arguments_change_what_they_say(widths: list[int], blocks: int) -> None:
    network = ResNet(num_classes=7, widths=widths, blocks=blocks, bn_momentum=0.3).eval()
    assert len(network.stages) == len(widths) * blocks
    assert {each.momentum for each in network.modules() if isinstance(each, nn.BatchNorm2d)} == {0.3}
    assert network(IMAGES).shape == (5, 7)


@pytest.mark.parametrize(("widths", "blocks"), [([], 2), ([4] * 7, 2), ([4], 0), ([4], 17)])
def test_bad_arguments_raise(widths: list[int], blocks: int) -> None:
    with pytest.raises(ValueError, match=f"widths has {len(widths)} stages and blocks is {blocks}, expected 1..6"):
        ResNet(widths=widths, blocks=blocks)
