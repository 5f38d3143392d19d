"""How many threads PyTorch works with beside what else the machine does."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def free_cores() -> int:
    """Cores that this process may use and that nothing has used during the last minute, at least 1.

    Threads that wait for a busy core at every operation make training slower than fewer would.
    """
    return max(1, len(os.sched_getaffinity(0)) - round(os.getloadavg()[0]))


@contextmanager
def use_threads(number: int) -> Iterator[None]:
    """Has PyTorch work with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
