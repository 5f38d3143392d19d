"""The increments that a registry's versions have learned: `increments/<sha256>.npz`, each once. Knows nothing of what
is in them."""

import re
from pathlib import Path

from cifar_lit.errors import RegistryError

FOLDER = "increments"

_FILE = re.compile(r"([0-9a-f]{64})\.npz")


class Increments:
    """The files, by the SHA-256 of pixels, labels and their order.

    Args:
        folder: where they lie; whoever adds the first makes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Where an increment lies if it is kept."""
        return self.folder / f"{sha256}.npz"

    def sizes(self) -> dict[str, int]:
        """Bytes of each, by SHA-256, in its order."""
        if not self.folder.is_dir():
            return {}
        found = ((_FILE.fullmatch(path.name), path) for path in sorted(self.folder.iterdir()))
        return {match[1]: path.stat().st_size for match, path in found if match}

    def drop(self, start: str) -> list[str]:
        """Removes those whose SHA-256 begins like this (all, if it is empty), and gives them.

        What a crash left half-written goes too.

        Raises:
            RegistryError: there is none, or it can't be removed.
        """
        found = [each for each in self.sizes() if each.startswith(start)]
        if start and not found:
            raise RegistryError(
                f"{self.folder}/ has no increment whose SHA-256 begins with {start!r}. `cifar-lit versions increments` "
                "lists them."
            )
        try:
            for path in [*map(self.path, found), *self.folder.glob(".*.tmp")]:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise RegistryError(
                f"{error.filename} can't be removed: {error.strerror}. Change the permissions."
            ) from error
        return found
