"""The line of a version: its ancestors, what they learned, and the best of them."""

import json
from collections.abc import Mapping
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn

from cifar_lit.data import increment
from cifar_lit.data.finetune_data import FinetuneDataModule
from cifar_lit.data.remembered import Remembered
from cifar_lit.errors import RegistryError
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version

ROWS = "increments.json"
"""File of a version: which rows of the increments it learned, and which were held out, by sha256."""


def line(registry: Registry, version: Version | None) -> list[Version]:
    """A version and its ancestors, oldest first, as far back as they are whole."""
    found = [] if version is None else [version]
    while found and found[0].manifest.parent not in (None, *(each.id for each in found)):
        try:
            found.insert(0, registry.resolve(str(found[0].manifest.parent)))
        except RegistryError as error:
            rank_zero_warn(f"what {found[0].id} was fine-tuned from can't be used to judge: {error}")
            break
    return found


def remembered(registry: Registry, versions: list[Version]) -> list[Remembered]:
    """The increments that a line has learned, each once, oldest first."""
    found: dict[str, Remembered] = {}
    for version in versions:
        rows = json.loads(version.read(ROWS)) if ROWS in version.manifest.files else {}
        for each in version.manifest.data.get("increments", []):
            sha256 = each["sha256"]
            path = registry.increments.path(sha256)
            parts = {name: tuple(values) for name, values in rows.get(sha256, {}).items()}
            if sha256 not in found:
                kept = path if path.is_file() else None
                found[sha256] = Remembered(each["name"], sha256, version.id, kept, **parts)
    return list(found.values())


def references(versions: list[Version], data: Mapping[str, Any]) -> list[Version]:
    """The first and the most accurate version of a line, of those that were measured on the validation images of a data
    set. The first stays the same whatever comes later.

    Args:
        versions: the line.
        data: fingerprint of the data set and its split.
    """
    measured = [
        version
        for version in versions
        if "val/acc" in version.manifest.metrics
        and version.manifest.data.get("train", {}).get("sha256") == data["train"]["sha256"]
        and version.manifest.data.get("split") == data["split"]
    ]
    if not measured:
        return []
    best = max(measured, key=lambda version: version.manifest.metrics["val/acc"])
    return [measured[0], *([best] if best.id != measured[0].id else [])]


def keep(datamodule: FinetuneDataModule, registry: Registry, max_mib: int) -> None:
    """Keeps in the registry the increments of which something was new, as far as there is room.

    Raises:
        DataError: one can't be written.
    """
    store = registry.increments
    for path, each in zip(datamodule.increments, datamodule.learned, strict=True):
        target = store.path(each["sha256"])
        if not any(datamodule.rows[each["sha256"]].values()) or target.is_file() or not max_mib:
            continue
        data = increment.read(path, datamodule.parent_classes)
        if sum(store.sizes().values()) + data.num_bytes > max_mib * 2**20:
            rank_zero_warn(
                f"{path.name} is not kept to be replayed later: with it, {store.folder}/ would be larger than "
                f"{max_mib:,} MiB. Raise --keep_increments_mib, or drop some: `cifar-lit versions increments`."
            )
            continue
        store.folder.mkdir(parents=True, exist_ok=True)
        increment.write(target, data)
