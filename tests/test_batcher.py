import asyncio
import random
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from cifar_lit.errors import DeadlineError, OverloadedError, SettingError
from cifar_lit.inference import batcher as batcher_module
from cifar_lit.inference.batcher import Done, MicroBatcher

PATIENCE_S = 60.0
"""Only a failing test waits for so long."""

Batcher = MicroBatcher[int, int]


class BadItem(Exception):
    """What a bad item's run raises."""


class Model:
    """Doubles numbers; negative ones are bad. Each batch tells that it has started and waits until it is let go.

    To be made inside an event loop. The single tries after a batch with a bad item don't wait.
    """

    def __init__(self, *, held: bool = True) -> None:
        self.batches: list[list[int]] = []
        self.calls = 0
        self.threads: set[int] = set()
        self.overlapped = False
        self.started: asyncio.Queue[list[int]] = asyncio.Queue()
        self._held = held
        self._loop = asyncio.get_running_loop()
        self._gate = threading.Semaphore(0)
        self._alone = threading.Lock()
        self._tried_again: set[int] = set()

    def let_go(self) -> None:
        self._gate.release()

    async def next_batch(self) -> list[int]:
        return await asyncio.wait_for(self.started.get(), PATIENCE_S)

    def __call__(self, items: list[int]) -> list[int]:
        if not self._alone.acquire(blocking=False):
            self.overlapped = True
        try:
            return self._run(items)
        finally:
            self._alone.release()

    def _run(self, items: list[int]) -> list[int]:
        self.calls += 1
        self.threads.add(threading.get_ident())
        if not (len(items) == 1 and items[0] in self._tried_again):
            self.batches.append(items)
            self._loop.call_soon_threadsafe(self.started.put_nowait, items)
            if self._held and not self._gate.acquire(timeout=PATIENCE_S):
                raise TimeoutError("nobody let the batch go")
        self._tried_again = set(items) if len(items) > 1 else self._tried_again - set(items)
        for item in items:
            if item < 0:
                raise BadItem(item)
        return [2 * item for item in items]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a test in an event loop, and sees to it that no task and no thread is left."""
    threads = set(threading.enumerate())

    async def watched() -> None:
        await asyncio.wait_for(test(), 2 * PATIENCE_S)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task is left"

    asyncio.run(watched())
    assert set(threading.enumerate()) <= threads, "a thread is left"


def make(model: Callable[[list[int]], list[int]], **settings: float) -> Batcher:
    values: dict[str, Any] = {"max_batch_size": 3, "max_waiting": 8, "max_age_s": 1e6} | settings
    return MicroBatcher(model, **values)


def run_with_model(
    test: Callable[[Model, Batcher], Coroutine[Any, Any, None]], *, held: bool = True, **settings: float
) -> None:
    """`run`, with a model and its batcher, which is closed at the end."""

    async def with_model() -> None:
        model = Model(held=held)
        batcher = make(model, **settings)
        await test(model, batcher)
        await batcher.close()

    run(with_model)


async def submit(batcher: Batcher, *items: int, max_age_s: float | None = None) -> list[asyncio.Task[Done[int]]]:
    """Submits items, and returns when each of them waits (or was turned away)."""
    tasks = [asyncio.create_task(batcher.submit(item, max_age_s=max_age_s)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def results(tasks: list[asyncio.Task[Done[int]]]) -> list[int]:
    return [done.result for done in await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE_S)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the batcher takes for the time; set `now`."""
    time = SimpleNamespace(now=0.0)
    time.monotonic = lambda: time.now
    monkeypatch.setattr(batcher_module, "time", time)
    return time


# Batches


def test_an_idle_batcher_starts_at_once_with_what_there_is() -> None:
    async def test(model: Model, batcher: Batcher) -> None:
        tasks = await submit(batcher, 1)
        assert await model.next_batch() == [1]
        assert len(batcher) == 0
        model.let_go()
        assert await results(tasks) == [2]

    run_with_model(test)


def test_what_comes_while_a_batch_runs_rides_together_in_order_and_bounded() -> None:
    async def test(model: Model, batcher: Batcher) -> None:
        tasks = await submit(batcher, 1)
        await model.next_batch()
        for item in range(2, 7):
            tasks += await submit(batcher, item)
        assert len(batcher) == 5
        assert model.batches == [[1]]
        for _ in range(3):
            model.let_go()
        assert await results(tasks) == [2, 4, 6, 8, 10, 12]
        assert model.batches == [[1], [2, 3, 4], [5, 6]]
        assert [task.result().batch_size for task in tasks] == [1, 3, 3, 3, 2, 2]

    run_with_model(test)


