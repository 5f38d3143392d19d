from cifar_lit.serving import protocol, request_limits
from cifar_lit.serving.jitter import SPREAD, jitter


def test_clients_are_waited_for_at_least_so_long_and_not_all_alike() -> None:
    found = [jitter(10) for _ in range(100)]
    assert all(10 <= seconds <= 10 * SPREAD for seconds in found)
    assert max(found) - min(found) > 1


def test_slow_clients_are_gone_within_a_quarter_of_a_minute() -> None:
    assert max(request_limits.BODY_GRACE_S, protocol.HEAD_TIMEOUT_S) * SPREAD < 15
