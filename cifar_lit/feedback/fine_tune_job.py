"""One fine-tuning that the page began, from what it learns to what became of it. `cifar-lit finetune` does the work, in
a process of its own."""

import asyncio
import json
import logging
import shutil
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cifar_lit.data import corrections
from cifar_lit.errors import CifarLitError, DataError, SettingError
from cifar_lit.feedback import child
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version

LOG = "log.txt"

_LINES_SHOWN = 40
_LONGEST_REASON = 2_000
_ERROR = "error: "

_log = logging.getLogger(__name__)

State = Literal["running", "promoted", "candidate", "rejected", "failed", "stopped", "undone"]


@dataclass(frozen=True)
class Figures:
    """Accuracy of parent and child, 0..1, on so many images."""

    before: float
    after: float
    count: int


@dataclass(frozen=True)
class Job:
    """A fine-tuning at one moment.

    Attributes:
        id: names its folder.
        state: running, what the gate decided, failed, stopped, or undone after it was promoted.
        stage: what it does, in words.
        done: share of the whole, 0..1; never falls.
        version: id of the version that it made.
        parent: id of the version that it was made from.
        reason: the gate's, or why it failed.
        figures: of the version, by what was measured: "old" images, held-out "new" ones, those that it "learned" from,
            "test" images; only those that there are.
        log: the last lines.
        seconds: since it began, or how long it took.
    """

    id: str
    state: State = "running"
    stage: str = "starting"
    done: float = 0.0
    version: str | None = None
    parent: str | None = None
    reason: str = ""
    figures: dict[str, Figures] = field(default_factory=dict)
    log: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Places:
    """Folders of fine-tunings.

    Attributes:
        corrections: those that wait; what a promoted version has learned goes to its `used/`.
        jobs: a folder for each fine-tuning.
        learned: increments that versions have learned with earlier releases, by their SHA-256; the registry keeps those
            of today.
    """

    corrections: Path
    jobs: Path
    learned: Path

    def used(self, version_id: str) -> Path:
        """Where the corrections lie that a version has learned."""
        return self.corrections / "used" / version_id


