"""Reads a Keras 2 or 3 model of the three-block architecture: `.keras`, legacy HDF5, or weights alone.

TensorFlow and Keras are not needed: zipfile, json and h5py read it. What kind it is, its content says. The config must
be that architecture; besides it only the arrays of weights are read, and nothing in the file is run.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cifar_lit.cifar10 import NUM_CLASSES
from cifar_lit.data import zips
from cifar_lit.errors import InputError, WeightsError
from cifar_lit.interop.assembly import MAX_FILE_BYTES, assemble, brief, num_bytes, outline
from cifar_lit.interop.h5_file import H5File, open_h5
from cifar_lit.interop.keras_config import KerasArray, KerasModel, read_config
from cifar_lit.interop.keras_weights import guess_model
from cifar_lit.models.networks import Network

_SAVE = 'Save the whole model with model.save("model.keras") or model.save("model.h5").'
_CONFIG, _WEIGHTS, _METADATA = "config.json", "model.weights.h5", "metadata.json"
_LAYERS = ("layers", "_layer_checkpoint_dependencies")
"""Group of all layers in `model.weights.h5`; the second in Keras 2.12."""
_MAX_CONFIG_BYTES = 4 * 2**20
_MAX_DIRECTORY_BYTES = 2**20

_log = logging.getLogger(__name__)


def load(path: Path, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Network:
    """The network in evaluation mode, on the CPU.

    What Rescaling does becomes the network's mean and std; without it the model was given pixels / 255.

    Args:
        path: the file.
        mean: subtracted from each channel, on the scale 0..1, where the file holds weights alone; default 0.
        std: each channel is divided by it, likewise; default 1.

    Raises:
        WeightsError: not such a file, another architecture, or arrays that do not fit it.
    """
    where = str(path)
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise WeightsError(
            f"{where} has {size:,} bytes, the limit is {MAX_FILE_BYTES:,}. Save it without the optimizer: "
            "include_optimizer=False.",
            "too_large",
        )
    with path.open("rb") as file:
        if file.read(4) == zips.LOCAL_SIGNATURE:
            config, weights = _read_archive(path, where)
            with open_h5(weights, f"{where}: {_WEIGHTS}") as h5:
                model = read_config(config, where)
                return _network(h5, model, _by_place(h5, model), where)
    with open_h5(path, where) as h5:
        text = h5.text("model_config")
        if text is not None:
            model = read_config(_parse(text, where), where)
            return _network(h5, model, _by_name(h5, model), where)
        model, places = guess_model(h5)
        if mean is not None and std is not None:
            model = replace(model, mean=list(mean), std=list(std))
        _log.warning(
            "note: %s holds weights alone. Assumed: relu before batch norm as in the seed recipe, mean %s and "
            "std %s on the scale 0..1, dropout %g, batch-norm momentum %g.",
            where,
            model.mean,
            model.std,
            model.args["dropout"],
            1 - model.args["bn_momentum"],
        )
        return _network(h5, model, places, where)


def _read_archive(path: Path, where: str) -> tuple[dict[str, Any], bytes]:
    """The config and the weights' file of a `.keras`."""
    try:
        with path.open("rb") as file:
            archive = zips.open_zip(file, max_bytes=MAX_FILE_BYTES, max_directory_bytes=_MAX_DIRECTORY_BYTES)
            members = {member.filename: member for member in archive.infolist() if zips.is_plain(member)}
            missing = [name for name in (_CONFIG, _WEIGHTS) if name not in members]
            extra = [name for name in members if name not in (_CONFIG, _WEIGHTS, _METADATA)]
            if missing or extra:
                have = brief(sorted(members))
                raise WeightsError(
                    f"{where}: it is a zip with {have}, expected {_CONFIG}, {_WEIGHTS} and {_METADATA}, as in a .keras "
                    f"file. {_SAVE}",
                    "unsupported",
                )
            if members[_CONFIG].file_size > _MAX_CONFIG_BYTES:
                raise WeightsError(f"{where}: {_CONFIG} is longer than {_MAX_CONFIG_BYTES:,} bytes.", "too_large")
            return _parse(zips.read_member(archive, members[_CONFIG]), where), zips.read_member(
                archive, members[_WEIGHTS]
            )
    except WeightsError:
        raise
    except InputError as error:
        raise WeightsError(f"{where}: {error}", error.fault) from error


def _parse(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{where}: model_config is not JSON.", "malformed") from error
    if not isinstance(config, dict):
        raise WeightsError(f"{where}: model_config does not describe a model.", "malformed")
    return config


def _network(h5: H5File, model: KerasModel, places: Mapping[KerasArray, str], where: str) -> Network:
    outlined = outline({"name": "ThreeBlockCNN", "args": model.args}, model.mean, model.std, NUM_CLASSES, where)
    if num_bytes(outlined) > h5.size:
        raise h5.error(f"{model.args} need {num_bytes(outlined):,} bytes, the file has {h5.size:,}.")
    state = outlined.state_dict()
    # Keras keeps no count of batches; with a fixed momentum nothing depends on it.
    arrays = {name: np.zeros((), np.int64) for name in state if name.endswith("num_batches_tracked")}
    shapes = {each: tuple(state[each.key].shape[axis] for axis in np.argsort(each.axes)) for each in model.arrays}
    for each in model.arrays:  # all, before the first is read
        h5.check(places[each], shapes[each])
    for each in model.arrays:
        arrays[each.key] = h5.read(places[each], shapes[each]).transpose(each.axes)
    return assemble(outlined, arrays, where)


def _by_place(h5: H5File, model: KerasModel) -> dict[KerasArray, str]:
    """The dataset of each array in `model.weights.h5`, where layers are numbered by class and arrays by their order."""
    datasets = h5.datasets()
    root = next((each for each in _LAYERS if each in h5.root), _LAYERS[0])
    found = {path for path in datasets if re.match(rf"{root}/[^/]+/vars/", path)}
    wanted = {
        f"{root}/{each.kind}{f'_{each.number}' if each.number else ''}/vars/{each.index}": each for each in model.arrays
    }
    if found != set(wanted):
        odd = brief(sorted(found ^ set(wanted)))
        raise h5.error(f"its arrays are not those of its config: {odd} missing or too many. {_SAVE}")
    return {each: path for path, each in wanted.items()}


def _by_name(h5: H5File, model: KerasModel) -> dict[KerasArray, str]:
    """The dataset of each array in a legacy file. Keras 2 and 3 nest them differently below the layer's group, with the
    array's name last."""
    if "model_weights" not in h5.root:
        raise h5.error(f"it holds no weights: there is no group 'model_weights'. {_SAVE}")
    datasets = [path for path in h5.datasets() if path.startswith("model_weights/")]
    found: dict[KerasArray, str] = {}
    for layer in dict.fromkeys(each.layer for each in model.arrays):
        paths = [path for path in datasets if path.startswith(f"model_weights/{layer}/")]
        by_name = {path.rpartition("/")[2].removesuffix(":0"): path for path in paths}
        wanted = {each.name: each for each in model.arrays if each.layer == layer}
        if len(paths) != len(by_name) or set(by_name) != set(wanted):
            have = brief([path.removeprefix("model_weights/") for path in paths])
            raise h5.error(f"layer {layer!r} has the arrays {have}; expected {', '.join(wanted)}, each once.")
        found |= {each: by_name[name] for name, each in wanted.items()}
    return found
