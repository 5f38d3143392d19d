"""The official CIFAR-10 and CIFAR-100 as Python files: reading the folder or its archive, and downloading CIFAR-10's.

Every file is checked against its published MD5 before it is read. The batches are Python pickles, so they are read by
an unpickler that knows NumPy arrays and nothing else.
"""

import hashlib
import http.client
import io
import os
import pickle
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from tqdm import tqdm

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import DataError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
ARCHIVE_NAME = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
FOLDER_NAME = "cifar-10-batches-py"
BATCH_MD5 = {
    "train": {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
}

_FETCH = "Fetch the official files into another folder (CIFAR-10's: --data.download true --data.root DIR)"
_TIMEOUT_S = 30
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Files:
    """One of the official data sets, as Python files.

    Attributes:
        name: of the data set.
        folder: its name; Keras puts it into another, of this name and `-target`.
        archive: its name.
        md5: of each file, by split.
        label_key: under which a file has its labels.
        meta: name and MD5 of the file with the class names, and their key there; none for CIFAR-10, whose are known.
    """

    name: str
    folder: str
    archive: str
    md5: dict[str, dict[str, str]]
    label_key: str = "labels"
    meta: tuple[str, str, str] | None = None

    def find(self, root: Path) -> Path | None:
        """The folder or archive under `root` (or `root` itself), if there is one."""
        candidates = (root / self.folder, root / f"{self.folder}-target" / self.folder, root / self.archive, root)
        return next((path for path in candidates if path.name in (self.folder, self.archive) and path.exists()), None)

    def class_names(self, path: Path, *, verify: bool = True) -> tuple[str, ...]:
        """In label order.

        Raises:
            DataError: the file that holds them is missing or damaged.
        """
        if self.meta is None:
            return CLASS_NAMES
        name, md5, key = self.meta
        content = _contents(path, {name: md5}, self, verify)[name]
        return tuple(each.decode() if isinstance(each, bytes) else str(each) for each in _get(content, key, path, name))

    def read(self, path: Path, split: str, *, verify: bool = True) -> ImageSet:
        """Reads the "train" or the "test" split from the folder or archive at `path`, in the official order.

        Args:
            path: as `find` gives it.
            split: "train" or "test".
            verify: refuse files whose content is not the official one.

        Raises:
            DataError: a file is missing, truncated or altered.
        """
        class_names = self.class_names(path, verify=verify)
        pixels: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
        labels: list[int] = []
        for name, content in _contents(path, self.md5[split], self, verify).items():
            data, found = np.asarray(_get(content, "data", path, name)), _get(content, self.label_key, path, name)
            if not isinstance(found, list | np.ndarray):
                raise DataError(f"{path}: {name} has labels of type {type(found).__name__}, expected a list. Fix it.")
            found = [int(label) for label in found]
            if data.dtype != np.uint8 or data.shape != (len(found), 3072):
                raise DataError(
                    f"{path}: {name} holds {data.dtype} {data.shape} and {len(found)} labels, expected uint8 (n, 3072) "
                    "and n labels. Save it in the official form."
                )
            if not all(0 <= label < len(class_names) for label in found):
                raise DataError(f"{path}: {name} has labels beyond 0..{len(class_names) - 1}. Correct them.")
            pixels.append(data)
            labels += found
        images = torch.from_numpy(np.concatenate(pixels)).view(-1, 3, 32, 32).permute(0, 2, 3, 1).contiguous()
        source = f"official {split} files" if self is CIFAR10 else f"official {self.name} {split} files"
        return ImageSet(images, torch.tensor(labels), source, class_names)


CIFAR10 = Files("CIFAR-10", FOLDER_NAME, ARCHIVE_NAME, BATCH_MD5)
CIFAR100 = Files(
    "CIFAR-100",
    "cifar-100-python",
    "cifar-100-python.tar.gz",
    {
        "train": {"train": "16019d7e3df5f24257cddd939b257f8d"},
        "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    },
    "fine_labels",
    ("meta", "7973b15100ade9c7d40fb424638fde48", "fine_label_names"),
)


def _contents(path: Path, md5: dict[str, str], files: Files, verify: bool) -> dict[str, bytes]:
    """Of the files with these names, each compared with its MD5."""
    contents = _read_folder(path, list(md5), files) if path.is_dir() else _read_archive(path, list(md5))
    for name, expected in md5.items() if verify else ():
        actual = hashlib.md5(contents[name], usedforsecurity=False).hexdigest()
        if actual != expected:
            raise DataError(
                f"{path}: {name} is not the official file (MD5 {actual}, expected {expected}). {_FETCH}, or take it as "
                "it is with --data.verify false."
            )
    return {name: contents[name] for name in md5}


def _get(content: bytes, key: str, path: Path, name: str) -> Any:
    """A value of a pickled dictionary, whose keys Python 2 wrote as bytes."""
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        return batch[key.encode()] if key.encode() in batch else batch[key]
    except DataError:
        raise
    except Exception as error:  # what is unpickled may be anything
        raise DataError(f"{path}: {name} holds no {key!r} ({error!r:.100}). Save it in the official form.") from error


def download(root: Path, mirror: str | None = None) -> Path:
    """Downloads the official archive into `root`, shows progress, and goes on where an earlier try was cut off.

    Args:
        root: folder for the archive; made if absent.
        mirror: address of the same archive elsewhere, or of the folder it lies in (ends with a slash).

    Raises:
        DataError: the server can't be reached, or what it sent is not the official archive.
    """
    url = mirror or URL
    if url.endswith("/"):
        url += ARCHIVE_NAME
    target, part = root / ARCHIVE_NAME, root / f"{ARCHIVE_NAME}.part"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _fetch(url, part)
    except (OSError, ValueError, http.client.HTTPException) as error:  # a URLError is an OSError
        reason = repr(error) if isinstance(error, http.client.HTTPException) else error  # it may quote what was sent
        raise DataError(
            f"downloading {url} failed: {reason}. Try again (what has arrived is kept), name another address with "
            f"--data.mirror, or put {ARCHIVE_NAME} into {root} yourself."
        ) from error
    with part.open("rb") as file:
        actual = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if actual != ARCHIVE_MD5:
        part.unlink()
        raise DataError(
            f"{url} did not send the official archive (MD5 {actual}, expected {ARCHIVE_MD5}). It was deleted; try "
            "again, or name another address with --data.mirror."
        )
    os.replace(part, target)
    return target


def _fetch(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send: the checksum will tell whether it is all there
            return
        raise
    with response:
        resumed = response.status == 206
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=ARCHIVE_NAME, file=sys.stderr) as bar,
        ):
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size < total:
        raise OSError(f"the connection ended after {part.stat().st_size:,} of {total:,} bytes")


def _read_folder(path: Path, names: list[str], files: Files) -> dict[str, bytes]:
    try:
        return {name: (path / name).read_bytes() for name in names}
    except OSError as error:
        raise DataError(
            f"{path}: {Path(error.filename).name} can't be read ({error.strerror}), expected the files of "
            f"{files.archive}. Unpack the archive again."
        ) from error


def _read_archive(path: Path, names: list[str]) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|gz") as archive:  # one pass; extractfile on a random-access gzip would seek back
            for member in archive:
                name = Path(member.name).name
                stream: IO[bytes] | None = archive.extractfile(member) if name in names else None
                if stream is not None:
                    contents[name] = stream.read()
                if len(contents) == len(names):
                    return contents
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path}: the archive is truncated or damaged ({error}). {_FETCH}.") from error
    missing = ", ".join(sorted(set(names) - set(contents)))
    raise DataError(f"{path}: the archive lacks {missing}. {_FETCH}.")


class _ArrayUnpickler(pickle.Unpickler):
    """Builds dicts, lists, numbers, bytes and NumPy arrays; refuses every other global a pickle may name."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), ("_reconstruct" | "scalar")):
                return getattr(np._core.multiarray, name)  # type: ignore[attr-defined,no-any-return]
            case (("numpy.core.numeric" | "numpy._core.numeric"), "_frombuffer"):
                return np._core.numeric._frombuffer  # type: ignore[attr-defined,no-any-return]
            case "numpy", ("ndarray" | "dtype"):
                return getattr(np, name)  # type: ignore[no-any-return]
        raise DataError(f"a CIFAR-10 batch names {module}.{name}, which no official file does: it is not one.")
