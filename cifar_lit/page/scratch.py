"""The folder where a server keeps all that is temporary: uploads, and the copies that Gradio makes of pictures.

    BASE/cifar_lit/<token>/   of one server, which holds it locked

A server that starts removes the folders of those that have ended, in whatever way. Deleting goes on beside it, and
nobody waits for it at the end either: what is not removed in time is left to the next one.
"""

import contextlib
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from gradio.utils import get_upload_folder

from cifar_lit.errors import SettingError
from cifar_lit.files import hold, try_lock

LIFETIME_S = 2 * 3600.0
"""Longer than uploads are kept: what is older has been forgotten."""
VARIABLE = "GRADIO_TEMP_DIR"

_OURS = "cifar_lit"
_SWEEP_S = 600.0
_END_S = 1.0


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Has Gradio keep files in a new folder of this server, swept by age as long as this lasts.

    Raises:
        SettingError: it can't be made.
    """
    base = Path(get_upload_folder()) / _OURS
    try:
        folder, lock = _own_folder(base)
    except OSError as error:
        raise SettingError(
            f"{error.filename} can't be written ({error.strerror}), where uploads are kept. Name another folder in "
            f"{VARIABLE}."
        ) from error
    before, before_here = os.environ.get(VARIABLE), tempfile.tempdir
    os.environ[VARIABLE] = tempfile.tempdir = str(folder)  # Python keeps large uploads there while they come
    ended = threading.Event()
    threading.Thread(target=_tidy, args=(base, folder, ended), name="scratch", daemon=True).start()
    try:
        yield folder
    finally:
        ended.set()
        os.environ.pop(VARIABLE)
        tempfile.tempdir = before_here
        if before is not None:
            os.environ[VARIABLE] = before
        removing = threading.Thread(target=shutil.rmtree, args=(folder, True), daemon=True)
        removing.start()
        removing.join(_END_S)
        os.close(lock)


def _own_folder(base: Path) -> tuple[Path, int]:
    """A new folder that is locked until the descriptor is closed, or the process ends."""
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    with hold(base, 30, SettingError):
        folder = base / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        lock = os.open(folder, os.O_RDONLY)
        if not try_lock(lock):
            raise SettingError(f"{folder} was locked by another process as it was made. Start the server again.")
        return folder, lock


def _tidy(base: Path, folder: Path, ended: threading.Event) -> None:
    while True:
        with contextlib.suppress(OSError):
            _remove_abandoned(base)
            _remove_older(folder, time.time() - LIFETIME_S)
        if ended.wait(_SWEEP_S):
            return


def _remove_abandoned(base: Path) -> None:
    """Removes the folders of servers that have ended."""
    for path in base.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            with hold(base, 30, SettingError):
                is_abandoned = try_lock(descriptor)  # nobody takes it up again: each server makes a new one
            if is_abandoned:
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)


def _remove_older(folder: Path, than: float) -> None:
    for path in folder.iterdir():
        if path.stat().st_mtime < than:
            shutil.rmtree(path, ignore_errors=True)
