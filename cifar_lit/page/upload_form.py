"""Writes the files of a form as they come, each to a folder of its own. Knows nothing of requests."""

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from gradio_client.utils import strip_invalid_filename_characters

from cifar_lit.errors import InputError
from cifar_lit.serving.uploads import MAX_FILES, options_of

FIELD = "files"

_MAX_PARTS = 1000


@dataclass
class Progress:
    """How far an upload is, for the page's bar."""

    name: str = ""
    num_bytes: int = 0
    done: bool = False


@dataclass
class UploadForm:
    """What a `MultipartParser` calls.

    Attributes:
        folder: where folders for files are made.
        max_file_bytes: of one file.
        progress: is told how far it is.
        paths: of files, whole or not.
        num_bytes: of all of them.
        complete: the form has ended as it should.
    """

    folder: Path
    max_file_bytes: int
    progress: Progress
    paths: list[Path] = field(default_factory=list)
    num_bytes: int = 0
    complete: bool = False
    _num_parts: int = 0
    _header: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    _disposition: bytes = b""
    _file: BinaryIO | None = None
    _size: int = 0

    @property
    def callbacks(self) -> Any:
        names = ("on_part_begin", "on_header_field", "on_header_value", "on_header_end", "on_headers_finished")
        found: dict[str, Callable[..., None]] = {name: getattr(self, name) for name in names}
        return found | {name: getattr(self, name) for name in ("on_part_data", "on_part_end", "on_end")}

    def on_part_begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > _MAX_PARTS:
            raise InputError(f"The form has more than {_MAX_PARTS:,} parts. Send fewer files.", "too_large")
        self._disposition = b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def on_header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        name.clear()
        value.clear()

    def on_headers_finished(self) -> None:
        options = options_of(self._disposition)
        if options.get(b"name") == FIELD.encode() and b"filename" in options:
            if len(self.paths) == MAX_FILES:
                raise InputError(f"The form has more than {MAX_FILES} files. Send the others in another.", "too_large")
            name = options[b"filename"].decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2]
            place = self.folder / secrets.token_hex(16)
            place.mkdir()
            self.paths.append(place / _safe(name))
            self._file, self._size = self.paths[-1].open("wb", buffering=0), 0
            self.progress.name = name

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:  # no file: nobody asked for it
            return
        self._size += end - start
        if self._size > self.max_file_bytes:
            raise InputError(
                f"The file has more than {self.max_file_bytes:,} bytes. Choose a smaller one.", "too_large"
            )
        rest = memoryview(data)[start:end]
        while rest:  # a full disk shortens a write before it fails one
            rest = rest[self._file.write(rest) :]
        self.num_bytes += end - start
        self.progress.num_bytes += end - start

    def on_part_end(self) -> None:
        self._close()

    def on_end(self) -> None:
        self.complete = True

    def discard(self) -> None:
        """Removes all that was written."""
        self._close()
        for path in self.paths:
            shutil.rmtree(path.parent, ignore_errors=True)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _safe(name: str) -> str:
    """A name for a file that tells its visitor of it, and nothing to the system."""
    found = strip_invalid_filename_characters("".join(each for each in name if each.isprintable()))
    return found if found not in ("", ".", "..") else "file"
