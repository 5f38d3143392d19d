"""The registry's champion as a handler by the book calls it: the network is a PyTorch module in inference mode."""

from typing import Any

import torch
from torch import Tensor

from cifar_lit.data.images import decode
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.weights import load_network


class ByNetwork:
    """Predicts with one thread; gives the fields that `cifar-lit serve` gives."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        version = Registry().resolve("latest")
        self.network = load_network(version, "cpu")
        self.class_names = version.manifest.class_names
        self.version = version.id

    def decode(self, data: bytes) -> Tensor:
        """uint8 (32, 32, 3), by the server's own decoding."""
        return torch.from_numpy(decode(data).network_pixels)

    @torch.inference_mode()
    def predict(self, images: Tensor) -> list[dict[str, Any]]:
        """Predictions for images, uint8 (N, 32, 32, 3)."""
        rows = self.network(images.permute(0, 3, 1, 2)).softmax(1).tolist()
        return [self._prediction(row) for row in rows]

    def _prediction(self, probs: list[float]) -> dict[str, Any]:
        confidence = max(probs)
        return {
            "prediction": self.class_names[probs.index(confidence)],
            "confidence": confidence,
            "probabilities": dict(zip(self.class_names, probs, strict=True)),
            "version": self.version,
        }
