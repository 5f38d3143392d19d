"""The page as a client of its protocol sees it."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.errors import SettingError
from cifar_lit.models.networks import ThreeBlockCNN
from cifar_lit.serving.page import build_page, launch
from cifar_lit.serving.predictor import Predictor

CAT = Path(__file__).parent.parent / "docs" / "cat.jpg"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(ThreeBlockCNN(width=4, hidden=8).eval(), list(CLASS_NAMES), "v0042")


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> Iterator[Client]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = build_page(predictor)
    launch(page, host="127.0.0.1", port=port, block=False)
    yield Client(f"http://127.0.0.1:{port}/", verbose=False)
    page.close()


def test_a_picture_gets_ten_probabilities_that_sum_to_one(client: Client, predictor: Predictor):
    label, sentence = client.predict(handle_file(CAT), api_name="/predict")
    expected = predictor.predict_bytes(CAT.read_bytes())
    probs = {each["label"]: each["confidence"] for each in label["confidences"]}
    assert set(probs) == set(CLASS_NAMES)
    assert sum(probs.values()) == pytest.approx(1, abs=1e-6)
    assert probs == pytest.approx(expected.probabilities, abs=1e-6)
    assert label["label"] == expected.prediction
    assert "v0042" in sentence


@pytest.mark.parametrize("content", [b"GIF89a not one of ours", b"", CAT.read_bytes()[:5000]])
def test_what_is_no_picture_gets_a_sentence(content: bytes, client: Client, tmp_path: Path):
    (tmp_path / "picture.jpg").write_bytes(content)
    with pytest.raises(AppError, match="This can't be classified: .*(PNG|JPEG)"):
        client.predict(handle_file(tmp_path / "picture.jpg"), api_name="/predict")


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}])
def test_a_file_of_the_server_is_not_read_on_request(meta: dict[str, object], client: Client):
    answers = [
        httpx.post(f"{client.src}gradio_api/call/predict", json={"data": [{"path": str(path), **meta}]})
        for path in (CAT, "/etc/hostname", "docs/cat.jpg")
    ]
    for answer in answers:
        event = httpx.get(f"{client.src}gradio_api/call/predict/{answer.json()['event_id']}").text
        assert event.startswith("event: error")
        assert "confidences" not in event


def test_a_taken_port_is_said_in_words(client: Client, predictor: Predictor):
    port = int(client.src.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(SettingError, match=f"127.0.0.1:{port} can't be listened on. Name another --port"):
        launch(build_page(predictor), host="127.0.0.1", port=port, block=False)


def test_the_page_loads_nothing_from_elsewhere(client: Client):
    page = httpx.get(client.src).text
    assert "fonts.googleapis.com" not in page
