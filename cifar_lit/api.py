"""The package from Python: load a model and predict, list versions, train. `cifar_lit` has all of it.

>>> import cifar_lit
>>> model = cifar_lit.load()
>>> model.predict("cat.jpg").prediction
'cat'
"""

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cifar_lit.cifar10 import IMAGE_SHAPE
from cifar_lit.data.image_files import read_image
from cifar_lit.data.images import to_network_size
from cifar_lit.errors import InputError, SettingError
from cifar_lit.interop.model import load_model
from cifar_lit.registry.registry import LATEST
from cifar_lit.registry.shipped import registry_to_read
from cifar_lit.registry.version import Version
from cifar_lit.serving.predictor import Prediction, Predictor

_Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Model:
    """A network that answers.

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
    def predict(self, images: NDArray[np.uint8] | Tensor | Image.Image) -> Prediction | list[Prediction]: ...

    def predict(self, images: Any) -> Prediction | list[Prediction]:
        """Answers to one image or to several.

        Args:
            images: path of an image file, or a list of paths; or uint8 (height, width, 3), RGB, 0..255, or a batch
                (N, height, width, 3) of these, as an array, a tensor or a Pillow image. Of an image of another size
                than 32x32 the central square is scaled.

        Returns:
            `prediction`, `confidence` and `probabilities` by class name; a list of them for several images.

        Raises:
            ImageError: a file is no image that can be decoded.
            InputError: an array has another shape or dtype.

        >>> answer = load("v0001").predict(np.zeros((2, 32, 32, 3), np.uint8))
        >>> len(answer), round(sum(answer[0].probabilities.values()), 6)
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
                return self._answers([array])[0]
            pixels = list(array)
        return self._answers(pixels)

    def _answers(self, pixels: list[NDArray[np.uint8]]) -> list[Prediction]:
        if not pixels:
            return []
        scaled = [each if each.shape == IMAGE_SHAPE else to_network_size(Image.fromarray(each)) for each in pixels]
        return self._predictor.predict(torch.from_numpy(np.stack(scaled)))


def load(reference: _Path = LATEST, *, registry: _Path | None = None, device: str = "cpu") -> Model:
    """A model that answers.

    Args:
        reference: a version's id, "latest" for the champion, or a file of weights: .npz, .safetensors, .pt, .ckpt,
            .keras or .h5.
        registry: folder of the versions. Default: the environment's CIFAR_LIT_REGISTRY, else `checkpoints`; where there
            is none yet, the shipped versions.
        device: where it computes, as torch names it.

    Raises:
        VersionNotFoundError: there is no such version.
        VersionDamagedError: it is not whole.
        WeightsError: the file is missing or does not hold weights of a network known here.

    >>> load("v0001").name
    'v0001'
    """
    model = load_model(os.fspath(reference), registry_to_read(registry), device)
    return Model(model.name, tuple(model.class_names), Predictor(model.network, model.class_names, model.name))


def versions(registry: _Path | None = None) -> list[Version]:
    """All versions, oldest first; each has an `id`, a `path` and a `manifest`.

    Args:
        registry: as for `load`.

    >>> [(version.id, version.manifest.standing) for version in versions()]
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
    if cli.published is None:
        raise SettingError("no version was made. Train for an epoch or more, without fast_dev_run.")
    return cli.published.version
