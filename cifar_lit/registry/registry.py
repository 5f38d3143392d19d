"""The registry: a folder of numbered versions, a pointer to the champion, and a history. Nothing here needs torch.

A version appears by one rename of a complete, synced folder. All changes are made under one lock; readers need none.
"""

import hashlib
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from cifar_lit.errors import RegistryError, VersionDamagedError, VersionNotFoundError
from cifar_lit.files import hold, read_file, replace_synced, sync_folder, try_lock, write_synced, write_tree
from cifar_lit.registry import increments, model_card
from cifar_lit.registry.history import History, utc_now
from cifar_lit.registry.increments import Increments
from cifar_lit.registry.manifest import About, Manifest, Status
from cifar_lit.registry.model_card import CARD
from cifar_lit.registry.version import MANIFEST, MAX_FILE_BYTES, Version

ROOT_VARIABLE = "CIFAR_LIT_REGISTRY"
DEFAULT_ROOT = "checkpoints"
LATEST = "latest"

_CHAMPION = "champion"
_MAX_POINTER_BYTES = 1024
_LOCK = ".lock"
_STAGING = ".staging-"
_ID = re.compile(r"v(\d{4,})")
_LOCK_TIMEOUT_S = 60.0
_PUBLISHED = "published"
_FIRST = " (first: "

_log = logging.getLogger(__name__)


class ChampionChangedError(RegistryError):
    """The champion is no longer the one that a decision was based on."""


