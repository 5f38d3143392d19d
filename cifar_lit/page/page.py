"""The Gradio page. It loads nothing from the internet."""

import errno
import logging
import sys
from functools import partial

import gradio as gr
import httpx
from fastapi import FastAPI, Request
from gradio.route_utils import FnIndexInferError
from starlette.responses import Response
from starlette.routing import Mount

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data.images import MAX_BYTES
from cifar_lit.errors import CifarLitError
from cifar_lit.feedback.fine_tune_service import FineTuneService
from cifar_lit.inference.service import Service
from cifar_lit.page.allowed_routes import MAX_WAITING, AllowedRoutes
from cifar_lit.page.cache import PageCache
from cifar_lit.page.classify import build_classify
from cifar_lit.page.guarded import QUIET, GuardedBlocks
from cifar_lit.page.model import build_model
from cifar_lit.page.receive import Uploads
from cifar_lit.page.rendering import SAYS_CHANGES, STATIC, render, script
from cifar_lit.page.sign_in import add_sign_in
from cifar_lit.page.teach import build_teach
from cifar_lit.page.teach_desk import MAX_INCREMENT_BYTES
from cifar_lit.page.theme import THEME
from cifar_lit.page.uploads import TOO_LARGE
from cifar_lit.page.warm import warm_at_start
from cifar_lit.serving.admission import Admission
from cifar_lit.serving.metrics import Metrics
from cifar_lit.serving.replies import RequestError, error_reply

TITLE = "What is in the picture?"
_QUEUE_SIZE = 2 * MAX_WAITING

_log = logging.getLogger(__name__)
_STATUS_S = 2.0
_SHOWN = 20


def mount_page(
    app: FastAPI, service: Service, admission: Admission, metrics: Metrics, fine_tuning: FineTuneService | None = None
) -> None:
    """Makes the page what is at `/`; the application's own routes stay before it.

    Args:
        app: has its own routes already.
        service: answers pictures.
        admission: says whose events are run; its login guards what changes something.
        metrics: where open streams are counted.
        fine_tuning: where visitors teach it; without one there is no tab for it.
    """
    app.add_middleware(PageCache)
    login = admission.login
    add_sign_in(app, login)
    page = GuardedBlocks(title=TITLE, analytics_enabled=False, admit=admission.check_event)
    with page:
        _build_header(page, service, closed=admission.page_is_closed)
        choosing = script("choosing", MAX_BYTES=MAX_BYTES, TOO_LARGE=TOO_LARGE)
        gr.HTML("", js_on_load=choosing, elem_id="choosing", apply_default_css=False)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Classify", id="classify", elem_id="tab-classify"):
                picture = build_classify(service)
            if fine_tuning is not None:
                with gr.Tab("Teach", id="teach", elem_id="tab-teach"):
                    build_teach(service, fine_tuning, login, picture)
            with gr.Tab("Model", id="model", elem_id="tab-model"):
                build_model(service, login)
    page.queue(max_size=_QUEUE_SIZE, default_concurrency_limit=8)
    # Gradio would make a table of the last 10,000 events after each of them, which takes tens of milliseconds.
    page._queue.ANALYTICS_MAX_EVENTS, page._queue.ANAYLTICS_CACHE_FREQUENCY = 1, sys.maxsize
    max_file_bytes = MAX_BYTES if fine_tuning is None else MAX_INCREMENT_BYTES
    Uploads(max_file_bytes, page.upload_file_set, admission, metrics).add_to(app)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        theme=THEME,
        css_paths=[STATIC / f"{name}.css" for name in ("page", "model", "teach")],
        head_paths=STATIC / "refusals.html",
        max_file_size=max_file_bytes,
        footer_links=["api"],
        show_error=False,  # what is no sentence of ours stays in the log
        ssr_mode=False,
        run_history=False,
    )
    page.is_running = True  # as launch() has it; otherwise an uploaded SVG is shown as a page
    _remember_descriptions(page)
    mounted = app.routes[-1]
    assert isinstance(mounted, Mount)
    for kind in (LookupError, TypeError, ValueError, AttributeError, OSError, FnIndexInferError, httpx.InvalidURL):
        mounted.app.add_exception_handler(kind, _on_misfit)  # type: ignore[attr-defined]
    warm_at_start(app, mounted.app)
    mounted.app = AllowedRoutes(mounted.app, page, login, metrics.page_streams)


async def _on_misfit(request: Request, error: Exception) -> Response:
    """Gradio's routes take requests apart without looking; what callbacks raise does not come here."""
    if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
        raise error
    _log.warning("%s %r does not fit the page: %r", request.method, request.url.path[:200], error)
    return error_reply(RequestError(400, "this request does not fit the page. Reload it, or see /gradio_api/info."))


def _remember_descriptions(page: gr.Blocks) -> None:
    """Gradio describes all components anew for each visitor, which stops the event loop for 3 ms."""
    for block in page.blocks.values():
        block.get_config = partial(dict, block.get_config())  # type: ignore[method-assign]  # a session changes its copy


def _header(service: Service, *, closed: bool = False) -> str:
    champion = service.champion
    names = champion.serving.manifest.class_names if champion.ready else CLASS_NAMES
    return render("header", title=TITLE, names=names, most=_SHOWN, closed=closed)


def _status(service: Service) -> str:
    """Which version answers, and why another one does not; the same until something changes."""
    serving, trouble = None, ""
    try:
        serving = service.champion.serving
    except CifarLitError as error:
        trouble = str(error)
    return render("status", serving=serving, refusal=service.champion.refusal, error=trouble)


def _build_header(page: gr.Blocks, service: Service, *, closed: bool) -> None:
    header = gr.HTML(_header(service, closed=closed), elem_id="page-header")
    page.load(lambda: _header(service, closed=closed), None, header, queue=False, **QUIET)
    line = gr.HTML(_status(service), js_on_load=SAYS_CHANGES, elem_id="status")

    def follow(before: str | None) -> object:
        now = _status(service)
        return gr.skip() if now == before else now

    gr.on([page.load, gr.Timer(_STATUS_S).tick], follow, line, line, queue=False, **QUIET)
