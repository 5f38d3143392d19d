"""What the whole server, page and all, answers to what no decent client sends."""

import contextlib
import gc
import http.client
import io
import itertools
import json
import logging
import os
import random
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import httpx
import pytest
from hostile_images import FRAGMENTS, GOOD, HOSTILE, JPEG, PNG, content_of, encoded
from PIL import Image
from raw_http import RawReply, connected, exchange, head
from servers import serving

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data.images import MAX_BYTES
from cifar_lit.errors import Fault
from cifar_lit.serving import protocol, request_limits
from cifar_lit.serving.request_limits import LOOPBACK
from cifar_lit.serving.rest import MAX_FORM_BYTES
from cifar_lit.serving.uploads import is_form

ROOT = Path(__file__).parent.parent
STATUS: dict[Fault, int] = {"malformed": 400, "too_large": 413, "unsupported": 415, "invalid": 422}
TELLTALES = ("Traceback", 'File "', str(ROOT), "site-packages", "/tmp", "/home", "/root", ".py")
BUFFERS = 8 * 2**20
"""What the sockets on both sides may hold of a body that nobody reads."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(ROOT / "checkpoints", hosts=LOOPBACK) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow clients are turned away soon."""
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.5)
    monkeypatch.setattr(request_limits, "BODY_GRACE_S", 0.5)


@pytest.fixture(autouse=True)
def _alive_afterwards(client: httpx.Client) -> Iterator[None]:
    yield
    assert ask(client, PNG).status_code == 200


def ask(client: httpx.Client, data: bytes, content_type: str = "image/png") -> httpx.Response:
    return client.post("/predict", content=data, headers={"Content-Type": content_type})


def ask_form(client: httpx.Client, data: bytes, name: str = "cat.png") -> httpx.Response:
    return client.post("/predict", files={"file": (name, data)})


def assert_discreet(text: str, said: str = "") -> None:
    """Tells nothing of the server but what the client said."""
    found = [telltale for telltale in TELLTALES if telltale in text and telltale not in said]
    assert not found, f"{found} in {text[:500]}"


def detail(response: httpx.Response | RawReply) -> str:
    content = response.content if isinstance(response, httpx.Response) else response.body
    return json.loads(content)["detail"]


