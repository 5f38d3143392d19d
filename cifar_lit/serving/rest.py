"""The REST endpoint: images in, predictions out, and what the server says of itself."""

import asyncio
import math
from collections.abc import Callable
from typing import Any, Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field
from starlette.responses import PlainTextResponse, Response

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data.formats import ACCEPTED
from cifar_lit.data.images import MAX_BYTES
from cifar_lit.inference.service import ServedPrediction, Service
from cifar_lit.serving.admission import Admission
from cifar_lit.serving.integrity import Integrity
from cifar_lit.serving.metrics import Metrics
from cifar_lit.serving.replies import RETRY_AFTER_S, reply
from cifar_lit.serving.uploads import FIELD, MAX_FILES, Upload, is_form, read_uploads

MAX_FORM_BYTES = 32 * 1024 * 1024

_LARGE_BYTES = 256 * 1024
"""Reading a form of this size would hold up the others for milliseconds: another thread does it."""

_SUBTYPES = ("jpeg", "png", "webp", "gif", "bmp", "avif", "heic", "heif")
_EXAMPLE_PROBS = {name: 0.0012 for name in CLASS_NAMES} | {"cat": 0.9892}


class PredictionBody(BaseModel):
    """The prediction for an image."""

    filename: str = Field(description="As the client called the file; empty if it did not.", examples=["cat.jpg"])
    prediction: str = Field(description="The most probable class.", examples=["cat"])
    confidence: float = Field(description="Its probability.", ge=0, le=1, examples=[0.9892])
    probabilities: dict[str, float] = Field(description="Of every class; they sum to 1.", examples=[_EXAMPLE_PROBS])
    version: str = Field(description="The version that made it.", examples=["v0001"])
    note: str | None = Field(
        default=None,
        description="What of the file was not looked at, such as other frames; left out if nothing.",
        examples=["only the first frame of the animation was looked at"],
    )


class ErrorBody(BaseModel):
    """What was wrong, what was expected, how to fix it."""

    detail: str = Field(examples=[f"this is a TIFF, expected a {ACCEPTED} image. Save it as JPEG or PNG."])


class HealthBody(BaseModel):
    """The process lives."""

    status: Literal["ok"]


class ReadyBody(BaseModel):
    """Images are classified."""

    status: Literal["ready"]
    version: str = Field(examples=["v0001"])


class RefusalBody(BaseModel):
    """A champion that is not served."""

    version: str = Field(examples=["v0002"])
    reason: str = Field(examples=["v0002/model.safetensors differs from its hash in manifest.json."])
    since: str = Field(examples=["2026-11-23T12:00:00+00:00"])


class VersionBody(BaseModel):
    """The version that is served."""

    version: str = Field(examples=["v0001"])
    parent: str | None = Field(description="The version that it was fine-tuned from.", examples=[None])
    created_at: str = Field(examples=["2026-11-23T12:00:00+00:00"])
    served_since: str = Field(examples=["2026-11-23T12:00:00+00:00"])
    metrics: dict[str, float] = Field(examples=[{"test/acc": 0.8635}])
    class_names: list[str] = Field(examples=[list(CLASS_NAMES)])
    refused: RefusalBody | None = Field(
        description="The champion, if it can't be served and this one stays.", examples=[None]
    )
    damaged: str | None = Field(
        description="What is wrong with this version's files on disk; what is in memory goes on being served.",
        examples=[None],
    )


def _errors(**statuses: str) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {}
    for name, meaning in statuses.items():
        found[int(name[1:])] = {"model": ErrorBody, "description": meaning}
        if name in ("_429", "_503"):
            found[int(name[1:])]["headers"] = {
                "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "example": RETRY_AFTER_S}}
            }
    return found


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {
                        FIELD: {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "minItems": 1,
                            "maxItems": MAX_FILES,
                            "description": f"{ACCEPTED}, up to {MAX_BYTES >> 20} MiB each. One file gets one "
                            "prediction, several get a list in their order.",
                        }
                    },
                }
            },
            **{
                kind: {"schema": {"type": "string", "format": "binary"}}
                for kind in (*(f"image/{name}" for name in _SUBTYPES), "application/octet-stream")
            },
        },
    }
}


