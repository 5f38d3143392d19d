"""How many requests a client may send: a bucket for each that fills steadily."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from cifar_lit.serving.replies import RequestError

MAX_CLIENTS = 10_000


class Quota:
    """Counts requests by client.

    Args:
        per_minute: requests that a client may send in a minute, all at once or spread over it; None for any number.
        clock: seconds that never go back.
    """

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._used: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> None:
        """Counts a request.

        Raises:
            RequestError: 429, the client has none left; with the seconds until it has.
        """
        if self._per_minute is None:
            return
        now = self._clock()
        used, then = self._used.pop(client, (0.0, now))
        used = max(0.0, used - (now - then) * self._per_minute / 60)
        if used + 1 > self._per_minute:
            self._used[client] = (used, now)
            wait_s = math.ceil((used + 1 - self._per_minute) * 60 / self._per_minute)
            raise RequestError(
                429,
                f"more than {self._per_minute} requests a minute came from here. Send it again in {wait_s} s.",
                retry_after_s=wait_s,
            )
        self._used[client] = (used + 1, now)
        if len(self._used) > MAX_CLIENTS:  # the one that was quiet for longest is forgotten
            self._used.popitem(last=False)

    def forget(self, client: str) -> None:
        """Gives a client back all that it has used."""
        self._used.pop(client, None)
