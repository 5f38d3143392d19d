"""What stands behind a page that teaches: corrections, audits of increments, and one fine-tuning at a time.

    FOLDER/corrections/           what `cifar_lit.data.corrections` keeps
    FOLDER/corrections/used/      those that a promoted version has learned, by its id
    FOLDER/uploads/               visitors' files and the reports about them, for an hour
    FOLDER/jobs/<time>/           a fine-tuning: its log.txt, and while it runs what it learns from
    FOLDER/learned/<sha256>.npz   increments that versions of earlier releases have learned, to be replayed

Visitors' files are opened by other processes alone. Knows nothing of pages and of HTTP.
"""

import asyncio
import json
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_lit.data import corrections
from cifar_lit.errors import DataError, SettingError
from cifar_lit.feedback import child
from cifar_lit.feedback.fine_tune_job import FineTuneJob, Job, Places, error_of, tidy
from cifar_lit.files import try_lock
from cifar_lit.registry.registry import Registry

UPLOAD_LIFETIME_S = 3600.0
LEARN_TIMEOUT_S = 2 * 3600.0

_CHECKS_TOO = ("--data.root", "--data.source", "--data.num_synthetic")
_LOGS_KEPT = 50
_OVERDUE = "It took longer than {minutes:,g} minutes and was ended. Give it fewer images to learn, or fewer epochs."


class BusyError(SettingError):
    """A fine-tuning runs already."""


@dataclass(frozen=True)
class Audit:
    """What was found about an increment.

    Attributes:
        text: all of it, in words; or why the file can't be read as an increment.
        ok: whether it can be learned from as it is.
        image: PNG of the most doubtful labels, kept for an hour; none if there are no doubts.
        as_json: what `cifar-lit increment check --json` prints; none if the file can't be read.
    """

    text: str
    ok: bool
    image: Path | None = None
    as_json: dict[str, Any] | None = None


