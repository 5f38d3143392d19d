import pytest
import torch
from conftest import tiny_network
from torch import Tensor

from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import SettingError
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.models.networks import Network
from cifar_lit.training.gate import Gate
from cifar_lit.training.weight_interpolation import Given, Judged, WeightInterpolation, mix


class Switch(Network):
    """Answers class 0; from the weight on that is in an image's first pixel (in tenths), class 1."""

    def __init__(self, weight: float) -> None:
        super().__init__({}, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
        self.weight = torch.nn.Parameter(torch.tensor(weight))

    def logits(self, images: Tensor) -> Tensor:
        turned = self.weight > images[:, 0, 0, 0] / 10 + 0.05
        return torch.eye(10)[turned.long()]


NEVER = 100


def images(thresholds: list[int], num: int, label: int) -> ImageSet:
    """Images of one class, the first of which the child answers otherwise from a share of it (in tenths) on."""
    pixels = torch.full((num, 32, 32, 3), NEVER, dtype=torch.uint8)
    pixels[: len(thresholds), 0, 0, 0] = torch.tensor(thresholds, dtype=torch.uint8)
    return ImageSet(pixels, torch.full((num,), label), "drawn")


def judge(
    old: list[int], new: list[int], shares: tuple[float, ...] = WeightInterpolation().shares, **gate: float
) -> Judged:
    """A parent that answers 0 and a child that answers 1: `old` is lost and `new` is won from these shares on."""
    sets = {"old": images(old, 1_000, 0), "new": images(new, 40, 1), "learned": images(new, 40, 1)}
    return WeightInterpolation(shares).judge(Switch(0.0), Switch(1.0), sets, Gate(**gate), Given(80))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_mix_has_that_share_of_the_childs_weights_and_statistics(share: float) -> None:
    parent, child = tiny_network(0), tiny_network(1).train()
    child(torch.rand(8, 3, 32, 32) * 255)  # moves its statistics, and counts a batch
    before = [{name: value.clone() for name, value in each.state_dict().items()} for each in (parent, child)]
    mixed = mix(parent, child, share).state_dict()
    for name, old in before[0].items():
        new = before[1][name]
        if old.is_floating_point():
            torch.testing.assert_close(mixed[name], (1 - share) * old + share * new)
        else:
            assert torch.equal(mixed[name], new)
    for each, kept in zip((parent, child), before, strict=True):  # neither is changed
        assert all(torch.equal(value, kept[name]) for name, value in each.state_dict().items())


@pytest.mark.parametrize(
    ("old", "share"),
    [
        ([], 1.0),  # the child costs nothing
        ([9] * 30, 0.8),
        ([7] * 30, 0.6),
        ([9] * 10 + [3] * 30, 0.2),
    ],
)
def test_as_much_of_the_child_is_kept_as_passes_the_gate(old: list[int], share: float) -> None:
    judged = judge(old, [0] * 40)
    assert (judged.share, judged.verdict.status) == (share, "promoted")
    assert judged.network.weight.item() == pytest.approx(share)
    assert len(judged.comparisons["new"].gained) == 40


def test_less_of_the_child_is_kept_if_the_whole_line_has_lost_too_much() -> None:
    ancestor = evaluate(Switch(0.0), images([], 1_000, 0))
    sets = {"old": images([], 1_000, 0), "new": images([0] * 40, 40, 1), "learned": images([0] * 40, 40, 1)}
    sets["old"].images[:30, 0, 0, 0] = 7  # lost since the parent from a share of 0.8 on
    parent, child = Switch(0.0), Switch(1.0)
    given = Given(80, line={"v0001": ancestor})
    strict = Gate(max_drop=100, max_line_drop=0.5)
    assert WeightInterpolation().judge(parent, child, sets, strict, given).share == 0.6
    assert WeightInterpolation().judge(parent, child, sets, Gate(max_drop=100, max_line_drop=100), given).share == 1.0
    alone = WeightInterpolation((1.0,)).judge(parent, child, sets, strict, given).verdict
    assert "since v0001, of its line, 1.0000 -> 0.9700" in alone.reason


def test_what_helps_nothing_is_no_candidate_for_less_of_it() -> None:
    judged = judge([], [])
    assert (judged.share, judged.verdict.status, judged.verdict.cause) == (1.0, "candidate", "no gain")


def test_if_none_passes_the_child_as_it_is_was_rejected_for_its_cost() -> None:
    judged = judge([0] * 30, [0] * 40)
    assert (judged.share, judged.verdict.status) == (1.0, "rejected")
    assert "(lost 30, gained 0)" in judged.verdict.reason
    assert judged.verdict.reason.endswith("no interpolation with its parent passes either")


def test_the_child_alone_if_no_mix_is_wanted() -> None:
    judged = judge([9] * 30, [0] * 40, shares=(1.0,))
    assert (judged.share, judged.verdict.status) == (1.0, "rejected")
    assert "mixed" not in judged.verdict.reason


def test_where_labels_look_wrong_no_mix_is_tried() -> None:
    judged = judge([], [], max_label_rank=0.5)
    assert (judged.share, judged.verdict.status, judged.verdict.costly) == (1.0, "rejected", False)
    assert "the labels look wrong" in judged.verdict.reason


def test_answers_that_are_not_finite_are_no_result() -> None:
    sets = {"learned": images([], 4, 0)}
    broken = tiny_network()
    broken.head.bias.data.fill_(float("nan"))
    with pytest.raises(SettingError, match=r"diverged.*learning rate"):
        WeightInterpolation().judge(tiny_network(), broken, sets, Gate(), Given(4))


@pytest.mark.parametrize("shares", [(), (0.0,), (1.0, 1.1)])
def test_shares_out_of_range_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(SettingError, match=r"shares is .*0 < share <= 1"):
        WeightInterpolation(shares)
