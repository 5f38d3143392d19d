"""Reads a Keras 2 or 3 model in legacy HDF5 (`model.save("x.h5")`) of the three-block architecture, with h5py alone.

The file's `model_config` must be that architecture; besides it only the named arrays of weights are read. Nothing in
the file is run, nothing outside it is opened, and no more memory is taken than the file is long.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from cifar_lit.errors import CifarLitError, Fault, WeightsError
from cifar_lit.interop.assembly import MAX_FILE_BYTES, assemble, brief, num_bytes, outline
from cifar_lit.interop.keras_config import KerasArray, read_config
from cifar_lit.models.networks import Network

_SAVE = 'Save the whole model with model.save("model.h5").'
_MAX_LINKS = 10_000
_MAX_DEPTH = 12
_MAX_CONFIG_BYTES = 4 * 2**20
_ZIP_MAGIC = b"PK\x03\x04"


def load(path: Path) -> Network:
    """The network in evaluation mode, on the CPU. Pixels / 255 are what Keras was given, so mean is 0 and std 1.

    Raises:
        WeightsError: not such a file, another architecture, or arrays that do not fit it.
        CifarLitError: h5py is not installed.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise CifarLitError("reading Keras files needs h5py, an extra: pip install 'cifar-lit[interop]'.") from error
    where = str(path)
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise WeightsError(
            f"{where} has {size:,} bytes, the limit is {MAX_FILE_BYTES:,}. Save it without the optimizer: "
            "include_optimizer=False.",
            "too_large",
        )
    with path.open("rb") as file:
        if file.read(4) == _ZIP_MAGIC:
            raise WeightsError(
                f"{where} is a zip, as .keras files of Keras 3 are, expected HDF5. {_SAVE}", "unsupported"
            )
    try:
        with h5py.File(path, "r") as h5:
            return _Reader(h5, where, size).network()
    except WeightsError:
        raise
    except Exception as error:  # h5py passes on whatever HDF5 says, as exceptions of every kind
        detail = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{where} can't be read as HDF5 ({detail}). It is damaged or another kind of file. {_SAVE}", "malformed"
        ) from error


