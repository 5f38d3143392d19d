"""The page's routes: those that are asked for are open, the others of Gradio are not, and what passes is bounded."""

import asyncio
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from fastapi import FastAPI
from servers import shipped_v0001
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from cifar_lit.page import allowed_routes, guarded
from cifar_lit.page.allowed_routes import AllowedRoutes
from cifar_lit.page.app import create_app
from cifar_lit.serving.app import Options
from cifar_lit.serving.login import COOKIE, Login
from cifar_lit.serving.metrics import Metrics

CAT = (Path(__file__).parent.parent / "docs" / "cat.jpg").read_bytes()
PASSWORD = "open sesame"
OPEN = {
    *("GET /", "HEAD /", "GET /config", "GET /theme.css", "GET /favicon.ico", "GET /assets/x", "GET /static/x"),
    *("GET /gradio_api/info", "GET /gradio_api/app_id", "GET /gradio_api/file=/x", "HEAD /gradio_api/file=/x"),
    *("GET /gradio_api/heartbeat/x", "GET /gradio_api/queue/data", "GET /gradio_api/call/x/x"),
    *("POST /gradio_api/run/predict", "POST /gradio_api/call/x", "POST /gradio_api/queue/join"),
}
"""What Chromium asked for in the tests of the page, and `gradio_client` and the page's own API page beside it."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shipped_v0001(tmp_path_factory.mktemp("doors"))


@pytest.fixture(scope="module")
def app(registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        yield create_app(Options(registry=registry, decode_workers=1, password=PASSWORD))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


def entered(registry: Path, **options: Any) -> TestClient:
    return TestClient(create_app(Options(registry=registry, decode_workers=1, **options)), base_url="http://127.0.0.1")


def the_doors(app: FastAPI) -> AllowedRoutes:
    (found,) = (route.app for route in app.routes if isinstance(route, Mount) and isinstance(route.app, AllowedRoutes))
    return found


def event(client: TestClient, name: str) -> int:
    found: int = next(each["id"] for each in client.get("/config").json()["dependencies"] if each["api_name"] == name)
    return found


def run(client: TestClient, name: str, *data: Any, session: str = "tests") -> Any:
    order = {"data": list(data), "fn_index": event(client, name), "session_hash": session}
    return client.post("/gradio_api/run/predict", json=order)


# Routes


def test_of_all_routes_of_gradio_those_are_open_that_the_page_asks_for(app: FastAPI) -> None:
    gradio: Any = the_doors(app).app
    asked, reached = set[str](), set[str]()

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        reached.add(f"{scope['method']} {scope['path']}")

    client = TestClient(
        AllowedRoutes(note, _Knowing(), Login(None), Metrics().page_streams), raise_server_exceptions=False
    )
    nested = [
        each for route in gradio.routes for each in getattr(getattr(route, "original_router", None), "routes", [])
    ]
    for route in [*gradio.routes, *nested]:
        if isinstance(route, Route):
            path = re.sub(r"{[^}]*}", "x", route.path).replace("file=x", "file=/x").replace("run/x", "run/predict")
            for method in route.methods or ():
                asked.add(f"{method} {path}")
                client.request(method, path)
    assert len(asked) > 60
    assert reached == OPEN


class _Knowing(gr.Blocks):
    """Knows each stream; so many events wait."""

    def __init__(self, num_waiting: int = 0) -> None:
        self.num_waiting = num_waiting
        self._queue = self  # type: ignore[assignment]
        self.pending_messages_per_session = {""}
        self.event_ids_to_events = {"x"}

    def __len__(self) -> int:
        return self.num_waiting


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/file=http://192.0.2.1/x"),
        ("GET", "/gradio_api/file=HTTPS://192.0.2.1/x"),
        ("GET", "/gradio_api/file=x"),
        ("GET", "/gradio_api/proxy=http://192.0.2.1/x"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/component_server"),
        ("GET", "/gradio_api/dev/reload"),
        ("GET", "/gradio_api/startup-events"),
        ("GET", "/monitoring/summary"),
        ("POST", "/gradio_api/api/predict"),
        ("POST", "/gradio_api/run/predict/"),
        ("POST", "/gradio_api/call/v2/predict"),
        ("PUT", "/gradio_api/run/predict"),
        ("GET", "/gradio_api/run/predict"),
        ("POST", "/"),
        ("GET", "//gradio_api/info"),
        ("GET", "/gradio_api/info/"),
        ("GET", "/gradio_api/INFO"),
        ("GET", "/gradio_api/%69nfo/x"),
    ],
)
def test_what_the_page_does_not_ask_for_is_not_found(client: TestClient, method: str, path: str) -> None:
    response = client.request(method, path)
    assert response.status_code == 404
    assert "there is nothing here" in response.json()["detail"]


def test_an_event_has_a_bound(client: TestClient) -> None:
    for path in ("run/predict", "queue/join", "call/predict"):
        assert client.post(f"/gradio_api/{path}", content=bytes(256 * 1024 + 1)).status_code == 413


def test_the_page_is_framed_by_no_other_site_and_its_scripts_are_its_own(client: TestClient) -> None:
    for path in ("/", "/assets/none.js", "/gradio_api/none"):
        headers = client.get(path).headers
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
        assert "default-src 'self'" in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "same-origin")


# Memory and log


def test_sessions_are_bounded(client: TestClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = the_doors(app).app.state_holder  # type: ignore[attr-defined]
    assert holder.capacity == guarded.MAX_SESSIONS <= 500
    monkeypatch.setattr(holder, "capacity", 5)
    for number in range(12):
        assert run(client, "follow", None, session=f"new{number}").status_code == 200
    assert len(holder.session_data) <= 6


@pytest.mark.parametrize("path", ["queue/data?session_hash=none", "queue/data", "call/predict/none"])
def test_a_stream_that_nobody_began_is_not_found_and_not_logged(
    client: TestClient, path: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    response = client.get(f"/gradio_api/{path}")
    assert response.status_code == 404
    assert "Begin one first" in response.json()["detail"]
    assert caplog.records == []
    assert capfd.readouterr().err == ""


def test_a_stream_that_was_begun_is_told_its_answer(client: TestClient) -> None:
    begun = client.post("/gradio_api/call/predict", json={"data": [None]}).json()["event_id"]
    assert "event: complete" in client.get(f"/gradio_api/call/predict/{begun}").text
    order = {"data": [None], "fn_index": event(client, "predict"), "session_hash": "joined"}
    assert client.post("/gradio_api/queue/join", json=order).status_code == 200
    assert '"process_completed"' in client.get("/gradio_api/queue/data?session_hash=joined").text


def test_values_that_do_not_fit_are_refused_in_a_sentence(
    client: TestClient, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for data in ([], [5], [[1]], [{"path": 5}], ["x", "y", "z"], [{"a": {"b": 1}}]):
        response = run(client, "predict", *data)
        assert response.status_code in (400, 422), data
        assert response.json()["error"]
    assert "Traceback" not in capfd.readouterr().err
    assert all(len(record.getMessage()) < 500 and record.exc_info is None for record in caplog.records)


@pytest.mark.parametrize("name", ["_chosen", "choose_row"])
@pytest.mark.parametrize("told", [None, 5, "x", [], {}, {"name": 5, "value": None}])
def test_an_event_that_does_not_say_what_happened_is_refused(
    client: TestClient, name: str, told: Any, caplog: pytest.LogCaptureFixture
) -> None:
    order = {"data": [], "fn_index": event(client, name), "session_hash": "tests", "event_data": told}
    response = client.post("/gradio_api/run/predict", json=order)
    assert response.status_code == 400
    assert "do not fit the page" in response.json()["error"]
    assert caplog.records == []


@pytest.mark.parametrize(
    "found",
    [
        *(5, "x", [1], {"a": 1}, {"answers": []}, {"answers": [{"probabilities": {"a": 1}}] * 2}),
        {"answers": [{"probabilities": {"a": "x"}, "version": "v", "confidence": 1}] * 2},
    ],
)
def test_a_comparison_that_the_page_did_not_make_is_refused(
    client: TestClient, found: Any, caplog: pytest.LogCaptureFixture
) -> None:
    response = run(client, "comparison", found)
    assert response.status_code == 400
    assert "do not fit the page" in response.json()["error"]
    assert caplog.records == []


def test_an_event_that_runs_in_the_browser_alone_is_refused(
    registry: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = entered(registry, teach=tmp_path)  # whose Teach has one
    response = run(client, "js_fn", None)
    assert response.status_code == 400
    assert "do not fit the page" in response.json()["error"]
    assert caplog.records == []


def test_a_failure_is_told_by_its_request_and_logged_once(
    client: TestClient,
    app: FastAPI,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    page = the_doors(app).app.get_blocks()  # type: ignore[attr-defined]

    def fail(line: str | None) -> None:
        raise RuntimeError("the secret")

    monkeypatch.setattr(page.fns[event(client, "follow")], "fn", fail)
    order = {"data": [None], "fn_index": event(client, "follow"), "session_hash": "x"}
    response = client.post("/gradio_api/run/predict", json=order, headers={"X-Request-ID": "abc-1"})
    assert response.status_code == 500
    assert "by request abc-1" in response.json()["error"]
    assert "secret" not in response.text
    (record,) = (each for each in caplog.records if each.levelno == logging.ERROR)
    assert "request abc-1" in record.getMessage()
    assert capfd.readouterr().err == ""


def test_half_of_the_queue_is_left_to_those_who_are_signed_in() -> None:
    login = Login(PASSWORD)
    signed_in = {COOKIE: login.sign_in(PASSWORD, "here")}
    for num_waiting, cookies, status in [
        (allowed_routes.MAX_WAITING - 1, {}, 200),
        (allowed_routes.MAX_WAITING, {}, 503),
        (allowed_routes.MAX_WAITING, {COOKIE: "x"}, 503),
        (allowed_routes.MAX_WAITING, signed_in, 200),
    ]:
        app = AllowedRoutes(PlainTextResponse("passed"), _Knowing(num_waiting), login, Metrics().page_streams)
        client = TestClient(app, cookies=cookies)
        for path in ("queue/join", "call/compare"):
            assert client.post(f"/gradio_api/{path}").status_code == status
        assert client.post("/gradio_api/run/predict").status_code == 200  # it does not wait


# Streams


def test_open_pages_are_counted_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowed_routes, "MAX_STREAMS_OF_ADDRESS", 2)
    monkeypatch.setattr(allowed_routes, "MAX_STREAMS", 3)
    metrics = Metrics()
    statuses: list[int] = []

    async def hold(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["left"]:
            await guard({**scope, "client": scope["left"][0], "left": scope["left"][1:]}, receive, send)

    async def note(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    guard = AllowedRoutes(hold, _Knowing(), Login(None), metrics.page_streams)

    def open_at_once(*clients: str) -> int:
        """How many of these streams, each of which is open while the next one comes, are turned away."""
        statuses.clear()
        left = [(address, 1) for address in clients]
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/gradio_api/heartbeat/x",
            "client": left[0],
            "left": left[1:],
        }
        asyncio.run(guard(scope, None, note))  # type: ignore[arg-type]
        assert set(statuses) <= {503}
        return len(statuses)

    for _ in range(2):
        assert open_at_once("a", "a") == 0
        assert open_at_once("a", "a", "a") == 1
        assert open_at_once("a", "a", "b") == 0
        assert open_at_once("a", "a", "b", "c") == 1
    assert metrics.registry.get_sample_value("cifar_lit_page_streams") == 0


# Keys and quotas


def test_events_that_a_visitor_causes_count_and_those_of_an_open_page_do_not(registry: Path) -> None:
    client = entered(registry, requests_per_minute=3)
    assert [run(client, "predict", None).status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    assert "more than 3 requests a minute" in run(client, "predict", None).json()["error"]
    assert client.post("/predict", content=CAT).status_code == 429  # REST's and the page's count together
    assert [run(client, "follow", None).status_code for _ in range(5)] == [200] * 5


@pytest.mark.parametrize("path", ["run/predict", "call/predict", "queue/join"])
def test_each_way_to_an_event_counts(registry: Path, path: str) -> None:
    with entered(registry, requests_per_minute=1) as client:
        assert run(client, "predict", None).status_code == 200
        order = {"data": [None], "fn_index": event(client, "predict"), "session_hash": "x"}
        answer = client.post(f"/gradio_api/{path}", json=order)
        if path == "queue/join":
            answer = client.get("/gradio_api/queue/data?session_hash=x")
        elif path == "call/predict":
            answer = client.get(f"/gradio_api/call/predict/{answer.json()['event_id']}")
        assert "more than 1 requests a minute" in answer.text


def test_who_is_signed_in_has_no_quota(registry: Path) -> None:
    client = entered(registry, requests_per_minute=1, password=PASSWORD)
    assert client.post("/login", data={"password": PASSWORD}, follow_redirects=False).status_code == 303
    assert [run(client, "predict", None).status_code for _ in range(3)] == [200] * 3


KEYS = frozenset({"secret"})


def test_with_keys_the_page_asks_for_a_sign_in(registry: Path) -> None:
    client = entered(registry, api_keys=KEYS, password=PASSWORD)
    refused = run(client, "predict", None)
    assert refused.status_code == 401
    assert "those who sign in" in refused.json()["error"]
    assert client.post("/gradio_api/upload", files={"files": ("a.png", CAT)}).status_code == 401
    assert 'href="login">sign in' in client.get("/config").text.replace('\\"', '"')
    assert run(client, "follow", None).status_code == 200
    client.post("/login", data={"password": PASSWORD}, follow_redirects=False)
    assert run(client, "predict", None).status_code == 200
    assert client.post("/gradio_api/upload", files={"files": ("a.png", CAT)}).status_code == 200


def test_with_keys_and_no_password_the_page_says_what_is_missing(registry: Path) -> None:
    refused = run(entered(registry, api_keys=KEYS), "predict", None)
    assert refused.status_code == 403
    assert "CIFAR_LIT_PASSWORD, or with --public-page" in refused.json()["error"]


def test_a_public_page_needs_no_sign_in(registry: Path) -> None:
    client = entered(registry, api_keys=KEYS, public_page=True)
    assert run(client, "predict", None).status_code == 200
    assert "sign in" not in client.get("/config").json()["components"][0]["props"].get("value", "")
    assert client.post("/predict", content=CAT).status_code == 401


def test_a_refusal_of_the_page_has_the_status_of_its_reason(client: TestClient) -> None:
    (path,) = client.post("/gradio_api/upload", files={"files": ("a.png", b"this is no picture")}).json()
    upload = {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    answer = run(client, "predict", upload)
    assert (answer.status_code, "can't be classified" in answer.json()["error"]) == (415, True)
    assert run(client, "ask_rollback").status_code == 401
