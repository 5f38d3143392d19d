"""The official CIFAR-10 files: reading `cifar-10-batches-py/` or its archive, and downloading that archive.

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
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from tqdm import tqdm

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

_TIMEOUT_S = 30
_CHUNK_BYTES = 1 << 16


def find(root: Path) -> Path | None:
    """The official folder or archive under `root` (or `root` itself), if there is one."""
    candidates = (root / FOLDER_NAME, root / ARCHIVE_NAME, root)
    return next((path for path in candidates if path.name in (FOLDER_NAME, ARCHIVE_NAME) and path.exists()), None)


def read(path: Path, split: str) -> ImageSet:
    """Reads the "train" or the "test" split from the official folder or archive at `path`, in the official order.

    Raises:
        DataError: a file is missing, truncated or altered.
    """
    expected = BATCH_MD5[split]
    contents = _read_folder(path, list(expected)) if path.is_dir() else _read_archive(path, list(expected))
    pixels: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
    labels: list[int] = []
    for name, md5 in expected.items():
        actual = hashlib.md5(contents[name], usedforsecurity=False).hexdigest()
        if actual != md5:
            raise DataError(
                f"{path}: {name} is damaged (MD5 {actual}, expected {md5}). Delete {path} and fetch it again with "
                "--data.download true."
            )
        batch = _ArrayUnpickler(io.BytesIO(contents[name]), encoding="bytes").load()
        pixels.append(batch[b"data"])
        labels.extend(batch[b"labels"])
    images = torch.from_numpy(np.concatenate(pixels)).view(-1, 3, 32, 32).permute(0, 2, 3, 1).contiguous()
    return ImageSet(images, torch.tensor(labels), f"official {split} files")


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


def _read_folder(path: Path, names: list[str]) -> dict[str, bytes]:
    try:
        return {name: (path / name).read_bytes() for name in names}
    except OSError as error:
        raise DataError(
            f"{path}: {Path(error.filename).name} can't be read ({error.strerror}), expected the files of "
            f"{ARCHIVE_NAME}. Unpack the archive again."
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
        raise DataError(
            f"{path}: the archive is truncated or damaged ({error}). Delete it and fetch it again with "
            "--data.download true."
        ) from error
    missing = ", ".join(sorted(set(names) - set(contents)))
    raise DataError(f"{path}: the archive lacks {missing}. Delete it and fetch it again with --data.download true.")


class _ArrayUnpickler(pickle.Unpickler):
    """Builds dicts, lists, numbers, bytes and NumPy arrays; refuses every other global a pickle may name."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return np._core.multiarray._reconstruct  # type: ignore[attr-defined,no-any-return]
            case "numpy", ("ndarray" | "dtype"):
                return getattr(np, name)  # type: ignore[no-any-return]
        raise DataError(f"a CIFAR-10 batch names {module}.{name}, which no official file does: it is not one.")
