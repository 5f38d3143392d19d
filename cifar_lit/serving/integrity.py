"""Tells when the files of the version that is served are damaged on disk; what is in memory goes on being served."""

import asyncio
import logging

from cifar_lit.errors import CifarLitError
from cifar_lit.inference.champion import Champion
from cifar_lit.serving.metrics import Metrics

_EVERY_S = 20.0

_log = logging.getLogger(__name__)


class Integrity:
    """Looks at the files now and then.

    Args:
        champion: whose version.
        metrics: where damage is shown.

    Attributes:
        damage: what is wrong and how to fix it; empty if nothing is known to be.
    """

    def __init__(self, champion: Champion, metrics: Metrics) -> None:
        self.damage = ""
        self._champion = champion
        self._metrics = metrics

    async def watch(self) -> None:
        """Goes on until it is cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_EVERY_S)

    async def look(self) -> None:
        """Compares the files with their hashes."""
        before, self.damage = self.damage, ""
        if self._champion.ready:
            version_id = self._champion.serving.predictor.version
            try:
                await asyncio.to_thread(lambda: self._champion.registry.get(version_id).verify())
            except (CifarLitError, OSError) as error:
                self.damage = str(error)
        self._metrics.version_damaged.set(bool(self.damage))
        if self.damage != before:
            if self.damage:
                _log.error("the version that is served is damaged on disk: %s", self.damage)
            else:
                _log.info("the version that is served is whole on disk")
