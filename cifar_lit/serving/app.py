"""The application: REST and the Open Inference Protocol around one service, and a page if one is given."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cifar_lit.errors import CifarLitError
from cifar_lit.feedback.fine_tune_service import LEARN_TIMEOUT_S, FineTuneService
from cifar_lit.inference.champion import Champion
from cifar_lit.inference.decoder import Decoder
from cifar_lit.inference.service import Limits, Service
from cifar_lit.registry.registry import Registry
from cifar_lit.serving.admission import Admission
from cifar_lit.serving.inference_routes import PREFIX, add_inference
from cifar_lit.serving.integrity import Integrity
from cifar_lit.serving.login import Login
from cifar_lit.serving.metrics import Metrics
from cifar_lit.serving.quota import Quota
from cifar_lit.serving.replies import RequestError, error_reply
from cifar_lit.serving.request_limits import RequestLimitsMiddleware
from cifar_lit.serving.rest import add_rest, max_body

MAX_UPLOAD_BYTES = 512 * 1024 * 1024
"""Of a form that the page sends: an increment of 200 MiB, or 64 photographs of 8."""

MAX_EVENT_BYTES = 256 * 1024
"""Of an event of the page: the files that it names have been uploaded before."""

_SWEEP_S = 600.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How the application is set up.

    Attributes:
        registry: folder of the versions; None for the default.
        hosts: host names that it accepts; None for any.
        api_keys: REST asks for one of them, if there are any.
        public_page: the page serves everybody, though REST asks for a key.
        requests_per_minute: that one client may send to REST and the page; None for any number.
        behind_proxy: headers by which a proxy tells who asked, and how, are believed.
        limits: how much is taken on.
        decode_workers: processes that decode images.
        password: of those who may teach and choose what is served; None for nobody.
        teach: folder of corrections and fine-tunings, made when it is needed; None for a page without teaching.
        finetune: options of `cifar-lit finetune` for the page's fine-tunings, as on its command line.
        finetune_timeout_s: after which one of them is ended.
        poll_s: how often the registry is looked at for a new champion.
    """

    registry: Path | None = None
    hosts: Collection[str] | None = None
    api_keys: frozenset[str] = frozenset()
    public_page: bool = False
    requests_per_minute: int | None = None
    behind_proxy: bool = False
    limits: Limits = field(default_factory=Limits)
    decode_workers: int = 2
    password: str | None = field(default=None, repr=False)
    teach: Path | None = None
    finetune: tuple[str, ...] = ()
    finetune_timeout_s: float = LEARN_TIMEOUT_S
    poll_s: float = 0.5


AddPage = Callable[[FastAPI, Service, Admission, Metrics, FineTuneService | None], None]


def create_app(options: Options = Options(), add_page: AddPage | None = None) -> FastAPI:  # noqa: B008
    """Builds the application; its service starts and ends with it, and is found under `app.state.service`.

    Args:
        options: how it is set up.
        add_page: puts a page at `/`, behind the application's own routes; REST alone if left out.
    """
    metrics = Metrics()
    champion = Champion(
        Registry(options.registry),
        warm=(1, options.limits.max_batch_size),
        poll_s=options.poll_s,
        on_change=metrics.on_change,
        on_refusal=metrics.on_refusal,
    )
    decoder = Decoder(workers=options.decode_workers, spare=1, on_lost=metrics.decoder_restarts.inc)
    service = Service(champion, decoder, options.limits, metrics.on_prediction)
    integrity = Integrity(champion, metrics)
    login = Login(options.password)
    admission = Admission(options.api_keys, Quota(options.requests_per_minute), login, options.public_page)
    fine_tuning = None
    if add_page is not None and options.teach is not None:
        fine_tuning = FineTuneService(
            champion.registry.root,
            options.teach,
            options=options.finetune,
            learn_timeout_s=options.finetune_timeout_s,
        )

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with _tidied(fine_tuning) if fine_tuning is not None else contextlib.nullcontext():
                await service.start()
                async with _beside(integrity.watch()):
                    yield
        finally:
            await service.close()

    app: FastAPI = FastAPIOffline(
        title="cifar_lit",
        version=version_of("cifar-lit"),
        summary="Classifies images as one of the classes of the served version.",
        lifespan=lifespan,
    )
    app.state.service = service
    check_ready = partial(_check_ready, service, decoder)
    add_rest(app, service, metrics, admission, check_ready, integrity)
    add_inference(app, service, admission, check_ready)
    app.add_exception_handler(CifarLitError, _on_error)
    if add_page is not None:
        add_page(app, service, admission, metrics, fine_tuning)
    _refuse_other_methods(app)
    (predict,) = (route for route in app.routes if isinstance(route, APIRoute) and route.path == "/predict")
    app.add_middleware(_Shortcut, route=predict)
    app.add_middleware(
        RequestLimitsMiddleware,
        metrics=metrics,
        hosts=options.hosts,
        behind_proxy=options.behind_proxy,
        max_body=_max_body,
    )
    return app


@contextlib.asynccontextmanager
async def _tidied(fine_tuning: FineTuneService) -> AsyncIterator[None]:
    """Tidies up behind visitors now and then, and ends the fine-tuning at the end."""

    async def sweep() -> None:
        while True:
            try:
                await asyncio.to_thread(fine_tuning.sweep)
            except CifarLitError as error:  # those who only have images classified are served all the same
                _log.warning("what visitors left can't be removed: %s", error)
            await asyncio.sleep(_SWEEP_S)

    try:
        async with _beside(sweep()):
            yield
    finally:
        await fine_tuning.close()


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Has something done meanwhile, and cancels it at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _check_ready(service: Service, decoder: Decoder) -> None:
    """Raises:
    OverloadedError: images can't be classified now.
    """
    service.check_room(0)
    decoder.check()


def _max_body(path: str, content_type: str) -> int:
    if path == "/gradio_api/upload":
        return MAX_UPLOAD_BYTES
    return MAX_EVENT_BYTES if path.startswith("/gradio_api/") else max_body(path, content_type)


async def _on_error(request: Request, error: Exception) -> Response:
    return error_reply(error, field="error" if request.url.path.startswith(f"{PREFIX}/") else "detail")


class _Shortcut:
    """Has one route's endpoint respond without the framework's layers, which take as long as a small image does."""

    def __init__(self, app: ASGIApp, route: APIRoute) -> None:
        self._app = app
        self._route = route
        self._endpoint: Callable[[Request], Awaitable[Response]] = route.endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._route.path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = self._route
        request = Request(scope, receive)
        try:
            response = await self._endpoint(request)
        except CifarLitError as error:
            response = await _on_error(request, error)
        await response(scope, receive, send)


def _refuse_other_methods(app: FastAPI) -> None:
    """So that they do not get through to the page, which is mounted below all paths."""
    methods: dict[str, set[str]] = {}
    for route in app.routes:
        if isinstance(route, Route):
            methods.setdefault(route.path, set()).update(route.methods or ())
    for path, allowed in methods.items():
        app.router.routes.append(Route(path, _MethodNotAllowed(allowed), include_in_schema=False))
    app.router.routes.sort(key=lambda route: isinstance(route, Mount))


class _MethodNotAllowed:
    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = ", ".join(sorted(allowed))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        text = f"{scope['method']} is not for this path, {self._allowed} is. /docs lists what there is."
        response = error_reply(RequestError(405, text))
        response.headers["Allow"] = self._allowed
        await response(scope, receive, send)
