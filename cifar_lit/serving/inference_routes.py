"""Routes of the Open Inference Protocol, so that clients of Triton, KServe and the like can ask this server."""

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from starlette.responses import Response

from cifar_lit.errors import InputError, VersionNotFoundError
from cifar_lit.inference.service import Service
from cifar_lit.serving import inference_v2
from cifar_lit.serving.admission import Admission
from cifar_lit.serving.inference_models import (
    MODEL_NAME,
    InferenceResponse,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from cifar_lit.serving.inference_tensors import HEADER_LENGTH
from cifar_lit.serving.rest import timings

PREFIX = "/v2"

_TAGS: list[str | Enum] = ["Open Inference Protocol"]
_MODEL = f"{PREFIX}/models/{{name}}"
_VERSION = f"{_MODEL}/versions/{{version}}"
_LARGE_BYTES = 256 * 1024
"""Reading JSON of this size would hold up the others for milliseconds: another thread does it."""

_ERROR: dict[str, Any] = {
    "content": {
        "application/json": {
            "schema": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]},
            "example": {"error": "the request has 0 inputs, expected one: either 'image' or 'pixels'."},
        }
    }
}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "An inference request: `image` (BYTES, files) or `pixels` (UINT8, n x 32 x 32 x 3). Binary "
        "tensors may follow the JSON.",
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {
                    "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["<base64 of a file>"]}],
                    "outputs": [{"name": "prediction"}, {"name": "confidence"}],
                },
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": "What was wrong, in words.", **_ERROR} for status in statuses}


def add_inference(app: FastAPI, service: Service, admission: Admission, check_ready: Callable[[], None]) -> None:
    """Adds the routes; see `add_rest`."""

    def served(name: str, version: str | None) -> str:
        """The served version's id, if it is the one that is asked for."""
        current = service.champion.serving.predictor.version
        if name != MODEL_NAME:
            raise VersionNotFoundError(f"there is no model {name[:80]!r}, only {MODEL_NAME!r}.")
        if version not in (None, "", current):
            raise VersionNotFoundError(
                f"version {version[:80]!r} is not served, {current!r} is. Leave the version out."
            )
        return current

    @app.get(PREFIX, summary="What this server is", tags=_TAGS)
    async def server() -> ServerMetadata:
        return ServerMetadata(name="cifar_lit", version=app.version, extensions=["binary_tensor_data"])

    @app.get(f"{PREFIX}/health/live", summary="Does the process live?", tags=_TAGS)
    async def live() -> ServerLive:
        return ServerLive(live=True)

    @app.get(f"{PREFIX}/health/ready", summary="Are images classified?", responses=_errors(503), tags=_TAGS)
    async def ready() -> ServerReady:
        check_ready()
        return ServerReady(ready=True)

    @app.get(_MODEL, summary="What the model takes and gives", responses=_errors(404), tags=_TAGS)
    @app.get(_VERSION, summary="The same, of a version", responses=_errors(404), tags=_TAGS)
    async def model(name: str, version: str | None = None) -> ModelMetadata:
        current = served(name, version)
        return inference_v2.model_metadata(current, service.champion.serving.predictor.class_names)

    @app.get(f"{_MODEL}/ready", summary="Is the model ready?", responses=_errors(404, 503), tags=_TAGS)
    @app.get(f"{_VERSION}/ready", summary="Is this version ready?", responses=_errors(404), tags=_TAGS)
    async def model_ready(name: str, version: str | None = None) -> ModelReady:
        served(name, version)
        check_ready()
        return ModelReady(name=name, ready=True)

    infer_options: dict[str, Any] = {
        "tags": _TAGS,
        "response_model": InferenceResponse,
        "responses": _errors(400, 401, 404, 413, 415, 422, 429, 503, 504),
        "openapi_extra": _BODY,
    }

    @app.post(f"{_MODEL}/infer", summary="Classify images", **infer_options)
    @app.post(f"{_VERSION}/infer", summary="Classify images by one version", **infer_options)
    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        admission.check(request)
        served(name, version)
        service.check_room()
        return await _infer(request, service, version)


async def _infer(request: Request, service: Service, version: str | None) -> Response:
    if request.headers.get("content-encoding", "identity") != "identity":
        raise InputError("the body is compressed, expected it as it is.", "unsupported")
    header_length = inference_v2.parse_header_length(request.headers.get(HEADER_LENGTH))
    body = await request.body()
    if len(body if header_length is None else body[:header_length]) > _LARGE_BYTES:
        asked = await asyncio.to_thread(inference_v2.parse, body, header_length)
    else:
        asked = inference_v2.parse(body, header_length)
    images = [] if asked.pixels is None else list(asked.pixels)
    results = await service.predict_all(asked.files or (), images)
    by = results[0].prediction.version
    if version not in (None, "", by):
        raise VersionNotFoundError(f"version {version!r} is served no longer, {by!r} is. Leave the version out.")
    probs = np.array([list(result.prediction.probabilities.values()) for result in results])
    class_names = list(results[0].prediction.probabilities)
    content, headers = inference_v2.render(asked, version=by, class_names=class_names, probabilities=probs)
    took = timings(results)
    request.state.timings = f" {took}"
    extra = {"X-Model-Version": by, "Server-Timing": took}
    return Response(content, headers={**headers, **extra})