def test_times_are_those_of_the_wait_and_of_the_batch(clock: SimpleNamespace) -> None:
    async def test(model: Model, batcher: Batcher) -> None:
        first = await submit(batcher, 1)
        await model.next_batch()
        clock.now = 3
        second = await submit(batcher, 2)
        clock.now = 5
        model.let_go()
        await model.next_batch()
        clock.now = 12
        model.let_go()
        await results(first + second)
        times = [(task.result().queue_s, task.result().run_s) for task in first + second]
        assert times == [(0, 5), (2, 7)]

    run_with_model(test)


def test_batches_run_one_at_a_time_on_one_thread_that_is_not_the_loops() -> None:
    async def test(model: Model, batcher: Batcher) -> None:
        assert await results(await submit(batcher, *range(200))) == [2 * item for item in range(200)]
        assert len(model.threads) == 1
        assert threading.get_ident() not in model.threads
        assert not model.overlapped

    run_with_model(test, held=False, max_waiting=200)


def test_a_call_runs_on_the_batchers_thread_between_two_batches() -> None:
    async def test(model: Model, batcher: Batcher) -> None:
        tasks = await submit(batcher, 1)
        await model.next_batch()
        tasks += await submit(batcher, 2)
        seen: list[tuple[int, int]] = []
        call = asyncio.create_task(batcher.call(lambda: seen.append((threading.get_ident(), len(model.batches)))))
        await asyncio.sleep(0)
        assert not seen
        model.let_go()
        await call
        model.let_go()
        assert await results(tasks) == [2, 4]
        assert seen == [(*model.threads, 1)]
        with pytest.raises(ZeroDivisionError):
            await batcher.call(lambda: 1 // 0)

    run_with_model(test)


# What is turned away


def test_a_full_queue_rejects_at_once() -> None:
    async def test(model: Model, batcher: Batcher) -> None:
        tasks = await submit(batcher, 1)
        await model.next_batch()
        tasks += await submit(batcher, 2, 3)
        with pytest.raises(OverloadedError, match="2 images wait already. Send it again a little later"):
            await batcher.submit(4)
        assert model.batches == [[1]], "the answer did not wait for the running batch"
        model.let_go()
        model.let_go()
        assert await results(tasks) == [2, 4, 6]
        assert await results(await released(model, batcher, 5)) == [10]

    run_with_model(test, max_waiting=2)


async def released(model: Model, batcher: Batcher, *items: int) -> list[asyncio.Task[Done[int]]]:
    model.let_go()
    return await submit(batcher, *items)


def test_those_who_left_take_no_room_in_the_queue() -> None:
    async def test(model: Model, batcher: Batcher) -> None:
        tasks = await submit(batcher, 1)
        await model.next_batch()
        for task in await submit(batcher, 2, 3):
            task.cancel()
        await asyncio.sleep(0)
        assert len(batcher) == 0
        tasks += await submit(batcher, 4, 5)
        model.let_go()
        model.let_go()
        assert await results(tasks) == [2, 8, 10]
        assert model.batches == [[1], [4, 5]]

    run_with_model(test, max_waiting=2)


@pytest.mark.parametrize(("own", "limit"), [(None, 10.0), (4.0, 4.0), (40.0, 10.0)])
def test_what_waited_too_long_is_not_run(clock: SimpleNamespace, own: float | None, limit: float) -> None:
    async def test(model: Model, batcher: Batcher) -> None:
        first = await submit(batcher, 1)
        await model.next_batch()
        late = await submit(batcher, 2, max_age_s=own)
        clock.now = 0.5
        in_time = await submit(batcher, 3, max_age_s=own)
        clock.now = limit + 0.25
        model.let_go()
        model.let_go()
        assert await results(first + in_time) == [2, 6]
        with pytest.raises(DeadlineError, match=f"no prediction within {limit:g} s. Send it again later"):
            await late[0]
        assert model.batches == [[1], [3]]

    run_with_model(test, max_age_s=10)


@pytest.mark.parametrize("setting", ["max_batch_size", "max_waiting", "max_age_s"])
@pytest.mark.parametrize("value", [0, -1])
def test_senseless_settings_are_refused(setting: str, value: int) -> None:
    with pytest.raises(SettingError, match=f"{setting} is {value}, expected more than 0"):
        make(lambda items: items, **{setting: value})


# Callers who leave


def test_an_item_whose_caller_left_is_never_run() -> None:
    async def test(model: Model, batcher: Batcher) -> None:
        tasks = await submit(batcher, 1)
        await model.next_batch()
        tasks += await submit(batcher, 2, 3, 4, 5)
        tasks[2].cancel()
        tasks[3].cancel()
        model.let_go()
        model.let_go()
        assert await results([tasks[0], tasks[1], tasks[4]]) == [2, 4, 10]
        assert model.batches == [[1], [2, 5]]
        assert tasks[2].cancelled()
        assert tasks[3].cancelled()

    run_with_model(test)


def test_a_caller_who_leaves_during_the_batch_changes_nothing_for_the_others() -> None:
    async def test(model: Model, batcher: Batcher) -> None:
        tasks = await submit(batcher, 1, 2, 3)
        assert await model.next_batch() == [1, 2, 3]
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        later = await submit(batcher, 4)
        model.let_go()
        model.let_go()
        assert await results([tasks[0], tasks[2], *later]) == [2, 6, 8]

    run_with_model(test)


def test_when_all_left_the_next_is_answered() -> None:
    async def test(model: Model, batcher: Batcher) -> None:
        for task in await submit(batcher, 1, 2):
            task.cancel()
        tasks = await submit(batcher, 3)
        model.let_go()
        model.let_go()
        assert await results(tasks) == [6]
        assert model.batches == [[3]]

    run_with_model(test)


# Failures


def test_a_bad_item_fails_alone_with_its_own_exception() -> None:
    async def test(model: Model, batcher: Batcher) -> None:
        tasks = await submit(batcher, 1, -2, 3, -4, 5)
        await asyncio.wait(tasks)
        assert model.batches == [[1, -2, 3, -4, 5]]
        assert await results([tasks[0], tasks[2], tasks[4]]) == [2, 6, 10]
        for task, item in ((tasks[1], -2), (tasks[3], -4)):
            error = task.exception()
            assert isinstance(error, BadItem)
            assert error.args == (item,)
        assert model.calls == 6
        assert await results(await submit(batcher, 6)) == [12]

    run_with_model(test, held=False, max_batch_size=5)


@pytest.mark.parametrize("given", [[], [1], [1, 2, 3]])
def test_a_wrong_number_of_results_is_an_error_and_never_anothers_result(given: list[int]) -> None:
    async def test() -> None:
        batcher = make(lambda items: list(given))
        tasks = await submit(batcher, 7, 8)
        await asyncio.wait(tasks)
        if len(given) == 1:  # right for each item alone
            assert await results(tasks) == [1, 1]
        else:
            assert [str(task.exception()) for task in tasks] == [f"run gave {len(given)} results for 1 items"] * 2
        await batcher.close()

    run(test)


@pytest.mark.parametrize("error", [StopIteration("odd"), MemoryError("no room"), TimeoutError("slow")])
def test_whatever_run_raises_reaches_the_caller_and_ends_nothing(error: Exception) -> None:
    async def test() -> None:
        failing = True

        def run_once(items: list[int]) -> list[int]:
            if failing:
                raise error
            return items

        batcher = make(run_once)
        tasks = await submit(batcher, 1, 2)
        done, waiting = await asyncio.wait(tasks, timeout=PATIENCE_S)
        assert not waiting
        assert all(str(error) in str(task.exception()) for task in done)
        failing = False
        assert await results(await submit(batcher, 3)) == [3]
        await batcher.close()

    run(test)


def test_a_system_without_threads_is_an_error_for_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def test() -> None:
        batcher = make(lambda items: items)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await asyncio.wait_for(batcher.submit(1), PATIENCE_S)
        assert await results(await submit(batcher, 2)) == [2]
        await batcher.close()

    run(test)


# The end


def test_close_finishes_what_waits_refuses_new_ones_and_ends_the_thread() -> None:
    async def test() -> None:
        model = Model()
        batcher = make(model)
        tasks = await submit(batcher, 1)
        await model.next_batch()
        tasks += await submit(batcher, 2, 3, 4, 5)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="the server is stopping. Send it again"):
            await batcher.submit(6)
        assert not closing.done()
        for _ in range(3):
            model.let_go()
        await asyncio.wait_for(closing, PATIENCE_S)
        assert await results(tasks) == [2, 4, 6, 8, 10]
        await batcher.close()  # once more does no harm
        with pytest.raises(OverloadedError):
            await batcher.submit(7)

    run(test)


