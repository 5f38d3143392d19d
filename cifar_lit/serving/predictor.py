"""From images to answers, by one version. Knows nothing of HTTP, of batching or of Lightning."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_lit.data.images import decode
from cifar_lit.models.networks import Network
from cifar_lit.registry.version import Version
from cifar_lit.registry.weights import load_network


@dataclass(frozen=True)
class Prediction:
    """An answer.

    Attributes:
        prediction: name of the most probable class.
        confidence: its probability, 0..1.
        probabilities: of every class by name, in label order; they sum to 1.
        version: id of the version that answered.
    """

    prediction: str
    confidence: float
    probabilities: dict[str, float]
    version: str

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


class Predictor:
    """Answers with one network, in full precision.

    Args:
        network: in evaluation mode; its device is used. Its values must not change any more.
        class_names: in label order.
        version: id that answers carry.
    """

    def __init__(self, network: Network, class_names: list[str], version: str) -> None:
        self.network = network
        self.class_names = class_names
        self.version = version
        self._device = next(network.parameters()).device
        self._frozen = network.frozen()

    @classmethod
    def from_version(cls, version: Version, device: torch.device | str = "cpu") -> "Predictor":
        """Loads a version's network.

        Raises:
            VersionDamagedError: the version is not whole.
        """
        return cls(load_network(version, device), version.manifest.class_names, version.id)

    def predict(self, images: Tensor) -> list[Prediction]:
        """Answers to images, uint8 (N, 32, 32, 3), RGB, 0..255."""
        probs = self._by_network(images) if self._frozen is None else self._frozen(images)
        return [self._prediction(row) for row in probs.tolist()]

    def predict_bytes(self, data: bytes) -> Prediction:
        """Answers to the content of one image file.

        Raises:
            ImageError: it can't be decoded.
        """
        return self.predict(torch.from_numpy(decode(data).network_pixels).unsqueeze(0))[0]

    def heat_map(self, image: npt.NDArray[np.uint8], class_name: str) -> npt.NDArray[np.float32]:
        """Where the network saw a class: Grad-CAM (Selvaraju et al., 2017) at its last convolution.

        Args:
            image: uint8 (32, 32, 3), RGB.
            class_name: one of the network's.

        Returns:
            float32 (32, 32), 0..1; all 0 if nothing spoke for the class, or the network has no convolution.
        """
        convolutions = [module for module in self.network.modules() if isinstance(module, nn.Conv2d)]
        if not convolutions:
            return np.zeros(image.shape[:2], np.float32)
        last = convolutions[-1]
        seen: list[Tensor] = []
        hook = last.register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            with torch.enable_grad():
                images = torch.tensor(image, device=self._device).permute(2, 0, 1).unsqueeze(0)
                logit = self.network(images)[0, self.class_names.index(class_name)]
                (slopes,) = torch.autograd.grad(logit, seen)
        finally:
            hook.remove()
        channels = slopes.mean(dim=(2, 3), keepdim=True)
        heat = (channels * seen[0].detach()).sum(dim=1, keepdim=True).relu()
        heat = F.interpolate(heat, image.shape[:2], mode="bilinear")[0, 0]
        return (heat / heat.max().clamp(min=1e-12)).cpu().numpy()

    @torch.inference_mode()
    def _by_network(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.to(self._device).permute(0, 3, 1, 2))
        return logits.double().softmax(1)

    def _prediction(self, probs: list[float]) -> Prediction:
        best = max(range(len(probs)), key=probs.__getitem__)
        return Prediction(
            self.class_names[best], probs[best], dict(zip(self.class_names, probs, strict=True)), self.version
        )
