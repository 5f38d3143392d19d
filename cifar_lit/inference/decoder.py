"""Decodes visitors' files in worker processes, within limits: a hostile file costs its own request only.

Knows nothing of models or of HTTP. What the workers do is in `decode_worker`.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from cifar_lit.errors import ImageError, OverloadedError, SettingError
from cifar_lit.inference.decode_process import STILLBORN, Job, NetworkImage, Worker

_START_S = 60.0
"""Time for a worker to import its libraries, on a slow disk too."""
_RETRY_S = 1.0
_PROBE_S = 0.5
"""How often a worker without a job shows that it lives."""
_LATE_S = 1.0

_log = logging.getLogger(__name__)


class Decoder:
    """From the bytes of an image file to the pixels a network sees, in worker processes.

    All of them end with this process, however it ends.

    Args:
        workers: processes, each of which decodes one image at a time.
        spare: more processes, which take the place of those that are lost until there are new ones.
        timeout_s: time for one image, from the moment that a worker has it.
        memory_bytes: what decoding one image may take in a worker, besides the 50 MiB that it has at the start.
        on_lost: called whenever a worker was lost.

    Raises:
        SettingError: one of them is not positive.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        spare: int = 0,
        timeout_s: float = 5.0,
        memory_bytes: int = 1 << 30,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        for name, value in (("workers", workers), ("timeout_s", timeout_s), ("memory_bytes", memory_bytes)):
            if value <= 0:
                raise SettingError(f"the decoder's {name} is {value}, expected more than 0.")
        self._num_workers = workers
        self._num_spare = spare
        self._tell_lost = on_lost
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._workers: list[Worker] = []
        self._waiting: deque[Job] = deque()
        self._keepers: list[asyncio.Task[None]] = []
        self._running = False

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are there."""
        return [worker.pid for worker in self._workers]

    def check(self) -> None:
        """Tells whether images can be decoded now.

        Raises:
            OverloadedError: no worker is alive, or all of them have not replied for a second.
        """
        if all(worker.is_late(_LATE_S) for worker in self._workers):
            raise OverloadedError("no decoder of images replies now. Send it again a little later.")

    async def start(self) -> None:
        """Starts the worker processes and returns when they are ready.

        Raises:
            OSError: they can't be started; what they had to say is on stderr.
        """
        try:
            number = self._num_workers + self._num_spare
            launched = await asyncio.gather(*(self._launch() for _ in range(number)), return_exceptions=True)
            for worker in launched:
                if isinstance(worker, BaseException):
                    raise worker
                self._keepers.append(asyncio.create_task(self._keep(worker)))
            self._running = True
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the worker processes; whoever still waits for an image gets a RuntimeError."""
        self._running = False
        keepers, self._keepers = self._keepers, []
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        workers, self._workers = self._workers, []
        for job in (*(worker.job for worker in workers if worker.job is not None), *self._waiting):
            job.fail(RuntimeError("the decoder was closed before the image was decoded"))
        self._waiting.clear()
        for worker in workers:
            await _end(worker)

    async def decode(self, data: bytes) -> NetworkImage:
        """Decodes an image file, as soon as a worker has no other.

        Returns:
            The image; its pixels are the caller's own.

        Raises:
            ImageError: it is no image that is accepted, takes too much time or memory, or crashed its worker.
            RuntimeError: the decoder is not running.
        """
        if not self._running:
            raise RuntimeError("the decoder is not running")
        if len(data) > self._memory_bytes // 4:  # a worker holds it twice
            raise ImageError(f"the file has {len(data):,} bytes, which is too many to decode.", "too_large")
        job = Job(data, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._hand_out()
        try:
            return await job.image
        except asyncio.CancelledError:
            with suppress(ValueError):
                self._waiting.remove(job)
            raise

    def _hand_out(self) -> None:
        while self._waiting:
            worker = next((worker for worker in self._workers if worker.job is None), None)
            if worker is None or sum(each.is_working for each in self._workers) >= self._num_workers:
                return
            job = self._waiting.popleft()
            if not job.image.done():  # the caller may have left
                worker.take(job)

    def _on_lost(self, worker: Worker, job: Job | None) -> None:
        if worker in self._workers:
            self._workers.remove(worker)
        if job is not None:
            self._waiting.appendleft(job)
            self._hand_out()

    async def _launch(self) -> Worker:
        """A new worker, ready.

        Raises:
            OSError: it did not come to life.
        """
        worker = Worker(self._memory_bytes, self._timeout_s, self._hand_out, self._on_lost)
        try:
            async with asyncio.timeout(_START_S):
                await worker.ready
        except BaseException as error:
            await _end(worker)
            if isinstance(error, TimeoutError):
                raise TimeoutError(f"nothing was heard of it for {_START_S:g} s") from None
            raise
        if worker.lost.is_set():
            await _end(worker)
            raise ConnectionError(STILLBORN)
        self._workers.append(worker)
        self._hand_out()
        return worker

    async def _keep(self, worker: Worker) -> None:
        """Replaces a worker whenever it is lost."""
        while True:
            while not worker.lost.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PROBE_S):
                        await worker.lost.wait()
                worker.probe()
            self._tell_lost()
            await _end(worker)
            idle_death = not worker.used and time.monotonic() - worker.started_at < _RETRY_S
            failure = STILLBORN if idle_death else None
            while True:
                if failure:
                    _log.error("a decode worker can't be kept alive (%s); the next try is in %g s", failure, _RETRY_S)
                    await asyncio.sleep(_RETRY_S)
                try:
                    worker = await self._launch()
                    break
                except OSError as error:
                    failure = str(error)


async def _end(worker: Worker) -> None:
    """Ends a worker process for good."""
    worker.leave()
    await asyncio.to_thread(worker.process.wait)
