"""The processes that decode visitors' files: `python -m cifar_lit.serving.decode_worker SOCKET MEMORY_BYTES`.

This process imports the decoders once and is then forked for each worker, which takes milliseconds instead of the
seconds that importing takes. It never reads a visitor's bytes itself. Knows nothing of asyncio or of HTTP.
"""

import contextlib
import ctypes
import gc
import io
import os
import resource
import signal
import socket
import struct
import sys
from typing import get_args

from PIL import Image

from cifar_lit.data.images import decode
from cifar_lit.errors import Fault, ImageError

COMMAND = struct.Struct("<BQ")
"""What the server asks the first process for: `START` or `END`, and the worker's number. With `START` comes the
worker's end of a stream socket."""
START, END = 0, 1
REQUEST = struct.Struct("<Q")
"""Before a file's bytes: how many there are."""
ANSWER = struct.Struct("<BI")
"""Before an answer's bytes: its kind and how many there are."""
READY, PIXELS, UNEXPECTED, REFUSED = range(4)
"""Kinds of answer: the worker's process id in digits, once; a picture's pixels; the description of an unexpected
exception; and from `REFUSED` on the message of an `ImageError`, one kind for each of `FAULTS`."""
LAST = 0x80
"""Added to the kind if the worker ends after this answer."""
FAULTS: tuple[Fault, ...] = get_args(Fault)
MAX_TEXT = 4_096

_NUM_DESCRIPTORS = 16
_FILE_BYTES = 2**20
"""Not 0: what libjpeg says of a damaged picture is caught in a file in memory."""
_RECEIVE_BYTES = 65_536
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_NO_MEMORY = ("allocate memory", "bad_alloc", "Insufficient memory", "out of memory")
_HEIC = b"\0\0\0\x18ftypheic"


def main(arguments: list[str]) -> None:
    """Forks and ends workers as the server asks, until the server is gone."""
    # Whoever stops a whole group of processes stops the server's first, which still has accepted pictures to answer.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    control = socket.socket(fileno=int(arguments[0]))
    memory_bytes = int(arguments[1])
    _warm_up()
    gc.collect()
    gc.freeze()  # a collection in a worker would otherwise copy the pages that all share
    pids: dict[int, int] = {}
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, COMMAND.size, 1)
        if not message:
            break
        action, number = COMMAND.unpack(message)
        if action == START:
            pid = _fork()
            if pid == 0:
                control.close()
                _run(descriptors[0], memory_bytes)
            if pid > 0:
                pids[number] = pid
            os.close(descriptors[0])
        elif number in pids:
            _end(pids.pop(number))
    for pid in pids.values():
        _end(pid)


def _warm_up() -> None:
    """Decodes a picture of each kind, so that what is loaded at first use is loaded before the workers are forked."""
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"):
        buffer = io.BytesIO()
        Image.new("RGB", (64, 48)).save(buffer, kind)
        decode(buffer.getvalue()).network_pixels  # noqa: B018
    with contextlib.suppress(ImageError):
        decode(_HEIC)


def _fork() -> int:
    try:
        return os.fork()
    except OSError as error:
        # The server notices by the socket that is closed unused.
        print(f"a decode worker can't be forked: {error.strerror}", file=sys.stderr, flush=True)
        return -1


def _end(pid: int) -> None:
    # Only here are workers waited for, so the id can't have passed to another process.
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _run(descriptor: int, memory_bytes: int) -> None:
    """Is a worker; never returns."""
    status = 1
    try:
        _restrict(memory_bytes)
        with socket.socket(fileno=descriptor) as connection:
            _serve(connection, memory_bytes)
        status = 0
    except ConnectionError:  # the server has gone, or has given this worker up
        status = 0
    finally:
        os._exit(status)


def _restrict(memory_bytes: int) -> None:
    """Takes from this process what decoding does not need, and binds its life to its parent's."""
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_PDEATHSIG, signal.SIGKILL), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl failed")
    if os.getppid() != parent:
        raise ConnectionError("the parent ended before it could be watched")
    # If memory runs short all the same, the system shall end a worker and not the server.
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    # The decoders' libraries print to stderr what a visitor makes them print.
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    # Not RLIMIT_AS: it counts torch's mapped libraries, gigabytes that take no memory, and differs by version of torch.
    limits = {
        resource.RLIMIT_DATA: _data_bytes() + memory_bytes,
        resource.RLIMIT_NOFILE: _NUM_DESCRIPTORS,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_FSIZE: _FILE_BYTES,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))


def _data_bytes() -> int:
    """What RLIMIT_DATA counts of this process: its private writable memory."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData:"))


def _serve(connection: socket.socket, memory_bytes: int) -> None:
    files = _Files(connection)
    at_start = _data_bytes()
    connection.sendall(_frame(READY, str(os.getpid()).encode()))
    while (data := files.receive()) is not None:
        kind, answer = _answer(data, memory_bytes)
        del data
        # What the C libraries lost hold of on their way out of a broken file must not be missing to the next picture.
        if kind != PIXELS and _data_bytes() - at_start > memory_bytes // 8:
            connection.sendall(_frame(kind | LAST, answer))
            return
        connection.sendall(_frame(kind, answer))


class _Files:
    """The files that come through a socket; several small ones may come at once."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray(_RECEIVE_BYTES)
        self._begin = self._end = 0
        """Of what has come and was not asked for yet."""

    def receive(self) -> bytes | None:
        """The next file's bytes, or None if there will be no more."""
        while self._end - self._begin < REQUEST.size:
            rest = self._buffer[self._begin : self._end]
            self._buffer[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)
            with memoryview(self._buffer) as view:
                received = self._connection.recv_into(view[self._end :])
            if not received:
                return None
            self._end += received
        (size,) = REQUEST.unpack_from(self._buffer, self._begin)
        begin = self._begin + REQUEST.size
        come = self._buffer[begin : min(begin + size, self._end)]
        self._begin = begin + len(come)
        return bytes(come) if len(come) == size else self._rest(come, size)

    def _rest(self, come: bytearray, size: int) -> bytes | None:
        data = bytearray(size)
        filled = len(come)
        data[:filled] = come
        with memoryview(data) as view:
            while filled < size:
                received = self._connection.recv_into(view[filled:], 0, socket.MSG_WAITALL)
                if not received:
                    return None
                filled += received
        return bytes(data)


def _answer(data: bytes, memory_bytes: int) -> tuple[int, bytes]:
    """Kind and bytes of the answer to a file."""
    try:
        decoded = decode(data)
        return PIXELS, decoded.network_pixels.tobytes() + decoded.note.encode()
    except Exception as error:
        if _is_out_of_memory(error):
            text = f"decoding the picture takes more than {memory_bytes >> 20} MiB of memory. Make it smaller."
            return REFUSED + FAULTS.index("too_large"), text.encode()
        if isinstance(error, ImageError):
            return REFUSED + FAULTS.index(error.fault), _cut(str(error))
        return UNEXPECTED, _cut(f"{type(error).__name__}: {error}")


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether the limit on memory is behind an exception; torch and the C libraries say it in words only."""
    while error is not None:
        if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


def _cut(text: str) -> bytes:
    return text.encode(errors="replace")[:MAX_TEXT]


def _frame(kind: int, content: bytes) -> bytes:
    return ANSWER.pack(kind, len(content)) + content


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # torch takes its time to be unloaded, and complains
