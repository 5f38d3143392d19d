import asyncio
import logging
from collections.abc import Callable

import pytest

from cifar_lit.inference.champion import Champion
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version
from cifar_lit.serving.integrity import Integrity
from cifar_lit.serving.metrics import Metrics


def test_damage_on_disk_is_told_once_and_its_end_too(
    registry: Registry, publish: Callable[..., Version], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cifar_lit.serving.integrity")
    version = publish(promote=True)
    metrics = Metrics()
    champion = Champion(registry)
    integrity = Integrity(champion, metrics)
    weights = version.path / "model.safetensors"
    whole = weights.read_bytes()
    seen: list[tuple[bool, float | None, int]] = []

    async def look() -> None:
        await integrity.look()
        damaged = metrics.registry.get_sample_value("cifar_lit_version_damaged")
        seen.append((bool(integrity.damage), damaged, len(caplog.messages)))

    async def work() -> None:
        await look()  # nothing is served yet
        await champion.start()
        try:
            caplog.clear()
            await look()
            weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            await look()
            await look()
            weights.unlink()
            await look()
            weights.write_bytes(whole)
            await look()
        finally:
            await champion.close()
        assert champion.serving.predictor.version == version.id

    asyncio.run(work())
    assert seen[1:] == [(False, 0, 0), (True, 1, 1), (True, 1, 1), (True, 1, 2), (False, 0, 3)]
    assert f"{version.id}/model.safetensors differs from its hash" in caplog.messages[0]
