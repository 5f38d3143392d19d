"""Weights as plain arrays in an `.npz`, one a name in the network's state_dict, and a small JSON header beside them.

The header is the array `header`: UTF-8 bytes as uint8. Nothing is pickled, so NumPy alone reads such a file.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data.array_file import ArrayFile
from cifar_lit.data.npy_header import ArrayHeader
from cifar_lit.data.npz import NpzFile
from cifar_lit.errors import WeightsError
from cifar_lit.interop.assembly import MAX_FILE_BYTES, assemble, outline
from cifar_lit.models.networks import Network
from cifar_lit.registry.weights import describe

HEADER = "header"
FORMAT = {"format": "cifar-lit weights", "format_version": 1}

_FIELDS = {*FORMAT, "network", "class_names", "mean", "std"}
_MAX_HEADER_BYTES = 65_536
_MAX_MEMBERS = 1_000


def dump(network: Network, class_names: Sequence[str]) -> bytes:
    """The file's content; equal networks give equal bytes."""
    header = FORMAT | describe(network) | {"class_names": list(class_names)}
    arrays = {name: value.detach().cpu().contiguous().numpy() for name, value in network.state_dict().items()}
    arrays[HEADER] = np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)
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
        header = _header(file, where)
        network = header["network"]
        outlined = outline(network["name"], network["args"], header["mean"], header["std"], where)
        if header["class_names"] != list(CLASS_NAMES):
            raise WeightsError(f"{where}: its classes are other ones than CIFAR-10's: {', '.join(CLASS_NAMES)}.")
        headers = {name: file.header(name) for name in file.keys if name != HEADER}
        _check(headers, outlined, where)
        arrays = {name: file.read(name) for name in headers}
    return assemble(outlined, arrays, where), list(CLASS_NAMES)


def _header(file: ArrayFile, where: str) -> dict[str, Any]:
    advice = "Make such a file with `cifar-lit export VERSION --format npz`."
    if HEADER not in file.keys:
        raise WeightsError(f"{where}: it has no array {HEADER!r}, so it does not say which network it is of. {advice}")
    shape_of = file.header(HEADER)
    if shape_of.dtype != np.uint8 or len(shape_of.shape) != 1 or shape_of.shape[0] > _MAX_HEADER_BYTES:
        raise WeightsError(
            f"{where}: {HEADER!r} is {shape_of}, expected JSON as uint8 (n,), n up to {_MAX_HEADER_BYTES:,}. {advice}"
        )
    try:
        header = json.loads(file.read(HEADER).tobytes())
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{where}: {HEADER!r} is not JSON. {advice}", "malformed") from error
    if not isinstance(header, dict) or {name: header.get(name) for name in FORMAT} != FORMAT:
        raise WeightsError(f"{where}: {HEADER!r} does not say {json.dumps(FORMAT)[1:-1]}. {advice}")
    network = header.get("network")
    if set(header) != _FIELDS or not isinstance(network, dict) or set(network) != {"name", "args"}:
        fields = ", ".join(sorted(_FIELDS))
        raise WeightsError(f"{where}: {HEADER!r} must hold {fields}, with a name and args in `network`. {advice}")
    return header


def _check(headers: dict[str, ArrayHeader], outlined: Network, where: str) -> None:
    state = outlined.state_dict()
    name = type(outlined).__name__
    missing, extra = sorted(set(state) - set(headers)), sorted(set(headers) - set(state))
    if missing or extra:
        misfit = [f"{kind} {names[:5]}" for kind, names in (("lacks", missing), ("has besides", extra)) if names]
        raise WeightsError(f"{where}: it {' and '.join(misfit)}, compared with the {len(state)} arrays of {name}.")
    for key, tensor in state.items():
        shape, dtype = tuple(tensor.shape), torch.empty(0, dtype=tensor.dtype).numpy().dtype
        got = headers[key]
        if got.shape != shape or got.dtype != dtype:
            raise WeightsError(f"{where}: {key!r} is {got}, expected {dtype} {shape} in this {name}.")
