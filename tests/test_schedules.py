import math
from typing import Any

import pytest
import torch
from torch.optim import SGD

from cifar_lit.models.schedules import OneCycle


def make(**arguments: Any) -> OneCycle:
    groups = [{"params": [torch.zeros(1)], "lr": lr} for lr in (0.5, 0.1)]
    return OneCycle(SGD(groups, lr=1.0), **arguments)


def rates(schedule: OneCycle, steps: int) -> list[float]:
    """The first group's rate at the next `steps` steps."""
    values = []
    for _ in range(steps):
        values.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return values


@pytest.mark.parametrize(
    ("step", "share"),
    [
        (0, 0.04),  # start
        (10, 0.52),  # half of the way up
        (20, 1.0),  # peak
        (50, 0.1 + 0.9 * 0.5),  # half of the way down
        (65, 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.75))),
        (80, 0.1),  # end
        (83, 0.1),  # beyond
    ],
)
def test_rates_along_the_cycle(step: int, share: float) -> None:
    assert rates(make(warmup=0.25, start=0.04, end=0.1, total_steps=80), 85)[step] == pytest.approx(0.5 * share)


def test_every_group_follows_its_own_rate() -> None:
    schedule = make(warmup=0.5, total_steps=10)
    rates(schedule, 5)
    assert [group["lr"] for group in schedule.optimizer.param_groups] == pytest.approx([0.5, 0.1])


def test_the_rate_rises_to_the_peak_and_then_falls_to_zero() -> None:
    values = rates(make(total_steps=100), 101)
    assert values[:26] == sorted(values[:26])
    assert values[25:] == sorted(values[25:], reverse=True)
    assert values[100] == pytest.approx(0, abs=1e-12)


def test_without_warmup_it_starts_at_the_peak() -> None:
    assert rates(make(warmup=0, total_steps=10), 1) == [0.5]


def test_total_steps_can_be_filled_in_before_the_first_step() -> None:
    schedule = make()
    schedule.total_steps = 80
    assert rates(schedule, 81) == rates(make(total_steps=80), 81)


def test_a_schedule_goes_on_from_its_state() -> None:
    whole = rates(make(warmup=0.3, start=0.1, end=0.2, total_steps=50), 50)
    first = make(warmup=0.3, start=0.1, end=0.2, total_steps=50)
    rates(first, 20)
    resumed = make(total_steps=50)
    resumed.optimizer.load_state_dict(first.optimizer.state_dict())
    resumed.load_state_dict(first.state_dict())
    assert rates(resumed, 30) == whole[20:]


@pytest.mark.parametrize("warmup", [-0.1, 1.0, 2.0])
def test_a_bad_warmup_raises(warmup: float) -> None:
    with pytest.raises(ValueError, match=f"warmup is {warmup}, expected 0 <= warmup < 1"):
        make(warmup=warmup)


def test_a_straight_fall_takes_equal_steps() -> None:
    values = rates(make(warmup=0, shape="linear", total_steps=8), 10)
    assert values == pytest.approx([0.5 * (1 - step / 8) for step in range(8)] + [0, 0])
    values = rates(make(warmup=0.25, start=0.2, end=0.1, shape="linear", total_steps=8), 9)
    assert values == pytest.approx([0.5 * share for share in (0.2, 0.6, 1, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1)])


def test_a_named_group_comes_to_its_end_earlier() -> None:
    weights = [torch.zeros(1), torch.zeros(1)]
    groups = [{"params": [weights[0]], "name": "early"}, {"params": [weights[1]], "name": "late"}]
    schedule = OneCycle(SGD(groups, lr=1.0), warmup=0, shape="linear", until={"early": 0.375}, total_steps=16)
    values = []
    for _ in range(17):
        values.append([group["lr"] for group in schedule.optimizer.param_groups])
        schedule.optimizer.step()
        schedule.step()
    early, late = zip(*values, strict=True)
    assert early == pytest.approx([max(0, 1 - step / 6) for step in range(17)], abs=1e-12)
    assert late == pytest.approx([1 - step / 16 for step in range(17)])


def test_names_that_no_group_has_are_refused_with_those_there_are() -> None:
    groups = [{"params": [torch.zeros(1)], "name": "filters"}, {"params": [torch.zeros(1)], "name": "head"}]
    with pytest.raises(ValueError, match="until has heads, expected names of .*: filters, head"):
        OneCycle(SGD(groups, lr=1.0), until={"heads": 0.5})


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_bad_share_raises(share: float) -> None:
    with pytest.raises(ValueError, match="expected a share of the training"):
        OneCycle(SGD([{"params": [torch.zeros(1)], "name": "head"}], lr=1.0), until={"head": share})
