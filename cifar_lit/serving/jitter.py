"""How long a slow client is waited for."""

import random

SPREAD = 1.4


def jitter(seconds: float) -> float:
    """So many seconds, or up to `SPREAD` times as many by chance: clients that came at once do not all go at once, and
    come again at once, while the others wait."""
    return seconds * random.uniform(1, SPREAD)
