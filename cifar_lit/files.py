"""Writing files so that a crash at any moment leaves the old state or the new one, and a lock between processes."""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cifar_lit.errors import CifarLitError, RegistryError

_POLL_S = 0.05


def read_file(path: Path, max_bytes: int) -> bytes:
    """The content of a file of reasonable size; what is no file is not waited for.

    Raises:
        OSError: it is missing, unreadable, no file, or too large.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would be waited for without end
    except ValueError as error:  # no name that a file can have
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no file", str(path))
        if status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"{status.st_size:,} bytes, at most {max_bytes:,} are read", str(path))
        return file.read(max_bytes)


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, data: bytes) -> None:
    """Writes a new file and makes its content durable."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_tree(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files, by their paths inside `folder`, and makes content and names durable."""
    folders = {folder}
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        folders.add(path.parent)
        write_synced(path, data)
    for each in sorted(folders, reverse=True):
        sync_folder(each)


def replace_synced(path: Path, data: bytes) -> None:
    """Replaces a file in one step: a reader sees the old content or the new."""
    try:
        write_synced(temporary(path), data)
        os.replace(temporary(path), path)
    except OSError:
        with suppress(OSError):
            temporary(path).unlink()
        raise
    sync_folder(path.parent)


def temporary(path: Path) -> Path:
    """Where `replace_synced` writes first."""
    return path.with_name(f".{path.name}.tmp")


def append_line(path: Path, line: bytes) -> None:
    """Appends a line and makes it durable; a failure leaves the file as it was.

    A torn line that a crash left behind is closed first, not continued.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + line + b"\n"
        try:
            while data:  # a full disk shortens a write before it fails one
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


@contextmanager
def hold(path: Path, timeout_s: float, error: type[CifarLitError] = RegistryError) -> Iterator[None]:
    """Holds an exclusive lock on a file or folder; the system frees it when the process ends, however it ends.

    Raises:
        CifarLitError: another process held it for longer than `timeout_s`; it is an `error`.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o644)
    try:
        deadline = time.monotonic() + timeout_s
        while not try_lock(descriptor):
            if time.monotonic() > deadline:
                raise error(
                    f"{path}: another process has held the lock for {timeout_s:g} s. Wait for it to finish, or end it "
                    "(`fuser` on that file names it), and try again."
                )
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Takes an exclusive lock on an open file or folder if nobody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