def num_children() -> int:
    """Processes that stem from this one."""
    parents: dict[int, int] = {}
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (each / "stat").read_text().rsplit(")", 1)[1].split()
                if fields[0] != "Z":
                    parents[int(each.name)] = int(fields[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return len(found) - 1


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def wait_until(done: Callable[[], bool], timeout_s: float = 20) -> bool:
    until = time.monotonic() + timeout_s
    while not done() and time.monotonic() < until:
        time.sleep(0.02)
    return done()


# Images


def test_every_hostile_image_gets_its_answer_and_nothing_is_left_behind(client: httpx.Client) -> None:
    children, sizes = num_children(), []
    cases = {name: content_of(case) for name, (case, _) in HOSTILE.items()}
    for ask_as in (ask_form, ask, ask_form):
        for name, data in cases.items():
            response = ask_as(client, data)
            raw_over_cap = ask_as is ask and len(data) > MAX_BYTES
            address = name.endswith("' as text")
            status = 422 if address else STATUS[HOSTILE[name][1]]
            assert response.status_code == status, (name, ask_as.__name__, response.text)
            assert list(response.json()) == ["detail"], name
            if not (raw_over_cap or address):
                assert FRAGMENTS[name] in detail(response), name
            assert_discreet(response.text)
        gc.collect()
        sizes.append(resident_bytes())
    assert sizes[-1] - sizes[-2] < 32 * 2**20, sizes
    assert wait_until(lambda: num_children() == children)


def test_every_sound_image_gets_its_answer(client: httpx.Client) -> None:
    for name, case in GOOD.items():
        for response in (ask(client, content_of(case)), ask_form(client, content_of(case))):
            assert response.status_code == 200, (name, response.text)
            assert response.json()["prediction"] in CLASS_NAMES, name


def test_a_turned_image_has_the_answer_of_the_upright_one(client: httpx.Client) -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        turned = [content_of(GOOD[f"{kind}, orientation {way}"]) for way in range(1, 9)]
        answers = [list(ask(client, data).json()["probabilities"].values()) for data in turned]
        for answer in answers:  # a lossy image that is turned is not quite the same
            assert answer == pytest.approx(answers[0], abs=1e-6 if kind == "PNG" else 0.1)


def test_what_is_under_a_transparent_pixel_does_not_show(client: httpx.Client) -> None:
    whole = Image.open(io.BytesIO(PNG)).convert("RGBA")
    answers = []
    for colour in ((0, 0, 0, 0), (255, 0, 255, 0), (17, 99, 3, 0)):
        whole.paste(colour, (0, 0, 32, 20))
        answers.append(ask(client, encoded(whole)).json()["probabilities"])
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.slow
def test_a_jpeg_that_is_cut_anywhere_but_in_its_last_rows_is_malformed(client: httpx.Client) -> None:
    photograph = (ROOT / "docs" / "cat.jpg").read_bytes()
    whole = ask(client, photograph).json()["probabilities"]
    cuts = [JPEG[:length] for length in range(len(JPEG) - 2)]
    cuts += [photograph[:length] for length in random.Random(0).sample(range(len(photograph)), 2_000)]
    with ThreadPoolExecutor(8) as pool:
        for data, response in zip(cuts, pool.map(lambda data: ask(client, data), cuts), strict=True):
            if len(data) < 0.9 * len(photograph) or response.status_code != 200:
                assert response.status_code == 400, len(data)
            else:
                assert response.json()["probabilities"] == pytest.approx(whole, abs=0.1), len(data)


@pytest.mark.slow
def test_damaged_images_are_answered_or_refused(client: httpx.Client) -> None:
    drawn = random.Random(0)
    sources = [content_of(case) for case in GOOD.values()]
    sources = [data for data in sources if len(data) < 20_000]
    damaged = []
    for _ in range(3_000):
        data = bytearray(drawn.choice(sources))
        for _ in range(drawn.randint(1, 5)):
            data[drawn.randrange(len(data))] = drawn.randrange(256)
        damaged.append(bytes(data))
    with ThreadPoolExecutor(8) as pool:
        statuses = set(pool.map(lambda data: ask(client, data).status_code, damaged))
    assert statuses <= {200, 400, 413, 415, 422}


# Bounds of a body


def test_a_length_over_the_limit_is_answered_before_the_body(url: str) -> None:
    for kind, limit in (("image/png", MAX_BYTES), ("multipart/form-data; boundary=x", MAX_FORM_BYTES)):
        with connected(url) as connection:
            connection.send(head("POST /predict", f"Content-Type: {kind}", f"Content-Length: {limit + 1}"))
            reply = connection.reply()
            assert (reply.status, reply.headers["connection"]) == (413, "close")
            assert detail(reply) == f"the body is too large, at most {limit:,} bytes are accepted here."
            assert connection.is_closed_by_server()


def test_a_client_that_asks_first_is_spared_a_body_that_is_too_large(url: str) -> None:
    with connected(url) as connection:
        connection.send(head("POST /predict", f"Content-Length: {MAX_BYTES + 1}", "Expect: 100-continue"))
        assert connection.reply().status == 413


@pytest.mark.parametrize("kind", ["image/png", "multipart/form-data; boundary=x", "text/plain"])
def test_chunks_over_the_limit_are_answered_soon(url: str, kind: str) -> None:
    limit = MAX_FORM_BYTES if is_form(kind) else MAX_BYTES
    chunk = b"10000\r\n" + bytes(65_536) + b"\r\n"
    sent = 0
    with connected(url) as connection:
        connection.send(head("POST /predict", "Transfer-Encoding: chunked", f"Content-Type: {kind}"))
        while connection.send(chunk):
            sent += 65_536
            assert sent < limit + protocol.LINGER_BYTES + BUFFERS
        assert connection.reply().status == 413


def by_http_client(url: str, body: bytes | Iterator[bytes]) -> int:
    client = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    with contextlib.closing(client):
        client.request("POST", "/predict", body, {"Content-Type": "image/png"}, encode_chunked=True)
        return client.getresponse().status


def in_chunks(url: str, body: bytes) -> int:
    return by_http_client(url, (body[place : place + 65_536] for place in range(0, len(body), 65_536)))


def by_urllib(url: str, body: bytes) -> int:
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{url}/predict", body, timeout=60)
    return error.value.code


def by_httpx(url: str, body: bytes) -> int:
    return httpx.post(f"{url}/predict", content=body, timeout=60).status_code


def as_form(url: str, body: bytes) -> int:
    return httpx.post(f"{url}/predict", files={"file": body}, timeout=60).status_code


@pytest.mark.parametrize("sent", [by_http_client, in_chunks, by_urllib, by_httpx, as_form])
def test_a_client_that_does_not_listen_while_it_sends_still_hears_413(
    url: str, sent: Callable[[str, bytes], int]
) -> None:
    for size in (MAX_FORM_BYTES, 60 * 2**20):
        for _ in range(3):
            assert sent(url, bytes(size)) == 413


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("expect", ["Expect:", "Expect: 100-continue"])
def test_curl_is_told_413(url: str, expect: str) -> None:
    command = ["curl", "-sS", "-o", os.devnull, "-w", "%{http_code}", "-H", expect, "--data-binary", "@-"]
    done = subprocess.run([*command, f"{url}/predict"], input=bytes(60 * 2**20), capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"413", b"")


def test_a_body_that_ends_too_soon_is_no_answer_and_no_failure(url: str, caplog: pytest.LogCaptureFixture) -> None:
    for kind in ("image/png", "multipart/form-data; boundary=x"):
        with connected(url) as connection:
            connection.send(head("POST /predict", f"Content-Type: {kind}", "Content-Length: 1000") + b"x" * 500)
            time.sleep(0.05)
    time.sleep(0.2)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.usefixtures("quick")
def test_a_body_shorter_than_its_length_is_awaited_for_a_while_only(url: str) -> None:
    reply = exchange(url, head("POST /predict", f"Content-Length: {len(PNG) + 1}") + PNG)
    assert (reply.status, reply.headers["connection"]) == (408, "close")
    assert "the body came too slowly" in detail(reply)


def test_a_body_longer_than_its_length_is_malformed(url: str) -> None:
    with connected(url) as connection:
        connection.send(head("POST /predict", f"Content-Length: {len(PNG) - 1}") + PNG)
        assert connection.reply().status == 400
        assert connection.is_closed_by_server()


def test_two_ways_to_give_a_length_are_malformed(url: str) -> None:
    for headers in (("Content-Length: 5", "Transfer-Encoding: chunked"), ("Content-Length: 5", "Content-Length: 6")):
        assert exchange(url, head("POST /predict", *headers) + b"0\r\n\r\n").status == 400


@pytest.mark.parametrize("count", [10**6, 8 * 10**6])
def test_a_million_fields_are_refused(url: str, count: int) -> None:
    body = b"a=&" * count
    response = httpx.post(f"{url}/predict", content=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert response.status_code == (415 if len(body) <= MAX_BYTES else 413)


# Slow clients


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "path", ["/predict", "/v2/models/cifar10/infer", "/gradio_api/upload", "/gradio_api/queue/join"]
)
def test_a_slow_body_is_given_up_wherever_it_goes(url: str, path: str) -> None:
    form = ("Content-Type: multipart/form-data; boundary=x",) if path.endswith("upload") else ()
    with connected(url) as connection:
        connection.send(head(f"POST {path}", "Content-Length: 1000", *form))
        for byte in b'--x\r\nContent-Disposition: form-data; name="files"; filename="slow.png"':
            if not connection.send(bytes([byte])):
                break
            time.sleep(0.05)
        assert connection.reply().status == 408


@pytest.mark.usefixtures("quick")
def test_a_slow_head_is_given_up(url: str) -> None:
    with connected(url) as connection:
        for byte in head("GET /", "X: " + "x" * 100):
            if not connection.send(bytes([byte])):
                break
            time.sleep(0.03)
        assert connection.reply().status == 408


@pytest.mark.slow
def test_five_hundred_slow_clients_are_turned_away_and_hurt_nobody(url: str) -> None:
    """Nothing is asserted of how quick the others are, which the machine decides: all are answered in the meantime."""
    outcomes: list[tuple[int, float]] = []
    begin = b"GET /health HTTP/1.1\r\nX: ", head("POST /predict", "Content-Length: 1000")

    def drip(number: int) -> None:
        with connected(url) as connection:
            connection.socket.settimeout(1)
            begun = time.monotonic()
            connection.send(begin[number % 2])
            while not connection.is_answered():
                connection.send(b"x")
            outcomes.append((connection.reply().status, time.monotonic() - begun))

    threads = [threading.Thread(target=drip, args=(number,)) for number in range(500)]
    for thread in threads:
        thread.start()
    answered = 0
    with httpx.Client(base_url=url, timeout=60) as other:
        while any(thread.is_alive() for thread in threads):
            assert ask(other, PNG).status_code == 200
            answered += 1
    for thread in threads:
        thread.join()
    assert len(outcomes) == 500
    assert {status for status, _ in outcomes} == {408}
    assert min(seconds for _, seconds in outcomes) >= 10
    assert max(seconds for _, seconds in outcomes) <= 30
    assert answered > 100


# Methods, hosts, origins


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "TRACE", "PATCH", "OPTIONS", "PROPFIND"])
def test_another_method_does_not_get_through_to_the_page(url: str, method: str) -> None:
    for path in ("/predict", "/v2/models/cifar10/infer"):
        reply = exchange(url, head(f"{method} {path}"), method)
        assert reply.status == 405
        assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "host", ["a/?x=", "evil.example", "localhost.evil.example", "localhost@evil.example", "", "127.0.0.1, evil.example"]
)
def test_an_unknown_host_is_answered_by_no_part_of_it(url: str, host: str) -> None:
    for path in ("/", "/predict", "/health", "/docs", "/gradio_api/info", "/config"):
        reply = exchange(url, head(f"GET {path}", host=host), "GET")
        assert reply.status == 400
        assert host not in reply.body.decode() or not host


