"""How the C library handles freed memory. Only glibc has these settings; elsewhere nothing is done."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_HEAPS = 2


def keep_freed_memory(max_block_bytes: int = 1 << 30) -> None:
    """Tells it to keep large freed blocks instead of giving them back to the system.

    Each training step, and each batch that is served, frees and takes the same large buffers; giving them back costs
    a page fault for every 4 KiB of them at the next.

    Args:
        max_block_bytes: larger blocks are given back. Those that are taken seldom, such as a model's weights, leave
            holes that others cut up, and the heap grows.
    """
    _set(_M_MMAP_THRESHOLD, max_block_bytes)
    _set(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def share_freed_memory() -> None:
    """Tells it to have all threads take memory from two heaps.

    By default there are eight a core. What one thread has freed no other can take: each that has once loaded a model
    would keep as much for ever.
    """
    _set(_M_ARENA_MAX, _HEAPS)


def _set(parameter: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(parameter, value)
