"""The server's side of a process that decodes, and the job that it has. What the process does is in `decode_worker`."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cifar_lit.cifar10 import IMAGE_SHAPE
from cifar_lit.errors import ImageError, OverloadedError
from cifar_lit.inference import decode_worker
from cifar_lit.inference.decode_worker import DECODED, FAULTS, READY, REFUSED, REPLY, REQUEST, UNEXPECTED

STILLBORN = "it ended at once"

_ADVICE = "Save it again as JPEG or PNG."
_NUM_VALUES = int(np.prod(IMAGE_SHAPE))
_MAX_REPLY = REPLY.size + _NUM_VALUES + decode_worker.MAX_TEXT
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "PYTHONHOME")
"""The rest, secrets among it, is not the workers' business."""

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
    image: "asyncio.Future[NetworkImage]"

    def fail(self, error: Exception) -> None:
        if not self.image.done():  # the caller may have left
            self.image.set_exception(error)


class Worker:
    """A worker process. It has a job from `take` until the reply, even if the caller has left.

    A socket and the loop's readers and writers, not a transport: they tell a worker that died over a file from one
    that died before it had read it.

    Args:
        memory_bytes: that decoding one file may take.
        timeout_s: for one job.
        on_free: called when it may have another job.
        on_lost: called once, with the job that it had been given and did not fail over.

    Raises:
        OSError: it can't be started.
    """

    def __init__(
        self,
        memory_bytes: int,
        timeout_s: float,
        on_free: Callable[[], None],
        on_lost: Callable[["Worker", Job | None], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.ready = self._loop.create_future()
        self.lost = asyncio.Event()
        self.used = False
        self.started_at = self._given_at = time.monotonic()
        self.job: Job | None = None
        self._timeout_s, self._on_free, self._on_lost = timeout_s, on_free, on_lost
        self._timer: asyncio.TimerHandle | None = None
        self._reply = bytearray(_MAX_REPLY)
        self._filled = 0
        self._unsent = memoryview(b"")
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        command = [sys.executable, "-P", "-m", decode_worker.__name__, str(theirs.fileno()), str(memory_bytes)]
        try:
            with theirs:
                self.process = subprocess.Popen(
                    command,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    env=_environment(),
                    start_new_session=True,  # Ctrl-C goes to the server's group
                )
        except OSError:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket, self._read)

    @property
    def pid(self) -> int:
        return self.process.pid

    def take(self, job: Job) -> None:
        """Gives it a job; it must have none."""
        self.job, self._given_at = job, time.monotonic()
        self._timer = self._loop.call_later(self._timeout_s, self._time_out)
        prefix = REQUEST.pack(len(job.data))
        try:
            sent = self._socket.sendmsg([prefix, job.data])
        except OSError:
            self._lose(blame=False)
            return
        # The send buffer was empty, so the prefix has gone.
        self._unsent = memoryview(job.data)[sent - len(prefix) :]
        if self._unsent:
            self._loop.add_writer(self._socket, self._write)

    @property
    def is_working(self) -> bool:
        """It has an image, and not only to show that it lives."""
        return self.job is not None and bool(self.job.data)

    def probe(self) -> None:
        """Has it show that it lives, unless it has a job: with an empty file, which it refuses at once."""
        if self.job is None and not self.lost.is_set():
            sign = self._loop.create_future()
            sign.add_done_callback(lambda done: done.exception())
            self.take(Job(b"", sign))

    def is_late(self, seconds: float) -> bool:
        """Whether it has had its job for so long."""
        return self.job is not None and time.monotonic() - self._given_at > seconds

    def leave(self) -> None:
        """Ends the process, whatever it is doing."""
        self.job = None
        self._lose()

    def _write(self) -> None:
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._lose(blame=False)
            return
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        try:
            with memoryview(self._reply) as view:
                received = self._socket.recv_into(view[self._filled :])
        except BlockingIOError:
            return
        except OSError:  # it ended with something unread
            self._lose(blame=False)
            return
        if not received:
            self._lose(blame=not self._unsent)
            return
        self._filled += received
        if self._filled < REPLY.size:
            return
        kind, size = REPLY.unpack_from(self._reply)
        if self._filled < REPLY.size + size <= _MAX_REPLY:
            return
        content, self._filled = self._reply[REPLY.size : self._filled], 0
        if kind == READY and not self.ready.done():
            self.ready.set_result(None)
        elif self.job is None or self._unsent or len(content) != size or not self._hear(self.job, kind, content):
            self._lose()  # no worker of ours replies so
            return
        self._on_free()

    def _hear(self, job: Job, kind: int, content: bytearray) -> bool:
        """Passes a reply on; says whether it is one."""
        try:
            if not job.image.done():  # the caller may have left
                _settle(job, kind, content)
        except (ValueError, IndexError):
            return False
        self.used = True
        self._forget()
        return True

    def _forget(self) -> None:
        self.job = None
        if self._timer is not None:
            self._timer.cancel()

    def _time_out(self) -> None:
        job, self.job = self.job, None
        assert job is not None
        self.used = True
        _log.warning("a decode worker took longer than %g s over %d bytes", self._timeout_s, len(job.data))
        text = f"decoding the image takes longer than {self._timeout_s:g} s. Make it smaller."
        job.fail(ImageError(text, "too_large"))
        self._lose()

    def _lose(self, blame: bool = True) -> None:
        """It is of no use any more.

        Args:
            blame: whether its job is the reason; else the worker had not read all of it.
        """
        if self.lost.is_set():
            return
        self.lost.set()
        job = self.job
        self._forget()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self.process.kill()
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(STILLBORN))
        if job is not None and blame:
            self.used = True
            _log.warning("a decode worker died over %d bytes", len(job.data))
            self._blaming = self._loop.create_task(self._blame(job))
            job = None
        self._on_lost(self, job)

    async def _blame(self, job: Job) -> None:
        """Tells a file that crashed the process from a process that was killed from outside."""
        status = await asyncio.to_thread(self.process.wait)
        if status == -signal.SIGKILL:
            job.fail(OverloadedError("the image's decoder was killed. Send it again."))
        else:
            job.fail(ImageError(f"the image can't be decoded (its decoder crashed). {_ADVICE}", "malformed"))


def _settle(job: Job, kind: int, content: bytearray) -> None:
    """Passes a reply on to the caller, who is still there."""
    if kind == DECODED:
        pixels = np.frombuffer(content, np.uint8, _NUM_VALUES).reshape(IMAGE_SHAPE)
        job.image.set_result(NetworkImage(pixels, content[_NUM_VALUES:].decode()))
    elif kind == UNEXPECTED:
        _log.warning("decoding %d bytes failed unexpectedly: %r", len(job.data), content.decode(errors="replace"))
        job.fail(ImageError(f"the image can't be decoded. {_ADVICE}", "malformed"))
    else:
        job.fail(ImageError(content.decode(errors="replace"), FAULTS[kind - REFUSED]))


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in _KEPT_ENVIRONMENT}
    path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    return kept | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": path}