class FineTuneJob:
    """A fine-tuning. Making it makes its folder and its log.

    Args:
        name: of its folder.
        places: where it lies.
        registry: whose champion learns.
        options: of `cifar-lit finetune`.
        nice: how far it stands back behind other processes.

    Attributes:
        taken: set when what is to be learned was copied, or never will be.
    """

    def __init__(self, name: str, places: Places, registry: Registry, options: Sequence[str], nice: int) -> None:
        self.taken = asyncio.Event()
        self._job = Job(name)
        self._places = places
        self._folder = places.jobs / name
        self._registry = registry
        self._options = options
        self._nice = nice
        self._began = time.monotonic()
        self._lines: deque[str] = deque(maxlen=_LINES_SHOWN)
        self._folder.mkdir()
        self._log_file = (self._folder / LOG).open("w", encoding="utf-8")

    @property
    def job(self) -> Job:
        """How it stands."""
        if self._job.state != "running":
            return self._job
        return replace(self._job, log=tuple(self._lines), seconds=time.monotonic() - self._began)

    async def run(self, increment: Path | None) -> None:
        """Does it all; `job` tells how it went. Cancelling ends the process, and `close` says that it was stopped.

        Args:
            increment: what to learn. Default: the corrections that wait.
        """
        try:
            version = await self._learn(increment)
            try:
                await asyncio.to_thread(self._put_away, version)
            finally:  # there is a version, whatever happens now
                self._end(version.manifest.status, version.manifest.reason)
        except (CifarLitError, OSError) as error:
            self._end("failed", str(error))
        except Exception:
            _log.exception("fine-tuning %s failed", self._job.id)
            self._end("failed", "The fine-tuning could not be run; the server's log tells why.")

    def fail(self, reason: str) -> None:
        """Says why it failed, whoever ends it now."""
        self._end("failed", reason)

    def undo(self, *, discard: bool) -> None:
        """Brings back the version that was served before, if the one that this made does.

        Args:
            discard: leave the corrections that it learned put away; else they wait again.

        Raises:
            SettingError: it was not promoted, or is undone already.
            RegistryError: another version is the champion by now, or the registry can't be written.
            DataError: the corrections can't be brought back; the version is.
        """
        job = self._job
        if job.state != "promoted" or job.version is None:
            raise SettingError("There is nothing to undo: no fine-tuning has changed the version that is served.")
        self._job = replace(job, state="undone", reason="It was undone.")
        try:
            self._registry.rollback("undone on the page", champion_id=job.version)
        except BaseException:
            self._job = job
            raise
        used = self._places.used(job.version)
        if used.is_dir() and not discard:
            corrections.bring_back(used, self._places.corrections)

    def close(self) -> None:
        """Leaves nothing but the log. To be called once, when `run` has ended in whatever way."""
        self.taken.set()
        if self._job.state == "running":
            self._end("stopped", "It was stopped before a version was made.")
        with suppress(OSError):
            self._log_file.close()
        tidy(self._folder)

    async def _learn(self, increment: Path | None) -> Version:
        """The version that was made."""
        npz = self._folder / ("corrections.npz" if increment is None else "increment.npz")
        if increment is None:
            self._change(stage="collecting corrections")
            await asyncio.to_thread(corrections.copy, self._places.corrections, self._copied)
            self.taken.set()
            await self._command("increment", "make", "--corrections", str(self._copied), "--out", str(npz))
        else:
            await asyncio.to_thread(shutil.copyfile, increment, npz)
            self.taken.set()
        before = await asyncio.to_thread(self._learned_before)
        output = await self._command(
            "finetune",
            *self._options,
            *("--registry", str(self._registry.root), "--data.increments", str(npz)),
            *(["--data.old_increments", *map(str, before)] if before else []),
            *(["--data.corrections", "true"] if increment is None else []),
            *("--any-status", "--trainer.enable_progress_bar", "false", "--progress", "--json"),
        )
        version = self._registry.get(json.loads(output)["id"])
        self._change(version=version.id, parent=version.manifest.parent, figures=_figures(version))
        return version

    @property
    def _copied(self) -> Path:
        return self._folder / "corrections"

    async def _command(self, *args: str) -> bytes:
        ended = await child.run(args, nice=self._nice, on_line=self._hear)
        if ended.status != 0:
            reason = error_of(list(self._lines)).replace(f"{self._folder}/", "")
            raise DataError(reason or f"It ended with status {ended.status}; its log tells more.")
        return ended.output

    def _hear(self, line: str) -> None:
        try:
            told = json.loads(line)
            self._change(stage=str(told["stage"]), done=max(self._job.done, float(told["done"])))
        except (ValueError, TypeError, KeyError):
            if line.strip():
                self._lines.append(line)
                self._note(line)

    def _change(self, **values: object) -> None:
        self._job = replace(self._job, **values)  # type: ignore[arg-type]

    def _end(self, state: State, reason: str) -> None:
        done = self._job.done if state in ("failed", "stopped") else 1.0
        self._job = replace(self.job, state=state, reason=reason, done=done)
        self._note(f"{state}: {reason}")

    def _note(self, line: str) -> None:
        """Writes a line to the log, as far as the disk has room: the fine-tuning is not there for its log."""
        with suppress(OSError):
            print(line, file=self._log_file, flush=True)

    def _learned_before(self) -> list[Path]:
        """The increments that the champion has learned and that an earlier release kept here."""
        champion = self._registry.champion()
        known = champion.manifest.data.get("increments", []) if champion else []
        paths = [self._places.learned / f"{each['sha256']}.npz" for each in known]
        return [path for path in dict.fromkeys(paths) if path.is_file()]

    def _put_away(self, version: Version) -> None:
        """Puts the corrections away that a promoted version has learned."""
        if version.manifest.status != "promoted" or not self._copied.is_dir():
            return
        try:
            corrections.settle(self._places.corrections, self._copied, self._places.used(version.id))
        except (CifarLitError, OSError) as error:  # the version is served all the same
            _log.warning("what %s has learned can't be put away: %s", version.id, error)


def tidy(folder: Path) -> None:
    """Removes everything but the log from the folder of a fine-tuning that runs no more."""
    for path in folder.iterdir():
        if path.name != LOG:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def error_of(lines: Sequence[str]) -> str:
    """The error that a command ended with, without the word; empty if it told none."""
    for place in range(len(lines) - 1, -1, -1):
        if lines[place].startswith(_ERROR):
            return "\n".join(lines[place:])[len(_ERROR) :][:_LONGEST_REASON].strip()
    return ""


def _figures(version: Version) -> dict[str, Figures]:
    report = json.loads(version.read("report/forgetting.json"))
    return {name: Figures(each["before"]["acc"], each["after"]["acc"], each["count"]) for name, each in report.items()}
