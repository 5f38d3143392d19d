"""The binary version of CIFAR-10 and CIFAR-100: records of one or two label bytes and 3,072 pixels, plane by plane."""

from pathlib import Path

import numpy as np
import torch

from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import DataError

_FOLDERS = {
    "cifar-10-batches-bin": ("batches.meta.txt", 1, [f"data_batch_{number}.bin" for number in range(1, 6)]),
    "cifar-100-binary": ("fine_label_names.txt", 2, ["train.bin"]),
}
"""By folder: the file of class names, the label bytes of a record (the last one counts), the training files."""
_TEST = {"cifar-10-batches-bin": ["test_batch.bin"], "cifar-100-binary": ["test.bin"]}
_PIXELS = 3_072


def find(root: Path) -> Path | None:
    """The unpacked folder under `root` (or `root` itself), if there is one."""
    candidates = [*(root / name for name in _FOLDERS), root]
    return next((path for path in candidates if path.name in _FOLDERS and path.is_dir()), None)


def class_names(path: Path) -> tuple[str, ...]:
    """In label order, as the folder's own text file has them.

    Raises:
        DataError: that file can't be read.
    """
    return tuple(_bytes(path / _FOLDERS[path.name][0]).decode().split())


def read(path: Path, split: str) -> ImageSet:
    """Reads the "train" or the "test" split, in the official order.

    Raises:
        DataError: a file is missing, is not whole records, or has a label that no class has.
    """
    names, (_, num_labels, train) = class_names(path), _FOLDERS[path.name]
    records = []
    for name in train if split == "train" else _TEST[path.name]:
        data = np.frombuffer(_bytes(path / name), np.uint8)
        if not len(data) or len(data) % (num_labels + _PIXELS):
            raise DataError(
                f"{path / name}: {len(data):,} bytes, expected records of {num_labels + _PIXELS:,}. Unpack it again."
            )
        records.append(data.reshape(-1, num_labels + _PIXELS))
    rows = torch.from_numpy(np.concatenate(records))
    labels = rows[:, num_labels - 1].long()
    if int(labels.max()) >= len(names):
        raise DataError(f"{path}: a label is {int(labels.max())}, expected 0..{len(names) - 1}. Unpack it again.")
    images = rows[:, num_labels:].view(-1, 3, 32, 32).permute(0, 2, 3, 1).contiguous()
    return ImageSet(images, labels, f"binary {split} files", names)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: it can't be read ({error.strerror}). Unpack the archive again.") from error