def test_an_odd_address_is_malformed(url: str) -> None:
    for line in ("GET @evil", "GET evil", "GET", "GET /\x00", "GET /\xff"):
        assert exchange(url, head(line), "GET").status == 400
    for line in ("GET //evil.example/%2e%2e", "GET /%00", "GET /%0d%0aX-Evil:1", "GET /..;/", "GET /\\evil.example"):
        reply = exchange(url, head(line), "GET")
        assert reply.status in (400, 404)
        assert "x-evil" not in reply.headers
        assert "location" not in reply.headers
    assert exchange(url, head("GET http://evil.example/health"), "GET").body == b'{"status":"ok"}'
    assert exchange(url, b"GET /health HTTP/1.1\r\n\r\n", "GET").status == 400


@pytest.mark.parametrize(
    "path", ["/predict", "/gradio_api/queue/join", "/gradio_api/upload", "/login", "/gradio_api/run/predict"]
)
def test_another_sites_page_can_do_nothing_with_a_visitors_cookie(client: httpx.Client, url: str, path: str) -> None:
    for origin in ("http://evil.example", "null", url.replace("127.0.0.1", "localhost"), "http://127.0.0.1:1"):
        headers = {"Origin": origin, "Cookie": "access-token=x"}
        response = client.post(path, content=PNG, headers=headers)
        assert (response.status_code, "another site" in response.text) == (403, True), origin


