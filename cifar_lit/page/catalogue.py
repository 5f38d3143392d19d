"""What the page tells of the registry's versions, quickly however many there are: a file is read again only when it
changed, and hashed only once. Knows nothing of Gradio.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cifar_lit.errors import RegistryError
from cifar_lit.registry.manifest import Manifest
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import MANIFEST

_PUBLISHED = "published"  # what the registry enters where its caller gives no reason
_UNDECIDED = "nobody has decided about it yet"

_Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True)
class Entry:
    """A version as the list shows it.

    Attributes:
        id: of its folder.
        manifest: what it says of itself; None if that can't be read.
        problem: what is known to be wrong with it; empty if nothing is.
    """

    id: str
    manifest: Manifest | None
    problem: str = ""

    @property
    def reason(self) -> str:
        """Why it stands as it does."""
        given = self.manifest.reason if self.manifest else ""
        return _UNDECIDED if given in ("", _PUBLISHED) else str(given)


@dataclass(frozen=True)
class Served:
    """A time in which one version was the champion.

    Attributes:
        id: of the version.
        since: UTC, ISO 8601.
        until: UTC, ISO 8601; None if it still is.
        event: "promote" or "rollback", which began it.
        reason: given for it.
    """

    id: str
    since: str
    until: str | None
    event: str
    reason: str


class Catalogue:
    """The versions of a registry. May be asked from several threads.

    Args:
        registry: where they are.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._lock = threading.Lock()
        self._manifests: dict[str, tuple[_Stamp, Entry]] = {}
        self._checked: dict[str, tuple[_Stamp, str]] = {}
        self._turn = 0

    def entries(self) -> list[Entry]:
        """All of them, oldest first. Nothing is hashed: a problem is told if `check` found it.

        Raises:
            RegistryError: the registry's folder can't be read.
        """
        with self._lock:
            ids = self.registry.ids()
            self._manifests = {each: self._read(each) for each in ids}
            self._checked = {each: known for each, known in self._checked.items() if each in self._manifests}
            found = []
            for entry in (self._manifests[each][1] for each in ids):
                problem = entry.problem or self._checked.get(entry.id, ((), ""))[1]
                found.append(Entry(entry.id, entry.manifest, problem))
            return found

    def check(self, entry: Entry) -> str:
        """What is wrong with a version, empty if it is whole; its files are hashed if they changed since last time."""
        if entry.manifest is None:
            return entry.problem
        folder = self.registry.root / entry.id
        stamp = tuple(_stamp(folder / name) for name in (MANIFEST, *entry.manifest.files))
        known = self._checked.get(entry.id)
        if known is None or known[0] != stamp:
            try:
                self.registry.get(entry.id).verify()
                known = stamp, ""
            except RegistryError as error:
                known = stamp, in_words(error, self.registry)
            self._checked[entry.id] = known
        return known[1]

    def check_next(self, entries: Sequence[Entry]) -> None:
        """Checks one version: the newest that never was, else the next in turn."""
        new = [entry for entry in entries if entry.manifest is not None and entry.id not in self._checked]
        if new:
            self.check(new[-1])
        elif entries:
            self._turn += 1
            self.check(entries[self._turn % len(entries)])

    def champion_id(self, entries: Sequence[Entry]) -> str | None:
        """The version that `Registry.champion` would give."""
        named = self.registry.pointer()
        promoted = [each for each in entries if each.manifest is not None and each.manifest.status == "promoted"]
        order = [each for each in promoted if each.id == named]
        order += [each for each in reversed(promoted) if each.id != named]
        return next((each.id for each in order if not self.check(each)), None)

    def summaries(self) -> list[dict[str, Any]]:
        """The versions whose manifests can be read, oldest first, as `cifar-lit versions list --json` prints them."""
        entries = self.entries()
        champion_id = self.champion_id(entries)
        return [each.manifest.summary(champion_id) for each in entries if each.manifest is not None]

    def periods(self) -> list[Served]:
        """What was the champion when, oldest first."""
        try:
            return served_periods(self.registry.history.read())
        except OSError:
            return []

    def stamp(self) -> _Stamp:
        """Changes whenever a version appears, goes or changes its status, and with the history."""
        root = self.registry.root
        try:
            ids = self.registry.ids()
        except RegistryError:
            return ()
        return tuple(
            map(_stamp, [self.registry.history.path, root / "champion", *(root / each / MANIFEST for each in ids)])
        )

    def _read(self, version_id: str) -> tuple[_Stamp, Entry]:
        stamp = (_stamp(self.registry.root / version_id / MANIFEST),)
        known = self._manifests.get(version_id)
        if known is not None and known[0] == stamp:
            return known
        try:
            return stamp, Entry(version_id, self.registry.get(version_id).manifest)
        except RegistryError as error:
            return stamp, Entry(version_id, None, in_words(error, self.registry))


def served_periods(events: Sequence[Mapping[str, Any]]) -> list[Served]:
    """What was the champion when, oldest first.

    Args:
        events: of the registry's history.
    """
    changes = [event for event in events if event.get("event") in ("promote", "rollback")]
    ends: list[str | None] = [str(event.get("time")) for event in changes]
    return [
        Served(str(event["id"]), str(event.get("time")), end, str(event["event"]), str(event.get("reason", "")))
        for event, end in zip(changes, [*ends[1:], None], strict=False)
    ]


def in_words(error: Exception, registry: Registry) -> str:
    """What an error of the registry says, without saying where on the disk the registry lies."""
    root = str(registry.root)
    text = str(error)
    for told, instead in (
        (f"registry {root}/", "the registry"),
        (f"{root}{os.sep}v", "v"),
        (f"{root}/", "the registry"),
    ):
        text = text.replace(told, instead)
    return text.replace(root, "the registry")


def _stamp(path: os.PathLike[str]) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
