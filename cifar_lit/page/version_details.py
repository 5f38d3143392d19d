"""All that is known of a version: facts, report, pictures."""

from collections.abc import Mapping
from typing import Any

from cifar_lit.errors import RegistryError
from cifar_lit.page.catalogue import Entry, in_words
from cifar_lit.page.rendering import NOTHING, accuracy, count, moment, render
from cifar_lit.registry.manifest import Manifest
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version


def details(entry: Entry, is_served: bool, registry: Registry) -> str:
    """HTML. Reads the version's files, each against its hash."""

    def read(name: str) -> bytes | str | None:
        """A file's content; what is wrong with it; None if the version has none of this name."""
        if entry.manifest is None or name not in entry.manifest.files:
            return None
        try:
            return Version(registry.root / entry.id, entry.manifest).read(name)
        except RegistryError as error:
            return in_words(error, registry)

    return render("version", entry=entry, served=is_served, facts=entry.manifest and _facts(entry.manifest), read=read)


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    """Names and values. A manifest's inner values may be of any kind."""
    data, training = manifest.data, manifest.training
    increments = data.get("increments")
    named = [each for each in increments if isinstance(each, dict)] if isinstance(increments, list) else []
    origin = manifest.parent or training.get("imported_from") or training.get("from") or "scratch"
    epochs, best, seconds = training.get("epochs"), training.get("best_epoch"), training.get("seconds")
    course = [f"{epochs} {'epoch' if epochs == 1 else 'epochs'}" if epochs is not None else ""]
    course += [f"the best was number {best + 1}" if isinstance(best, int) and epochs != 1 else ""]
    course += [f"{seconds:,.0f} s" if isinstance(seconds, int | float) and seconds >= 1 else ""]
    found = {
        "Made": f"{moment(manifest.created_at)} UTC",
        "Made from": str(origin),
        "Validation accuracy": accuracy(manifest.metrics.get("val/acc")),
        "Test accuracy": accuracy(manifest.metrics.get("test/acc")),
        "Network": str(manifest.network.get("name", NOTHING)),
        "Training images": f"{_number(data.get('train'))} ({data.get('source', 'unknown')})",
        "Learned from": ", ".join(f"{each.get('name')} ({_images(each)})" for each in named),
        "Test images": _number(data.get("test")),
        "Training": ", ".join(filter(None, course)) or NOTHING,
        "Ended by": str(training.get("ended_by", NOTHING)),
        "Made with": ", ".join(f"{name} {value}" for name, value in manifest.code.items()) or NOTHING,
    }
    return [(name, value) for name, value in found.items() if value]


def _number(images: object) -> str:
    found = images.get("count") if isinstance(images, Mapping) else None
    return f"{found:,}" if isinstance(found, int) else NOTHING


def _images(increment: Mapping[str, Any]) -> str:
    number = increment.get("count")
    return count(number, "image") if isinstance(number, int) else f"{NOTHING} images"