def max_body(path: str, content_type: str) -> int:
    """The most bytes that the body of a request to a REST path may have."""
    return MAX_FORM_BYTES if is_form(content_type) or path.endswith("/infer") else MAX_BYTES


def add_rest(
    app: FastAPI,
    service: Service,
    metrics: Metrics,
    admission: Admission,
    check_ready: Callable[[], None],
    integrity: Integrity,
) -> None:
    """Adds the routes.

    Args:
        app: gets them.
        service: classifies images.
        metrics: what `/metrics` tells.
        admission: says whose images are classified.
        check_ready: raises an `OverloadedError` while none can be.
        integrity: knows whether the version's files are damaged.
    """

    @app.post(
        "/predict",
        summary="Classify images",
        response_model=PredictionBody | list[PredictionBody],
        responses=_errors(
            _400="Not an image that can be decoded, or not a form.",
            _401="No valid X-API-Key, where keys are asked for.",
            _408="The body came too slowly.",
            _413="Too many bytes, pixels or files.",
            _415=f"Another type than {ACCEPTED}.",
            _422="Whole, but not what is asked for: no part `file`, an address.",
            _429="More requests a minute than this client may send.",
            _503="Too much to do, or no version to serve.",
            _504="No prediction in time.",
        ),
        openapi_extra=_BODY,
    )
    async def predict(request: Request) -> Response:
        admission.check(request)
        service.check_room()
        content_type = request.headers.get("content-type", "")
        body = await request.body()
        if is_form(content_type) and len(body) > _LARGE_BYTES:
            uploads = await asyncio.to_thread(read_uploads, body, content_type)
        else:
            uploads = read_uploads(body, content_type)
        if len(uploads) == 1:
            results = [await service.predict(uploads[0].data)]
        else:
            results = await service.predict_all([upload.data for upload in uploads])
        bodies = [_body(upload, result) for upload, result in zip(uploads, results, strict=True)]
        took = timings(results)
        request.state.timings = f" {took}"
        headers = {"X-Model-Version": results[0].prediction.version, "Server-Timing": took}
        return reply(bodies[0] if len(bodies) == 1 else bodies, headers=headers)

    @app.get("/health", summary="Does the process live?")
    async def health() -> HealthBody:
        return HealthBody(status="ok")

    @app.get(
        "/ready",
        summary="Are images classified?",
        responses=_errors(_503="No version to serve, or the server is stopping."),
    )
    async def ready() -> ReadyBody:
        check_ready()
        return ReadyBody(status="ready", version=service.champion.serving.predictor.version)

    @app.get(
        "/version",
        summary="Which version is served",
        response_model=VersionBody,
        responses=_errors(_503="No version to serve."),
    )
    async def version() -> Response:
        serving, refusal = service.champion.serving, service.champion.refusal
        about = {
            "version": serving.predictor.version,
            "parent": serving.manifest.parent,
            "created_at": serving.manifest.created_at,
            "served_since": serving.since,
            "metrics": {name: value for name, value in serving.manifest.metrics.items() if math.isfinite(value)},
            "class_names": serving.predictor.class_names,
            "refused": vars(refusal) if refusal else None,
            "damaged": integrity.damage or None,
        }
        return reply(about)  # not by the model: a manifest's inner values may be of any kind

    for path, endpoint in (("/health", health), ("/ready", ready), ("/version", version)):
        app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)  # the server leaves the body out

    @app.get("/metrics", summary="Counters for Prometheus", response_class=PlainTextResponse)
    async def metrics_text() -> Response:
        metrics.pending.set(service.pending)
        metrics.connections.set(len(getattr(app.state, "connections", ())))  # uvicorn's, if `run` serves
        return Response(metrics.render(), media_type="text/plain; version=0.0.4")


def timings(results: list[ServedPrediction]) -> str:
    """The slowest of each stage, in the form of a Server-Timing header: milliseconds."""
    stages = {
        "decode": max(result.decode_s for result in results),
        "queue": max(result.queue_s for result in results),
        "model": max(result.model_s for result in results),
    }
    return ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in stages.items())


def _body(upload: Upload, result: ServedPrediction) -> dict[str, Any]:
    note = {"note": result.note} if result.note else {}
    return {"filename": upload.name, **result.prediction.as_dict(), **note}
