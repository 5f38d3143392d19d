"""Routes of the Open Inference Protocol, so that clients of Triton, KServe and the like can ask this server."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from cifar_lit.errors import InputError, VersionNotFoundError
from cifar_lit.inference.service import Service
from cifar_lit.serving import inference_v2
from cifar_lit.serving.admission import Admission
from cifar_lit.serving.inference_tensors import HEADER_LENGTH
from cifar_lit.serving.replies import reply
from cifar_lit.serving.rest import timings

PREFIX = "/v2"

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


class ServerMetadata(BaseModel):
    """What this server is."""

    name: str = Field(examples=["cifar_lit"])
    version: str = Field(description="Of the code.", examples=["1.0"])
    extensions: list[str] = Field(examples=[["binary_tensor_data"]])


class ServerLive(BaseModel):
    """The process lives."""

    live: bool = Field(examples=[True])


class ServerReady(BaseModel):
    """Images are classified."""

    ready: bool = Field(examples=[True])


class ModelReady(BaseModel):
    """The model is served."""

    name: str = Field(examples=[inference_v2.MODEL_NAME])
    ready: bool = Field(examples=[True])


class TensorMetadata(BaseModel):
    """An input or an output."""

    name: str = Field(examples=["image"])
    datatype: str = Field(examples=["BYTES"])
    shape: list[int] = Field(description="-1 is the number of images.", examples=[[-1]])
    parameters: dict[str, str] = Field(examples=[{"description": "image files (JPEG, PNG, WebP and others)"}])


class ModelMetadata(BaseModel):
    """What the model takes and gives."""

    name: str = Field(examples=[inference_v2.MODEL_NAME])
    versions: list[str] = Field(examples=[["v0001"]])
    platform: str = Field(examples=[inference_v2.PLATFORM])
    inputs: list[TensorMetadata] = Field(description="One of them is to be given.")
    outputs: list[TensorMetadata]
    parameters: dict[str, str | int] = Field(examples=[{"class_names": "airplane,automobile", "max_items": 64}])


class OutputTensor(BaseModel):
    """An output of all images."""

    name: str = Field(examples=["prediction"])
    datatype: str = Field(examples=["BYTES"])
    shape: list[int] = Field(examples=[[1]])
    data: list[float] | list[str] | None = Field(
        default=None, description="Row by row; left out if the values follow the JSON.", examples=[["cat"]]
    )
    parameters: dict[str, int] | None = Field(
        default=None, description="binary_data_size, if the values follow the JSON.", examples=[None]
    )


class InferenceResponse(BaseModel):
    """The predictions for all images; binary tensors may follow the JSON."""

    model_name: str = Field(examples=[inference_v2.MODEL_NAME])
    model_version: str = Field(description="The version that made it.", examples=["v0001"])
    outputs: list[OutputTensor]
    id: str | None = Field(default=None, description="The request's, if it had one.", examples=["42"])


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": "What was wrong, in words.", **_ERROR} for status in statuses}


def add_inference(app: FastAPI, service: Service, admission: Admission, check_ready: Callable[[], None]) -> None:
    """Adds the routes; see `add_rest`."""

    def served(name: str, version: str | None) -> str:
        """The served version's id, if it is the one that is asked for."""
        current = service.champion.serving.predictor.version
        if name != inference_v2.MODEL_NAME:
            raise VersionNotFoundError(f"there is no model {name[:80]!r}, only {inference_v2.MODEL_NAME!r}.")
        if version not in (None, "", current):
            raise VersionNotFoundError(
                f"version {version[:80]!r} is not served, {current!r} is. Leave the version out."
            )
        return current

    @app.get(PREFIX, summary="What this server is", response_model=ServerMetadata, tags=["Open Inference Protocol"])
    async def server() -> Response:
        return reply(inference_v2.server_metadata(app.version))

    @app.get(
        f"{PREFIX}/health/live",
        summary="Does the process live?",
        response_model=ServerLive,
        tags=["Open Inference Protocol"],
    )
    async def live() -> Response:
        return reply({"live": True})

    @app.get(
        f"{PREFIX}/health/ready",
        summary="Are images classified?",
        response_model=ServerReady,
        tags=["Open Inference Protocol"],
        responses=_errors(503),
    )
    async def ready() -> Response:
        check_ready()
        return reply({"ready": True})

    @app.get(
        _MODEL,
        summary="What the model takes and gives",
        response_model=ModelMetadata,
        tags=["Open Inference Protocol"],
        responses=_errors(404),
    )
    @app.get(
        _VERSION,
        summary="The same, of a version",
        response_model=ModelMetadata,
        tags=["Open Inference Protocol"],
        responses=_errors(404),
    )
    async def model(name: str, version: str | None = None) -> Response:
        current = served(name, version)
        return reply(inference_v2.model_metadata(current, service.champion.serving.predictor.class_names))

    @app.get(
        f"{_MODEL}/ready",
        summary="Is the model ready?",
        response_model=ModelReady,
        tags=["Open Inference Protocol"],
        responses=_errors(404, 503),
    )
    @app.get(
        f"{_VERSION}/ready",
        summary="Is this version ready?",
        response_model=ModelReady,
        tags=["Open Inference Protocol"],
        responses=_errors(404),
    )
    async def model_ready(name: str, version: str | None = None) -> Response:
        served(name, version)
        check_ready()
        return reply({"name": name, "ready": True})

    @app.post(
        f"{_MODEL}/infer",
        summary="Classify images",
        response_model=InferenceResponse,
        tags=["Open Inference Protocol"],
        responses=_errors(400, 401, 404, 413, 415, 422, 429, 503, 504),
        openapi_extra=_BODY,
    )
    @app.post(
        f"{_VERSION}/infer",
        summary="Classify images by one version",
        response_model=InferenceResponse,
        tags=["Open Inference Protocol"],
        responses=_errors(400, 401, 404, 413, 415, 422, 429, 503, 504),
        openapi_extra=_BODY,
    )
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
