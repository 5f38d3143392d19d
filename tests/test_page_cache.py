import asyncio
import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from cifar_lit.page.app import create_app
from cifar_lit.page.cache import PageCache
from cifar_lit.serving.app import Options
from cifar_lit.serving.login import Login

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
LONG = "All visitors are sent this. " * 100


class Page:
    """Counts what it is asked; `make` makes the answers."""

    def __init__(self, make: Callable[[Request], Response] = lambda request: PlainTextResponse(LONG)) -> None:
        self.asked: list[str] = []
        self._make = make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.asked.append(f"{request.method} {request.url.path} {request.headers.get('accept-encoding', 'none')}")
        await self._make(request)(scope, receive, send)


def client_of(page: Any, **settings: Any) -> TestClient:
    client = TestClient(PageCache(page, **settings), base_url="http://localhost")
    client.headers = {"accept-encoding": "identity"}
    return client


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/assets/a.js", "/static/x/y.png", "/theme.css"])
def test_what_all_are_sent_is_made_once(path: str) -> None:
    page = Page()
    client = client_of(page)
    answers = [client.get(path) for _ in range(3)]
    assert [answer.text for answer in answers] == [LONG] * 3
    assert answers[0].headers == answers[1].headers == answers[2].headers
    assert page.asked == [f"GET {path} none"]


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info"])
def test_a_query_makes_no_difference(path: str) -> None:
    asked: list[str] = []

    def note(request: Request) -> Response:
        asked.append(request.url.query)
        return PlainTextResponse(LONG)

    client = client_of(Page(note))
    for query in ("", "?a=1", "?deep_link=x", "?page=../x"):
        assert client.get(path + query).text == LONG
    assert asked == [""]


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/login", {}),
        ("GET", "/gradio_api/file=/x", {}),
        ("GET", "/gradio_api/queue/data", {}),
        ("GET", "/gradio_api/heartbeat/x", {}),
        ("GET", "/version", {}),
        ("GET", "/config/", {}),
        ("GET", "/assets/a.js", {"Range": "bytes=0-1"}),
        ("HEAD", "/", {}),
        ("POST", "/", {}),
        ("POST", "/gradio_api/run/predict", {}),
    ],
)
def test_anything_else_is_asked_each_time(method: str, path: str, headers: dict[str, str]) -> None:
    page = Page()
    client = client_of(page)
    for _ in range(2):
        client.request(method, path, headers=headers)
    assert len(page.asked) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda request: PlainTextResponse(LONG, 404),
        lambda request: PlainTextResponse(LONG, 500),
        lambda request: PlainTextResponse(LONG, headers={"Set-Cookie": "a=b"}),
        lambda request: PlainTextResponse(LONG, headers={"Content-Encoding": "identity"}),
        lambda request: PlainTextResponse("x" * (8 * 2**20 + 1)),
        lambda request: StreamingResponse(iter(["a", "b"])),
    ],
    ids=["not found", "failed", "cookie", "compressed", "large", "stream"],
)
def test_what_is_not_for_everybody_is_passed_on(make: Callable[[Request], Response]) -> None:
    page = Page(make)
    client = client_of(page)
    direct = TestClient(page, base_url="http://localhost")
    expected = direct.get("/assets/a", headers={"accept-encoding": "identity"})
    for _ in range(2):
        answer = client.get("/assets/a")
        assert (answer.status_code, answer.headers) == (expected.status_code, expected.headers)
    assert len(page.asked) == 3


def test_a_failure_is_not_kept() -> None:
    def fail(request: Request) -> Response:
        raise ZeroDivisionError

    page = Page(fail)
    client = client_of(page)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            client.get("/")
    assert len(page.asked) == 2


@pytest.mark.parametrize("name", ["host", "x-forwarded-host", "x-forwarded-proto", "x-gradio-server"])
def test_the_page_of_another_address_is_another(name: str) -> None:
    page = Page(lambda request: PlainTextResponse(f"{LONG} {request.headers.get(name)}"))
    client = client_of(page)
    for value in ("one.example", "two.example", "one.example"):
        assert client.get("/", headers={name: value}).text == f"{LONG} {value}"
    assert len(page.asked) == 2


def test_the_names_of_headers_are_not_taken_for_their_values() -> None:
    page = Page(lambda request: PlainTextResponse(f"{request.headers.get('x-forwarded-host')} {LONG}"))
    client = client_of(page)
    assert client.get("/", headers={"x-forwarded-host": "a"}).text.startswith("a ")
    assert client.get("/", headers={"x-gradio-server": "a"}).text.startswith("None ")