def test_close_waits_for_a_call_without_holding_up_the_loop() -> None:
    async def test() -> None:
        batcher = make(lambda items: items)
        gate = threading.Event()
        call = asyncio.create_task(batcher.call(lambda: gate.wait(PATIENCE_S)))
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(gate.set)  # never comes if the loop stands still
        assert await call
        await closing

    run(test)


def test_an_unused_batcher_has_no_thread() -> None:
    async def test() -> None:
        threads = threading.active_count()
        batcher = make(lambda items: items)
        assert threading.active_count() == threads
        await batcher.close()

    run(test)


# Anything, in any order


class Expected:
    """What a batcher should do, in plain words: a queue, a running batch, and an outcome for each item."""

    def __init__(self, max_batch_size: int, max_waiting: int) -> None:
        self.max_batch_size = max_batch_size
        self.max_waiting = max_waiting
        self.waiting: deque[tuple[int, float]] = deque()
        self.running: list[int] = []
        self.outcomes: dict[int, object] = {}

    def submit(self, item: int, until: float) -> None:
        if len(self.waiting) == self.max_waiting:
            self.outcomes[item] = OverloadedError
        else:
            self.waiting.append((item, until))

    def cancel(self, item: int) -> None:
        self.outcomes[item] = asyncio.CancelledError
        self.waiting = deque(each for each in self.waiting if each[0] != item)

    def finish(self) -> None:
        for item in self.running:
            self.outcomes.setdefault(item, 2 * item if item > 0 else (BadItem, item))
        self.running = []

    def start(self, now: float) -> None:
        while self.waiting and len(self.running) < self.max_batch_size:
            item, until = self.waiting.popleft()
            if until < now:
                self.outcomes[item] = DeadlineError
            else:
                self.running.append(item)


