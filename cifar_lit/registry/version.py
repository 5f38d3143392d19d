"""A complete version on disk, and whether it is whole."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from cifar_lit.errors import VersionDamagedError
from cifar_lit.files import read_file, temporary
from cifar_lit.registry.manifest import Manifest
from cifar_lit.registry.model_card import CARD

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
ONNX = "model.onnx"
"""The network as a graph that runs without PyTorch; versions of older releases have none."""
CALIBRATION = "report/calibration.png"
MAX_FILE_BYTES = 1 << 30

_ADDED_LATER = (MANIFEST, CARD, ONNX, CALIBRATION)
"""Files that an upgrade writes: one that the manifest does not name yet is no damage."""


@dataclass(frozen=True)
class Version:
    """A complete version on disk."""

    path: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        return self.manifest.id

    def read(self, name: str) -> bytes:
        """The content of one of its files.

        Raises:
            VersionDamagedError: the file is missing or differs from its hash.
        """
        advice = "Restore it from a copy, or use another version."
        try:
            data = read_file(self.path / name, MAX_FILE_BYTES)
        except OSError as error:
            raise VersionDamagedError(f"{self.path / name} can't be read ({error.strerror}). {advice}") from error
        if hashlib.sha256(data).hexdigest() != self.manifest.files.get(name):
            raise VersionDamagedError(f"{self.path / name} differs from its hash in {MANIFEST}. {advice}")
        return data

    def verify(self) -> None:
        """Checks every file against the manifest, and that there is no other.

        Raises:
            VersionDamagedError: something is missing, altered or added.
        """
        harmless = {str(path) for name in _ADDED_LATER for path in (Path(name), temporary(Path(name)))}
        unknown = _files_below(self.path) - set(self.manifest.files) - harmless
        if unknown:
            raise VersionDamagedError(f"{self.path} holds files that its manifest does not name: {sorted(unknown)}.")
        for name in self.manifest.files:
            self.read(name)


def _files_below(folder: Path) -> set[str]:
    """Paths inside `folder` of all but folders. Others may write there meanwhile: nothing is looked up twice."""
    found = set()
    for base, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(base, name))]
        found |= {os.path.relpath(os.path.join(base, name), folder) for name in names + links}
    return found