@pytest.mark.parametrize(
    ("accepted", "zipped"),
    [
        ("gzip", True),
        ("br, gzip, deflate", True),
        ("GZIP ; q=0.5", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip; q=0.0, br", False),
        ("xgzip", False),
    ],
)
def test_a_text_is_compressed_for_who_takes_it(accepted: str, zipped: bool) -> None:
    page = Page()
    client = client_of(page)
    for _ in range(2):
        with client.stream("GET", "/", headers={"Accept-Encoding": accepted}) as answer:
            body = b"".join(answer.iter_raw())
        assert (answer.headers.get("content-encoding") == "gzip") == zipped
        assert int(answer.headers["content-length"]) == len(body)
        assert answer.headers["vary"] == "Accept-Encoding"
        assert (gzip.decompress(body) if zipped else body) == LONG.encode()
    assert len(page.asked) == 1


@pytest.mark.parametrize(("kind", "size"), [("text/css", 499), ("image/png", 10_000), ("font/woff2", 10_000)])
def test_what_would_not_shrink_is_sent_as_it_is(kind: str, size: int) -> None:
    client = client_of(Page(lambda request: Response(b"x" * size, media_type=kind)))
    answer = client.get("/assets/x", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in answer.headers
    assert len(answer.content) == size


def test_those_go_first_that_were_not_asked_for_the_longest() -> None:
    page = Page(lambda request: Response(b"x" * 400, media_type="image/png"))
    client = client_of(page, max_bytes=1_000)
    for path in ("/assets/1", "/assets/2", "/assets/1", "/assets/3", "/assets/1", "/assets/2"):
        client.get(path)
    assert [each.split()[1] for each in page.asked] == ["/assets/1", "/assets/2", "/assets/3", "/assets/2"]


def test_an_answer_larger_than_all_room_is_sent_and_not_kept() -> None:
    page = Page()
    client = client_of(page, max_bytes=10)
    for _ in range(2):
        assert client.get("/", headers={"Accept-Encoding": "gzip"}).text == LONG
    assert len(page.asked) == 2


def test_the_route_that_answered_is_known_each_time() -> None:
    router = Router([Route("/config", lambda request: PlainTextResponse(LONG))])
    cache = PageCache(router)
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await cache(scope, receive, send)

    with TestClient(app) as client:
        for _ in range(2):
            client.get("/config")
    asked = [scope.get("route") for scope in scopes if scope["type"] == "http"]
    assert asked[0] is asked[1]


def test_the_real_page_is_the_same_for_visitors_who_are_signed_in_and_who_are_not() -> None:
    app = create_app(Options(registry=CHECKPOINTS, password="open sesame", decode_workers=1))
    client = TestClient(app, base_url="http://localhost")  # not started: the page needs no model
    assert "Sign in" in client.get("/login").text
    first = {path: client.get(path) for path in ("/", "/config", "/gradio_api/info", "/theme.css")}
    files = re.findall(r'(?:src|href)="\.?/?((?:assets|static)/[^"]+)"', first["/"].text)
    assert len(files) >= 2
    first |= {f"/{name}": client.get(f"/{name}") for name in files}
    assert client.post("/login", data={"password": "open sesame"}, follow_redirects=False).status_code == 303
    assert client.cookies
    for path, answer in first.items():
        again = client.get(path)
        assert answer.status_code == again.status_code == 200, path
        assert again.content == answer.content, path
        assert not any(value in again.text for value in client.cookies.values()), path
    assert client.get("/login").text != TestClient(app, base_url="http://localhost").get("/login").text


def test_nothing_of_a_visitor_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is signed in is asked of the login for each event; the pages that are kept never ask."""
    asked: list[object] = []
    monkeypatch.setattr(Login, "signed_in", lambda login, cookies: bool(asked.append(cookies)))
    app = create_app(Options(registry=CHECKPOINTS, password="open sesame", decode_workers=1))
    client = TestClient(app, base_url="http://localhost", cookies={"cifar_lit": "somebody"})
    for path in ("/", "/config", "/gradio_api/info", "/theme.css"):
        assert client.get(path).status_code == 200
    assert asked == []


def test_two_who_ask_at_once_are_both_answered() -> None:
    page = Page()
    cache = PageCache(page)
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": [(b"accept-encoding", b"gzip")],
    }

    async def ask() -> bytes:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b""}

        await cache(dict(scope), receive, send)
        return gzip.decompress(sent[1]["body"])

    async def both() -> list[bytes]:
        return list(await asyncio.gather(ask(), ask()))

    assert asyncio.run(both()) == [LONG.encode()] * 2
