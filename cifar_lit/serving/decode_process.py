"""The server's side of a process that decodes, and the jobs that it has.

What the process does is in `decode_worker`; which worker gets which job is the decoder's to say.
"""

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cifar_lit.cifar10 import IMAGE_SHAPE, IMAGE_SIZE
from cifar_lit.errors import ImageError
from cifar_lit.serving import decode_worker
from cifar_lit.serving.decode_worker import ANSWER, FAULTS, LAST, PIXELS, READY, REFUSED, REQUEST, UNEXPECTED
from cifar_lit.serving.decode_zygote import STILLBORN, Zygote

_MAX_AHEAD, _AHEAD_BYTES = 8, 16_384
"""So many files, and bytes of them, may be with a worker at once: it need not sleep between two small pictures."""
_SLOW_S = 0.02
"""After so long a worker's picture is no small one, whatever its bytes: those behind it need not wait for it."""
_ADVICE = "Save it again as PNG or JPEG."
_NUM_VALUES = IMAGE_SIZE * IMAGE_SIZE * 3
_MAX_CONTENT = _NUM_VALUES + decode_worker.MAX_TEXT

_log = logging.getLogger(__name__)


class NetworkImage(NamedTuple):
    """An image as a network sees it.

    Attributes:
        pixels: uint8 (32, 32, 3), RGB, 0..255.
        note: what of the file was not looked at; empty if nothing was left.
    """

    pixels: NDArray[np.uint8]
    note: str


@dataclass(eq=False, slots=True)
class Job:
    data: bytes
    pixels: "asyncio.Future[NetworkImage]"
    suspected: bool = False
    """A worker died that had it and others, perhaps over it: it is tried once more, alone."""

    def fail(self, error: Exception) -> None:
        if not self.pixels.done():  # the caller may have left
            self.pixels.set_exception(error)


