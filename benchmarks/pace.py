"""Does something so many times a second, whatever the responses (open loop)."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress


async def ticks(per_second: float, until: asyncio.Event) -> AsyncIterator[None]:
    """So many times a second, whatever is done between, until it is over."""
    due = time.monotonic()
    while True:
        due += 1 / per_second
        with suppress(TimeoutError):
            await asyncio.wait_for(until.wait(), max(0.0, due - time.monotonic()))
        if until.is_set():
            return
        yield


async def at_rate(
    per_second: float,
    until: asyncio.Event,
    do: Callable[[], Awaitable[None]],
    *,
    most_at_once: int,
    on_full: Callable[[], None] = lambda: None,
) -> None:
    """Begins `do` so many times a second, and waits for all of them at the end.

    Args:
        most_at_once: if so many are not done, no more are begun.
        on_full: called instead.
    """
    coming: set[asyncio.Future[None]] = set()
    async for _ in ticks(per_second, until):
        if len(coming) >= most_at_once:
            on_full()
            continue
        task = asyncio.ensure_future(do())
        coming.add(task)
        task.add_done_callback(coming.discard)
    await asyncio.gather(*coming)
