"""A `cifar-lit` command in a process of its own, which does not outlive this one. Knows nothing of what it is for.

The child's standard input is a pipe that nobody writes to. It ends when this process does, in whatever way, and then
the child kills its whole group. (A signal on the parent's death would come when the thread that began it ends.)
"""

import asyncio
import os
import runpy
import signal
import sys
import threading
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

_MOST_OUTPUT = 64 * 2**20
_LONGEST_LINE = 64 * 1024


@dataclass(frozen=True)
class Ended:
    """A command that ended by itself.

    Attributes:
        status: its exit status; negative, the number of the signal that ended it.
        output: what it wrote to standard output.
    """

    status: int
    output: bytes


async def run(
    args: Sequence[str], *, nice: int, on_line: Callable[[str], None], timeout_s: float | None = None
) -> Ended:
    """Runs `cifar-lit` with these arguments, in its own process group; cancelling this kills the group.

    Args:
        args: the command line after `cifar-lit`.
        nice: how far to stand back behind other processes, 0..19.
        on_line: gets each line of standard error as it is written.
        timeout_s: after which the command is killed.

    Raises:
        TimeoutError: the command took longer than `timeout_s`.
    """
    command = [sys.executable, "-m", __name__, str(nice), *args]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(timeout_s):
            output, _ = await asyncio.gather(process.stdout.read(_MOST_OUTPUT), _tell(process.stderr, on_line))
            return Ended(await process.wait(), output)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _tell(stream: asyncio.StreamReader, on_line: Callable[[str], None]) -> None:
    async for line in _lines(stream):
        on_line(line)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    rest = b""
    while chunk := await stream.read(_LONGEST_LINE):
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[-_LONGEST_LINE:]
        for line in lines:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


# In the child


def _main(nice: str, *args: str) -> None:
    leash = os.dup(sys.stdin.fileno())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.close(nothing)
    threading.Thread(target=_die_with, args=(leash,), daemon=True).start()
    os.nice(int(nice))
    sys.argv = ["cifar-lit", *args]
    runpy.run_module("cifar_lit.cli", run_name="__main__")


def _die_with(leash: int) -> None:
    while os.read(leash, 1):
        pass
    os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    _main(*sys.argv[1:])
