"""What libjpeg says of a damaged JPEG that it decodes all the same.

It writes its first warning to standard error, and torchvision has no other way to learn of it. So while a JPEG is
decoded, standard error leads to a file in memory; what others wrote there meanwhile is passed on.
"""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2
_LOCK = threading.Lock()
_is_own = False
_WARNINGS = (b"Corrupt JPEG data: ", b"Inconsistent progression sequence", b"Invalid SOS parameters", b"Unknown Adobe")


def own_stderr() -> None:
    """Has standard error lead to a file in memory for good, in a process that has nothing to say there.

    It saves `collected` most of what it does. What others write is dropped.
    """
    global _is_own
    memory = os.memfd_create("stderr")
    fcntl.fcntl(memory, fcntl.F_SETFL, os.O_APPEND)
    os.dup2(memory, _STDERR)
    os.close(memory)
    _is_own = True


@contextmanager
def collected() -> Iterator[list[str]]:
    """Gives a list that has libjpeg's warnings, a line each, when the block is left. One thread at a time is let in."""
    warnings: list[str] = []
    if _is_own:
        if os.fstat(_STDERR).st_size:  # what others wrote; the file might be full of it
            os.ftruncate(_STDERR, 0)
        try:
            yield warnings
        finally:
            size = os.fstat(_STDERR).st_size
            warnings += _warnings_in(os.pread(_STDERR, size, 0).splitlines()) if size else []
        return
    with _LOCK:
        memory = os.memfd_create("warnings")
        try:
            stderr = os.dup(_STDERR)
        except OSError:  # a process may have been started without one
            stderr = None
        os.dup2(memory, _STDERR)
        try:
            yield warnings
        finally:
            if stderr is None:
                os.close(_STDERR)
            else:
                os.dup2(stderr, _STDERR)
                os.close(stderr)
            size = os.fstat(memory).st_size
            lines = os.pread(memory, size, 0).splitlines(keepends=True) if size else []
            os.close(memory)
            warnings += _warnings_in(lines)
            others = b"".join(line for line in lines if not line.startswith(_WARNINGS))
            if others and stderr is not None:
                os.write(_STDERR, others)


def _warnings_in(lines: list[bytes]) -> list[str]:
    return [line.decode(errors="replace").strip() for line in lines if line.startswith(_WARNINGS)]
