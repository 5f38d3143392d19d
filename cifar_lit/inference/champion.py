"""The model that is served: follows the registry's champion without a restart. Knows nothing of HTTP."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cifar_lit.cifar10 import IMAGE_SHAPE
from cifar_lit.errors import CifarLitError, OverloadedError, VersionDamagedError
from cifar_lit.inference.predictor import Predictor
from cifar_lit.registry.history import utc_now
from cifar_lit.registry.manifest import Manifest
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version

_log = logging.getLogger(__name__)

_AGAIN_S = 30
"""How often a refused version is tried again though nothing in its folder changed: a disk may have failed once."""
_MAX_NAME, _MAX_REASON = 100, 600

_Key = tuple[str, frozenset[tuple[str, int, int, int]], int]


@dataclass(frozen=True)
class Serving:
    """What is served from now on.

    Attributes:
        predictor: loaded, checked and warm.
        manifest: of its version.
        since: UTC, ISO 8601.
    """

    predictor: Predictor
    manifest: Manifest
    since: str


@dataclass(frozen=True)
class Refusal:
    """A champion that is not served.

    Attributes:
        version: what the registry names as champion.
        reason: why not, in words.
        since: UTC, ISO 8601.
    """

    version: str
    reason: str
    since: str


class Champion:
    """Serves the version that the registry names, as long as it is whole; else it stays with the one before.

    A new champion is verified, loaded and warmed on another thread, beside the old one. Who asks for `serving` gets the
    one or the other, never a mixture.

    Args:
        registry: where versions appear.
        warm: batch sizes that a new network classifies before it is served.
        poll_s: how often the registry is looked at.
        on_change: called with the new one after each change, also the first.
        on_refusal: called with each refusal.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        warm: Sequence[int] = (1,),
        poll_s: float = 0.5,
        on_change: Callable[[Serving], None] = lambda serving: None,
        on_refusal: Callable[[Refusal], None] = lambda refusal: None,
    ) -> None:
        self.registry = registry
        self.refusal: Refusal | None = None
        self._serving: Serving | None = None
        self._warm = warm
        self._poll_s = poll_s
        self._on_change = on_change
        self._on_refusal = on_refusal
        self._tried: _Key | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        return self._serving is not None

    @property
    def serving(self) -> Serving:
        """What is served now.

        Raises:
            OverloadedError: there is nothing to serve yet.
        """
        if self._serving is None:
            because = f" ({self.refusal.version} is refused: {self.refusal.reason})" if self.refusal else ""
            raise OverloadedError(f"no version can be served yet{because}. Promote one, or send it again later.")
        return self._serving

    async def start(self) -> None:
        """Loads the champion, if there is one that can be served, and follows the registry from then on."""
        await self._look()
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Follows no longer."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self._look()
            except Exception:  # whatever it was, the next look may go well, and the one that serves goes on
                _log.exception("The registry could not be looked at")

    async def _look(self) -> None:
        named = self.registry.pointer()[:_MAX_NAME]
        if self._serving is not None and named == self._serving.predictor.version:
            self.refusal = self._tried = None
            return
        key = named, await asyncio.to_thread(self._stamps, named), int(time.monotonic() // _AGAIN_S)
        if key == self._tried:
            return
        self._tried = key
        try:
            serving = await asyncio.to_thread(self._load, named)
        except Exception as error:  # a version can be broken in ways that nobody thought of
            if self._serving is None:
                await self._fall_back(named)
            self._refuse(named, error)
        else:
            self.refusal = None
            self._serve(serving)

    async def _fall_back(self, named: str) -> None:
        """At the start the newest promoted version that can be served takes the place of a broken champion."""
        for version_id in reversed(self.registry.ids()):
            if version_id != named:
                try:
                    self._serve(await asyncio.to_thread(self._load, version_id))
                    return
                except Exception as error:
                    _log.warning("%s can't be served either: %s", version_id, error)

    def _serve(self, serving: Serving) -> None:
        self._serving = serving
        _log.info("%s is served from now on", serving.predictor.version)
        self._on_change(serving)

    def _refuse(self, named: str, error: Exception) -> None:
        if not named and self._serving is None:
            _log.warning("%s has no champion yet: nothing can be served", self.registry)
            return
        reason = str(error) if isinstance(error, CifarLitError) else f"{named}: {type(error).__name__}: {error}"
        reason = reason.replace(f"{self.registry.root}{os.sep}", f"{self.registry.root.name}{os.sep}")
        reason = reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]}..."
        if self.refusal and (self.refusal.version, self.refusal.reason) == (named, reason):
            return
        self.refusal = Refusal(named, reason, utc_now())
        _log.error("%r is refused as champion: %s", named, reason)
        self._on_refusal(self.refusal)

    def _load(self, named: str) -> Serving:
        version = self.registry.get(named)
        if version.manifest.status != "promoted":
            raise VersionDamagedError(
                f"the status of {named} is {version.manifest.status}, expected promoted. Use `cifar-lit versions "
                "promote`."
            )
        version.verify()
        predictor = Predictor.from_version(version)
        self._check(predictor, version)
        return Serving(predictor, version.manifest, utc_now())

    def _check(self, predictor: Predictor, version: Version) -> None:
        """Classifies some images, which also warms it up."""
        advice = "Restore it from a copy, or use another version."
        names = predictor.class_names
        if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
            raise VersionDamagedError(
                f"{version.id}: its class names are {names!r:.300}, expected words that differ. {advice}"
            )
        generator = np.random.default_rng(0)
        for size in self._warm:
            for prediction in predictor.predict(generator.integers(256, size=(size, *IMAGE_SHAPE), dtype=np.uint8)):
                total = sum(prediction.probabilities.values())
                if not abs(total - 1) < 1e-6:  # also false for NaN
                    raise VersionDamagedError(
                        f"{version.id}: the probabilities of an image sum to {total}, expected 1. {advice}"
                    )

    def _stamps(self, named: str) -> frozenset[tuple[str, int, int, int]]:
        """Changes with everything in a version's folder, so that it is worth another try."""
        if named not in self.registry.ids():
            return frozenset()
        stamps = set()
        for path in _everything(self.registry.root / named):
            with suppress(OSError):
                status = os.stat(path)
                stamps.add((path, status.st_ino, status.st_ctime_ns, status.st_size))
        return frozenset(stamps)


def _everything(folder: Path) -> list[str]:
    """The folder, and what it holds at any depth."""
    inside = [os.path.join(base, name) for base, folders, names in os.walk(folder) for name in (*folders, *names)]
    return [str(folder), *inside]
