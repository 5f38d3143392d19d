import functools
import hashlib
import http.server
import io
import pickle
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from cifar_lit.data import official
from cifar_lit.errors import DataError

NUM = 20  # images in each batch


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 and its NumPy wrote: protocol 2, every string as bytes, old module names, 0 for False."""

    dispatch: ClassVar[dict[type, Callable[..., None]]] = dict(pickle._Pickler.dispatch)
    write: Callable[[bytes], None]
    memoize: Callable[[object], None]

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)

    def save_string(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else bytes(text)
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_string

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, np.dtype):
            return np.dtype, ("u1", 0, 1), (3, "|", None, None, None, -1, -1, 0)
        return NotImplemented

    def save_global(self, value: type, name: str | None = None) -> None:
        name = name or value.__name__
        module = "numpy.core.multiarray" if name == "_reconstruct" else "numpy"
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        self.memoize(value)

    for kind in (type, type(lambda: None), type(np.dtype)):
        dispatch[kind] = save_global


def python2_pickle(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file).dump(value)
    return file.getvalue()


def pixels_and_labels(number: int) -> tuple[np.ndarray, list[int]]:
    data = np.random.default_rng(number).integers(0, 256, (NUM, 3072), dtype=np.uint8)
    return data, [(row + number) % 10 for row in range(NUM)]


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder laid out as the official one is, with small batches."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [*official.BATCH_MD5["train"], *official.BATCH_MD5["test"]]
    for number, name in enumerate(names):
        data, labels = pixels_and_labels(number)
        content = {"batch_label": name, "labels": labels, "data": data, "filenames": [f"{n}.png" for n in range(NUM)]}
        write_batch(folder, name, python2_pickle(content), monkeypatch)
    return folder


def write_batch(folder: Path, name: str, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / name).write_bytes(content)
    monkeypatch.setitem(official.BATCH_MD5["test" if name == "test_batch" else "train"], name, md5(content))


@pytest.fixture
def archive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as an archive, in a folder of its own."""
    path = folder.parent / "packed" / "cifar-10-python.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, folder.name)
    monkeypatch.setattr(official, "ARCHIVE_MD5", md5(path.read_bytes()))
    return path


def test_published_checksums_are_those_torchvision_knows() -> None:
    assert (CIFAR10.url, CIFAR10.tgz_md5) == (official.URL, official.ARCHIVE_MD5)
    assert list(official.BATCH_MD5["train"].items()) == [tuple(entry) for entry in CIFAR10.train_list]
    assert list(official.BATCH_MD5["test"].items()) == [tuple(entry) for entry in CIFAR10.test_list]
    files = official.CIFAR100
    assert files.archive == CIFAR100.filename
    assert files.folder == CIFAR100.base_folder
    assert files.meta == (CIFAR100.meta["filename"], CIFAR100.meta["md5"], CIFAR100.meta["key"])
    for split, entries in (("train", CIFAR100.train_list), ("test", CIFAR100.test_list)):
        assert list(files.md5[split].items()) == [tuple(entry) for entry in entries]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("split", "numbers"), [("train", range(5)), ("test", [5])])
def test_folder_and_archive_give_the_same_images_in_the_official_order(
    folder: Path, archive: Path, split: str, numbers: list[int]
) -> None:
    data = official.CIFAR10.read(folder, split)
    planes = np.concatenate([pixels_and_labels(number)[0] for number in numbers]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(data.images, planes.transpose(0, 2, 3, 1))
    assert data.labels.tolist() == [label for number in numbers for label in pixels_and_labels(number)[1]]
    assert data.images.is_contiguous()
    assert data.labels.dtype == torch.int64
    assert official.CIFAR10.read(archive, split).sha256 == data.sha256


def test_altered_batch_is_named(folder: Path) -> None:
    path = folder / "data_batch_3"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data_batch_3 is not the official .*another folder .*--data\.verify false"):
        official.CIFAR10.read(folder, "train")
    assert len(official.CIFAR10.read(folder, "test")) == NUM


def test_missing_batch_is_named(folder: Path) -> None:
    (folder / "data_batch_4").unlink()
    with pytest.raises(DataError, match=r"data_batch_4 can't be read .*Unpack the archive again"):
        official.CIFAR10.read(folder, "train")


def test_archive_without_a_batch_names_it(folder: Path, archive: Path) -> None:
    (folder / "data_batch_2").unlink()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    with pytest.raises(DataError, match=r"the archive lacks data_batch_2\. Fetch the official files into another"):
        official.CIFAR10.read(archive, "train")


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.7])
def test_truncated_archive_raises(archive: Path, share: float) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"(truncated or damaged|lacks).*Fetch the official files into another"):
        official.CIFAR10.read(archive, "train")


