"""The page as a client of its protocol sees it."""

import asyncio
import base64
import html
import io
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import numpy as np
import PIL.Image
import pytest
import torch
from gradio.data_classes import FileData
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from servers import serving, shipped_v0001

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data.formats import ACCEPTED
from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.images import MAX_BYTES, decode
from cifar_lit.errors import ImageError
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.inference.predictor import Prediction, Predictor
from cifar_lit.inference.service import Limits, ServedPrediction
from cifar_lit.page import answer as shown
from cifar_lit.page.classify import HINT, _Turn, build_classify
from cifar_lit.page.examples import load_examples
from cifar_lit.page.page import _header
from cifar_lit.page.rendering import percent
from cifar_lit.page.uploads import read_picture
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version
from cifar_lit.registry.weights import load_network
from cifar_lit.serving.uploads import MAX_FILES

ROOT = Path(__file__).parent.parent
CAT = ROOT / "docs" / "cat.jpg"
NO_PICTURE = b"II*\0 not one of ours"


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("uploads")
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def url(uploads: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page") / "checkpoints"
    shutil.copytree(ROOT / "checkpoints", folder)
    with serving(folder) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, verbose=False)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.from_version(Registry(ROOT / "checkpoints").resolve("latest"))


def run_event(url: str, name: str, data: list[Any], **more: Any) -> list[Any]:
    """What the page is told when it runs its own event `name`."""
    config = httpx.get(f"{url}/config").json()
    number = next(each["id"] for each in config["dependencies"] if each["api_name"] == name)
    request = {"data": data, "fn_index": number, "session_hash": f"{name}{time.monotonic_ns()}", **more}
    answer = httpx.post(f"{url}/gradio_api/run/predict", json=request, timeout=30)
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["data"]
    return found


def uploaded(url: str, name: str, content: bytes) -> dict[str, Any]:
    answer = httpx.post(f"{url}/gradio_api/upload", files={"files": ("upload.png", content)})
    return {"path": answer.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def pictures(html: str) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [decode(base64.b64decode(each)).pixels for each in found]


def test_a_picture_gets_ten_probabilities_that_sum_to_one(client: Client, predictor: Predictor) -> None:
    label, sentence = client.predict(handle_file(CAT), api_name="/predict")
    expected = predictor.predict_bytes(CAT.read_bytes())
    probs = {each["label"]: each["confidence"] for each in label["confidences"]}
    assert set(probs) == set(CLASS_NAMES)
    assert sum(probs.values()) == pytest.approx(1, abs=1e-6)
    assert probs == pytest.approx(expected.probabilities, abs=1e-6)
    assert label["label"] == expected.prediction
    assert expected.version in sentence


@pytest.mark.parametrize("content", [NO_PICTURE, b"", CAT.read_bytes()[:5000]])
def test_what_is_no_picture_gets_a_sentence(content: bytes, client: Client, tmp_path: Path) -> None:
    (tmp_path / "picture.jpg").write_bytes(content)
    with pytest.raises(AppError, match="This can't be classified: .*(PNG|JPEG)"):
        client.predict(handle_file(tmp_path / "picture.jpg"), api_name="/predict")


def test_a_file_over_the_limit_is_not_taken(url: str) -> None:
    assert httpx.get(f"{url}/config").json()["max_file_size"] == MAX_BYTES
    answer = httpx.post(f"{url}/gradio_api/upload", files={"files": ("large.jpg", bytes(MAX_BYTES + 1))}, timeout=60)
    assert (answer.status_code, answer.text) == (
        413,
        f"The file has more than {MAX_BYTES:,} bytes. Choose a smaller one.",
    )


def test_a_picture_over_the_limit_gets_a_sentence_where_increments_may_be_larger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(60 * 2**20)
    with pytest.raises(
        ImageError, match=r"^the file has 60\.0 MiB, at most 25 MiB are taken\. .* a screenshot of it\.$"
    ):
        asyncio.run(read_picture(FileData(path=str(tmp_path / "large.png"))))


def test_several_pictures_are_answered_in_their_order_and_a_bad_one_fails_alone(
    client: Client, predictor: Predictor, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(NO_PICTURE)
    files = [handle_file(CAT), handle_file(tmp_path / "bad.png"), handle_file(CAT)]
    first, bad, last = client.predict(files, api_name="/predict_many")
    expected = predictor.predict_bytes(CAT.read_bytes())
    for answer in (first, last):
        assert answer["filename"] == "cat.jpg"
        assert (answer["prediction"], answer["version"]) == (expected.prediction, expected.version)
        assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert bad["filename"] == "bad.png"
    assert "this is a TIFF" in bad["error"]


def test_too_many_pictures_get_a_sentence(url: str) -> None:
    event = call(url, "predict_many", [uploaded(url, "cat.jpg", CAT.read_bytes())] * (MAX_FILES + 1))
    assert f"These are {MAX_FILES + 1} pictures, at most {MAX_FILES} go at once" in event


def test_endpoints_are_named_and_described_and_the_page_keeps_its_own_to_itself(client: Client) -> None:
    offered = client.view_api(return_format="dict", print_info=False)
    assert offered["unnamed_endpoints"] == {}
    assert {"/predict", "/predict_many"} <= set(offered["named_endpoints"])
    assert not {"/show", "/show_many", "/_chosen", "/follow"} & set(offered["named_endpoints"])
    for endpoint in offered["named_endpoints"].values():
        assert len(endpoint["description"]) > 20


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}])
@pytest.mark.parametrize("endpoint", ["predict", "predict_many", "follow"])
def test_a_file_of_the_server_is_not_read_on_request(
    endpoint: str, meta: dict[str, object], url: str, uploads: Path
) -> None:
    for path in (str(CAT), "/etc/hostname", "docs/cat.jpg"):
        data = {"path": path, **meta}
        event = call(url, endpoint, [data] if endpoint == "predict_many" else data)
        assert "confidence" not in event
        assert not list(uploads.rglob("hostname"))
        if endpoint != "follow":
            assert event.startswith("event: error")


