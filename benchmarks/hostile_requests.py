"""What hostile clients send."""

from typing import Any

UNKNOWN = [
    *(
        f"POST /gradio_api/{name}"
        for name in ("process_recording", "component_server", "cancel", "reset", "api/predict")
    ),
    *(
        f"GET /gradio_api/{name}"
        for name in ("startup-events", "dev/reload", "custom_component/a/b/c", "stream/a/b/c/d")
    ),
    *("GET /monitoring/summary", "GET /gradio_api/deep_link", "POST /gradio_api/vibe-edit", "GET /robots.txt"),
    *("DELETE /gradio_api/upload", "PUT /predict", "PROPFIND /", "TRACE /health", "GET /predict", "POST /version"),
    *(
        "GET /../../etc/passwd",
        "GET /gradio_api/file=/etc/passwd",
        "GET /static/..%2f..%2fetc/passwd",
        "GET /.git/config",
    ),
]
EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("run/predict", {"data": [], "fn_index": 99_999}),
    ("run/predict", {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}], "fn_index": 0}),
    ("run/predict", {"data": "x" * 50_000, "fn_index": -1}),
    ("run/predict", {"data": [[[[]]]] * 50, "fn_index": 1, "event_data": {"a": 1}, "trigger_id": 10**12}),
    ("queue/join", {"data": [], "fn_index": 99_999}),
    ("queue/join", {"data": [None] * 40, "fn_index": 2, "trigger_id": "x"}),
    ("call/predict", {"data": [{"path": "/proc/self/environ"}]}),
    ("call/end", {"data": []}),
    ("call/none", {"data": []}),
]
VALUES = [None, 5, 1e308, "v0001", "../x", "\x1b[31m\n", True, [], [[None]], {}, {"a": 1}, {"path": 5}, "x" * 9_000]
INFERENCES = [
    b"[" * 60_000,
    b'{"a":' * 40_000,
    b'{"x":[' + (b"[" * 900 + b"]" * 900 + b",") * 300,
    b'{"inputs":[{"name":"pixels","shape":[1000000000,32,32,3],"datatype":"UINT8","data":[0]}]}',
    b'{"inputs":[{"name":"pixels","shape":[1,32,32,3],"datatype":"UINT8","data":[' + b"1," * 200_000 + b"1]}]}",
    b'{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES","data":["' + b"A" * 500_000 + b'"]}]}',
    b'{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":1e400}}]}',
    b'{"id":"\\u001b[31m","inputs":' + b"9" * 5_000 + b"}",
]
GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\r\n" * 2_000,
    b"GET /" + b"a" * 80_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n",
]
CONTROLS = [
    (b"GET /%1b%5b31m%0d%0aforged HTTP/1.1", b""),
    (b"GET /\x1b[2J HTTP/1.1", b""),
    (b"GET /gradio_api/file=/%00%0a HTTP/1.1", b""),
    (b"GET /health HTTP/1.1", b"X-Request-ID: \x1b[31mred\r\n"),
    (b"GET /static/%0d%0aSet-Cookie:%20a=b HTTP/1.1", b"User-Agent: \x07\x1b]0;title\x07\r\n"),
    (b"POST /gradio_api/run/%1b%5b31m%0a HTTP/1.1", b"Cookie: cifar_lit_login=\x01; get=x\r\n"),
]
FORMS = {
    "1,001 parts": (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n', 1_001),
    "65 files": (b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nb\r\n', 65),
    "10 files": (b'--x\r\nContent-Disposition: form-data; name="files"; filename="../../\x1b.png"\r\n\r\nb\r\n', 10),
}
JSON = "Content-Type: application/json"
FORM = "Content-Type: multipart/form-data; boundary=x"


def request(line: str, body: bytes, *headers: str) -> bytes:
    length = () if any(each.startswith("Content-Length") for each in headers) else (f"Content-Length: {len(body)}",)
    return "\r\n".join([f"{line} HTTP/1.1", "Host: 127.0.0.1", *headers, *length, "", ""]).encode("latin-1") + body


def status_of(response: bytes) -> str:
    return (
        response[9:12].decode("latin-1") if response.startswith(b"HTTP/1.1 ") else "closed" if not response else "odd"
    )