class FineTuneService:
    """Collects corrections, audits increments and runs fine-tunings, in one event loop.

    Args:
        registry_root: folder of the versions.
        folder: where everything is kept; made when it is needed.
        options: of `cifar-lit finetune`, as on its command line: where the old images are, the gate's demands.
        nice: how far audits and fine-tunings stand back behind other processes, 0..19.
        check_timeout_s: for one audit.
        learn_timeout_s: for one fine-tuning; one that is being published is let go on.
    """

    def __init__(
        self,
        registry_root: Path,
        folder: Path,
        *,
        options: Sequence[str] = (),
        nice: int = 10,
        check_timeout_s: float = 120.0,
        learn_timeout_s: float = LEARN_TIMEOUT_S,
    ) -> None:
        if not 0 <= nice <= 19:
            raise SettingError(f"nice is {nice}, expected 0..19.")
        folder = folder.absolute()
        self.registry = Registry(registry_root.absolute())
        self.corrections, self.uploads = folder / "corrections", folder / "uploads"
        self._places = Places(self.corrections, folder / "jobs", folder / "learned")
        self._options = list(options)
        self._nice = nice
        self._check_timeout_s = check_timeout_s
        self._learn_timeout_s = learn_timeout_s
        self._one_check = asyncio.Semaphore()
        self._tuning: FineTuneJob | None = None
        self._task: asyncio.Task[None] | None = None

    # Corrections

    def correct(self, pixels: NDArray[np.uint8], label: str, *, said: str, version: str) -> int:
        """Adds a correction; gives how many images wait now.

        Args:
            pixels: uint8 (32, 32, 3), RGB: what the model saw.
            label: name of the class that it is.
            said: name of the class that the model took it for.
            version: that said so.

        Raises:
            DataError: it can't be added, as `corrections.add` says.
        """
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        corrections.add(self.corrections, pixels, label, said=said, version=version, time=now)
        return self.num_corrections

    @property
    def num_corrections(self) -> int:
        return corrections.count(self.corrections)

    # Audits

    def new_upload(self) -> Path:
        """Where to write a visitor's increment; `sweep` removes it."""
        self.uploads.mkdir(parents=True, exist_ok=True)
        return self.uploads / f"{os.getpid()}-{secrets.token_hex(8)}.npz"

    async def check(self, path: Path) -> Audit:
        """Audits an increment in another process. Cancelling it ends that process.

        Raises:
            DataError: it took too long, or the report can't be read.
        """
        report = self.new_upload().with_suffix("")
        lines: list[str] = []
        command = ["increment", "check", "--json", "--report", str(report), "--registry", str(self.registry.root)]
        command += [*self._options_of_checks(), "--", str(path.absolute())]
        async with self._one_check:
            try:
                ended = await child.run(command, nice=self._nice, on_line=lines.append, timeout_s=self._check_timeout_s)
            except TimeoutError:
                raise DataError(
                    f"the check took longer than {self._check_timeout_s:g} s and was ended. Try a smaller file."
                ) from None
        if ended.status not in (0, 1) or not ended.output:
            return Audit(
                _without(path, error_of(lines) or "The file could not be checked; it may be damaged."), ok=False
            )
        found = json.loads(_without(path, ended.output.decode()))
        text = _without(path, (report / "audit.txt").read_text())
        image = report / "doubts.png"
        return Audit(text, ended.status == 0, image if image.is_file() else None, found)

    def _options_of_checks(self) -> list[str]:
        found, options = [], iter(self._options)
        for option in options:
            name, given, value = option.partition("=")
            if name in _CHECKS_TOO:
                found += [name, value if given else next(options, "")]
        return found

    # Fine-tuning

    @property
    def job(self) -> Job | None:
        """The fine-tuning that runs, or the last one; none if there was none since this was made."""
        return self._tuning.job if self._tuning else None

    async def start(self, increment: Path | None = None) -> Job:
        """Begins to fine-tune the champion.

        Args:
            increment: what to learn, copied before this returns. Default: the corrections that wait.

        Raises:
            BusyError: a fine-tuning runs, here or in another server with the same folder.
            SettingError: there is nothing to learn.
            DataError: the folder can't be written.
        """
        job = self.job
        if job is not None and self._task is not None and not self._task.done():
            raise BusyError(f"A fine-tuning runs already ({job.stage}, {job.done:.0%}). Wait for it, or stop it.")
        if increment is None and not self.num_corrections:
            raise SettingError("There is no correction to learn from. Correct a prediction first.")
        if increment is not None and not increment.is_file():
            raise SettingError("The increment is not there any more. Upload it again.")
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
        try:
            lock = self._hold()
            try:
                self._sweep_jobs()
                tuning = FineTuneJob(name, self._places, self.registry, self._options, self._nice)
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            raise DataError(f"{error.filename} can't be written: {error.strerror}.") from error

        def end_overdue() -> None:
            if tuning.job.stage != "publishing":
                tuning.fail(_OVERDUE.format(minutes=self._learn_timeout_s / 60))
                task.cancel()

        def ended(_: asyncio.Task[None]) -> None:
            overdue.cancel()
            try:
                tuning.close()
            finally:
                os.close(lock)

        task = asyncio.create_task(tuning.run(increment))
        overdue = asyncio.get_running_loop().call_later(self._learn_timeout_s, end_overdue)
        task.add_done_callback(ended)
        self._tuning, self._task = tuning, task
        await tuning.taken.wait()
        return tuning.job

    async def undo(self, *, discard: bool) -> None:
        """Brings back the version that was served before the last fine-tuning.

        Args:
            discard: leave the corrections that it learned put away; else they wait again.

        Raises:
            CifarLitError: as `FineTuneJob.undo` says.
        """
        if self._tuning is None:
            raise SettingError("There is nothing to undo: no fine-tuning has ended since the server started.")
        await asyncio.to_thread(self._tuning.undo, discard=discard)

    async def wait(self) -> Job | None:
        """The last fine-tuning, when it has ended."""
        if self._task is not None:
            await asyncio.wait([self._task])
        return self.job

    async def stop(self) -> Job | None:
        """Ends the fine-tuning that runs, with no version made. One that is being published can't be stopped any more:
        then this waits for the version."""
        job = self.job
        if job is not None and job.stage != "publishing":
            self._cancel()
        return await self.wait()

    async def close(self) -> None:
        """Ends the fine-tuning that runs, whatever it does."""
        self._cancel()
        await self.wait()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _hold(self) -> int:
        """The lock of the folder's one fine-tuning: an open file."""
        self._places.jobs.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._places.jobs / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        if not try_lock(descriptor):
            os.close(descriptor)
            raise BusyError("Another server's fine-tuning runs already. Wait for it.")
        return descriptor

    # What is left over

    def sweep(self) -> None:
        """Removes what crashes and visitors left: to be called when a server starts, and now and then.

        Raises:
            DataError: the folder can't be written.
        """
        corrections.sweep(self.corrections)
        try:
            for path in self.uploads.iterdir() if self.uploads.is_dir() else ():
                with suppress(FileNotFoundError):  # its owner may remove it
                    if not _owner_lives(path) or time.time() - path.stat().st_mtime > UPLOAD_LIFETIME_S:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
            with suppress(BusyError):
                lock = self._hold()
                try:
                    self._sweep_jobs()
                finally:
                    os.close(lock)
        except OSError as error:
            raise DataError(f"{error.filename} can't be removed: {error.strerror}.") from error

    def _sweep_jobs(self) -> None:
        """To be called by who holds the lock."""
        folders = sorted(path for path in self._places.jobs.iterdir() if path.is_dir())
        for folder in folders:
            tidy(folder)
        for folder in folders[:-_LOGS_KEPT]:
            shutil.rmtree(folder)


def _owner_lives(path: Path) -> bool:
    """Whether the process that the name begins with is there; yes for other names."""
    number = path.name.partition("-")[0]
    if not number.isdigit():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _without(path: Path, text: str) -> str:
    """Visitors need not know where their file lies here."""
    return text.replace(str(path.absolute()), "the file")
