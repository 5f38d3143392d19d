import functools
import math

import pytest
import torch
from comparisons import answers, comparison

from cifar_lit.evaluation.comparison import Comparison


def test_lost_and_gained_are_the_rows_that_flipped() -> None:
    each = comparison(right=3, lost=2, gained=1, wrong=4)
    assert len(each) == 10
    assert each.lost.tolist() == [3, 4]
    assert each.gained.tolist() == [5]
    assert each.drop == pytest.approx(10)
    assert comparison(right=6, gained=2, wrong=2).drop == pytest.approx(-20)
    assert comparison(right=6, wrong=2).drop == 0


def test_another_wrong_answer_is_no_flip() -> None:
    labels = torch.arange(10)
    each = Comparison(answers(labels, torch.full((10,), 1)), answers(labels, torch.full((10,), 4)))
    assert (len(each.lost), len(each.gained), each.drop) == (0, 0, 0)


@pytest.mark.parametrize("others", [[0, 1, 3], [0, 1], [0, 1, 2, 3]])
def test_evaluations_of_different_images_are_not_compared(others: list[int]) -> None:
    labels = torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match="not of the same images"):
        Comparison(
            answers(labels, torch.zeros(3).long()), answers(torch.tensor(others), torch.zeros(len(others)).long())
        )


# The drop


def tango(num: int, lost: int, gained: int, margin: float) -> float:
    """The same test with the chance of a gain found by trying: the likelihood is highest there."""

    def log_likelihood(chance: float) -> float:
        parts = ((lost, chance + margin), (gained, chance), (num - lost - gained, 1 - 2 * chance - margin))
        return sum(count * math.log(p) if p > 0 else -math.inf for count, p in parts if count)

    low, high = 0.0, (1 - margin) / 2
    for _ in range(200):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (left, high) if log_likelihood(left) < log_likelihood(right) else (low, right)
    variance = num * (2 * low + margin - margin**2)
    return 0.5 * math.erfc(-(lost - gained - num * margin) / math.sqrt(2 * variance))


@pytest.mark.parametrize(
    ("num", "lost", "gained", "max_drop"),
    [(10_000, 120, 100, 0.5), (10_000, 160, 100, 0.5), (1_000, 9, 2, 0.5), (1_000, 0, 0, 0.5), (200, 30, 50, 2.0)]
    + [(500, 3, 0, 1.0), (100, 0, 7, 0.5), (50, 10, 3, 10.0)],
)
def test_drop_p_value_is_that_of_the_score_test(num: int, lost: int, gained: int, max_drop: float) -> None:
    each = comparison(right=num - lost - gained, lost=lost, gained=gained)
    assert each.noninferiority_p_value(max_drop) == pytest.approx(tango(num, lost, gained, max_drop / 100), abs=1e-5)


@pytest.mark.parametrize(("num", "gain"), [(2_000, 0.02), (5_000, 0.01)])
def test_a_true_drop_at_the_limit_passes_in_as_many_draws_as_the_level_says(num: int, gain: float) -> None:
    chances = torch.tensor([gain + 0.005, gain, 1 - 2 * gain - 0.005])
    draws = torch.distributions.Multinomial(num, chances)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flips = draws.sample((3_000,))[:, :2].long().tolist()

    @functools.cache
    def p_value(lost: int, gained: int) -> float:
        return comparison(right=num - lost - gained, lost=lost, gained=gained).noninferiority_p_value(0.5)

    p_values = torch.tensor([p_value(lost, gained) for lost, gained in flips])
    for level in (0.05, 0.2, 0.5):
        # Standard deviation of each share at 3,000 draws is below 0.01; counts are whole numbers besides.
        assert (p_values <= level).double().mean() == pytest.approx(level, abs=0.035)


def test_drop_p_value_falls_with_fewer_losses_more_gains_and_a_wider_limit() -> None:
    def p_value(lost: int, gained: int, max_drop: float = 0.5) -> float:
        return comparison(right=2_000 - lost - gained, lost=lost, gained=gained).noninferiority_p_value(max_drop)

    by_losses = [p_value(lost, 20) for lost in (60, 45, 30, 25, 20, 10, 0)]
    by_gains = [p_value(20, gained) for gained in (0, 5, 10, 20, 40)]
    by_limit = [p_value(30, 20, max_drop) for max_drop in (0.0, 0.1, 0.5, 1.0, 5.0, 50.0)]
    for values in (by_losses, by_gains, by_limit):
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == len(values)
        assert all(0 <= value <= 1 for value in values)


@pytest.mark.parametrize(("num", "at_most", "at_least"), [(1_000, 0.05, 0.0), (100, 1.0, 0.2)])
def test_no_flip_at_all_says_much_of_many_images_and_little_of_few(num: int, at_most: float, at_least: float) -> None:
    assert at_least < comparison(right=num).noninferiority_p_value(0.5) < at_most


@pytest.mark.parametrize(
    ("lost", "gained", "max_drop", "p_value"),
    # No drop allowed: equal answers do not show that there is none. All allowed: nothing can exceed it.
    [(0, 0, 0.0, 1.0), (5, 5, 0.0, 0.5), (0, 0, 100.0, 0.0), (100, 0, 100.0, 1.0)],
)
def test_drop_p_value_at_the_ends_of_the_scale(lost: int, gained: int, max_drop: float, p_value: float) -> None:
    each = comparison(right=100 - lost - gained, lost=lost, gained=gained)
    assert each.noninferiority_p_value(max_drop) == pytest.approx(p_value)


# Rise and fall


@pytest.mark.parametrize(
    ("gained", "lost", "rise", "fall"),
    # P(X >= gained) and P(X >= lost) of as many tosses of a coin, counted by hand
    [
        (0, 0, 1, 1),
        (1, 0, 1 / 2, 1),
        (3, 0, 1 / 8, 1),
        (2, 1, 4 / 8, 7 / 8),
        (3, 3, 42 / 64, 42 / 64),
        (2, 8, 1_013 / 1_024, 56 / 1_024),
        (10, 0, 1 / 1_024, 1),
        (0, 100, 1, 2.0**-100),
    ],
)
def test_rise_and_fall_are_exact_sign_tests(gained: int, lost: int, rise: float, fall: float) -> None:
    each = comparison(right=7, gained=gained, lost=lost, wrong=5)
    assert each.rise_p_value() == pytest.approx(rise, rel=1e-12)
    assert each.fall_p_value() == pytest.approx(fall, rel=1e-12)


def test_answers_that_did_not_flip_do_not_count_for_rise_and_fall() -> None:
    few, many = comparison(gained=6, lost=2), comparison(right=900, gained=6, lost=2, wrong=300)
    assert few.rise_p_value() == many.rise_p_value()
    assert few.fall_p_value() == many.fall_p_value()


def test_thousands_of_flips_have_a_p_value_too() -> None:
    each = comparison(gained=2_200, lost=2_000)
    # The normal limit: 200 more of 4,200, with half a step for whole numbers.
    assert each.rise_p_value() == pytest.approx(0.5 * math.erfc((199 / math.sqrt(4_200)) / math.sqrt(2)), rel=0.02)
    assert each.fall_p_value() > 0.99
