from typing import Any

import pytest
import torch
from comparisons import answers, comparison

from cifar_lit.errors import SettingError
from cifar_lit.evaluation.comparison import Comparison
from cifar_lit.evaluation.evaluation import Evaluation
from cifar_lit.training.gate import Evidence, Gate

# Old images
KEPT = comparison(right=8_000, lost=50, gained=60, wrong=1_890)
SMALL_DROP = comparison(right=8_000, lost=70, gained=60, wrong=1_870)  # 0.1 points
UNCERTAIN_DROP = comparison(right=8_000, lost=105, gained=60, wrong=1_835)  # 0.45 points
LARGE_DROP = comparison(right=8_000, lost=160, gained=100, wrong=1_740)  # 0.6 points
FEW = comparison(right=80, wrong=20)
# New images
ROSE = comparison(right=60, gained=20, wrong=20)
ROSE_BY_CHANCE = comparison(right=60, gained=4, wrong=36)
SAME = comparison(right=60, wrong=40)
FELL = comparison(right=60, lost=10, gained=2, wrong=28)
FELL_BY_CHANCE = comparison(right=60, lost=4, gained=2, wrong=34)
BAD_AT = comparison(right=10, gained=30, wrong=60, rank=3)  # the parent hardly knows the class, its child does
# What the child learned from
LEARNED = comparison(right=300, gained=90, wrong=10)


def by_lot(num: int, rises: bool = False) -> Comparison:
    """Labels that have nothing to do with the parent's answers."""
    labels, ranks = torch.arange(num) % 10, torch.arange(num) // 10 % 10
    after = torch.where(torch.arange(num) % 4 == 0, 0, ranks) if rises else ranks
    return Comparison(answers(labels, ranks), answers(labels, after))


def evidence(
    old: Comparison | None = KEPT,
    new: Comparison | None = ROSE,
    learned: Comparison = LEARNED,
    num_given: int | None = None,
    **more: Any,
) -> Evidence:
    usable = len(learned) + (len(new) if new is not None else 0)
    return Evidence(old, new, learned, usable if num_given is None else num_given, **more)


def correction(old: Comparison | None = KEPT, **counts: Any) -> Evidence:
    return evidence(old=old, new=None, learned=comparison(**counts), corrections=True)


