import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from cifar_lit.serving import request_limits
from cifar_lit.serving.metrics import Metrics
from cifar_lit.serving.request_limits import LOOPBACK, RequestLimitsMiddleware

MAX_BYTES = 1_000
Chunks = list[bytes]


@dataclass(frozen=True)
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def detail(self) -> str:
        return json.loads(self.body)["detail"]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(await Request(scope, receive).body())(scope, receive, send)


async def never() -> Message:
    await asyncio.sleep(30)
    raise AssertionError("it was awaited for too long")


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("/srv/secret/path.py went wrong")


class Harness:
    """Sends requests through the middleware, with no server between."""

    def __init__(self, app: Any = echo, hosts: tuple[str, ...] | None = LOOPBACK) -> None:
        self.metrics = Metrics()
        self.limits = RequestLimitsMiddleware(
            app, metrics=self.metrics, hosts=hosts, max_body=lambda path, kind: MAX_BYTES
        )
        self.num_received = 0
        """Bytes that were taken from the client."""

    def send(
        self,
        *headers: tuple[str, str],
        method: str = "POST",
        path: str = "/predict",
        host: str | None = "localhost",
        chunks: Chunks | None = None,
        then: Callable[[], Awaitable[Message]] | None = None,
        pause_s: float = 0,
    ) -> Answered:
        """Sends `chunks`, each after a pause; and `then`, if the body does not end with them."""
        pairs = [*(() if host is None else (("host", host),)), *headers]
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
        scope = {"type": "http", "method": method, "path": path, "headers": raw, "query_string": b"", "state": {}}
        left = list(chunks or [b""])
        sent: list[Message] = []

        async def receive() -> Message:
            if pause_s:
                await asyncio.sleep(pause_s)
            if left:
                body = left.pop(0)
                self.num_received += len(body)
                return {"type": "http.request", "body": body, "more_body": bool(left) or then is not None}
            return await (then or never)()

        async def send(message: Message) -> None:
            sent.append(message)

        asyncio.run(self.limits(scope, receive, send))
        found = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in sent[0]["headers"]]
        assert len(dict(found)) == len(found), "a header comes twice"
        return Answered(sent[0]["status"], dict(found), b"".join(message.get("body", b"") for message in sent[1:]))

    def count(self, name: str = "cifar_lit_requests_total", **labels: str) -> float:
        families = text_string_to_metric_families(self.metrics.render().decode())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


@pytest.fixture
def harness() -> Harness:
    return Harness()


def length(size: int) -> tuple[str, str]:
    return "content-length", str(size)


CHUNKED = ("transfer-encoding", "chunked")


# Host


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost:7860", "127.0.0.1:1", "[::1]", "[::1]:7860"])
def test_a_host_of_its_own_is_served(harness: Harness, host: str) -> None:
    assert harness.send(host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "example.org",
        "localhost.example.org",
        "localhost@example.org",
        "a/?x=",
        "localhost/",
        "localhost?",
        "localhost#",
        "localhost:",
        "localhost:x",
        "localhost:123456",
        "localhost, example.org",
        "local host",
        "localhost\t",
        "[::1",
        "::1",
        "127.1",
        "0x7f000001",
        "\xff",
        "x" * 10_000,
    ],
)
def test_another_host_is_not_served(harness: Harness, host: str) -> None:
    answered = harness.send(host=host)
    assert (answered.status, answered.detail) == (400, "the Host header names no host that is served here.")


def test_no_host_and_two_hosts_are_none(harness: Harness) -> None:
    assert harness.send(host=None).status == 400
    assert harness.send(("host", "localhost")).status == 400


@pytest.mark.parametrize(
    ("host", "status"),
    [("example.org", 200), ("[2001:db8::1]:80", 200), ("a/?x=", 400), ("a@b", 400), ("", 400), ("a\r\nb", 400)],
)
def test_any_host_means_any_that_is_one(host: str, status: int) -> None:
    assert Harness(hosts=None).send(host=host).status == status


@pytest.mark.parametrize("path", ["@evil", "", "http://evil/", "*"])
def test_a_path_begins_with_a_slash(harness: Harness, path: str) -> None:
    assert harness.send(path=path).status == 400