def test_its_own_page_can(client: httpx.Client, url: str) -> None:
    response = client.post("/predict", content=PNG, headers={"Origin": url, "Cookie": "access-token=x"})
    assert response.status_code == 200


# Files of the server


def traversals() -> list[str]:
    """Ways to ask for a file that is not the client's, as many as can be combined."""
    targets = ["etc/passwd", "proc/self/environ", "proc/self/cmdline", "root/.bashrc", "checkpoints/champion"]
    targets += [str(ROOT).lstrip("/") + each for each in ("/pyproject.toml", "/checkpoints/champion", "/.git/config")]
    ups = ["/", "//", "../", "....//", "..\\", "%2e%2e/", "%2e%2e%2f", "..%2f", "..%252f", "%252e%252e%252f", "..;/"]
    ups += [
        "%c0%ae%c0%ae/",
        "..%00/",
        "file:///",
        "file://localhost/",
        "/./",
        "/proc/self/root/",
        "/dev/fd/../../",
        "~/",
    ]
    routes = ["/gradio_api/file=", "/gradio_api/file/", "/file=", "/gradio_api/stream/", "/static/", "/assets/"]
    routes += ["/gradio_api/proxy=", "/theme.css/", "/static-offline-docs/", "/gradio_api/../file="]
    found = [
        route + up * count + target for route, up, count, target in itertools.product(routes, ups, (1, 5, 12), targets)
    ]
    return random.Random(0).sample(found, 2_000)


