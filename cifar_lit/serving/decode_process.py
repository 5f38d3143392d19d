"""The server's side of the processes that decode: the first, the workers forked from it, and their jobs.

What the processes do is in `decode_worker`; which worker gets which job is the decoder's to say.
"""

import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cifar_lit.cifar10 import IMAGE_SHAPE, IMAGE_SIZE
from cifar_lit.errors import ImageError
from cifar_lit.serving import decode_worker
from cifar_lit.serving.decode_worker import ANSWER, COMMAND, FAULTS, LAST, PIXELS, READY, REFUSED, REQUEST, UNEXPECTED

STILLBORN = "it ended at once"

_CLOSE_S = 2.0
_POLL_S = 0.005
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "PYTHONHOME")
"""The rest, secrets among it, is not the workers' business."""
_ADVICE = "Save it again as PNG or JPEG."

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class Job:
    data: bytes
    pixels: "asyncio.Future[NDArray[np.uint8]]"

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
        timeout_s: for one job.
        on_free: called when it can take a job; not for the first one.
        on_lost: called once, with the job that it had been given and had not read.
    """

    def __init__(
        self,
        zygote: "Zygote",
        number: int,
        timeout_s: float,
        on_free: Callable[["Worker"], None],
        on_lost: Callable[["Worker", Job | None], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.ready = self._loop.create_future()
        self.lost = asyncio.Event()
        self.pid = 0
        self.used = False
        self.started_at = time.monotonic()
        self.job: Job | None = None
        self._zygote, self._number, self._timeout_s = zygote, number, timeout_s
        self._on_free, self._on_lost = on_free, on_lost
        self._timer: asyncio.TimerHandle | None = None
        self._answer = bytearray(ANSWER.size + max(decode_worker.MAX_TEXT, IMAGE_SIZE * IMAGE_SIZE * 3))
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

    def take(self, job: Job) -> None:
        self.job = job
        self._timer = self._loop.call_later(self._timeout_s, self._time_out)
        prefix = REQUEST.pack(len(job.data))
        try:
            sent = self._socket.sendmsg([prefix, job.data])
        except OSError:
            self._lose(unread=job)
            return
        # The send buffer was empty, so the prefix has gone.
        self._unsent = memoryview(job.data)[sent - len(prefix) :]
        if self._unsent:
            self._loop.add_writer(self._socket, self._write)

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
            self._lose(unread=self.job)
            return
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        try:
            received = self._socket.recv_into(memoryview(self._answer)[self._filled :])
        except BlockingIOError:
            return
        except OSError:  # it ended with something unread
            self._lose(unread=self.job)
            return
        self._filled += received
        if not received:
            self._lose(unread=self.job if self._unsent else None)
        elif self._filled >= ANSWER.size:
            kind, size = ANSWER.unpack_from(self._answer)
            end = ANSWER.size + size
            if self._filled > min(end, len(self._answer) - 1) or self._unsent:
                self._lose()  # no worker of ours answers so
            elif self._filled == end:
                self._filled = 0
                self._hear(kind, self._answer[ANSWER.size : end])

    def _hear(self, kind: int, content: bytearray) -> None:
        if kind == READY and not self.ready.done():
            self.pid = int(content)
            self.ready.set_result(None)
            return
        job = self.job
        if job is None:
            self._lose()
            return
        try:
            if not job.pixels.done():  # the caller may have left
                _settle(job, kind & ~LAST, content)
        except (ValueError, IndexError):  # no worker of ours answers so
            self._lose()
            return
        self._stop_timer()
        self.job = None
        self.used = True
        if kind & LAST:
            self._lose()
        else:
            self._on_free(self)

    def _time_out(self) -> None:
        job, self.job = self.job, None
        self.used = True
        if job is not None:
            _log.warning("a decode worker took longer than %g s over %d bytes", self._timeout_s, len(job.data))
            text = f"decoding the picture takes longer than {self._timeout_s:g} s. Make it smaller."
            job.fail(ImageError(text, "too_large"))
        self._lose()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _lose(self, unread: Job | None = None) -> None:
        if self.lost.is_set():
            return
        self.lost.set()
        self._stop_timer()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._zygote.end_worker(self._number)
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(STILLBORN))
        job, self.job = self.job, None
        if job is not None and unread is None:
            self.used = True
            _log.warning("a decode worker died over %d bytes", len(job.data))
            job.fail(ImageError(f"the picture can't be decoded (its decoder crashed). {_ADVICE}", "malformed"))
        self._on_lost(self, unread)


def _settle(job: Job, kind: int, content: bytearray) -> None:
    """Passes an answer on to the caller, who is still there."""
    if kind == PIXELS:
        job.pixels.set_result(np.frombuffer(content, np.uint8).reshape(IMAGE_SHAPE))
    elif kind == UNEXPECTED:
        _log.warning("decoding %d bytes failed unexpectedly: %r", len(job.data), content.decode(errors="replace"))
        job.fail(ImageError(f"the picture can't be decoded. {_ADVICE}", "malformed"))
    else:
        job.fail(ImageError(content.decode(errors="replace"), FAULTS[kind - REFUSED]))


class Zygote:
    """The process that workers are forked from, and their parent: it has imported torch, which takes seconds."""

    def __init__(self, memory_bytes: int) -> None:
        # Packets, so that a command and the descriptor that belongs to it stay together.
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        module = [sys.executable, "-P", "-m", decode_worker.__name__]
        try:
            with theirs:
                self.process = subprocess.Popen(
                    [*module, str(theirs.fileno()), str(memory_bytes)],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    env=_environment(),
                    start_new_session=True,  # Ctrl-C goes to the server's group
                )
        except OSError:
            self._control.close()
            raise

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def start_worker(self, number: int, end: socket.socket) -> None:
        try:
            socket.send_fds(self._control, [COMMAND.pack(decode_worker.START, number)], [end.fileno()])
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ConnectionError(STILLBORN) from error

    def end_worker(self, number: int) -> None:
        try:
            self._control.send(COMMAND.pack(decode_worker.END, number))
        except OSError:  # it has gone, or hangs; its workers end with it
            self.process.kill()

    def leave(self) -> None:
        """Tells it to end, with what is left of its workers."""
        self._control.close()

    async def close(self) -> None:
        """Ends it and what is left of its workers."""
        self.leave()
        deadline = time.monotonic() + _CLOSE_S
        while self.is_alive():
            if time.monotonic() > deadline:
                self.process.kill()
            await asyncio.sleep(_POLL_S)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in _KEPT_ENVIRONMENT}
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
    path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    return kept | threads | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
