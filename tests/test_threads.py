import pytest
import torch

from cifar_lit.training.threads import free_cores, use_threads


@pytest.mark.parametrize(
    ("cores", "load", "free"), [(8, 0.1, 8), (8, 3.4, 5), (8, 7.6, 1), (8, 40.0, 1), (2, 1.0, 1), (1, 0.0, 1)]
)
def test_cores_are_free_that_nothing_has_used(
    cores: int, load: float, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr("os.getloadavg", lambda: (load, 99.0, 99.0))
    assert free_cores() == free


def test_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    with use_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
