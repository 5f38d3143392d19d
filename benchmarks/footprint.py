"""What a server holds at a moment: memory, descriptors, threads, and what lies in its folders."""

import contextlib
import os
from pathlib import Path

from load import family

GROUPS = {"fine_tuning": "cifar_lit.feedback.child", "decoders": "cifar_lit.inference.decode_worker"}
"""By name: a part of the command line of the server's children."""


def children(pid: int, group: str) -> list[int]:
    """Process ids of a group, the server's own children before theirs."""
    return [each for each in family(pid)[1:] if _group(each) == group]


def memory_mib(pid: int) -> dict[str, float]:
    """Proportional resident memory (PSS) of the server and of its children by group, MiB."""
    found = dict.fromkeys(("server", *GROUPS, "others"), 0.0)
    for each in family(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            kib = next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
            found["server" if each == pid else _group(each)] += kib / 1024
    return {f"{name}_mib": round(value, 1) for name, value in found.items()}


def cpu_s(pid: int) -> float:
    """Processor time of the server itself, its children's left out."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def handles(pid: int) -> dict[str, int]:
    """Open descriptors and threads of the server, and the number of its children."""
    return {
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
        "children": len(family(pid)) - 1,
    }


def contents(folder: Path, name: str) -> dict[str, int]:
    """Bytes and inodes below a folder; what goes while it is looked at counts or does not."""
    num_bytes = inodes = 0
    for where, folders, files in os.walk(folder):
        inodes += len(folders) + len(files)
        for file in files:
            with contextlib.suppress(OSError):
                num_bytes += os.lstat(os.path.join(where, file)).st_size
    return {f"{name}_bytes": num_bytes, f"{name}_inodes": inodes}


def _group(pid: int) -> str:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "others"
    return next((name for name, part in GROUPS.items() if part in line), "others")
