"""Decodes visitors' files in worker processes, within limits: a hostile file costs its own request only.

Knows nothing of models or of HTTP. What the workers do is in `decode_worker`.
"""

import asyncio
import itertools
import logging
import time
from collections import deque
from contextlib import suppress

from cifar_lit.errors import ImageError, SettingError
from cifar_lit.serving.decode_process import Job, NetworkImage, Worker
from cifar_lit.serving.decode_zygote import STILLBORN, Zygote

_START_S = 60.0
"""Time for the first process to import torch, on a slow disk too."""
_RETRY_S = 1.0

_log = logging.getLogger(__name__)


class Decoder:
    """From the bytes of an image file to the pixels a network sees, in worker processes.

    One more process stays beside the workers: the one they are forked from. All end with this process, however it ends.

    Args:
        workers: processes, each of which decodes one picture at a time; small ones may queue before it.
        timeout_s: time for one picture, from the moment that no other is before it in its worker.
        memory_bytes: what decoding one picture may take. 16 megapixels of 16-bit RGBA were measured to need 800 MiB.

    Raises:
        SettingError: one of them is not positive.
    """

    def __init__(self, *, workers: int = 2, timeout_s: float = 5.0, memory_bytes: int = 1 << 30) -> None:
        for name, value in (("workers", workers), ("timeout_s", timeout_s), ("memory_bytes", memory_bytes)):
            if value <= 0:
                raise SettingError(f"the decoder's {name} is {value}, expected more than 0.")
        self._num_workers = workers
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._zygote: Zygote | None = None
        self._numbers = itertools.count()
        self._workers: list[Worker] = []
        self._waiting: deque[Job] = deque()
        self._keepers: list[asyncio.Task[None]] = []
        self._running = False

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are there."""
        return [worker.pid for worker in self._workers]

    async def start(self) -> None:
        """Starts the worker processes and returns when they are ready.

        Raises:
            OSError: they can't be started; what they had to say is on stderr.
        """
        try:
            for _ in range(self._num_workers):
                worker = await self._launch()
                self._keepers.append(asyncio.create_task(self._keep(worker)))
            self._running = True
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the worker processes; whoever still waits for a picture gets a RuntimeError."""
        self._running = False
        keepers, self._keepers = self._keepers, []
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        jobs = [*(job for worker in self._workers for job in worker.jobs), *self._waiting]
        self._waiting.clear()
        for job in jobs:
            job.fail(RuntimeError("the decoder was closed before the picture was decoded"))
        for worker in self._workers[:]:
            worker.leave()
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            await zygote.close()

    async def decode(self, data: bytes) -> NetworkImage:
        """Decodes an image file, as soon as a worker has room for it.

        Returns:
            The image; its pixels are the caller's own.

        Raises:
            ImageError: it is no picture that is accepted, takes too much time or memory, or crashed its worker.
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
            return await job.pixels
        except asyncio.CancelledError:
            with suppress(ValueError):
                self._waiting.remove(job)
            raise

    def _hand_out(self) -> None:
        while self._waiting:
            job = self._waiting[0]
            if job.pixels.done():  # the caller has left
                self._waiting.popleft()
                continue
            # The first that can: one that is awake costs less than one that has to be woken.
            worker = next((worker for worker in self._workers if worker.has_room(job)), None)
            if worker is None:
                return
            self._waiting.popleft()
            worker.take(job)

    def _on_slow(self, worker: "Worker") -> None:
        if len(self._workers) > 1:
            self._hand_out_again(worker.give_back())

    def _on_lost(self, worker: "Worker", jobs: "list[Job]") -> None:
        if worker in self._workers:
            self._workers.remove(worker)
        self._hand_out_again(jobs)

    def _hand_out_again(self, jobs: "list[Job]") -> None:
        self._waiting.extendleft(reversed(jobs))
        self._hand_out()

    async def _launch(self) -> "Worker":
        """A new worker, ready.

        Raises:
            OSError: it did not come to life.
        """
        if self._zygote is not None and not self._zygote.is_alive():
            self._zygote.leave()
            self._zygote = None
        if self._zygote is None:
            self._zygote = Zygote(self._memory_bytes)
        worker = Worker(
            self._zygote, next(self._numbers), self._timeout_s, self._hand_out, self._on_slow, self._on_lost
        )
        try:
            async with asyncio.timeout(_START_S):
                await worker.ready
        except TimeoutError:
            self._zygote.process.kill()
            worker.leave()
            raise TimeoutError(f"nothing was heard of it for {_START_S:g} s") from None
        except BaseException:
            worker.leave()
            raise
        if worker.lost.is_set():
            raise ConnectionError(STILLBORN)
        self._workers.append(worker)
        self._hand_out()
        return worker

    async def _keep(self, worker: "Worker") -> None:
        """Replaces a worker whenever it is lost."""
        while True:
            await worker.lost.wait()
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