class Worker:
    """This side of a worker process. It has a job from `take` until the answer, even if the caller has left.

    A socket and the loop's readers and writers, not a transport: they tell a worker that died over a file from one
    that died before it had read it.

    Args:
        zygote: forks it and ends it.
        number: names it to the zygote.
        timeout_s: for one job, from the moment that no other is before it.
        on_answer: called when it may have room for another job.
        on_slow: called now and then while a job takes long.
        on_lost: called once, with the jobs that it had been given and did not fail over.
    """

    def __init__(
        self,
        zygote: Zygote,
        number: int,
        timeout_s: float,
        on_answer: Callable[[], None],
        on_slow: Callable[["Worker"], None],
        on_lost: Callable[["Worker", list[Job]], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.ready = self._loop.create_future()
        self.lost = asyncio.Event()
        self.pid = 0
        self.used = False
        self.started_at = time.monotonic()
        self.jobs: deque[Job] = deque()
        self._zygote, self._number, self._timeout_s = zygote, number, timeout_s
        self._on_answer, self._on_slow, self._on_lost = on_answer, on_slow, on_lost
        self._timer: asyncio.TimerHandle | None = None
        self._since = 0.0
        self._slow = False
        self._answers = bytearray(_MAX_AHEAD * (ANSWER.size + _MAX_CONTENT))
        self._filled = 0
        self._unsent = memoryview(b"")
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        with theirs:
            try:
                zygote.start_worker(number, theirs)
            except OSError:
                self._socket.close()
                raise
        self._loop.add_reader(self._socket, self._read)

    def has_room(self, job: Job) -> bool:
        """Whether it can take a job: it has none, or a few small ones before a small one. A suspect stays alone."""
        if not self.jobs:
            return True
        return (
            len(self.jobs) < _MAX_AHEAD
            and not self._slow
            and not (job.suspected or self.jobs[0].suspected)
            and sum(len(each.data) for each in self.jobs) + len(job.data) <= _AHEAD_BYTES
        )

    def take(self, job: Job) -> None:
        """Gives it a job, for which it has room."""
        self.jobs.append(job)
        if len(self.jobs) == 1:
            self._begin()
        prefix = REQUEST.pack(len(job.data))
        try:
            sent = self._socket.sendmsg([prefix, job.data])
        except OSError:
            self._lose(blame=None)
            return
        # The send buffer was empty, or held little, so the prefix has gone.
        self._unsent = memoryview(job.data)[sent - len(prefix) :]
        if self._unsent:
            self._loop.add_writer(self._socket, self._write)

    def give_back(self) -> list[Job]:
        """The jobs behind its first one. It does not know, and will answer them to nobody."""
        followers = [self.jobs.pop() for _ in range(len(self.jobs) - 1)][::-1]
        for job in followers:
            nobody = self._loop.create_future()
            nobody.cancel()
            self.jobs.append(Job(job.data, nobody))
        return [job for job in followers if not job.pixels.done()]

    def leave(self) -> None:
        """Ends the process, whatever it is doing."""
        self.jobs.clear()
        self._lose()

    def _begin(self) -> None:
        """Its first job is another."""
        self._since = self._loop.time()
        self._slow = False
        if self._timer is None:  # one goes on over many jobs: it costs as much as the rest of taking one
            self._timer = self._loop.call_later(min(_SLOW_S, self._timeout_s), self._watch)

    def _watch(self) -> None:
        self._timer = None
        if not self.jobs:
            return
        late = self._loop.time() - self._since
        if late >= self._timeout_s:
            self._time_out()
            return
        self._slow = late >= _SLOW_S
        self._timer = self._loop.call_later(min(_SLOW_S, self._timeout_s - late), self._watch)
        if self._slow and len(self.jobs) > 1:
            self._on_slow(self)

    def _write(self) -> None:
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._lose(blame=None)
            return
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        try:
            with memoryview(self._answers) as view:
                received = self._socket.recv_into(view[self._filled :])
        except BlockingIOError:
            return
        except OSError:  # it ended with something unread
            self._lose(blame=None)
            return
        if not received:
            self._lose(blame=None if self._unsent else True)
            return
        self._filled += received
        begin = 0
        while self._filled - begin >= ANSWER.size:
            kind, size = ANSWER.unpack_from(self._answers, begin)
            end = begin + ANSWER.size + size
            if size > _MAX_CONTENT or self._unsent:
                self._lose()  # no worker of ours answers so
                return
            if end > self._filled:
                break
            self._hear(kind, self._answers[begin + ANSWER.size : end])
            if self.lost.is_set():
                return
            begin = end
        rest = self._answers[begin : self._filled]
        self._answers[: len(rest)] = rest
        self._filled = len(rest)
        self._on_answer()

    def _hear(self, kind: int, content: bytearray) -> None:
        if kind == READY and not self.ready.done():
            self.pid = int(content)
            self.ready.set_result(None)
            return
        if not self.jobs:
            self._lose()
            return
        job = self.jobs[0]
        try:
            if not job.pixels.done():  # the caller may have left
                _settle(job, kind & ~LAST, content)
        except (ValueError, IndexError):  # no worker of ours answers so
            self._lose()
            return
        self.used = True
        self.jobs.popleft()
        if kind & LAST:
            self._lose(blame=False)
        elif self.jobs:
            self._begin()

    def _time_out(self) -> None:
        job = self.jobs.popleft()
        self.used = True
        _log.warning("a decode worker took longer than %g s over %d bytes", self._timeout_s, len(job.data))
        text = f"decoding the picture takes longer than {self._timeout_s:g} s. Make it smaller."
        job.fail(ImageError(text, "too_large"))
        self._lose(blame=False)

    def _lose(self, blame: bool | None = True) -> None:
        """It is of no use any more.

        Args:
            blame: whether its first job is the reason; None if the worker did not read all that it had been given, so
                not its only job, and perhaps not the first of several.
        """
        if self.lost.is_set():
            return
        self.lost.set()
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._zygote.end_worker(self._number)
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(STILLBORN))
        jobs = list(self.jobs)
        self.jobs.clear()
        if jobs and blame:
            job = jobs.pop(0)
            self.used = True
            _log.warning("a decode worker died over %d bytes", len(job.data))
            job.fail(ImageError(f"the picture can't be decoded (its decoder crashed). {_ADVICE}", "malformed"))
        elif blame is None and len(jobs) > 1:
            jobs[0].suspected = True
        self._on_lost(self, jobs)


def _settle(job: Job, kind: int, content: bytearray) -> None:
    """Passes an answer on to the caller, who is still there."""
    if kind == PIXELS:
        pixels = np.frombuffer(content, np.uint8, _NUM_VALUES).reshape(IMAGE_SHAPE)
        job.pixels.set_result(NetworkImage(pixels, content[_NUM_VALUES:].decode()))
    elif kind == UNEXPECTED:
        _log.warning("decoding %d bytes failed unexpectedly: %r", len(job.data), content.decode(errors="replace"))
        job.fail(ImageError(f"the picture can't be decoded. {_ADVICE}", "malformed"))
    else:
        job.fail(ImageError(content.decode(errors="replace"), FAULTS[kind - REFUSED]))
