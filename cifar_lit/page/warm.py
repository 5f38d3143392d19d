"""Asks the page for itself before the first visitor does.

Gradio loads modules and builds its routes and descriptions when it is first asked, on the event loop that everybody
shares: those who sent a picture at that moment waited for 80 ms.
"""

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.types import ASGIApp

_PATHS = ("/", "/config", "/gradio_api/info")

_log = logging.getLogger(__name__)


def warm_at_start(app: FastAPI, page: ASGIApp) -> None:
    """Has `app` ask `page` for what a browser opens when `app` starts; a page that fails then is told to the log."""
    outer = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with outer(app) as state:
            await _warm(page)
            yield state

    app.router.lifespan_context = lifespan


async def _warm(page: ASGIApp) -> None:
    transport = httpx.ASGITransport(page, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for path in _PATHS:
            answer = await client.get(path)
            if answer.status_code != 200:
                _log.warning("The page answers %d at %s", answer.status_code, path)
