"""What becomes of uploads to the page: whole, given up, too many; and of those of servers that are gone."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from raw_http import connected, exchange, head
from servers import serving
from starlette.datastructures import UploadFile

from cifar_lit.data.images import MAX_BYTES
from cifar_lit.page import receive
from cifar_lit.page.receive import PATH
from cifar_lit.serving import request_limits
from cifar_lit.serving.uploads import MAX_FILES

FORM = "Content-Type: multipart/form-data; boundary=x"
BEGIN = b'--x\r\nContent-Disposition: form-data; name="files"; filename="new.npz"\r\n\r\n'
END = b"\r\n--x--\r\n"
GONE_WITHIN_S = 5.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Gradio keeps files, and so do we."""
    return tmp_path_factory.mktemp("gradio")


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        with serving(tmp_path_factory.mktemp("registry")) as url:
            yield url


@pytest.fixture(autouse=True)
def _nothing_left(folder: Path, url: str) -> Iterator[None]:
    before = kept(folder)
    yield
    for path in kept(folder) - before:
        path.unlink()


def kept(folder: Path) -> set[Path]:
    # os.walk passes over a folder that is removed meanwhile, which rglob fails at.
    return {Path(where, name) for where, _, names in os.walk(folder) for name in names}


def unnamed() -> int:
    """How many files without a name this process, the server's too, has open."""
    targets = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum(target.endswith("(deleted)") for target in targets)


def send(url: str, *files: tuple[str, bytes], **params: str) -> httpx.Response:
    return httpx.post(f"{url}{PATH}", files=[("files", each) for each in files], params=params, timeout=30)


def soon(done: Callable[[], bool], within_s: float = GONE_WITHIN_S) -> bool:
    until = time.monotonic() + within_s
    while not done() and time.monotonic() < until:
        time.sleep(0.02)
    return done()


def test_files_are_kept_as_they_are_in_folders_of_their_own(url: str, folder: Path) -> None:
    contents = [os.urandom(size) for size in (0, 1, 1_000, 3_000_000)]
    response = send(url, *((f"{number}.png", data) for number, data in enumerate(contents)))
    assert response.status_code == 200
    paths = [Path(path) for path in response.json()]
    assert [path.read_bytes() for path in paths] == contents
    assert [path.name for path in paths] == ["0.png", "1.png", "2.png", "3.png"]
    assert len({path.parent for path in paths}) == 4
    assert kept(folder) >= set(paths)
    assert httpx.get(f"{url}/gradio_api/file={paths[2]}").content == contents[2]


@pytest.mark.parametrize(
    ("name", "as_kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\x\\cat.png", "cat.png"),
        ("/", "file"),
        ("..", "file"),
        (".", "file"),
        ("a\0b.png", "ab.png"),
        ("\u202egnp.exe", "gnp.exe"),
        ("n" * 4_000 + ".png", "n" * 196 + ".png"),
        ("Katze äöü 猫.png", "Katze äöü 猫.png"),
    ],
)
def test_a_name_leads_nowhere(url: str, folder: Path, name: str, as_kept: str) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="%b"\r\n\r\nhello\r\n--x--\r\n' % (
        name.replace("\\", "\\\\").encode()
    )
    response = httpx.post(f"{url}{PATH}", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    (path,) = map(Path, response.json())
    assert (path.name, path.read_bytes()) == (as_kept, b"hello")
    assert path.resolve().is_relative_to(folder)


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("multipart/form-data; boundary=x", BEGIN + b"half", 400),
        ("multipart/form-data; boundary=x", b"no form", 400),
        ("multipart/form-data; boundary=x", BEGIN.replace(b'; filename="new.npz"', b"") + bytes(5_000) + END, 400),
        ("multipart/form-data", BEGIN + END, 400),
        ("image/png", b"hello", 400),
        ("multipart/form-data; boundary=x" + ";a=b" * 100, BEGIN + END, 400),
        ("multipart/form-data; boundary=x", BEGIN + b"\r\n" + b"--x\r\nA: b\r\n\r\n\r\n" * 1_001 + END, 400),
    ],
)
def test_what_is_no_form_leaves_nothing(url: str, folder: Path, kind: str, body: bytes, status: int) -> None:
    before = kept(folder)
    response = httpx.post(f"{url}{PATH}", content=body, headers={"Content-Type": kind})
    assert response.status_code == status
    assert response.headers["content-type"].startswith("text/plain")
    assert kept(folder) == before


def test_what_nobody_asked_for_is_not_kept(url: str, folder: Path) -> None:
    before = kept(folder)
    response = httpx.post(f"{url}{PATH}", files={"other": ("a.png", b"hello")}, data={"files": "no file"})
    assert (response.status_code, response.json()) == (200, [])
    assert kept(folder) == before


