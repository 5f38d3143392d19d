import pytest

from cifar_lit.seeding import derive_seed, global_seed


def test_global_seed_is_what_lightning_left_else_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert global_seed() == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "41")
    assert global_seed() == 41


def test_derived_seeds_are_repeatable_distinct_and_in_range() -> None:
    parts = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 0, 1), (11, 1), (1, 11)]
    seeds = [derive_seed(*part) for part in parts]
    assert seeds == [derive_seed(*part) for part in parts]
    assert len(set(seeds)) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
