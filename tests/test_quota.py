"""The number of requests a client may send."""

import pytest

from cifar_lit.serving import quota
from cifar_lit.serving.quota import Quota
from cifar_lit.serving.replies import RequestError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_minute_has_as_many_requests_as_are_allowed_and_they_come_back() -> None:
    clock = Clock()
    limit = Quota(6, clock)
    for _ in range(6):
        limit.take("a")
    with pytest.raises(
        RequestError, match="more than 6 requests a minute came from here. Send it again in 10 s"
    ) as refused:
        limit.take("a")
    assert refused.value.status_code == 429
    assert refused.value.headers == {"Retry-After": "10"}
    clock.now += 10
    limit.take("a")
    with pytest.raises(RequestError):
        limit.take("a")


def test_clients_do_not_share() -> None:
    limit = Quota(1, Clock())
    limit.take("a")
    limit.take("b")
    with pytest.raises(RequestError):
        limit.take("a")


def test_without_a_limit_all_pass() -> None:
    limit = Quota(None)
    for _ in range(1000):
        limit.take("a")


def test_memory_is_bounded_and_the_busy_one_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "MAX_CLIENTS", 3)
    limit = Quota(2, Clock())
    limit.take("busy")
    for number in range(10):
        if number == 1:
            limit.take("busy")
        elif number > 1:
            with pytest.raises(RequestError):
                limit.take("busy")
        limit.take(f"other {number}")
    assert len(limit._used) == 3
