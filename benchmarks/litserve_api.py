"""The LitServe API that serving.py measures; a module of its own, since LitServe's processes import it."""

from typing import Any

import litserve
import torch
from by_network import ByNetwork
from fastapi import UploadFile


class API(litserve.LitAPI):  # type: ignore[misc]
    """The champion of the registry, in batches."""

    def setup(self, device: str) -> None:
        self.champion = ByNetwork()

    def decode_request(self, request: UploadFile) -> torch.Tensor:
        return self.champion.decode(request.file.read())

    def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(inputs)

    def predict(self, inputs: torch.Tensor) -> list[dict[str, Any]]:
        return self.champion.predict(inputs)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return {"filename": "", **output}