@pytest.mark.parametrize(
    ("given", "status", "reason"),
    [
        # It learns and forgets nothing, or next to nothing
        (evidence(), "promoted", "new accuracy 0.6000 -> 0.8000 on 100 images (lost 0, gained 20)"),
        (evidence(), "promoted", "old accuracy 0.8050 -> 0.8060 on 10,000 images (lost 50, gained 60) (p = "),
        (evidence(old=SMALL_DROP), "promoted", "old accuracy 0.8070 -> 0.8060 on 10,000 images"),
        # It forgets
        (
            evidence(old=LARGE_DROP),
            "rejected",
            "old accuracy 0.8160 -> 0.8100 on 10,000 images (lost 160, gained 100): that it fell by more than 0.5 "
            "points can't be ruled out (p = ",
        ),
        (evidence(old=UNCERTAIN_DROP), "rejected", "0.1 or less is asked for"),
        (evidence(old=FEW), "rejected", "on 100 images (lost 0, gained 0): that it fell by more than 0.5 points"),
        # The new ones
        (evidence(new=FELL), "rejected", "new accuracy fell, 0.7000 -> 0.6200 on 100 images (lost 10, gained 2)"),
        # Nothing shows that anything was learned
        (
            evidence(new=FELL_BY_CHANCE),
            "candidate",
            "0.6400 -> 0.6200 on 100 images (lost 4, gained 2): no impr",
        ),
        (evidence(new=SAME), "candidate", "no improvement beyond chance (p = 1, 0.05 or less is asked for)"),
        (evidence(new=ROSE_BY_CHANCE), "candidate", "no improvement beyond chance (p = 0.062"),
        (evidence(new=None), "candidate", "400 new images are too few to hold any out, so nothing shows that learning"),
        (evidence(new=None, known="all 400 are training images"), "candidate", "all 400 are training images"),
        # Labels that the parent doubts
        (
            evidence(new=by_lot(100), learned=by_lot(400)),
            "rejected",
            "the labels look wrong: on average the parent has 4.5 other classes before the given one (4.5 if labels "
            "were random), and learning them did not improve accuracy on held-out ones beyond chance "
            "(0.1000 -> 0.1000 on 100",
        ),
        (evidence(new=None, learned=by_lot(400)), "rejected", "did not improve accuracy on held-out ones"),
        (evidence(old=None, new=by_lot(100), learned=by_lot(400)), "rejected", "the labels look wrong"),
        (evidence(new=comparison(right=10, gained=4, wrong=86, rank=3), learned=by_lot(400)), "rejected", "look wrong"),
        # ... and that turn out to be true
        (evidence(new=BAD_AT, learned=comparison(right=40, gained=300, wrong=60, rank=3)), "promoted", "gained 30)"),
        (evidence(new=by_lot(400, rises=True), learned=by_lot(400)), "promoted", "new accuracy 0.1000 -> 0.3200"),
        # Nothing to tell what was forgotten
        (evidence(old=None), "candidate", "there were no old images to tell what was forgotten"),
        (evidence(old=None, new=None), "candidate", "there were no old images to tell what was forgotten"),
        # Corrections are evidence of their own, however few
        (correction(gained=1), "promoted", "1 of 1 mistakes corrected; old accuracy 0.8050 -> 0.8060"),
        (correction(gained=2, wrong=1), "promoted", "2 of 3 mistakes corrected"),
        (correction(right=5, gained=1), "promoted", "1 of 1 mistakes corrected"),
        (
            correction(wrong=1),
            "candidate",
            "parent gets 1 wrong, and of these the child gets 0",
        ),
        (correction(gained=1, wrong=1), "candidate", "the child gets 1 right"),
        (correction(right=1), "candidate", "of 1 corrections the parent gets 0 wrong"),
        (correction(lost=1, gained=1), "candidate", "gets 1 wrong, and of these the child gets 1 right"),
        (correction(gained=1, old=LARGE_DROP), "rejected", "fell by more than 0.5 points"),
        (correction(gained=1, old=None), "candidate", "there were no old images"),
        (correction(gained=1, rank=6), "rejected", "the labels look wrong"),
        (evidence(corrections=True, learned=comparison(wrong=400)), "promoted", "20 of 440 mistakes corrected"),
        # The whole line
        (
            evidence(line={"v0001": SMALL_DROP}),
            "promoted",
            "; since v0001 0.8070 -> 0.8060",
        ),
        (
            evidence(line={"v0001": LARGE_DROP}),
            "rejected",
            "since v0001, of its line, 0.8160",
        ),
        (evidence(line={"v0001": UNCERTAIN_DROP}), "rejected", "by more than 0.5 points can't be ruled out"),
        # What was learned before
        (evidence(earlier=SAME), "promoted", "new accuracy"),
        (evidence(earlier=FELL_BY_CHANCE), "promoted", "new accuracy"),
        (
            evidence(earlier=FELL),
            "rejected",
            "held out of earlier increments fell, 0.7000 -> 0.6200",
        ),
        # Most of it was of no use
        (evidence(num_given=1_001), "rejected", "only 500 of 1,001 new images could be used: the rest are copies"),
        (evidence(num_given=1_000), "promoted", "new accuracy"),
    ],
)
def test_a_result_gets_the_status_that_its_evidence_deserves(given: Evidence, status: str, reason: str) -> None:
    decision = Gate().judge(given)
    assert (decision.status, reason in decision.reason) == (status, True), decision


def test_a_wider_or_narrower_limit_decides_about_a_drop() -> None:
    assert Gate(max_drop=1.0).judge(evidence(old=LARGE_DROP)).status == "promoted"
    assert Gate(max_drop=0.1).judge(evidence(old=SMALL_DROP)).status == "rejected"
    assert Gate(max_line_drop=1.0).judge(evidence(line={"v0001": LARGE_DROP})).status == "promoted"
    assert Gate(max_line_drop=0.1).judge(evidence(line={"v0001": SMALL_DROP})).status == "rejected"
    assert "by more than 0.1 points" in Gate(max_drop=0.1).judge(evidence(old=SMALL_DROP)).reason


def test_the_longer_a_line_the_surer_the_gate_must_be_that_it_has_not_lost_too_much() -> None:
    p_value = SMALL_DROP.noninferiority_p_value(0.5)  # 0.0003
    last = int(0.1 / p_value)
    for generation, status in ((1, "promoted"), (last, "promoted"), (last + 1, "rejected")):
        given = evidence(line={"v0001": SMALL_DROP}, generation=generation)
        assert Gate().judge(given).status == status
    alone = evidence(old=SMALL_DROP, generation=last + 1)  # the parent alone is compared as ever
    assert Gate().judge(alone).status == "promoted"