@pytest.mark.parametrize("teaching", [False, True])
def test_a_file_is_a_picture_or_where_there_is_teaching_an_increment(
    url: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teaching: bool
) -> None:
    limit = 200 * 2**20 if teaching else MAX_BYTES
    size = property(
        lambda self: limit - 10 + self.file.seek(0, 2), lambda *_: None
    )  # spares the test most of the bytes
    monkeypatch.setattr(UploadFile, "size", size, raising=False)
    with contextlib.nullcontext(url) if not teaching else serving(tmp_path, teach=tmp_path / "teach") as found:
        before = kept(folder)
        assert send(found, ("a.npz", bytes(10))).status_code == 200
        response = send(found, ("a.npz", bytes(10)), ("b.npz", bytes(11)))
        assert response.status_code == 413
        assert response.text == f"The file has more than {limit:,} bytes. Choose a smaller one."
        assert len(kept(folder)) == len(before) + 1


@pytest.mark.parametrize(("count", "status"), [(MAX_FILES, 200), (MAX_FILES + 1, 400)])
def test_a_form_has_a_bounded_number_of_files(url: str, folder: Path, count: int, status: int) -> None:
    before = kept(folder)
    assert send(url, *[("a.png", b"hello")] * count).status_code == status
    assert len(kept(folder)) - len(before) == (count if status == 200 else 0)


def test_the_oldest_uploads_go_if_there_are_too_many(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive, "MAX_KEPT_FILES", 3)
    paths = [Path(send(url, (f"{number}.png", b"")).json()[0]) for number in range(5)]
    assert [path.parent.exists() for path in paths] == [False, False, True, True, True]


@pytest.mark.parametrize("limit", ["MAX_AT_ONCE", "MAX_AT_ONCE_OF_ADDRESS"])
def test_too_many_forms_at_once_are_turned_away(url: str, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(receive, limit, 1)
    with connected(url) as connection:
        connection.send(head(f"POST {PATH}", FORM, "Content-Length: 99999") + BEGIN + bytes(50_000))
        assert soon(lambda: send(url, ("b.png", b"hello")).status_code == 503)
    assert soon(lambda: send(url, ("b.png", b"hello")).status_code == 200)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_the_part_of_a_file_whose_sender_left_is_soon_gone(url: str, folder: Path, share: float) -> None:
    before, nameless, size = kept(folder), unnamed(), 4_000_000
    with connected(url) as connection:
        connection.send(head(f"POST {PATH}", FORM, f"Content-Length: {size}") + BEGIN + bytes(int(share * size)))
        assert soon(lambda: unnamed() > nameless, 20), "nothing was written"
        assert kept(folder) == before
    assert soon(lambda: unnamed() == nameless)
    assert kept(folder) == before


def test_the_part_of_a_file_that_comes_too_slowly_is_gone(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_limits, "BODY_GRACE_S", 0.3)
    before = kept(folder)
    reply = exchange(url, head(f"POST {PATH}", FORM, "Content-Length: 4000") + BEGIN + b"half")
    assert reply.status == 408
    assert soon(lambda: kept(folder) == before)


@pytest.mark.parametrize(("owner", "name"), [(UploadFile, "write"), (shutil, "copyfileobj")])
def test_a_full_disk_is_said_so(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = kept(folder)
    monkeypatch.setattr(owner, name, full)
    response = send(url, ("a.npz", b"hello"))
    assert (response.status_code, response.text) == (507, "There is no room for this file now. Send it again later.")
    assert kept(folder) == before


def test_uploads_go_after_an_hour_and_the_oldest_if_there_are_too_many_bytes(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [Path(send(url, (f"{number}.png", bytes(100))).json()[0]) for number in range(4)]
    assert all(path.is_file() for path in paths)
    monkeypatch.setattr(receive, "MAX_KEPT_BYTES", 250)
    paths.append(Path(send(url, ("4.png", bytes(100))).json()[0]))
    assert [path.is_file() for path in paths] == [False, False, False, True, True]
    assert not paths[0].parent.exists()
    monkeypatch.setattr(receive, "LIFETIME_S", 0.0)
    last = Path(send(url, ("5.png", b"")).json()[0])
    assert not any(path.exists() for path in [*paths, last])


def test_the_bar_is_told_how_far_an_upload_is(url: str) -> None:
    def told(upload_id: str) -> list[dict[str, Any]]:
        response = httpx.get(f"{url}{PATH}_progress", params={"upload_id": upload_id}, timeout=30)
        assert response.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]

    assert send(url, ("a.npz", bytes(1_000)), upload_id="one").status_code == 200
    update, done = told("one")
    assert 1_000 < update.pop("chunk_size") < 1_500  # with what the form has besides
    assert (update, done) == ({"msg": "update", "orig_name": "a.npz"}, {"msg": "done"})
    with connected(url) as connection:
        connection.send(head(f"POST {PATH}?upload_id=two", FORM, "Content-Length: 99999") + BEGIN + bytes(50_000))
        with httpx.stream("GET", f"{url}{PATH}_progress", params={"upload_id": "two"}, timeout=30) as stream:
            lines = (line for line in stream.iter_lines() if line)
            first = json.loads(next(lines).removeprefix("data: "))
            assert (first["msg"], first["orig_name"]) == ("update", "new.npz")
            connection.socket.close()
            assert json.loads(list(lines)[-1].removeprefix("data: ")) == {"msg": "done"}


def test_the_bar_of_an_upload_that_is_not_known_is_told_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive, "_KNOWN_WITHIN_S", 0.1)
    assert httpx.get(f"{url}{PATH}_progress", params={"upload_id": "none"}).status_code == 404
