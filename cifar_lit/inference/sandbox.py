"""Takes from a process what decoding images does not need. Knows nothing of images.

Linux only. Not RLIMIT_NPROC alone: libde265 (HEIC) starts a thread, which that limit forbids to all but root.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct

_NUM_DESCRIPTORS = 16
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_CLONE_THREAD = 0x10000
_LOAD, _EQUAL, _AT_LEAST, _HAS_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
# Of each machine: its number; clone; clone3; fork, vfork, execve, execveat, socket, ptrace as far as it has them.
_MACHINES = {
    "x86_64": (0xC000003E, 56, 435, (57, 58, 59, 322, 41, 101)),
    "aarch64": (0xC00000B7, 220, 435, (221, 281, 198, 117)),
}


def restrict(memory_bytes: int) -> None:
    """Binds the life of this process to its parent's, and leaves it threads and so much more memory; no child, no
    program, no socket, no file of its own.

    Raises:
        OSError: the system does not do it.
        ConnectionError: the parent has ended.
    """
    parent = os.getppid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if os.getppid() != parent:
        raise ConnectionError("the parent ended before it could be watched")
    # If memory runs short all the same, the system shall end this process and not its parent.
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    # Libraries print to stderr what a visitor makes them print.
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    # Not RLIMIT_AS: it counts mapped libraries, which take no memory.
    limits = {
        resource.RLIMIT_DATA: _data_bytes() + memory_bytes,
        resource.RLIMIT_NOFILE: _NUM_DESCRIPTORS,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    if platform.machine() in _MACHINES:
        _filter_calls(*_MACHINES[platform.machine()])
    else:
        limits[resource.RLIMIT_NPROC] = 0
    for limit, most in limits.items():
        resource.setrlimit(limit, (most, most))


def _filter_calls(machine: int, clone: int, clone3: int, refused: tuple[int, ...]) -> None:
    """Has the kernel refuse calls; a BPF program looks at each. Without clone3, glibc takes clone to start a thread."""
    lines = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, machine), (_RETURN, 0, 0, _REFUSE), (_LOAD, 0, 0, 0)]
    lines += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _REFUSE)]  # other numbers of the same calls (x32)
    for number in refused:
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    lines += [(_EQUAL, 0, 1, clone3), (_RETURN, 0, 0, _UNKNOWN)]
    lines += [(_EQUAL, 0, 3, clone), (_LOAD, 0, 0, 16), (_HAS_BIT, 1, 0, _CLONE_THREAD), (_RETURN, 0, 0, _REFUSE)]
    lines += [(_RETURN, 0, 0, _ALLOW)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    header = ctypes.create_string_buffer(struct.pack("HP", len(lines), ctypes.addressof(program)))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(header))


def _prctl(option: int, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, *(ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0)[:4])):
        raise OSError(ctypes.get_errno(), f"prctl {option} failed")


def _data_bytes() -> int:
    """What RLIMIT_DATA counts of this process: its private writable memory."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData:"))