def test_confidence_decides_how_sure_the_gate_must_be() -> None:
    assert Gate(confidence=0.5).judge(evidence(old=UNCERTAIN_DROP)).status == "promoted"
    assert Gate(confidence=0.99).judge(evidence(old=KEPT)).status == "promoted"
    assert Gate(confidence=0.5).judge(evidence(old=LARGE_DROP)).status == "rejected"
    assert Gate(confidence=0.5).judge(evidence(new=FELL_BY_CHANCE)).status == "rejected"
    assert Gate(confidence=0.99).judge(evidence(new=FELL)).status == "candidate"  # p = 0.019


def test_max_label_rank_and_rise_p_value_decide_when_labels_are_believed() -> None:
    doubted = evidence(new=by_lot(100), learned=by_lot(400))
    assert Gate().judge(doubted).status == "rejected"
    assert Gate(max_label_rank=4.5).judge(doubted).status == "candidate"
    rises = evidence(new=BAD_AT, learned=comparison(right=40, gained=300, wrong=60, rank=3))
    assert Gate(rise_p_value=1e-12).judge(rises).status == "rejected"


def test_label_rank_is_the_mean_over_all_new_images_in_the_parents_order() -> None:
    new = comparison(right=30, lost=10, gained=20, wrong=40, rank=5)  # the parent is wrong about 60
    learned = comparison(right=300, gained=100, rank=9)
    assert evidence(new=new, learned=learned).label_rank == pytest.approx((60 * 5 + 100 * 9) / 500)
    assert evidence(new=None, learned=learned).label_rank == pytest.approx(100 * 9 / 400)
    assert evidence(new=by_lot(100), learned=by_lot(200)).label_rank == pytest.approx(4.5)
    assert evidence(new=None, learned=comparison(right=10)).label_rank == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_drop": -0.1}, "max_drop is -0.1, max_line_drop 0.5 and confidence 0.9, expected 0..100 points"),
        ({"max_line_drop": 101.0}, "max_line_drop 101.0"),
        ({"max_drop": 100.5}, "max_drop is 100.5"),
        ({"max_drop": float("nan")}, "max_drop is nan"),
        ({"confidence": 0.4}, "confidence 0.4"),
        ({"confidence": 1.0}, "confidence 1.0"),
        ({"max_label_rank": -1}, "max_label_rank is -1 and rise_p_value 0.05, expected 0 or more"),
        ({"rise_p_value": 0.0}, "rise_p_value 0.0"),
        ({"rise_p_value": 1.0}, "rise_p_value 1.0"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Gate(**settings)


def test_a_mere_leaning_to_the_given_class_does_not_make_its_labels_true() -> None:
    # All new images are said to be of class 3. After learning, 30 of 100 held-out ones are taken for it...
    new_labels = torch.full((100,), 3)
    new = Comparison(answers(new_labels, torch.full((100,), 4)), answers(new_labels, (torch.arange(100) >= 30) * 4))
    learned = Comparison(answers(new_labels, torch.full((100,), 4)), answers(new_labels, torch.zeros(100).long()))
    old_labels = torch.arange(10_000) % 10
    right = answers(old_labels, torch.zeros(10_000).long())
    assert Gate(max_drop=100).judge(evidence(old=Comparison(right, right), new=new, learned=learned)).status == (
        "promoted"
    )
    # ... but so are 30 % of the old images of other classes.
    leaning = (old_labels != 3) & (torch.arange(10_000) // 10 % 10 < 3)
    logits = right.logits.clone()
    logits[leaning, 3] = logits.max() + 1
    leans = Comparison(right, Evaluation(logits, old_labels))
    given = evidence(old=leans, new=new, learned=learned)
    assert given.rise_p_value > 0.3
    assert "the labels look wrong" in Gate(max_drop=100).judge(given).reason


def test_only_what_it_costs_is_less_if_less_of_the_change_is_taken() -> None:
    costly = [
        evidence(old=LARGE_DROP),
        evidence(line={"v0001": LARGE_DROP}),
        evidence(earlier=FELL),
        evidence(new=FELL),
    ]
    others = [
        evidence(),
        evidence(old=None),
        evidence(new=SAME),
        evidence(num_given=5_000),
        correction(gained=1, rank=6),
    ]
    assert [Gate().judge(each).costly for each in [*costly, *others]] == [True] * 4 + [False] * 5


def test_without_held_out_images_no_rise_is_shown() -> None:
    assert evidence(new=None).rise_p_value == 1