# Origin

COOKIE = ("cookie", "access-token=x")


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://localhost.evil.example",
        "http://localhost:1",
        "http://localhost@evil.example",
        "null",
        "http://[::1",
        "localhost:7860",
        "x",
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_another_sites_page_can_do_nothing_with_a_visitors_cookie(harness: Harness, origin: str, method: str) -> None:
    answered = harness.send(("origin", origin), COOKIE, method=method, host="localhost:7860")
    assert (answered.status, answered.detail) == (403, "this request comes from a page of another site.")


@pytest.mark.parametrize("origin", ["http://localhost:7860", "https://localhost:7860", "http://LOCALHOST:7860"])
def test_its_own_page_can(harness: Harness, origin: str) -> None:
    assert harness.send(("origin", origin), COOKIE, host="localhost:7860").status == 200


def test_without_a_cookie_any_page_may_ask(harness: Harness) -> None:
    assert harness.send(("origin", "http://evil.example")).status == 200


def test_reading_is_not_doing(harness: Harness) -> None:
    assert harness.send(("origin", "http://evil.example"), COOKIE, method="GET").status == 200


# Bounds of a body


def test_a_body_of_the_limit_passes(harness: Harness) -> None:
    body = b"x" * MAX_BYTES
    assert harness.send(length(MAX_BYTES), chunks=[body]).body == body
    assert harness.send(CHUNKED, chunks=[body[:600], body[600:]]).body == body


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 10**12, "1" + "0" * 6_000])
def test_a_length_over_the_limit_is_refused_before_the_body(harness: Harness, size: int | str) -> None:
    answered = harness.send(("content-length", str(size)), chunks=[b"x" * 10])
    assert (answered.status, answered.headers["connection"]) == (413, "close")
    assert answered.detail == "the body is too large, at most 1,000 bytes are accepted here."
    assert harness.num_received == 0


def test_chunks_over_the_limit_are_refused_as_soon_as_they_are(harness: Harness) -> None:
    answered = harness.send(CHUNKED, chunks=[b"x" * 100] * 1_000)
    assert (answered.status, answered.headers["connection"]) == (413, "close")
    assert harness.num_received == MAX_BYTES + 100


def test_a_false_length_does_not_help(harness: Harness) -> None:
    assert harness.send(length(5), chunks=[b"x" * 600] * 3).status == 413


@pytest.mark.parametrize("size", ["-1", "x", "", "1_0", " 1", "\xb2"])
def test_a_length_that_is_no_number_is_refused(harness: Harness, size: str) -> None:
    assert harness.send(("content-length", size)).status == 413


# Slow bodies


def test_a_body_that_does_not_come_is_given_up(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "BODY_GRACE_S", 0.05)
    answered = harness.send(length(100), chunks=[b"x" * 7], then=never)
    assert (answered.status, answered.headers["connection"]) == (408, "close")
    assert answered.detail == "the body came too slowly: after 0 s it was not complete. Send it again, faster."


def test_a_body_that_drips_is_given_up(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "BODY_GRACE_S", 0.2)
    answered = harness.send(length(500), chunks=[b"x"] * 500, pause_s=0.01)
    assert answered.status == 408
    assert harness.num_received < 100


def test_slow_bodies_are_not_all_given_up_at_once(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "BODY_GRACE_S", 3_600.0)
    monkeypatch.setattr(request_limits, "jitter", lambda seconds: seconds / 72_000)
    assert harness.send(length(100), chunks=[b"x"], then=never).status == 408


def test_a_large_body_has_more_time(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "BODY_GRACE_S", 0.2)
    monkeypatch.setattr(request_limits, "BODY_BYTES_PER_S", 10)
    assert harness.send(length(50), chunks=[b"x" * 10] * 5, pause_s=0.1).status == 200


