import contextlib
import logging
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from cifar_lit.page.warm import warm_at_start


class Page:
    def __init__(self, status: int = 200) -> None:
        self.asked: list[str] = []
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        await PlainTextResponse("", self._status)(scope, receive, send)


def test_the_page_is_asked_before_the_first_visitor_asks(caplog: pytest.LogCaptureFixture) -> None:
    app, page = FastAPI(), Page()
    warm_at_start(app, page)
    with caplog.at_level(logging.WARNING), TestClient(app):
        assert page.asked == ["/", "/config", "/gradio_api/info"]
    assert not caplog.records


def test_a_page_that_fails_then_is_told_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    app, page = FastAPI(), Page(500)
    warm_at_start(app, page)
    with caplog.at_level(logging.WARNING), TestClient(app):
        assert "The page answers 500 at /config" in caplog.messages


def test_what_the_application_begins_with_comes_first() -> None:
    page, told = Page(), list[str]()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        told.append(f"begun, {len(page.asked)} asked")
        yield
        told.append("ended")

    app = FastAPI(lifespan=lifespan)
    warm_at_start(app, page)
    with TestClient(app):
        assert told == ["begun, 0 asked"]
    assert told == ["begun, 0 asked", "ended"]