def ask_for_file(url: str, path: str) -> RawReply:
    return exchange(url, head(f"GET {path}"), "GET")


def assert_no_file(url: str, path: str) -> None:
    reply = ask_for_file(url, path)
    if path.startswith(("/gradio_api/file=", "/file=")):
        refused: tuple[int, ...] = (403, 404)
    else:
        refused = (400, 403, 404, 405, 422)
    assert reply.status in refused, (path, reply.status, reply.body[:200])
    assert b"root:" not in reply.body, path
    assert_discreet(reply.body.decode(errors="replace"), said=unquote(path))


def test_no_file_of_the_server_is_given_away(url: str) -> None:
    for path in traversals()[:200]:
        assert_no_file(url, path)


@pytest.mark.slow
def test_no_file_of_the_server_is_given_away_whatever_is_tried(url: str) -> None:
    for path in traversals()[200:]:
        assert_no_file(url, path)


@contextlib.contextmanager
def canary() -> Iterator[tuple[int, list[bytes]]]:
    """A server that must not be asked: its port, and what it was sent."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        ended = threading.Event()

        def listen() -> None:
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, _ = listener.accept()
                    with connection:
                        heard.append(b"a connection")

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield listener.getsockname()[1], heard
        finally:
            time.sleep(0.2)
            ended.set()
            thread.join()


def test_nothing_is_fetched_for_a_visitor(client: httpx.Client, url: str) -> None:
    with canary() as (port, heard):
        address = f"http://127.0.0.1:{port}/cat.png"
        for path in (f"/gradio_api/file={address}", f"/gradio_api/file={quote(address, safe='')}", f"/file={address}"):
            reply = ask_for_file(url, path)
            assert reply.status in (403, 404)
            assert "location" not in reply.headers
        assert ask_for_file(url, f"/gradio_api/proxy={address}").status in (400, 403, 404, 405)
        for data in (address.encode(), f"<svg><image href='{address}'/></svg>".encode()):
            assert ask(client, data).status_code in (415, 422)
            assert ask_form(client, data).status_code in (415, 422)
        for image in (
            {"url": address},
            {"path": address},
            {"path": address, "meta": {"_type": "gradio.FileData"}},
            address,
        ):
            event = client.post("/gradio_api/call/predict", json={"data": [image]})
            if event.status_code == 200:
                stream = client.get(f"/gradio_api/call/predict/{event.json()['event_id']}").text
                assert "event: error" in stream
                assert_discreet(stream)
    assert heard == []


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", str(ROOT / "docs" / "cat.jpg"), "../../../etc/passwd", "file:///etc/passwd", "/dev/zero", ""],
)
def test_the_page_reads_uploads_only(client: httpx.Client, path: str) -> None:
    image = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "cat.png"}
    event = client.post("/gradio_api/call/predict", json={"data": [image]})
    assert event.status_code < 500
    if event.status_code == 200:
        stream = client.get(f"/gradio_api/call/predict/{event.json()['event_id']}").text
        assert "event: error" in stream
        assert "root:" not in stream


# Names


@pytest.mark.parametrize(
    "name", ["n" * 4_000 + ".html", "\u202egnp.exe", "a\0b.svg", "a\r\nX-Evil: 1", "%0d%0a", "../../x.png", "\x1b[31m"]
)
def test_content_decides_and_not_the_name(client: httpx.Client, caplog: pytest.LogCaptureFixture, name: str) -> None:
    caplog.set_level(logging.INFO, "cifar_lit.access")
    response = ask_form(client, PNG, name)
    assert response.status_code == 200
    assert "x-evil" not in response.headers
    assert ask_form(client, b"<svg/>", name).status_code == 415

    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "cifar_lit.access"]

    assert wait_until(lambda: len(lines()) == 2)  # a line is written when the answer has gone
    assert all(line.isprintable() and line.isascii() and len(line) < 500 for line in lines())


def test_errors_of_the_page_are_as_discreet(client: httpx.Client) -> None:
    for method, path, body in [
        ("POST", "/gradio_api/queue/join", b"{"),
        ("POST", "/gradio_api/call/predict", b'{"data": {}}'),
        ("POST", "/gradio_api/call/no_such", b'{"data": []}'),
        ("POST", "/gradio_api/run/predict", b"[]"),
        ("POST", "/gradio_api/upload", b"no form"),
        ("POST", "/gradio_api/component_server", b"{}"),
        ("GET", "/gradio_api/stream/a/b/c/playlist.m3u8", b""),
    ]:
        response = client.request(method, path, content=body, headers={"Content-Type": "application/json"})
        assert response.status_code >= 400 or "event: error" in response.text, path
        assert_discreet(response.text)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "path",
    [
        "/?page=nonsense",
        "/?deep_link=../..",
        "/config?page=nonsense",
        "/gradio_api/proxy=%00",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/gradio_api/file=%00",
        "/gradio_api/custom_component/%00/client/%2e%2e/x",
        "/assets/" + "a" * 5_000,
        "/static/%00",
        "/pwa_icon/99999999",
    ],
)
def test_an_odd_path_of_the_page_is_no_failure(url: str, method: str, path: str) -> None:
    assert exchange(url, head(f"{method} {path}"), method).status < 500


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("run/none", b'{"data": []}'),
        ("run/predict", b'{"data": [], "fn_index": 99999, "session_hash": "x"}'),
        ("run/predict", b'{"data": [], "fn_index": -1, "session_hash": "x"}'),
        ("call/none", b'{"data": []}'),
        ("call/v2/predict", b"{}"),
        ("call/v2/predict", b'{"data": []}'),
        ("call/v2/none", b'{"data": []}'),
        ("queue/join", b'{"data": [], "fn_index": 99999, "session_hash": "x"}'),
        ("component_server", b'{"data": [], "component_id": 99999, "fn_name": "x", "session_hash": "x"}'),
    ],
)
def test_an_event_that_the_page_does_not_have_is_no_failure(client: httpx.Client, path: str, body: bytes) -> None:
    response = client.post(f"/gradio_api/{path}", content=body, headers={"Content-Type": "application/json"})
    assert 400 <= response.status_code < 500
    assert_discreet(response.text)


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("path", ["run/predict", "call/predict", "queue/join", "component_server", "cancel", "reset"])
def test_a_body_that_is_no_text_is_no_failure(client: httpx.Client, path: str, kind: str) -> None:
    response = client.post(f"/gradio_api/{path}", content=b"\xff", headers={"Content-Type": kind})
    assert 400 <= response.status_code < 500


def test_the_head_of_an_answer_has_no_body(url: str) -> None:
    for path in ("/health", "/ready", "/version"):
        with connected(url) as connection:
            connection.send(head(f"HEAD {path}"))
            reply = connection.reply("HEAD")
            assert (reply.status, reply.body) == (200, b"")
            assert int(reply.headers["content-length"]) > 10
            connection.send(head("GET /health"))
            assert connection.reply("GET").body == b'{"status":"ok"}', "the next answer follows at once"
