"""The package from Python: load a model and predict, list versions, train. `cifar_lit` has all of it.

>>> import cifar_lit
>>> model = cifar_lit.load()
>>> model.predict("cat.jpg").prediction
'cat'
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cifar_lit.cifar10 import IMAGE_SHAPE
from cifar_lit.data.image_files import read_image
from cifar_lit.data.images import to_network_size
from cifar_lit.errors import InputError, SettingError
from cifar_lit.inference.predictor import Prediction, Predictor
from cifar_lit.registry.reference import is_file
from cifar_lit.registry.registry import LATEST, Registry
from cifar_lit.registry.shipped import registry_to_read
from cifar_lit.registry.version import Version

_Path = str | os.PathLike[str]
_ALL_CORES = 0


@dataclass(frozen=True)
class Model:
    """A network that predicts.

    Attributes:
        name: the version's id, or the file's name.
        class_names: in label order.
    """

    name: str
    class_names: tuple[str, ...]
    _predictor: Predictor

    @overload
    def predict(self, images: _Path) -> Prediction: ...

    @overload
    def predict(self, images: list[Any]) -> list[Prediction]: ...

    @overload
    def predict(self, images: NDArray[np.uint8] | Image.Image) -> Prediction | list[Prediction]: ...

    def predict(self, images: Any) -> Prediction | list[Prediction]:
        """Predictions for one image or for several.

        Args:
            images: path of an image file, or a list of paths; or uint8 (height, width, 3), RGB, 0..255, or a batch
                (N, height, width, 3) of these, as an array, a tensor on the CPU or a Pillow image. Of an image of
                another size than 32x32 the central square is scaled.

        Returns:
            `prediction`, `confidence` and `probabilities` by class name; a list of them for several images.

        Raises:
            ImageError: a file is no image that can be decoded.
            InputError: an array has another shape or dtype.

        >>> predictions = load("v0001").predict(np.zeros((2, 32, 32, 3), np.uint8))
        >>> len(predictions), round(sum(predictions[0].probabilities.values()), 6)
        (2, 1.0)
        """
        if isinstance(images, str | os.PathLike):
            return self.predict([images])[0]
        if isinstance(images, list | tuple):
            pixels = [read_image(Path(path)).network_pixels for path in images]
        else:
            array = np.asarray(images)
            if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape:
                raise InputError(
                    f"the images are {array.dtype} {array.shape}, expected uint8 (height, width, 3) or "
                    "(N, height, width, 3), RGB, 0..255. Scale, cast and transpose them."
                )
            if array.ndim == 3:
                return self._predictions([array])[0]
            pixels = list(array)
        return self._predictions(pixels)

    def _predictions(self, pixels: list[NDArray[np.uint8]]) -> list[Prediction]:
        if not pixels:
            return []
        scaled = [each if each.shape == IMAGE_SHAPE else to_network_size(Image.fromarray(each)) for each in pixels]
        return self._predictor.predict(np.stack(scaled))


def load(reference: _Path = LATEST, *, registry: _Path | None = None) -> Model:
    """A model that predicts, by ONNX Runtime on the CPU. Files of weights need the extra [train].

    Args:
        reference: a version's id, "latest" for the champion, or a file of weights: .npz, .safetensors, .pt, .ckpt,
            .keras or .h5.
        registry: folder of the versions. Default: the environment's CIFAR_LIT_REGISTRY, else `checkpoints`; where there
            is none yet, the shipped versions.

    Raises:
        VersionNotFoundError: there is no such version.
        VersionDamagedError: it is not whole.
        WeightsError: the file is missing or does not hold weights of a network known here.

    >>> load("v0001").name
    'v0001'
    """
    predictor = load_predictor(os.fspath(reference), registry_to_read(registry))
    return Model(predictor.version, tuple(predictor.class_names), predictor)


def load_predictor(reference: str, registry: Registry) -> Predictor:
    """What `load` predicts by, with all cores for a batch."""
    if not is_file(reference):
        return Predictor.from_version(registry.resolve(reference), threads=_ALL_CORES)
    from cifar_lit.interop import onnx_model  # here, as it needs torch: versions do without
    from cifar_lit.interop.model import load_file

    model = load_file(Path(reference))
    graph, _ = onnx_model.dump(model.network, model.class_names, onnx_model.some_images())
    temperature = model.network.temperature
    return Predictor(graph, model.class_names, model.name, temperature=temperature, threads=_ALL_CORES)


def versions(registry: _Path | None = None) -> list[Version]:
    """All versions, oldest first; each has an `id`, a `path` and a `manifest`.

    Args:
        registry: as for `load`.

    >>> [(version.id, version.manifest.status) for version in versions()]
    [('v0001', 'promoted'), ('v0002', 'promoted')]
    """
    return registry_to_read(registry).versions()


def fit(config: _Path, options: Mapping[str, Any] | None = None) -> Version:
    """Trains as `cifar-lit fit` does, and gives the version that was made.

    Args:
        config: a file, or the name of a shipped config: "quick", "default", "fast" and so on.
        options: of `cifar-lit fit` by name, as {"trainer.max_epochs": 3, "registry": "here"}.

    Raises:
        SettingError: an option is unknown or can't be used (more is on standard error), or no version was made.
        DataError: there is no data, or it is damaged.
        KeyboardInterrupt: after Ctrl-C. The best epoch until then is a version all the same.

    >>> version = fit("smoke", {"data.num_synthetic": 200, "trainer.max_epochs": 1, "registry": "here"})
    >>> version.id, version.manifest.data["train"]["count"]
    ('v0001', 200)
    """
    from cifar_lit.training.fit import FitCLI  # brings Lightning

    given = {name: value if isinstance(value, str) else json.dumps(value) for name, value in (options or {}).items()}
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the caller's standard output is the caller's
            cli = FitCLI(
                ["fit", f"--config={os.fspath(config)}", *(f"--{name}={each}" for name, each in given.items())]
            )
    except SystemExit as error:
        raise SettingError(f"fit can't be run with {dict(options or {})}: see standard error.") from error
    if cli.ended_by:
        signal.raise_signal(cli.ended_by)  # meant for the whole program
    if cli.published is None:
        raise SettingError("no version was made. Train for an epoch or more, without fast_dev_run.")
    return cli.published.version