class _Reader:
    """One open file.

    Args:
        h5: an open h5py.File.
        where: what to call it in an error.
        size: of the file, in bytes.
    """

    def __init__(self, h5: Any, where: str, size: int) -> None:
        self._h5 = h5
        self._where = where
        self._size = size

    def network(self) -> Network:
        datasets = self._datasets()
        config = self._config()
        if "model_weights" not in self._h5:
            raise self._error(f"it holds no weights: there is no group 'model_weights'. {_SAVE}")
        args, weights = read_config(config, self._where)
        outlined = outline("ThreeBlockCNN", args, [0.0] * 3, [1.0] * 3, self._where)
        if num_bytes(outlined) > self._size:
            raise self._error(f"{args} need {num_bytes(outlined):,} bytes, the file has {self._size:,}.")
        state = outlined.state_dict()
        # Keras keeps no count of batches; with a fixed momentum nothing depends on it.
        arrays = {name: np.zeros((), np.int64) for name in state if name.endswith("num_batches_tracked")}
        found = self._pair(weights, datasets)
        for each in weights:
            inverse = np.argsort(each.axes)
            shape = tuple(state[each.key].shape[axis] for axis in inverse)
            self._check(found[each], shape)
        for each in weights:
            arrays[each.key] = found[each][()].transpose(each.axes)
        return assemble(outlined, arrays, self._where)

    def _datasets(self) -> list[str]:
        """Paths of the datasets below model_weights. Every link in the file must lead straight to an object in it."""
        import h5py

        found: list[str] = []
        seen = set()
        count = 0

        def visit(group: Any, path: str, depth: int) -> None:
            nonlocal count
            address = h5py.h5o.get_info(group.id).addr
            if depth > _MAX_DEPTH or address in seen:
                raise self._error(
                    f"group {brief(path)} is nested too deep or lies in two places, which Keras never writes."
                )
            seen.add(address)
            for name in group:
                count += 1
                if count > _MAX_LINKS:
                    raise self._error(f"it has more than {_MAX_LINKS:,} entries.", "too_large")
                below = f"{path}/{name}" if path else name
                link = group.get(name, getlink=True)
                if link is None:
                    raise self._error(f"{brief(below)} is listed and can't be found: the file is damaged.", "malformed")
                if not isinstance(link, h5py.HardLink):
                    raise self._error(f"{brief(below)} is a {type(link).__name__}, which Keras never writes.")
                kind = group.get(name, getclass=True)
                if issubclass(kind, h5py.Group):
                    visit(group[name], below, depth + 1)
                elif issubclass(kind, h5py.Dataset) and below.startswith("model_weights/"):
                    found.append(below)

        visit(self._h5, "", 0)
        return found

    def _config(self) -> dict[str, Any]:
        import h5py

        if "model_config" not in self._h5.attrs:
            raise self._error(f"it has no model_config, as files with weights alone. {_SAVE}")
        attribute = self._h5.attrs.get_id("model_config")
        if attribute.get_type().get_class() != h5py.h5t.STRING or attribute.shape != ():
            raise self._error("model_config is not a text.", "malformed")
        if attribute.get_storage_size() > _MAX_CONFIG_BYTES:
            raise self._error(f"model_config is longer than {_MAX_CONFIG_BYTES:,} bytes.", "too_large")
        text = self._h5.attrs["model_config"]
        if len(text) > _MAX_CONFIG_BYTES:
            raise self._error(f"model_config is longer than {_MAX_CONFIG_BYTES:,} bytes.", "too_large")
        try:
            config = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._error("model_config is not JSON.", "malformed") from error
        if not isinstance(config, dict):
            raise self._error("model_config does not describe a model.", "malformed")
        return config

    def _pair(self, weights: list[KerasArray], datasets: list[str]) -> dict[KerasArray, Any]:
        """The dataset of each array. Keras 2 and 3 nest them differently below the layer's group, with the array's name
        last."""
        found: dict[KerasArray, Any] = {}
        for layer in dict.fromkeys(each.layer for each in weights):
            paths = [path for path in datasets if path.startswith(f"model_weights/{layer}/")]
            by_name = {path.rpartition("/")[2].removesuffix(":0"): path for path in paths}
            wanted = {each.name: each for each in weights if each.layer == layer}
            if len(paths) != len(by_name) or set(by_name) != set(wanted):
                have = brief([path.removeprefix("model_weights/") for path in paths])
                raise self._error(f"layer {layer!r} has the arrays {have}; expected {', '.join(wanted)}, each once.")
            found |= {each: self._h5[by_name[name]] for name, each in wanted.items()}
        return found

    def _check(self, dataset: Any, shape: tuple[int, ...]) -> None:
        """Looks at what is said of a dataset; reads none of its values."""
        import h5py

        name = str(dataset.name).removeprefix("/model_weights/")
        if dataset.id.get_type() != h5py.h5t.IEEE_F32LE:
            raise self._error(f"{brief(name)} is of another type than float32. Save the model with float32 weights.")
        if dataset.shape != shape:
            raise self._error(f"{brief(name)} has the shape {dataset.shape}, expected {shape} by model_config.")
        properties = dataset.id.get_create_plist()
        layout = properties.get_layout()
        if layout == h5py.h5d.VIRTUAL or (layout == h5py.h5d.CONTIGUOUS and properties.get_external_count()):
            raise self._error(f"{brief(name)} keeps its values in other files, which are never opened. {_SAVE}")
        if properties.get_nfilters() or layout == h5py.h5d.CHUNKED:
            raise self._error(f"{brief(name)} is compressed or in pieces, which Keras never writes. {_SAVE}")
        length = 4 * int(np.prod(shape, dtype=np.int64))
        begin = dataset.id.get_offset() if layout == h5py.h5d.CONTIGUOUS else 0
        if dataset.id.get_storage_size() != length or begin is None or begin + length > self._size:
            raise self._error(
                f"{brief(name)} is not filled: the file holds fewer than its {length:,} bytes.", "malformed"
            )

    def _error(self, message: str, fault: Fault = "invalid") -> WeightsError:
        return WeightsError(f"{self._where}: {message}", fault)
