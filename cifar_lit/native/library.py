"""Compiles this folder's C++ for the processor at hand, once, and loads it."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import torch  # its OpenMP threads are the ones the library runs on

from cifar_lit.files import write_synced

SWITCH = "CIFAR_LIT_NATIVE"
"""Set to 0 in the environment, PyTorch's own kernels are used."""

_NAMES = ("block", "training_backward", "training_forward", "warp")
_SOURCES = [Path(__file__).with_name(f"{name}.cpp") for name in _NAMES]
_HEADERS = [Path(__file__).with_name(name) for name in ("tiles.h", "training_step.h")]
_FLAGS = ["-std=c++17", "-O3", "-fopenmp", "-fPIC", "-fno-math-errno", "-fno-trapping-math"]
_FOR_MACHINE = {
    "x86_64": ["-march=native", "-mprefer-vector-width=512"],
    "aarch64": ["-mcpu=native"],
}
_COMPILE_SECONDS = 120


def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where there are none, and then `unavailable_reason` says why."""
    found = _find()
    return found if isinstance(found, ctypes.CDLL) else None


def unavailable_reason() -> str | None:
    """Why there are no compiled kernels, and how to get them; None if there are."""
    found = _find()
    return found if isinstance(found, str) else None


@functools.cache
def _find() -> ctypes.CDLL | str:
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    flags = _FOR_MACHINE.get(platform.machine())
    if platform.system() != "Linux" or flags is None:
        return f"they are not written for {platform.system()} on {platform.machine()}"
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "c++"))), None)
    if compiler is None:
        return "there is no C++ compiler; install g++"
    try:
        return _load([compiler, *_FLAGS, *flags])
    except (OSError, subprocess.SubprocessError) as error:
        told = str(getattr(error, "stderr", None) or error).strip() or type(error).__name__
        return f"{Path(compiler).name} could not make them: {told.splitlines()[0]}"


def _load(command: list[str]) -> ctypes.CDLL:
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True).stdout
    sources = [source.read_text() for source in (*_SOURCES, *_HEADERS)]
    parts = "\0".join([*sources, *command, version, _processor(), torch.__version__])
    name = f"kernels-{hashlib.sha256(parts.encode()).hexdigest()[:16]}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cifar_lit"
    kept = folder / name
    if _is_ours_alone(folder) and kept.is_file():
        with suppress(OSError):  # damaged: made again
            return ctypes.CDLL(str(kept))
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch, name)
        # Linked without its own OpenMP, it takes the one PyTorch has loaded: two sets of threads would be in each
        # other's way.
        objects = [str(Path(scratch, f"{source.stem}.o")) for source in _SOURCES]
        steps = [[*command, "-c", str(source), "-o", each] for source, each in zip(_SOURCES, objects, strict=True)]
        for step in (*steps, [command[0], "-shared", *objects, "-o", str(made)]):
            subprocess.run(step, capture_output=True, text=True, check=True, timeout=_COMPILE_SECONDS)
        loaded = ctypes.CDLL(str(made))
        with suppress(OSError):  # where it can't be kept, the next process makes it again
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not _is_ours_alone(folder):
                return loaded
            whole = folder / f".{name}.{os.getpid()}"  # several processes may be at it
            write_synced(whole, made.read_bytes())
            whole.replace(kept)
        return loaded


def _is_ours_alone(folder: Path) -> bool:
    """Whether nobody else can have put a library there for us to run."""
    try:
        status = folder.stat()
    except OSError:
        return False
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _processor() -> str:
    """What the processor can do: a home folder, and so the library in it, may be shared between machines."""
    wanted = ("model name", "flags", "Features", "CPU part")
    first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    return "\n".join(line for line in first.splitlines() if line.startswith(wanted))
