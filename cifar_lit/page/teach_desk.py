"""What somebody who is signed in can have done on the *Teach* tab. Knows nothing of components and of who may."""

import asyncio
import secrets
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data import corrections
from cifar_lit.errors import CifarLitError, DataError, InputError
from cifar_lit.feedback.fine_tune_job import Job
from cifar_lit.feedback.fine_tune_service import Audit, FineTuneService
from cifar_lit.inference.service import ServedPrediction, Service
from cifar_lit.page.uploads import do_for_each, read_picture, upload_name, uploaded_path

MAX_INCREMENT_BYTES = 200 * 1024 * 1024

Served = Literal["", "soon", "now", "no more", "refused"]


@dataclass(frozen=True, eq=False)  # Gradio asks for the hash of a state
class Increment:
    """A visitor's increment.

    Attributes:
        name: as the visitor calls it.
        path: where the service keeps it for an hour.
        audit: what was found about it.
    """

    name: str
    path: Path
    audit: Audit

    @property
    def readable(self) -> bool:
        return self.audit.as_json is not None


@dataclass(frozen=True)
class View:
    """How learning stands.

    Attributes:
        job: that runs, or the last one.
        waiting: corrections.
        served: whether the version that the job made answers visitors; empty if it was not promoted.
    """

    job: Job | None
    waiting: int
    served: Served

    @property
    def running(self) -> bool:
        return self.job is not None and self.job.state == "running"

    @property
    def can_undo(self) -> bool:
        """Whether the version that the job made is the champion."""
        return self.served in ("now", "soon", "refused")

    @property
    def changing(self) -> bool:
        """Whether there will soon be something new to see."""
        return self.running or self.served == "soon"


class Desk:
    """What the tab's events call, on the server's event loop.

    Args:
        service: answers pictures.
        fine_tuning: keeps corrections, checks increments and fine-tunes.
    """

    def __init__(self, service: Service, fine_tuning: FineTuneService) -> None:
        self.fine_tuning = fine_tuning
        self._service = service

    async def look(self, upload: Any) -> ServedPrediction:
        """What the champion says of a picture.

        Raises:
            ImageError, InputError, OverloadedError, DeadlineError: it can't.
        """
        return await self._service.predict(await read_picture(upload))

    async def correct(self, answer: ServedPrediction, label: str) -> int:
        """Adds a correction of an answer; gives how many wait now.

        Raises:
            DataError: it can't be added.
        """
        said = answer.prediction
        if tuple(said.probabilities) != CLASS_NAMES:
            raise DataError(
                f"{said.version} tells other classes apart than CIFAR-10's, which alone can be corrected here. Give it "
                "an increment."
            )
        return await asyncio.to_thread(
            self.fine_tuning.correct, answer.pixels, label, said=said.prediction, version=said.version
        )

    async def add_all(self, uploads: Iterable[Any], label: str) -> list[tuple[str, ServedPrediction | str]]:
        """Adds pictures of one class.

        Returns:
            Of each picture its name, and what the champion said of it or, if it was not added, why.

        Raises:
            InputError: there are too many.
        """

        async def add(upload: Any) -> ServedPrediction:
            answer = await self.look(upload)
            await self.correct(answer, label)
            return answer

        return await do_for_each(uploads, add)

    async def take(self, upload: Any) -> Increment:
        """Keeps an increment, and has it audited. The file is not opened here.

        Raises:
            InputError: it is too large, or no upload.
            DataError: it can't be kept, or the audit took too long.
        """
        path = await asyncio.to_thread(self._keep, upload)
        try:
            found = Increment(upload_name(upload), path, await self.fine_tuning.check(path))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if not found.readable:
            path.unlink(missing_ok=True)
        return found

    def forget(self, increment: Increment | None) -> None:
        if increment is not None:
            increment.path.unlink(missing_ok=True)

    async def put_away(self) -> None:
        """Takes the corrections that wait out of the way, into `dropped/` beside them, where they can be looked at.

        Raises:
            DataError: a fine-tuning learns from them, or they can't be moved.
        """
        job = self.fine_tuning.job
        if job is not None and job.state == "running":
            raise DataError("A fine-tuning runs. Wait for it, or stop it.")
        await asyncio.to_thread(self._put_away)

    def view(self) -> View:
        """Reads files: to be called from a thread."""
        job = self.fine_tuning.job
        return View(job, self.fine_tuning.num_corrections, self._served(job))

    def _served(self, job: Job | None) -> Served:
        if job is None or job.state != "promoted":
            return ""
        champion = self._service.champion
        try:
            if champion.serving.predictor.version == job.version:
                return "now"
        except CifarLitError:
            pass  # nothing is served yet
        if champion.refusal is not None and champion.refusal.version == job.version:
            return "refused"
        return "soon" if self.fine_tuning.registry.pointer() == job.version else "no more"

    def _keep(self, upload: Any) -> Path:
        source = uploaded_path(upload)
        size = source.stat().st_size
        if size > MAX_INCREMENT_BYTES:
            raise InputError(f"it has {size:,} bytes, at most {MAX_INCREMENT_BYTES:,} are taken. Send it in parts.")
        try:
            path = self.fine_tuning.new_upload()
            shutil.copyfile(source, path)
        except OSError as error:
            raise DataError(f"it can't be kept: {error.strerror}.") from error
        return path

    def _put_away(self) -> None:
        copied = self.fine_tuning.new_upload().with_suffix("")  # the service sweeps it, should this crash
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
        corrections.copy(self.fine_tuning.corrections, copied)
        corrections.settle(self.fine_tuning.corrections, copied, self.fine_tuning.corrections / "dropped" / name)