@pytest.mark.parametrize("endpoint", ["predict", "predict_many", "follow"])
def test_an_address_is_not_fetched(endpoint: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Any] = []
    for name in ("async_ssrf_protected_download", "async_ssrf_protected_get", "ssrf_protected_download"):
        monkeypatch.setattr(f"gradio.processing_utils.{name}", lambda *arguments, **options: fetched.append(arguments))
    address = "http://192.0.2.1/cat.jpg"
    for data in ({"path": address}, {"path": address, "url": address}, {"path": "", "url": address}):
        whole = {**data, "meta": {"_type": "gradio.FileData"}}
        event = call(url, endpoint, [whole] if endpoint == "predict_many" else whole)
        assert "confidence" not in event
    assert fetched == []


def test_an_upload_is_handed_out_as_a_file_and_never_as_a_page(url: str) -> None:
    for name, content in (("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"), ("a.html", b"<p>a page</p>")):
        (path,) = httpx.post(f"{url}/gradio_api/upload", files={"files": (name, content)}).json()
        call(url, "predict", {"path": path, "meta": {"_type": "gradio.FileData"}})
        headers = httpx.get(f"{url}/gradio_api/file={path}").headers
        assert headers["content-disposition"].startswith("attachment")


def call(url: str, endpoint: str, data: Any) -> str:
    answer = httpx.post(f"{url}/gradio_api/call/{endpoint}", json={"data": [data]})
    return httpx.get(f"{url}/gradio_api/call/{endpoint}/{answer.json()['event_id']}").text


