"""From images to predictions, by one version's ONNX graph. Knows nothing of HTTP, of batching or of PyTorch."""

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from cifar_lit.cifar10 import IMAGE_SHAPE
from cifar_lit.data.images import decode
from cifar_lit.errors import RegistryError, VersionDamagedError
from cifar_lit.inference import occlusion
from cifar_lit.registry.version import ONNX, Version

Pixels = npt.NDArray[np.uint8]

_INPUT, _OUTPUT = "images", "logits"
_TRAINER = "cifar_lit.interop.onnx_model"
_ADVICE = "Restore it from a copy, or use another version."


@dataclass(frozen=True)
class Prediction:
    """A prediction.

    Attributes:
        prediction: name of the most probable class.
        confidence: its probability, 0..1.
        probabilities: of every class by name, in label order; they sum to 1.
        version: id of the version that made it.
    """

    prediction: str
    confidence: float
    probabilities: dict[str, float]
    version: str

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


class Predictor:
    """Predicts with one network, by ONNX Runtime on the CPU. May be asked from several threads.

    Args:
        graph: content of an ONNX file: `images`, uint8 (N, 32, 32, 3), RGB, in; `logits`, float32 (N, K), out.
        class_names: in label order, K.
        version: id that predictions carry.
        temperature: the logits are divided by it before the softmax.
        threads: that compute one batch; 0 for one a core. With one, the server's other cores have requests and images
            to work on.

    Raises:
        VersionDamagedError: ONNX Runtime can't load the graph, or it takes or gives something else.
    """

    def __init__(
        self, graph: bytes, class_names: list[str], version: str, *, temperature: float = 1.0, threads: int = 1
    ) -> None:
        self.class_names = class_names
        self.version = version
        self._temperature = temperature
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # what goes wrong is raised
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own are plain Exceptions
            raise VersionDamagedError(f"{version}: its {ONNX} can't be loaded ({_line(error)}). {_ADVICE}") from error
        takes = [(each.name, each.type, *each.shape[1:]) for each in self._session.get_inputs()]
        gives = {each.name: each.type for each in self._session.get_outputs()}
        if takes != [(_INPUT, "tensor(uint8)", *IMAGE_SHAPE)] or gives.get(_OUTPUT) != "tensor(float)":
            raise VersionDamagedError(
                f"{version}: its {ONNX} takes {takes!r:.200} and gives {gives!r:.200}, expected {_INPUT}, uint8 "
                f"(N, 32, 32, 3), and {_OUTPUT}, float32 (N, K). {_ADVICE}"
            )

    @classmethod
    def from_version(cls, version: Version, *, threads: int = 1) -> "Predictor":
        """Loads a version's graph; where an older release kept none, it is made from the weights, which needs torch.

        Raises:
            VersionDamagedError: the version is not whole.
            RegistryError: it has no graph, and torch is not installed.
        """
        about = version.manifest
        return cls(_graph(version), about.class_names, version.id, temperature=about.temperature, threads=threads)

    def predict(self, images: Pixels) -> list[Prediction]:
        """Predictions for images, uint8 (N, 32, 32, 3), RGB, 0..255.

        Raises:
            VersionDamagedError: the graph gives no logit for each class.
        """
        logits = self.logits(images).astype(np.float64) / self._temperature
        probs = np.exp(logits - logits.max(axis=1, keepdims=True))
        probs /= probs.sum(axis=1, keepdims=True)
        return [self._prediction(row) for row in probs.tolist()]

    def predict_bytes(self, data: bytes) -> Prediction:
        """Predicts the content of one image file.

        Raises:
            ImageError: it can't be decoded.
        """
        return self.predict(decode(data).network_pixels[None])[0]

    def heat_map(self, image: Pixels, class_name: str) -> npt.NDArray[np.float32]:
        """Where the network saw a class, as of `occlusion.heat_map`.

        Args:
            image: uint8 (32, 32, 3), RGB.
            class_name: one of the network's.

        Returns:
            float32 (32, 32), 0..1; all 0 if no place spoke for the class.
        """
        label = self.class_names.index(class_name)
        return occlusion.heat_map(lambda images: self.logits(images)[:, label], image)

    def logits(self, images: Pixels) -> npt.NDArray[np.float32]:
        """Logits (N, K), before the temperature, of images as `predict` takes them."""
        try:
            (logits,) = self._session.run([_OUTPUT], {_INPUT: images})
        except Exception as error:
            raise VersionDamagedError(f"{self.version}: its {ONNX} can't be run ({_line(error)}). {_ADVICE}") from error
        expected = len(images), len(self.class_names)
        if logits.shape != expected:
            raise VersionDamagedError(
                f"{self.version}: the logits of its {ONNX} have the shape {logits.shape}, expected {expected} for "
                f"{expected[0]} images and {expected[1]} class names. {_ADVICE}"
            )
        return np.asarray(logits)

    def _prediction(self, probs: list[float]) -> Prediction:
        best = max(range(len(probs)), key=probs.__getitem__)
        return Prediction(
            self.class_names[best], probs[best], dict(zip(self.class_names, probs, strict=True)), self.version
        )


def _graph(version: Version) -> bytes:
    if ONNX in version.manifest.files:
        return version.read(ONNX)
    try:
        onnx_model = importlib.import_module(_TRAINER)  # not by name: it brings torch, which the server goes without
        graph: bytes = onnx_model.of_version(version)
    except ModuleNotFoundError as error:
        raise RegistryError(
            f"{version.id} has no {ONNX}: an older release published it. `cifar-lit versions upgrade` makes one, where "
            f"the extra that trains is installed ({error.name} is missing here): pip install 'cifar-lit[train]'."
        ) from error
    return graph


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
