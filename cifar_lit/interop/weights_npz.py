"""Weights as plain arrays in an `.npz`, one a name in the network's state_dict, and a small JSON header beside them.

The header is the array `header`: UTF-8 bytes as uint8. Nothing is pickled, so NumPy alone reads such a file.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cifar_lit.data.array_file import ArrayFile
from cifar_lit.data.npz import NpzFile
from cifar_lit.errors import WeightsError
from cifar_lit.interop import description
from cifar_lit.interop.assembly import MAX_FILE_BYTES, assemble, check_arrays
from cifar_lit.interop.description import Description
from cifar_lit.models.networks import Network

HEADER = "header"

_ADVICE = "Make such a file with `cifar-lit export VERSION --format npz`."
_MAX_HEADER_BYTES = 65_536
_MAX_MEMBERS = 1_000


def dump(network: Network, class_names: Sequence[str]) -> bytes:
    """The file's content; equal networks give equal bytes."""
    arrays = {name: value.detach().cpu().contiguous().numpy() for name, value in network.state_dict().items()}
    arrays[HEADER] = np.frombuffer(description.dumps(network, class_names).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def load(path: Path) -> tuple[Network, list[str]]:
    """The network, bit-equal to the one that was dumped, in evaluation mode on the CPU; and its class names.

    Raises:
        NpzError: not an `.npz` of plain arrays within the limits.
        WeightsError: the header or the arrays are not those of a network known here.
    """
    where = str(path)
    with NpzFile(path, max_bytes=MAX_FILE_BYTES, max_members=_MAX_MEMBERS) as file:
        described = _header(file, where)
        outlined = described.outline(where)
        headers = {name: file.header(name) for name in file.keys if name != HEADER}
        check_arrays({name: (each.shape, each.dtype) for name, each in headers.items()}, outlined, where)
        arrays = {name: file.read(name) for name in headers}
    return assemble(outlined, arrays, where), described.class_names


def _header(file: ArrayFile, where: str) -> Description:
    if HEADER not in file.keys:
        raise WeightsError(f"{where}: it has no array {HEADER!r}, so it does not say which network it is of. {_ADVICE}")
    shape_of = file.header(HEADER)
    if shape_of.dtype != np.uint8 or len(shape_of.shape) != 1 or shape_of.shape[0] > _MAX_HEADER_BYTES:
        raise WeightsError(
            f"{where}: {HEADER!r} is {shape_of}, expected JSON as uint8 (n,), n up to {_MAX_HEADER_BYTES:,}. {_ADVICE}"
        )
    return description.parse(file.read(HEADER).tobytes(), f"{where}: {HEADER!r}", _ADVICE)
