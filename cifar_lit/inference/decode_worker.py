"""A process that decodes visitors' files: `python -m cifar_lit.inference.decode_worker SOCKET MEMORY_BYTES`.

It takes one file after the other from a stream socket, and ends with its parent. Knows nothing of asyncio or of HTTP.
"""

import contextlib
import io
import signal
import socket
import struct
import sys
from typing import get_args

from PIL import Image

from cifar_lit.data.images import decode
from cifar_lit.errors import Fault, ImageError
from cifar_lit.inference.sandbox import restrict

REQUEST = struct.Struct("<Q")
"""Before a file's bytes: how many there are."""
REPLY = struct.Struct("<BI")
"""Before a reply's bytes: its kind and how many there are."""
READY, DECODED, UNEXPECTED, REFUSED = range(4)
"""Kinds of reply: nothing, once; an image's pixels and its note; the description of an unexpected exception; and from
`REFUSED` on the message of an `ImageError`, one kind for each of `FAULTS`."""
FAULTS: tuple[Fault, ...] = get_args(Fault)
MAX_TEXT = 4_096

_RECEIVE_BYTES = 65_536
_NO_MEMORY = ("allocat", "out of memory", "memory limit", "not enough memory", "insufficient memory")
"""Words of the C libraries for a limit on memory that they met."""


def main(arguments: list[str]) -> None:
    # Whoever stops a whole group of processes stops the server's first, which still has accepted images to classify.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    memory_bytes = int(arguments[1])
    with socket.socket(fileno=int(arguments[0])) as connection, contextlib.suppress(ConnectionError):
        _warm_up()
        restrict(memory_bytes)
        _serve(connection, memory_bytes)


def _warm_up() -> None:
    """Decodes an image of each kind, so that what is loaded at first use is loaded before the limits are set."""
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"):
        buffer = io.BytesIO()
        Image.new("RGB", (64, 48)).save(buffer, kind)
        decode(buffer.getvalue()).network_pixels  # noqa: B018
    with contextlib.suppress(ImageError):
        decode(b"\0\0\0\x18ftypheic")


def _serve(connection: socket.socket, memory_bytes: int) -> None:
    connection.sendall(REPLY.pack(READY, 0))
    while (data := _receive(connection)) is not None:
        kind, reply = _reply(data, memory_bytes)
        connection.sendall(REPLY.pack(kind, len(reply)) + reply)


def _receive(connection: socket.socket) -> bytes | None:
    """The next file's bytes, or None if there will be no more."""
    come = connection.recv(_RECEIVE_BYTES)
    if len(come) < REQUEST.size:  # a worker has one file at a time: so few bytes are none
        return None
    (size,) = REQUEST.unpack_from(come)
    if len(come) == REQUEST.size + size:
        return come[REQUEST.size :]
    data = bytearray(size)
    filled = len(come) - REQUEST.size
    data[:filled] = come[REQUEST.size :]
    with memoryview(data) as view:
        while filled < size:
            received = connection.recv_into(view[filled:], 0, socket.MSG_WAITALL)
            if not received:
                return None
            filled += received
    return bytes(data)


def _reply(data: bytes, memory_bytes: int) -> tuple[int, bytes]:
    """Kind and bytes of the reply to a file."""
    try:
        decoded = decode(data)
        return DECODED, decoded.network_pixels.tobytes() + _cut(decoded.note)
    except Exception as error:
        if _is_out_of_memory(error):
            text = f"decoding the image takes more than {memory_bytes >> 20} MiB of memory. Make it smaller."
            return REFUSED + FAULTS.index("too_large"), text.encode()
        if isinstance(error, ImageError):
            return REFUSED + FAULTS.index(error.fault), _cut(str(error))
        return UNEXPECTED, _cut(f"{type(error).__name__}: {error}")


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether the limit on memory is behind an exception; the C libraries say it in words only."""
    while error is not None:
        if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


def _cut(text: str) -> bytes:
    return text.encode(errors="replace")[:MAX_TEXT]


if __name__ == "__main__":
    main(sys.argv[1:])
