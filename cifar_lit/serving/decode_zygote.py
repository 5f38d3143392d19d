"""The server's side of the process that workers are forked from. What it does is in `decode_worker`."""

import asyncio
import os
import socket
import subprocess
import sys
import time

from cifar_lit.serving import decode_worker
from cifar_lit.serving.decode_worker import COMMAND

STILLBORN = "it ended at once"

_CLOSE_S = 2.0
_POLL_S = 0.005
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "PYTHONHOME")
"""The rest, secrets among it, is not the workers' business."""


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