@pytest.mark.parametrize("headers", [(), (length(0),), (length(1),)])
def test_a_slow_answer_is_no_slow_body(headers: tuple[tuple[str, str], ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "BODY_GRACE_S", 0.05)

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()
        gone = asyncio.ensure_future(receive())  # as a streaming answer waits for the client to leave
        await asyncio.sleep(0.2)
        assert not gone.done()
        gone.cancel()
        await PlainTextResponse("done")(scope, receive, send)

    body = [b"x"] if headers == (length(1),) else [b""]
    assert Harness(slow).send(*headers, chunks=body).status == 200


# Names of requests


@pytest.mark.parametrize("given", ["a", "6f1c-22", "A.b_c:d/e+f=", "x" * 128])
def test_a_request_keeps_its_id(harness: Harness, given: str) -> None:
    assert harness.send(("x-request-id", given)).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\nb", "<script>", '"', "\x1b[31m", "\xe9", "a\x00", "a;b"])
def test_an_odd_id_is_replaced(harness: Harness, given: str) -> None:
    found = {harness.send(("x-request-id", given)).headers["x-request-id"] for _ in range(3)}
    assert len(found) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", each) for each in found)


def test_refusals_have_an_id_too(harness: Harness) -> None:
    assert harness.send(("x-request-id", "mine"), host="evil").headers["x-request-id"] == "mine"


# Failures


def test_an_unexpected_failure_is_told_to_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    answered = Harness(failing).send(("x-request-id", "mine"))
    assert answered.status == 500
    assert answered.detail == "the server failed. The log knows more, by this response's X-Request-ID."
    assert "request mine" in caplog.text
    assert "secret/path.py went wrong" in caplog.text


def test_a_failure_amid_an_answer_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("went wrong")

    harness = Harness(half)
    with pytest.raises(RuntimeError, match="went wrong"):
        harness.send()
    assert harness.count(status="200") == 1
    assert "went wrong" in caplog.text


def test_a_failure_after_an_answer_is_told_to_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def after(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("Internal Server Error", 500)(scope, receive, send)
        raise RuntimeError("went wrong")

    answered = Harness(after).send()  # to raise would close the connection under the client's next request
    assert (answered.status, answered.body) == (500, b"Internal Server Error")
    assert caplog.text.count("RuntimeError: went wrong") == 1


def test_a_client_that_leaves_is_no_failure(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    async def leave() -> Message:
        return {"type": "http.disconnect"}

    caplog.set_level(logging.INFO, "cifar_lit.access")
    with pytest.raises(IndexError):  # nothing was sent, for nobody is there
        harness.send(length(100), chunks=[b"x"], then=leave)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert (harness.count(status="499"), harness.count()) == (1, 1)


def test_what_is_no_request_passes() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    asyncio.run(Harness(app).limits({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]


# Log and metrics


@pytest.mark.parametrize(
    "path", ["/a\r\nb", "/\x1b[31m", "/\u202egnp", "/\u2028", "/\x85", "/\x00", "/ä", "/" + "x" * 10_000, "/\ud800"]
)
def test_a_request_is_one_plain_line_of_the_log(harness: Harness, caplog: pytest.LogCaptureFixture, path: str) -> None:
    caplog.set_level(logging.INFO, "cifar_lit.access")
    harness.send(path=path)
    (record,) = caplog.records
    line = record.getMessage()
    assert len(line.splitlines()) == 1
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 2_500
    assert re.match(r"- POST \S.* 200 [0-9.]+ ms id=[0-9a-f]{16}$", line)


def test_the_log_is_quiet_unless_it_is_asked_for(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "cifar_lit.access")
    harness.send()
    assert not caplog.records


def test_requests_are_counted_by_route_method_and_status() -> None:
    harness = Harness()
    harness.send()
    harness.send(length(10**6))
    harness.send(host="evil")
    for number in range(50):
        harness.send(path=f"/guess/{number}", method="GET")
        harness.send(method=f"ODD{number}")
    assert harness.count(status="413") == 1
    assert harness.count(status="400") == 1
    assert harness.count(method="GET") == 50
    assert harness.count(method="other") == 50
    assert harness.count("cifar_lit_request_seconds_count") == 103
    labels = {line.split(b"}")[0] for line in harness.metrics.render().splitlines() if b"requests_total{" in line}
    assert len(labels) == 5, "what a client makes up must not become a series"
