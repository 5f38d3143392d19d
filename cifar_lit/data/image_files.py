"""Image files on disk: which there are in a folder, what is in one, and what can't be read, by kind."""

import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cifar_lit.data.formats import format_of, name_of
from cifar_lit.data.images import MAX_BYTES, Decoded, decode
from cifar_lit.errors import ImageError

_HEAD_BYTES = 4096
_KINDS = {"malformed": "damaged", "too_large": "too large", "invalid": "damaged", "unsupported": "of no known kind"}


@dataclass(frozen=True)
class Skipped:
    """A file that was not read.

    Attributes:
        path: its own.
        kind: what it is, in a word or two.
        reason: what was wrong, what was expected, how to fix it.
    """

    path: Path
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def list_files(folder: Path) -> tuple[list[Path], int]:
    """All files anywhere below a folder, in the order of their paths, and how many hidden ones were left out."""
    found: list[Path] = []
    num_hidden = 0
    for place, folders, names in os.walk(folder):
        hidden = place != str(folder) and any(part.startswith(".") for part in Path(place).relative_to(folder).parts)
        folders.sort()
        for name in names:
            if hidden or name.startswith("."):
                num_hidden += 1
            else:
                found.append(Path(place, name))
    return sorted(found), num_hidden


def read_image(path: Path) -> Decoded:
    """Decodes an image file, whatever its name.

    Raises:
        ImageError: see `decode`.
        OSError: it can't be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would be waited for without end
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no file", str(path))
        head = file.read(_HEAD_BYTES)
        format_of(head)
        return decode(head + file.read(MAX_BYTES + 1 - len(head)))


def skipped(path: Path, error: ImageError | OSError) -> Skipped:
    """What `read_image` could not read."""
    if isinstance(error, OSError):
        return Skipped(path, "unreadable", f"it can't be read ({error.strerror}).")
    kind = _KINDS[error.fault]
    if error.fault == "unsupported":
        with path.open("rb") as file:
            kind = name_of(file.read(_HEAD_BYTES)).partition(" ")[2] or kind
    return Skipped(path, kind, str(error))


def summary(files: Sequence[Skipped], num_files: int) -> str:
    """How many files of which kind were skipped, in one line."""
    counts = Counter(file.kind for file in files)
    listed = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common())
    return f"skipped {len(files):,} of {num_files:,} file{'' if num_files == 1 else 's'}: {listed}"
