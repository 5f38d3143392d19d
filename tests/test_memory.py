"""What threads have freed, others take."""

import platform
import subprocess
import sys

import pytest

THREADS, MIB = 8, 40
NOT_GLIBC = platform.libc_ver()[0] != "glibc"
EACH_IN_TURN = f"""
import ctypes, sys, threading
from pathlib import Path
from cifar_lit import memory

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

def take_and_free():
    blocks = [libc.malloc(1 << 20) for _ in range({MIB})]
    for block in blocks:
        ctypes.memset(block, 1, 1 << 20)
    for block in blocks:
        libc.free(block)
    done.set()
    over.wait()

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for name in sys.argv[1:]:
    getattr(memory, name)()
before, over = resident_mib(), threading.Event()
for _ in range({THREADS}):
    done = threading.Event()
    threading.Thread(target=take_and_free).start()
    done.wait()
print(resident_mib() - before)
over.set()
"""


def kept_mib(*settings: str) -> int:
    """Of what each of some threads took and freed, one after the other; all of them live on."""
    command = [sys.executable, "-c", EACH_IN_TURN, *settings]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


@pytest.mark.skipif(NOT_GLIBC, reason="other C libraries have no such setting")
def test_what_one_thread_has_freed_is_taken_by_others() -> None:
    assert kept_mib("keep_freed_memory") > 4 * MIB, "the setting is not needed any more"
    assert kept_mib("keep_freed_memory", "share_freed_memory") < 3 * MIB


FREED = """
import ctypes, sys
from pathlib import Path
from cifar_lit.memory import keep_freed_memory

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
keep_freed_memory(*map(int, sys.argv[1:]))
before = resident_mib()
block = libc.malloc(20 << 20)
ctypes.memset(block, 1, 20 << 20)
libc.malloc(1 << 20)  # is held behind it
libc.free(block)
print(resident_mib() - before)
"""


@pytest.mark.skipif(NOT_GLIBC, reason="other C libraries have no such setting")
def test_blocks_that_are_too_large_are_given_back() -> None:
    def kept(*max_block_bytes: int) -> int:
        command = [sys.executable, "-c", FREED, *map(str, max_block_bytes)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)

    assert kept() >= 19
    assert kept(4 << 20) <= 2