def test_archive_with_flipped_bytes_raises(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    archive.write_bytes(content)
    with pytest.raises(DataError, match="(damaged|lacks|not the official).*Fetch the official files into another"):
        official.CIFAR10.read(archive, "train")


@pytest.mark.parametrize(
    "command", [b"cos\nsystem\n", b"cposix\nsystem\n", b"c__builtin__\neval\n", b"cbuiltins\nexec\n"]
)
def test_pickle_that_names_a_command_is_refused_and_not_run(
    folder: Path, command: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = folder / "canary"
    write_batch(folder, "test_batch", command + f"(S'touch {canary}'\ntR.".encode(), monkeypatch)
    with pytest.raises(DataError, match=r"a CIFAR-10 batch names \w+\.\w+, which no official file does"):
        official.CIFAR10.read(folder, "test")
    assert not canary.exists()


class Server(http.server.ThreadingHTTPServer):
    """Serves one archive at any address, in the way that `mode` says."""

    def __init__(self, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.mode = body, "plain"
        self.requests: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.requests.append((self.path, self.headers["Range"]))
        body, mode = server.body, server.mode
        start = int((self.headers["Range"] or "bytes=0-")[6:-1])
        if mode == "absent":
            self.send_error(404)
            return
        if mode == "not http":
            self.wfile.write(b"\0\1\2 no status line\r\n\r\n")
            return
        if mode == "broken chunks":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\nfar too little")
            return
        if mode == "no ranges":
            start = 0
        if start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : start + 1000] if mode == "cut" else body[start:])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(archive: Path) -> Iterator[Server]:
    with Server(archive.read_bytes()) as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("mirror", ["/some/folder/", "/some/folder/cifar-10-python.tar.gz", "/renamed.tgz"])
def test_download_from_a_mirror_named_as_folder_or_as_file(server: Server, mirror: str, tmp_path: Path) -> None:
    path = official.download(tmp_path / "new" / "root", server.url + mirror)
    assert path == tmp_path / "new" / "root" / "cifar-10-python.tar.gz"
    assert len(official.CIFAR10.read(path, "train")) == 5 * NUM
    assert server.requests == [(mirror + ("cifar-10-python.tar.gz" if mirror.endswith("/") else ""), None)]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_download_without_a_mirror_goes_to_the_official_host(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(official, "URL", f"{server.url}/official.tar.gz")
    official.download(tmp_path)
    assert server.requests == [("/official.tar.gz", None)]


def test_download_from_a_mounted_folder(archive: Path, tmp_path: Path) -> None:
    path = official.download(tmp_path / "root", f"{archive.parent.as_uri()}/")
    assert path.read_bytes() == archive.read_bytes()


@pytest.mark.parametrize("second", ["plain", "no ranges"])
def test_download_goes_on_after_a_cut_connection(server: Server, second: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    server.mode = "cut"
    with pytest.raises(DataError, match=r"ended after 1,000 of [\d,]+ bytes\. Try again \(what has arrived is kept\)"):
        official.download(root, f"{server.url}/")
    assert official.CIFAR10.find(root) is None
    server.mode = second
    path = official.download(root, f"{server.url}/")
    assert path.read_bytes() == server.body
    assert [ranges for _, ranges in server.requests] == [None, "bytes=1000-"]


def test_download_that_had_all_arrived_is_finished(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz.part").write_bytes(server.body)
    assert official.download(tmp_path, f"{server.url}/").read_bytes() == server.body


def test_download_of_something_else_is_removed(server: Server, tmp_path: Path) -> None:
    server.body = b"<html>Please log in</html>"
    with pytest.raises(DataError, match=r"did not send the official archive .*It was deleted; .*--data\.mirror"):
        official.download(tmp_path / "root", f"{server.url}/")
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "reason"), [("absent", "404"), ("not http", "BadStatusLine"), ("broken chunks", "IncompleteRead")]
)
def test_failed_download_says_what_to_do(server: Server, mode: str, reason: str, tmp_path: Path) -> None:
    server.mode = mode
    with pytest.raises(DataError, match=r"downloading .* failed: .*--data\.mirror, or put .* yourself") as caught:
        official.download(tmp_path, f"{server.url}/")
    assert caught.match(reason)


@pytest.mark.parametrize("mirror", ["not an address", "http://a b/", "nothing://host/", "file:///absent/"])
def test_impossible_mirror_says_what_to_do(mirror: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"downloading .* failed: .*--data\.mirror"):
        official.download(tmp_path, mirror)


def test_refused_connection_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as bound_but_not_listening:
        bound_but_not_listening.bind(("127.0.0.1", 0))
        port = bound_but_not_listening.getsockname()[1]
        with pytest.raises(DataError, match=r"failed: .*refused.*\. Try again .*--data\.mirror"):
            official.download(tmp_path, f"http://127.0.0.1:{port}/")


def test_root_that_is_a_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(DataError, match="downloading .* failed: .*exists"):
        official.download(tmp_path / "data", "http://127.0.0.1:9/")
