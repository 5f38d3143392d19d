"""What the *Model* tab knows and does, without its components: versions, comparisons, and changes of the champion."""

import asyncio
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from cifar_lit.errors import OverloadedError, RegistryError
from cifar_lit.inference.champion import Serving
from cifar_lit.inference.predictor import Prediction, Predictor
from cifar_lit.inference.service import Pixels, Service
from cifar_lit.page.catalogue import Catalogue, Entry, in_words
from cifar_lit.page.rendering import note, render
from cifar_lit.page.version_details import details
from cifar_lit.registry.registry import LATEST

REASON = "by hand, on the page"

_NUM_LOADED = 4
_FOLLOW_S = 10.0
_LOOK_S = 0.1


@dataclass(frozen=True)
class Change:
    """What a visitor asked for and has not confirmed yet.

    Attributes:
        action: what is to be done.
        version: which is to be promoted; empty for a rollback.
        champion: the one that the registry names now; the change is refused if it is another one by then.
    """

    action: Literal["promote", "rollback"]
    version: str
    champion: str | None


def warning(text: str) -> str:
    return note(text, "m-warning", role="alert")


class ModelView:
    """Versions as visitors see them. May be asked from several threads.

    Args:
        service: whose champion's registry is shown.
    """

    def __init__(self, service: Service) -> None:
        self.champion = service.champion
        self.registry = service.champion.registry
        self.catalogue = Catalogue(self.registry)
        self._predictor = lru_cache(maxsize=_NUM_LOADED)(self._load)

    @property
    def serving(self) -> Serving | None:
        """What is served now, if anything does."""
        try:
            return self.champion.serving
        except OverloadedError:
            return None

    @property
    def served_id(self) -> str | None:
        serving = self.serving
        return serving.predictor.version if serving else None

    def entries(self) -> tuple[list[Entry], str]:
        """All versions, oldest first, and what is wrong with the registry as a whole."""
        try:
            return self.catalogue.entries(), ""
        except RegistryError as error:
            return [], self.words(error)

    def stamp(self) -> int:
        """Changes when there is something new to show."""
        entries, problem = self.entries()
        damaged = tuple(entry.id for entry in entries if entry.problem)
        return hash((self.catalogue.stamp(), problem, damaged, self.served_id, self.champion.refusal))

    def table(self, chosen: str | None) -> str:
        """A table with a row for each version, newest first, as HTML. Its buttons choose one."""
        return render("versions", entries=self.entries()[0], served=self.served_id, chosen=chosen)

    def details(self, version_id: str | None) -> str:
        """All that is known of a version, as HTML. Its files are hashed."""
        entry = next((each for each in self.entries()[0] if each.id == version_id), None)
        if entry is None:
            return warning(f"There is no version {version_id!r}.") if version_id else ""
        checked = Entry(entry.id, entry.manifest, self.catalogue.check(entry))
        return details(checked, entry.id == self.served_id, self.registry)

    def compare(self, pixels: Pixels, references: list[str]) -> list[Prediction]:
        """Answers of several versions to one picture.

        Args:
            pixels: uint8 (32, 32, 3).
            references: ids, or "latest" for the version that answers now.

        Raises:
            VersionNotFoundError: there is no such version.
            VersionDamagedError: one can't answer.
        """
        return [self._predictor(self._resolve(reference)).predict(pixels[None])[0] for reference in references]

    def pending(self, action: Literal["promote", "rollback"], version_id: str = "") -> Change:
        """A change that is based on what is served now.

        Raises:
            RegistryError: the version is not there, or its manifest is damaged.
        """
        if action == "promote":
            version_id = self.registry.get(version_id).id
        return Change(action, version_id, self.catalogue.champion_id(self.catalogue.entries()))

    def apply(self, change: Change) -> str:
        """Promotes or rolls back; gives the id of the champion from now on.

        Raises:
            RegistryError: it could not be done.
        """
        if change.action == "promote":
            return self.registry.promote(change.version, REASON, instead_of=change.champion).id
        now = self.catalogue.champion_id(self.catalogue.entries())
        if now != change.champion:
            raise RegistryError(f"the champion is {now}, no longer {change.champion}. Look again.")
        return self.registry.rollback(REASON).id

    async def outcome(self, champion_id: str) -> str:
        """What became of a change, as HTML, once the server has followed it or has not."""
        for _ in range(round(_FOLLOW_S / _LOOK_S)):
            refusal = self.champion.refusal
            if self.served_id == champion_id:
                return note(f"Done: {champion_id} answers now.", "m-success", role="status")
            if refusal is not None and refusal.version == champion_id:
                stays = f" {self.served_id} goes on answering." if self.served_id else ""
                return warning(f"{champion_id} can't be used: {refusal.reason}{stays}")
            await asyncio.sleep(_LOOK_S)
        return warning(f"{champion_id} is chosen, but does not answer yet. Wait a little.")

    def words(self, error: Exception) -> str:
        """What an error says, without saying where on the disk the registry lies."""
        return in_words(error, self.registry)

    def _resolve(self, reference: Any) -> str:
        named = str(reference or "")[:80]
        if named == LATEST:
            return self.champion.serving.predictor.version
        return self.registry.get(named).id

    def _load(self, version_id: str) -> Predictor:
        # Not the one that answers everybody: that one belongs to the thread of the model.
        return Predictor.from_version(self.registry.get(version_id))
