"""The LitServe API that serving.py measures; a module of its own, since LitServe's processes import it."""

from typing import Any

import litserve
import torch
from fastapi import UploadFile

from cifar_lit.data.images import decode, to_network_size
from cifar_lit.registry.registry import Registry
from cifar_lit.serving.predictor import Prediction, Predictor


class API(litserve.LitAPI):  # type: ignore[misc]
    """The champion of the registry, in batches."""

    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        self.predictor = Predictor.from_version(Registry().resolve("latest"))

    def decode_request(self, request: UploadFile) -> torch.Tensor:
        return to_network_size(decode(request.file.read()))

    def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(inputs)

    def predict(self, inputs: torch.Tensor) -> list[Prediction]:
        return self.predictor.predict(inputs)

    def unbatch(self, output: list[Prediction]) -> list[Prediction]:
        return output

    def encode_response(self, output: Prediction) -> dict[str, Any]:
        return {"filename": "", **output.as_dict()}
