"""What libjpeg says of a damaged JPEG that it decodes all the same.

It writes its first warning to standard error, and torchvision has no other way to learn of it. So while a JPEG is
decoded, standard error leads to a file in memory; what others wrote there meanwhile is passed on.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2
_LOCK = threading.Lock()
_WARNINGS = (b"Corrupt JPEG data: ", b"Inconsistent progression sequence", b"Invalid SOS parameters", b"Unknown Adobe")


@contextmanager
def collected() -> Iterator[list[str]]:
    """Gives a list that has libjpeg's warnings, a line each, when the block is left. One thread at a time is let in."""
    warnings: list[str] = []
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
            warnings += [line.decode(errors="replace").strip() for line in lines if line.startswith(_WARNINGS)]
            others = b"".join(line for line in lines if not line.startswith(_WARNINGS))
            if others and stderr is not None:
                os.write(_STDERR, others)
