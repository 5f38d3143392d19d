"""An HDF5 file from outside, read with h5py alone: plain float32 arrays and texts, and nothing that leads out of it.

Nothing in the file is run, no other file is opened, and no more memory is taken than the file is long.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cifar_lit.errors import CifarLitError, Fault, WeightsError
from cifar_lit.interop.assembly import brief

_MAX_LINKS = 10_000
_MAX_DEPTH = 12
_MAX_TEXT_BYTES = 4 * 2**20


@contextmanager
def open_h5(source: Path | bytes, where: str) -> Iterator["H5File"]:
    """Opens a file, or what was read of one.

    Args:
        source: of an accepted size.
        where: what to call it in an error.

    Raises:
        WeightsError: it can't be read, or what is done inside the `with` raises what HDF5 has to say.
    """
    import h5py

    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    try:
        with h5py.File(io.BytesIO(source) if isinstance(source, bytes) else source, "r") as root:
            yield H5File(root, where, size)
    except CifarLitError:
        raise
    except Exception as error:  # h5py passes on whatever HDF5 says, as exceptions of every kind
        detail = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{where} can't be read as HDF5 ({detail}). It is damaged or another kind of file. Save it again.",
            "malformed",
        ) from error


class H5File:
    """One open file.

    Args:
        root: an open h5py.File.
        where: what to call it in an error.
        size: of the file, in bytes.
    """

    def __init__(self, root: Any, where: str, size: int) -> None:
        self.root = root
        self.size = size
        self._where = where

    def datasets(self) -> list[str]:
        """Paths of all datasets. Every link in the file must lead straight to an object in it.

        Raises:
            WeightsError: one does not.
        """
        import h5py

        found: list[str] = []
        seen = set()
        count = 0

        def visit(group: Any, path: str, depth: int) -> None:
            nonlocal count
            address = h5py.h5o.get_info(group.id).addr
            if depth > _MAX_DEPTH or address in seen:
                raise self.error(
                    f"group {brief(path)} is nested too deep or lies in two places, which Keras never writes."
                )
            seen.add(address)
            for name in group:
                count += 1
                if count > _MAX_LINKS:
                    raise self.error(f"it has more than {_MAX_LINKS:,} entries.", "too_large")
                below = f"{path}/{name}" if path else name
                link = group.get(name, getlink=True)
                if link is None:
                    raise self.error(f"{brief(below)} is listed and can't be found: the file is damaged.", "malformed")
                if not isinstance(link, h5py.HardLink):
                    raise self.error(f"{brief(below)} is a {type(link).__name__}, which Keras never writes.")
                kind = group.get(name, getclass=True)
                if issubclass(kind, h5py.Group):
                    visit(group[name], below, depth + 1)
                elif issubclass(kind, h5py.Dataset):
                    found.append(below)

        visit(self.root, "", 0)
        return found

    def text(self, name: str) -> str | bytes | None:
        """A text among the file's attributes; none if there is no such attribute.

        Raises:
            WeightsError: it is no text, or too long.
        """
        import h5py

        if name not in self.root.attrs:
            return None
        attribute = self.root.attrs.get_id(name)
        if attribute.get_type().get_class() != h5py.h5t.STRING or attribute.shape != ():
            raise self.error(f"{name} is not a text.", "malformed")
        if attribute.get_storage_size() > _MAX_TEXT_BYTES or len(self.root.attrs[name]) > _MAX_TEXT_BYTES:
            raise self.error(f"{name} is longer than {_MAX_TEXT_BYTES:,} bytes.", "too_large")
        text: str | bytes = self.root.attrs[name]
        return text

    def read(self, path: str, shape: tuple[int, ...]) -> np.ndarray:
        """The float32 values of a dataset, after a look at what is said of it.

        Raises:
            WeightsError: it has another type or shape, or does not hold its values plainly, in this file.
        """
        self.check(path, shape)
        values: np.ndarray = self.root[path][()]
        return values

    def check(self, path: str, shape: tuple[int, ...]) -> None:
        """As `read`, but reads no value."""
        import h5py

        dataset, name = self.root[path], path.removeprefix("model_weights/")
        if dataset.id.get_type() != h5py.h5t.IEEE_F32LE:
            raise self.error(f"{brief(name)} is of another type than float32. Save the model with float32 weights.")
        if dataset.shape != shape:
            raise self.error(f"{brief(name)} has the shape {dataset.shape}, expected {shape}.")
        properties = dataset.id.get_create_plist()
        layout = properties.get_layout()
        if layout == h5py.h5d.VIRTUAL or (layout == h5py.h5d.CONTIGUOUS and properties.get_external_count()):
            raise self.error(f"{brief(name)} keeps its values in other files, which are never opened.")
        if properties.get_nfilters() or layout == h5py.h5d.CHUNKED:
            raise self.error(f"{brief(name)} is compressed or in pieces, which Keras never writes.")
        length = 4 * int(np.prod(shape, dtype=np.int64))
        begin = dataset.id.get_offset() if layout == h5py.h5d.CONTIGUOUS else 0
        if dataset.id.get_storage_size() != length or begin is None or begin + length > self.size:
            raise self.error(
                f"{brief(name)} is not filled: the file holds fewer than its {length:,} bytes.", "malformed"
            )

    def error(self, message: str, fault: Fault = "invalid") -> WeightsError:
        return WeightsError(f"{self._where}: {message}", fault)