class Registry:
    """Versions under one folder.

    Args:
        root: the folder. Default: the environment's CIFAR_LIT_REGISTRY, else `checkpoints`. It is made by the first
            publish, not before.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = Path(root or os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT).expanduser()
        self.history = History(self.root / "history.jsonl")
        self.increments = Increments(self.root / increments.FOLDER)

    def __str__(self) -> str:
        return f"{self.root}/"

    # Reading

    def ids(self) -> list[str]:
        """Ids of all version folders, oldest first.

        Raises:
            RegistryError: the registry's folder can't be read.
        """
        try:
            names = [entry.name for entry in os.scandir(self.root) if entry.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RegistryError(
                f"registry {self} can't be read: {error.strerror}. Change the permissions, or name another folder with "
                f"--registry (or {ROOT_VARIABLE})."
            ) from error
        return sorted((name for name in names if _ID.fullmatch(name)), key=_number)

    def get(self, version_id: str) -> Version:
        """The version with that id.

        Raises:
            VersionNotFoundError: there is none.
            VersionDamagedError: its manifest can't be read.
        """
        path = self.root / version_id
        if not _ID.fullmatch(version_id) or not path.is_dir():
            have = self.ids()
            known = f"have {have[0]}..{have[-1]}" if have else "it is empty"
            raise VersionNotFoundError(
                f"no version {version_id!r} in {self} ({known}). Use one that `cifar-lit versions list` shows, or "
                f"{LATEST!r}."
            )
        try:
            data = read_file(path / MANIFEST, MAX_FILE_BYTES)
        except OSError as error:
            raise VersionDamagedError(
                f"{path / MANIFEST} can't be read ({error.strerror}). Restore it from a copy, or remove the folder."
            ) from error
        manifest = Manifest.from_json(data, str(path / MANIFEST))
        if manifest.id != version_id:
            raise VersionDamagedError(f"{path / MANIFEST} is that of {manifest.id}. Give the folder its name back.")
        return Version(path, manifest)

    def versions(self) -> list[Version]:
        """All versions whose manifest can be read, oldest first; the others are logged as warnings."""
        found = []
        for version_id in self.ids():
            try:
                found.append(self.get(version_id))
            except (VersionDamagedError, VersionNotFoundError) as error:
                _log.warning("%s", error)
        return found

    def pointer(self) -> str:
        """The id that the champion's file names, whether or not it can be served; empty if there is none."""
        try:
            return read_file(self.root / _CHAMPION, _MAX_POINTER_BYTES).decode().strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def champion(self) -> Version | None:
        """The version that is served, verified; none if no version was ever promoted.

        If the named one is missing or damaged, the newest promoted version that is whole takes its place, with a
        warning.

        Raises:
            VersionDamagedError: versions were promoted, but none of them is whole.
        """
        named = self.pointer()
        versions = self.versions()
        promoted = [version for version in versions if version.manifest.status == "promoted"]
        order = [version for version in promoted if version.id == named]
        order += [version for version in reversed(promoted) if version.id != named]
        for version in order:
            try:
                version.verify()
            except VersionDamagedError as error:
                _log.warning("%s", error)
                continue
            if version.id != named:
                _log.warning("%s: champion is %r, which can't be served; %s takes its place", self, named, version.id)
            return version
        unreadable = named in self.ids() and all(version.id != named for version in versions)
        if order or unreadable:
            raise VersionDamagedError(
                f"{self}: no promoted version is whole. `cifar-lit versions verify` says what is wrong with each."
            )
        return None

    def resolve(self, reference: str) -> Version:
        """The version meant by an id or by "latest" (the champion), verified.

        Raises:
            VersionNotFoundError: there is no such version.
            VersionDamagedError: it is not whole.
        """
        if reference != LATEST:
            version = self.get(reference)
            version.verify()
            return version
        champion = self.champion()
        if champion is None:
            raise VersionNotFoundError(
                f"{self} has no champion: no version was promoted yet. Train one with `cifar-lit fit`, or promote one "
                "with `cifar-lit versions promote`."
            )
        return champion

    # Writing

    def check_writable(self) -> None:
        """Finds out now, rather than after hours of training, whether a version can be published.

        Raises:
            RegistryError: the folder can't be made or written.
        """
        with self._explained("can't be written"), self._locked():
            probe = self.root / f"{_STAGING}{uuid.uuid4().hex}"
            probe.mkdir()
            probe.rmdir()

    def publish(
        self,
        files: Mapping[str, bytes],
        about: About,
        *,
        status: Literal["candidate", "rejected"] = "candidate",
        reason: str = _PUBLISHED,
    ) -> Version:
        """Makes a new version.

        Args:
            files: content by path inside the version's folder, all but the manifest.
            about: what the manifest says besides.
            status: what it is from the moment that it appears; `promote` makes more of it.
            reason: why, kept in the manifest and the history.

        Raises:
            RegistryError: it could not be written; nothing is left behind.
        """
        with self._explained("no version was published"), ExitStack() as stack:
            staging = self.root / f"{_STAGING}{uuid.uuid4().hex}"
            try:
                with self._locked():  # no sweep may come between making the folder and holding it
                    staging.mkdir()
                    stack.enter_context(hold(staging, timeout_s=0))  # tells a sweep that the folder's maker is alive
                write_tree(staging, files)
                with self._locked():
                    return self._appear(staging, files, about, status, reason)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise

    def promote(self, version_id: str, reason: str, *, instead_of: str | None = "") -> Version:
        """Makes a version the champion.

        Args:
            version_id: an id or "latest".
            reason: kept in the history, and in the manifest beside the first reason that was given for its status.
            instead_of: id of the champion that the decision was based on (None for no champion); not checked if left
                out.

        Raises:
            ChampionChangedError: the champion is another one than `instead_of`.
        """
        with self._explained(f"{version_id} was not promoted"), self._locked():
            version = self.resolve(version_id)
            before = self._champion_id()
            if instead_of not in ("", before):
                raise ChampionChangedError(f"the champion is {before}, no longer {instead_of}. Compare again.")
            version = self._set_status(version, "promoted", _beside(reason, version.manifest))
            self.history.record("promote", version.id, reason, instead_of=before)
            replace_synced(self.root / _CHAMPION, f"{version.id}\n".encode())
            return version

    def keep_as_candidate(self, version_id: str, reason: str) -> Version:
        """Enters why a new version was not promoted. It can be promoted later."""
        with self._explained(f"the status of {version_id} was not entered"), self._locked():
            version = self._set_status(self.get(version_id), "candidate", reason)
            self.history.record("candidate", version.id, reason)
            return version

    def reject(self, version_id: str, reason: str) -> Version:
        """Marks a version as rejected. The champion stays.

        Raises:
            RegistryError: it is the champion.
        """
        with self._explained(f"{version_id} was not rejected"), self._locked():
            version = self.get(version_id)
            if self._champion_id() == version.id:
                raise RegistryError(f"{version.id} is the champion. Roll back or promote another version first.")
            version = self._set_status(version, "rejected", reason)
            self.history.record("reject", version.id, reason)
            return version

    def rollback(self, reason: str, *, champion_id: str = "") -> Version:
        """Brings back the version that was served before the champion; the champion becomes rejected.

        Args:
            reason: kept as `promote` does.
            champion_id: which champion is meant; not checked if left out.

        Returns:
            The champion from now on.

        Raises:
            RegistryError: no whole version was served before.
            ChampionChangedError: the champion is another one.
        """
        with self._explained("nothing was rolled back"), self._locked():
            champion = self.resolve(LATEST)
            if champion_id not in ("", champion.id):
                raise ChampionChangedError(f"the champion is {champion.id}, no longer {champion_id}.")
            earlier = self._served_before(champion)
            # The pointer moves first: whatever happens next, the version that is served is a promoted one.
            replace_synced(self.root / _CHAMPION, f"{earlier.id}\n".encode())
            self._set_status(champion, "rejected", _beside(reason, champion.manifest))
            self.history.record("rollback", earlier.id, reason, instead_of=champion.id)
            return earlier

    def amend(self, version_id: str, files: Mapping[str, bytes] | None = None, **changes: Any) -> Version:
        """Enters what was found out about a version later, and writes its model card anew.

        Args:
            version_id: an id.
            files: content of the files to add or to replace, by name; `Version.verify` passes over these names where
                the manifest does not have them.
            changes: fields of the manifest, with their new values.

        Raises:
            RegistryError: it can't be written; the version is whole all the same.
            VersionDamagedError: it is not whole, and was not changed.
        """
        with self._explained(f"{version_id} was not amended"), self._locked():
            version = self.get(version_id)
            version.verify()
            added = dict(files or {})
            hashes = version.manifest.files | {name: hashlib.sha256(data).hexdigest() for name, data in added.items()}
            manifest, added[CARD] = _with_card(replace(version.manifest, **changes, files=hashes))
            # A crash in between leaves files that nobody vouches for, which does not damage the version.
            kept = {name: value for name, value in version.manifest.files.items() if name not in added}
            replace_synced(version.path / MANIFEST, replace(version.manifest, files=kept).to_json())
            for name, data in added.items():
                replace_synced(version.path / name, data)
            replace_synced(version.path / MANIFEST, manifest.to_json())
            return Version(version.path, manifest)

    def verify(self) -> dict[str, str | None]:
        """What is wrong with each version folder, by id; None where it is whole."""
        problems: dict[str, str | None] = {}
        for version_id in self.ids():
            try:
                self.get(version_id).verify()
                problems[version_id] = None
            except RegistryError as error:
                problems[version_id] = str(error)
        return problems

    # How it is done

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with hold(self.root / _LOCK, _LOCK_TIMEOUT_S):
            self._sweep()
            self._adopt()
            yield

    @contextmanager
    def _explained(self, outcome: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RegistryError(
                f"registry {self}: {outcome}: {error.strerror or error} ({error.filename or self.root}). Free space, "
                "change the permissions, or name another folder with --registry (or CIFAR_LIT_REGISTRY)."
            ) from error

    def _sweep(self) -> None:
        """Removes what crashed processes left behind."""
        for path in [*self.root.glob(f".{_CHAMPION}.tmp"), *self.root.glob(f"v*/.{MANIFEST}.tmp")]:
            path.unlink(missing_ok=True)
        for path in self.root.glob(f"{_STAGING}*"):
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except OSError:
                continue
            try:
                if try_lock(descriptor):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)

    def _adopt(self) -> None:
        """Enters into the history what appeared without an entry, after a crash or by a copy: its id is taken."""
        known = {event["id"] for event in self.history.read() if event.get("event") == "publish"}
        for version_id in self.ids():
            if version_id not in known:
                self.history.record("publish", version_id, "found in the folder")

    def _appear(self, staging: Path, files: Mapping[str, bytes], about: About, status: Status, reason: str) -> Version:
        version_id = self._next_id()
        manifest = Manifest(
            **vars(about),
            id=version_id,
            status=status,
            reason=reason,
            created_at=utc_now(),
            files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        )
        manifest, card = _with_card(manifest)
        write_synced(staging / CARD, card)
        write_synced(staging / MANIFEST, manifest.to_json())
        sync_folder(staging)
        Version(staging, manifest).verify()  # what the disk gives back is what was meant
        target = self.root / version_id
        os.rename(staging, target)
        try:
            sync_folder(self.root)
            self.history.record("publish", version_id, "", parent=about.parent)
            if reason != _PUBLISHED:
                self.history.record("reject" if status == "rejected" else "candidate", version_id, reason)
        except BaseException:
            with suppress(OSError):
                os.rename(target, staging)
            raise
        return Version(target, manifest)

    def _champion_id(self) -> str | None:
        """The champion's id, for a change that must be possible when no promoted version is whole: none then."""
        try:
            champion = self.champion()
        except VersionDamagedError:
            return None
        return champion.id if champion else None

    def _next_id(self) -> str:
        """One above every id that is or ever was in use: an id removed from the disk is still in the history."""
        names = {entry.name for entry in os.scandir(self.root)} | {str(event["id"]) for event in self.history.read()}
        used = [_number(name) for name in names if _ID.fullmatch(name)]
        return f"v{max(used, default=0) + 1:04d}"

    def _set_status(self, version: Version, status: Status, reason: str) -> Version:
        manifest = replace(version.manifest, status=status, reason=reason)
        replace_synced(version.path / MANIFEST, manifest.to_json())
        return Version(version.path, manifest)

    def _served_before(self, champion: Version) -> Version:
        promoted = {version.id: version for version in self.versions() if version.manifest.status == "promoted"}
        for event in reversed(self.history.read()):
            version = promoted.get(str(event.get("instead_of"))) if event.get("event") == "promote" else None
            if version is None or version.id == champion.id:
                continue
            try:
                version.verify()
            except VersionDamagedError as error:
                _log.warning("%s", error)
            else:
                return version
        raise RegistryError(
            f"{self}: no other promoted version was served before {champion.id}. Promote one by its id."
        )


def _beside(reason: str, manifest: Manifest) -> str:
    """A reason with the first one that was given, which is the gate's, in brackets."""
    first = manifest.reason.partition(_FIRST)[2].removesuffix(")") or manifest.reason
    return reason if first in ("", _PUBLISHED) else f"{reason}{_FIRST}{first})"


def _with_card(manifest: Manifest) -> tuple[Manifest, bytes]:
    card = model_card.render(manifest)
    return replace(manifest, files={**manifest.files, CARD: hashlib.sha256(card).hexdigest()}), card


def _number(version_id: str) -> int:
    return int(version_id[1:])
