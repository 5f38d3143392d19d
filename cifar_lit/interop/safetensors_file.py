"""Weights in safetensors: a state dictionary, with what it is of as JSON in the metadata."""

from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open

from cifar_lit.errors import WeightsError
from cifar_lit.files import read_file
from cifar_lit.interop import description
from cifar_lit.interop.assembly import MAX_FILE_BYTES
from cifar_lit.interop.state_dict import build
from cifar_lit.models.networks import Network

METADATA_KEY = "cifar_lit"


def dump(network: Network, class_names: Sequence[str]) -> bytes:
    """The file's content; equal networks give equal bytes."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    # One entry: safetensors writes several in any order.
    return safetensors.torch.save(state, {METADATA_KEY: description.dumps(network, class_names)})


def load(
    path: Path, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> tuple[Network, list[str]]:
    """The network in evaluation mode, on the CPU, bit-equal to the one that was dumped; and its class names.

    Args:
        path: the file.
        mean: see `state_dict.build`; not looked at if the file says it.
        std: likewise.

    Raises:
        WeightsError: not such a file, or weights of no network known here.
        OSError: it can't be read or is too large.
    """
    where = str(path)
    data = read_file(path, MAX_FILE_BYTES)
    try:
        state = safetensors.torch.load(data)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{where}: it can't be read as safetensors ({reason}). Save it again.", "malformed"
        ) from error
    described = None
    if METADATA_KEY in metadata:
        advice = "Make such a file with `cifar-lit export VERSION --format safetensors`."
        described = description.parse(metadata[METADATA_KEY], f"{where}: metadata {METADATA_KEY!r}", advice)
    return build(state, where, described, mean, std)