def test_an_upload_is_not_opened_in_the_server(url: str, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(PIL.Image, "open", lambda *arguments, **options: opened.append(arguments))
    client.predict(handle_file(CAT), api_name="/predict")
    client.predict([handle_file(CAT)], api_name="/predict_many")
    run_event(url, "show", [uploaded(url, "cat.jpg", CAT.read_bytes()), None])
    assert opened == []


def test_the_page_shows_the_answer_and_what_the_network_saw(url: str, predictor: Predictor) -> None:
    data = CAT.read_bytes()
    verdict, details = run_event(url, "show", [uploaded(url, "cat.jpg", data), None])
    expected = predictor.predict_bytes(data)
    assert f"<strong>{expected.prediction}</strong>" in verdict
    for name, probability in expected.probabilities.items():
        assert re.search(f">{name}</th>.*>{html.escape(percent(probability))}</td>", verdict)
    saw, looked = pictures(details)
    pixels = decode(data).network_pixels
    assert np.array_equal(saw, pixels)
    assert np.array_equal(looked, shown.spotlight(pixels, predictor.heat_map(pixels, expected.prediction)))
    assert expected.version in details


def test_the_page_says_what_is_wrong_with_a_picture(url: str) -> None:
    verdict, details = run_event(url, "show", [uploaded(url, "cat.jpg", NO_PICTURE), None])
    assert "This can&#39;t be classified: this is a TIFF" in verdict
    assert f"expected a {ACCEPTED} image. " in verdict
    assert "On a phone, choose a screenshot of it instead." in verdict
    assert details == ""


def test_the_page_says_what_of_a_file_it_did_not_look_at(url: str) -> None:
    frames = [PIL.Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    animation = uploaded(url, "cat.gif", file.getvalue())
    said = "Only the first frame of the animation was looked at."
    assert said in run_event(url, "show", [animation, None])[0]
    assert said in run_event(url, "show_many", [[animation], None])[0]
    assert said in run_event(url, "predict", [animation])[1]
    ((answer,),) = run_event(url, "predict_many", [[animation]])
    assert f"{answer['note'].capitalize()}." == said
    assert "looked at" not in run_event(url, "show", [uploaded(url, "cat.jpg", CAT.read_bytes()), None])[0]


def test_the_name_of_a_file_is_text_to_the_page(url: str) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    (table,) = run_event(url, "show_many", [[uploaded(url, name, CAT.read_bytes())], None])
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in table
    assert name not in table


def test_an_example_that_is_chosen_becomes_the_picture(url: str) -> None:
    for example in load_examples():
        (picture,) = run_event(url, "_chosen", [], event_data={"name": example.name})
        content = httpx.get(f"{url}/gradio_api/file={picture['path']}").content
        assert np.array_equal(decode(content).pixels, example.pixels)
    assert run_event(url, "_chosen", [], event_data={"name": "../cat"}) == [None]


def test_the_page_loads_nothing_from_elsewhere(url: str) -> None:
    page = httpx.get(url).text
    assert re.findall(r"<(?:link|script|img)[^>]+(?:https?:)?//[^>]*", page) == []
    assert "fonts.googleapis.com" not in page
    assert "@import" not in httpx.get(f"{url}/theme.css").text


def test_the_page_follows_the_champion_and_says_why_one_is_refused(
    registry: Registry, publish: Callable[..., Version], tmp_path: Path
) -> None:
    registry.root.mkdir()
    with serving(registry.root, poll_s=0.02, limits=Limits(max_pending=1)) as url:
        assert "no version can be served yet" in status(url)
        client = Client(url, verbose=False)
        with pytest.raises(AppError, match="no version can be served yet"):
            client.predict(handle_file(CAT), api_name="/predict")

        publish(0, promote=True)
        assert "v0001</strong> answers, right on 12.5 % of its test pictures" in status(url, until="answers")
        answers = client.predict([handle_file(CAT)] * 4, api_name="/predict_many")
        assert any(answer.get("version") == "v0001" for answer in answers)
        assert any("at most 1 are. Send it again a little later." in answer.get("error", "") for answer in answers)

        publish(1)
        registry.root.joinpath("champion").write_text("v0002\n")
        refused = status(url, until="refused")
        assert "v0002 was made champion, but is refused: " in refused
        assert "is candidate, expected promoted" in refused
        assert "v0001 goes on answering" in refused

        registry.promote("v0002", "it is better")
        assert "refused" not in status(url, until="v0002</strong> answers")


def status(url: str, until: str = "") -> str:
    """The status line, once it says what it is expected to."""
    config = httpx.get(f"{url}/config").json()
    number = next(each["id"] for each in config["dependencies"] if each["api_name"] == "follow")
    for _ in range(200):
        request = {"data": [""], "fn_index": number, "session_hash": "status"}
        (line,) = httpx.post(f"{url}/gradio_api/run/predict", json=request).json()["data"]
        if until in line:
            return str(line)
        time.sleep(0.02)
    raise AssertionError(line)


class SlowService:
    """Answers a picture when it is told to, by its first byte."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.told: dict[bytes, asyncio.Event] = {}

    async def explain(self, data: bytes) -> tuple[ServedPrediction, Any]:
        self.asked.append(data)
        await self.told.setdefault(data, asyncio.Event()).wait()
        if data == b"bad":
            raise ImageError("bad")
        probs = dict.fromkeys(CLASS_NAMES, 0.0) | {data.decode(): 1.0}
        prediction = Prediction(data.decode(), 1.0, probs, "v0001")
        return ServedPrediction(prediction, np.zeros((32, 32, 3), np.uint8), 0, 0, 0, 1), np.zeros((32, 32), np.float32)

    def answer(self, data: bytes) -> None:
        self.told.setdefault(data, asyncio.Event()).set()


@pytest.mark.parametrize("first", [b"cat", b"bad"])
def test_a_late_answer_does_not_replace_that_to_a_newer_picture(
    first: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    service = SlowService()
    with gr.Blocks() as page:
        build_classify(service)  # type: ignore[arg-type]
    show = next(each.fn for each in page.fns.values() if each.name == "show")

    async def choose(data: bytes | None, turn: _Turn) -> Any:
        upload = None
        if data is not None:
            tmp_path.joinpath(data.decode()).write_bytes(data)
            upload = FileData(path=str(tmp_path / data.decode()))
        return await show(upload, turn)

    async def scenario() -> None:
        turn = _Turn()
        slow = asyncio.create_task(choose(first, turn))
        while first not in service.asked:
            await asyncio.sleep(0.001)
        service.answer(b"dog")
        assert "dog" in (await choose(b"dog", turn))[0]
        service.answer(first)
        assert await slow == (gr.skip(), gr.skip())

        late = asyncio.create_task(choose(b"ship", turn))
        while b"ship" not in service.asked:
            await asyncio.sleep(0.001)
        assert await choose(None, turn) == (HINT, "")
        service.answer(b"ship")
        assert await late == (gr.skip(), gr.skip())

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("confidence", "words"),
    [
        (0.97, "hardly any doubt. It can still be wrong"),
        (0.7, "leans towards this; dog (22.0 %) comes next"),
        (0.5, "not sure: dog (42.0 %) is possible too"),
        (0.2, "does not know: it hesitates as if between 10 classes. Perhaps the picture shows none of its classes"),
    ],
)
def test_doubt_is_said_in_words(confidence: float, words: str) -> None:
    rest = {name: 0.01 for name in CLASS_NAMES}
    probs = rest | {"cat": confidence, "dog": 1 - confidence - 0.08}
    if confidence == 0.2:
        probs = {name: 0.8 / 9 for name in CLASS_NAMES} | {"cat": 0.2}
    assert words in shown.remark(Prediction("cat", confidence, probs, "v0001"))


def test_effective_classes_run_from_one_to_all() -> None:
    certain = Prediction("cat", 1.0, dict.fromkeys(CLASS_NAMES, 0.0) | {"cat": 1.0}, "v0001")
    none = Prediction("cat", 0.1, dict.fromkeys(CLASS_NAMES, 0.1), "v0001")
    assert shown.effective_classes(certain) == 1
    assert shown.effective_classes(none) == pytest.approx(10)


def test_no_probability_is_shown_as_nothing_or_as_certainty() -> None:
    shares = (0.0, 0.0004, 0.0005, 0.5, 0.9994, 0.9996, 1.0)
    shown_as = ["< 0.1 %", "< 0.1 %", "0.1 %", "50.0 %", "99.9 %", "> 99.9 %", "> 99.9 %"]
    assert [percent(share) for share in shares] == shown_as


def test_the_spotlight_leaves_colour_to_what_is_hot_alone() -> None:
    pixels = np.full((2, 1, 3), (200, 40, 40), np.uint8)
    cold, hot = shown.spotlight(pixels, np.array([[0.0], [1.0]], np.float32))[:, 0].astype(int)
    assert cold.max() == cold.min()
    assert hot.max() - hot.min() > 50
    assert hot.mean() > cold.mean()


@pytest.mark.slow
def test_real_images_have_the_probabilities_of_the_test_loop(tmp_path: Path) -> None:
    root = Path(os.environ.get("CIFAR_LIT_DATA", "nowhere")) / "test"
    if not root.is_dir():
        pytest.skip("CIFAR_LIT_DATA names no image folder")
    paths = [path for name in CLASS_NAMES for path in sorted((root / name).iterdir())[:100]]
    images = torch.stack([torch.from_numpy(decode(path.read_bytes()).pixels) for path in paths])
    labels = torch.arange(10).repeat_interleave(100)
    checkpoints = shipped_v0001(tmp_path)
    network = load_network(Registry(checkpoints).get("v0001"))
    expected = evaluate(network, ImageSet(images, labels, "test")).logits.double().div(network.temperature).softmax(1)

    with serving(checkpoints) as url:

        def asked(path: Path) -> list[float]:
            label, _ = run_event(url, "predict", [uploaded(url, path.name, path.read_bytes())])
            probs = {each["label"]: each["confidence"] for each in label["confidences"]}
            return [probs[name] for name in CLASS_NAMES]

        with ThreadPoolExecutor(8) as several:
            found = torch.tensor(list(several.map(asked, paths)), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["apple", "pear", "<plum>"], "which of 3 things it shows: apple, pear or &lt;plum&gt;."),
        ([f"kind {label}" for label in range(100)], "which of 100 things it shows: kind 0, "),
    ],
)
def test_the_header_names_the_champions_classes(names: list[str], words: str) -> None:
    manifest = SimpleNamespace(class_names=names)
    champion = SimpleNamespace(ready=True, serving=SimpleNamespace(manifest=manifest))
    assert words in _header(SimpleNamespace(champion=champion))  # type: ignore[arg-type]