def outcome(task: asyncio.Task[Done[int]]) -> object:
    if task.cancelled():
        return asyncio.CancelledError
    error = task.exception()
    if error is None:
        return task.result().result
    return (BadItem, error.args[0]) if isinstance(error, BadItem) else type(error)


@contextmanager
def told(seed: int) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


@pytest.mark.parametrize("seed", range(4))
def test_2500_random_steps_have_the_outcomes_that_they_should(clock: SimpleNamespace, seed: int) -> None:
    draw = random.Random(seed)
    max_batch_size, max_waiting = draw.randint(1, 6), draw.randint(1, 12)

    async def test() -> None:
        model = Model()
        batcher = make(model, max_batch_size=max_batch_size, max_waiting=max_waiting, max_age_s=50)
        expected = Expected(max_batch_size, max_waiting)
        tasks: dict[int, asyncio.Task[Done[int]]] = {}

        async def settle() -> None:
            if not expected.running:
                expected.start(clock.now)
                if expected.running:
                    assert await model.next_batch() == expected.running
            assert model.started.empty()
            assert len(batcher) == len(expected.waiting)

        async def finish() -> None:
            between = asyncio.create_task(batcher.call(lambda: None))  # runs before the next batch
            await asyncio.sleep(0)
            model.let_go()
            await asyncio.wait_for(between, PATIENCE_S)
            expected.finish()
            await settle()
            for _ in range(3):
                await asyncio.sleep(0)

        for _ in range(2500):
            step = draw.random()
            clock.now += draw.choice([0, 0, 1, 5])
            undecided = [item for item in tasks if item not in expected.outcomes]
            if step < 0.5:
                for _ in range(draw.choice([1, 1, 1, 2, 5])):
                    item = (len(tasks) + 1) * draw.choice([1, 1, 1, 1, 1, -1])
                    age_s = draw.choice([None, None, 3.0, 30.0, 90.0])
                    expected.submit(item, clock.now + min(50.0, age_s or 50.0))
                    tasks[item] = asyncio.create_task(batcher.submit(item, max_age_s=age_s))
                await asyncio.sleep(0)
                await settle()
            elif step < 0.65 and undecided:
                item = draw.choice(undecided)
                tasks[item].cancel()
                await asyncio.sleep(0)
                await asyncio.wait([tasks[item]])
                expected.cancel(item)
                await settle()
            elif expected.running:
                await finish()
        while expected.running:
            await finish()
        await batcher.close()
        assert {item: outcome(task) for item, task in tasks.items()} == expected.outcomes
        kinds = {each if isinstance(each, type) else type(each) for each in expected.outcomes.values()}
        assert kinds == {int, tuple, DeadlineError, OverloadedError, asyncio.CancelledError}
        assert not model.overlapped
        assert len(model.threads) == 1

    with told(seed):
        run(test)
