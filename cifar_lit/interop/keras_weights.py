"""Which network Keras weights are of that come without a config: told from the names and shapes of the arrays."""

import re
from collections import defaultdict

from cifar_lit.interop.assembly import brief
from cifar_lit.interop.h5_file import H5File
from cifar_lit.interop.keras_config import KerasArray, KerasModel, read_config
from cifar_lit.interop.keras_export import config_of

_PLACE = re.compile(
    r"(?:layers|_layer_checkpoint_dependencies)/((conv2d|batch_normalization|dense)(?:_(\d+))?)/vars/(\d)"
)
_OTHER_VARS = re.compile(r"(?:layers|_layer_checkpoint_dependencies)/(?!.*seed_generator).*/vars/\d+")
_NAMES = {
    "conv2d": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "dense": ("kernel", "bias"),
}
_UNKNOWN = {"dropout": 0.5, "bn_momentum": 0.01}
"""The seed recipe's: no prediction of a trained network depends on them."""
_SAVE = 'Save the whole model with model.save("model.keras").'


def guess_model(h5: H5File) -> tuple[KerasModel, dict[KerasArray, str]]:
    """The model, with the seed recipe's dropout and momentum, and the path of each of its arrays.

    Both `.weights.h5` of Keras 3 and legacy weights of Keras 2 (`layer_names` at the root) are read.

    Raises:
        WeightsError: the arrays are not those of a three-block network.
    """
    datasets = h5.datasets()
    layers = _legacy_layers(h5, datasets) if "layer_names" in h5.root.attrs else _layers(h5, datasets)
    kinds = [kind for kind, _ in layers]
    depth = kinds.count("conv2d")
    dense = [paths for kind, paths in layers if kind == "dense"]
    if not depth or kinds.count("batch_normalization") != depth or len(dense) != 2:
        raise h5.error(
            f"it holds {kinds.count('conv2d')} convolutions, {kinds.count('batch_normalization')} batch norms and "
            f"{len(dense)} dense layers, expected as many convolutions as batch norms, and 2 dense layers. {_SAVE}"
        )
    widths = [h5.root[paths["kernel"]].shape[-1:] for kind, paths in layers if kind == "conv2d"]
    hidden, classes = (h5.root[paths["kernel"]].shape[-1:] for paths in dense)
    if not all([*widths, hidden, classes]):
        raise h5.error(f"one of its kernels has no axes. {_SAVE}", "malformed")
    args = {"width": widths[0][0], "depth": depth, "hidden": hidden[0], "num_classes": classes[0]}
    model = read_config(config_of(args | _UNKNOWN), "weights alone")
    places = {}
    for each in model.arrays:
        of_kind = [paths for kind, paths in layers if kind == each.kind]
        places[each] = of_kind[each.number][each.name]
    return model, places


def _layers(h5: H5File, datasets: list[str]) -> list[tuple[str, dict[str, str]]]:
    """Kind and arrays of each layer, in the order of Keras's numbers."""
    found: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for path in datasets:
        match = _PLACE.fullmatch(path)
        if match and int(match[4]) < len(_NAMES[match[2]]):
            found[match[2], int(match[3] or 0)][_NAMES[match[2]][int(match[4])]] = path
        elif _OTHER_VARS.fullmatch(path):
            raise h5.error(f"{brief(path)} is of no layer of the three-block network. {_SAVE}")
    if not found:
        raise h5.error(f"it holds neither a model nor weights as Keras writes them: {brief(datasets)}. {_SAVE}")
    return [_complete(h5, kind, found[kind, number]) for kind, number in sorted(found)]


def _legacy_layers(h5: H5File, datasets: list[str]) -> list[tuple[str, dict[str, str]]]:
    found = []
    for name in h5.root.attrs["layer_names"]:
        layer = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        arrays = {path.rpartition("/")[2].removesuffix(":0"): path for path in datasets if path.startswith(f"{layer}/")}
        arrays = {key: path for key, path in arrays.items() if "StateVar" not in key}
        if not arrays:
            continue
        if "gamma" in arrays:
            kind = "batch_normalization"
        else:
            kernel = arrays.get("kernel")
            kind = "conv2d" if kernel is not None and len(h5.root[kernel].shape or ()) == 4 else "dense"
        found.append(_complete(h5, kind, arrays))
    return found


def _complete(h5: H5File, kind: str, arrays: dict[str, str]) -> tuple[str, dict[str, str]]:
    if set(arrays) != set(_NAMES[kind]):
        raise h5.error(
            f"a {kind} layer has the arrays {brief(sorted(arrays.values()))}; expected {', '.join(_NAMES[kind])}. "
            f"{_SAVE}"
        )
    return kind, arrays
