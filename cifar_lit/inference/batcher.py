"""Gathers what waits into batches for one worker thread. Knows nothing of HTTP, of images or of torch.

A batch is whatever waits when the thread becomes free: an idle batcher starts at once, a busy one batches.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from cifar_lit.errors import DeadlineError, OverloadedError, SettingError

Item = TypeVar("Item")
Result = TypeVar("Result")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Done(Generic[Result]):
    """What became of an item.

    Attributes:
        result: what `run` made of it.
        queue_s: seconds that it waited for its batch to start.
        run_s: seconds that its batch took.
        batch_size: items in its batch, itself included.
    """

    result: Result
    queue_s: float
    run_s: float
    batch_size: int


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    future: "asyncio.Future[Done[Result]]"
    since: float
    until: float


class MicroBatcher(Generic[Item, Result]):
    """Runs items in batches, in the order in which they came, on a thread of its own.

    To be used from one event loop.

    Args:
        run: makes a result of each item, in their order; called on the batcher's thread, never twice at once. If it
            raises, each item of the batch is tried alone, so that a bad one fails alone.
        max_batch_size: most items in a batch.
        max_waiting: most items that may wait; one more is turned away at once.
        max_age_s: an item that has waited for longer is not run any more.
    """

    def __init__(
        self, run: Callable[[list[Item]], Sequence[Result]], *, max_batch_size: int, max_waiting: int, max_age_s: float
    ) -> None:
        for name, value in (("max_batch_size", max_batch_size), ("max_waiting", max_waiting), ("max_age_s", max_age_s)):
            if value <= 0:
                raise SettingError(f"{name} is {value}, expected more than 0.")
        self._run = run
        self._max_batch_size = max_batch_size
        self._max_waiting = max_waiting
        self._max_age_s = max_age_s
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._busy: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        """Items that wait, without those that are being run."""
        return len(self._waiting)

    async def submit(self, item: Item, *, max_age_s: float | None = None) -> Done[Result]:
        """Waits for the result of an item.

        If the caller is cancelled before the item's batch starts, the item is dropped.

        Args:
            item: goes to `run`.
            max_age_s: how long it may wait, if less than the batcher's own limit.

        Raises:
            OverloadedError: too many items wait already, or the batcher is closed.
            DeadlineError: it waited for too long.
            Exception: what `run` raised for this item alone.
        """
        if self._closed:
            raise OverloadedError("the server is stopping. Send it again.")
        if len(self._waiting) >= self._max_waiting:
            raise OverloadedError(f"{self._max_waiting} images wait already. Send it again a little later.")
        now = time.monotonic()
        age_s = self._max_age_s if max_age_s is None else min(max_age_s, self._max_age_s)
        future: asyncio.Future[Done[Result]] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(item, future, now, now + age_s)
        self._waiting.append(waiting)
        if self._busy is None:
            self._busy = asyncio.create_task(self._work())
        try:
            return await future
        except asyncio.CancelledError:
            with suppress(ValueError):  # its batch has started
                self._waiting.remove(waiting)
            raise

    async def call(self, function: Callable[[], Value]) -> Value:
        """Runs a function on the batcher's thread, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def close(self) -> None:
        """Takes no more items, finishes those that wait, and ends the thread."""
        self._closed = True
        while self._busy is not None:
            await asyncio.wait([self._busy])
        await asyncio.to_thread(self._thread.shutdown)  # a `call` may still be running

    async def _work(self) -> None:
        try:
            while batch := self._next_batch():
                await self._run_batch(batch)
        finally:
            self._busy = None

    def _next_batch(self) -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        now = time.monotonic()
        while self._waiting and len(batch) < self._max_batch_size:
            waiting = self._waiting.popleft()
            if waiting.future.done():  # its caller has left
                continue
            if waiting.until < now:
                waiting.future.set_exception(
                    DeadlineError(f"no prediction within {waiting.until - waiting.since:.3g} s. Send it again later.")
                )
            else:
                batch.append(waiting)
        return batch

    async def _run_batch(self, batch: list[_Waiting[Item, Result]]) -> None:
        began = time.monotonic()
        outcomes: Sequence[Result | Exception]
        try:
            outcomes = await self.call(lambda: self._outcomes([waiting.item for waiting in batch]))
        except RuntimeError as error:  # the system gave no thread
            outcomes = [error] * len(batch)
        run_s = time.monotonic() - began
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.future.done():
                continue
            if isinstance(outcome, Exception):
                waiting.future.set_exception(outcome)
            else:
                waiting.future.set_result(Done(outcome, began - waiting.since, run_s, len(batch)))

    def _outcomes(self, items: list[Item]) -> list[Result | Exception]:
        """The result of each item, or what was raised for it. Never raises."""
        try:
            results: list[Result | Exception] = list(self._run(items))
            if len(results) == len(items):
                return results
            raise RuntimeError(f"run gave {len(results)} results for {len(items)} items")
        except Exception as error:
            if len(items) == 1:
                # A future takes no StopIteration.
                return [RuntimeError(repr(error)) if isinstance(error, StopIteration) else error]
        return [outcome for item in items for outcome in self._outcomes([item])]
