import asyncio
import base64
import json
import os
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from camera_images import BASES, IMAGES
from fastapi import FastAPI
from hostile_images import GREY_IMAGE, JPEG, PNG, RAMP_IMAGE, WEBP, content_of, encoded
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from servers import shipped_v0001
from starlette.testclient import TestClient

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.cli import main
from cifar_lit.data.images import MAX_BYTES
from cifar_lit.errors import DeadlineError, OverloadedError
from cifar_lit.inference.predictor import Predictor
from cifar_lit.inference.service import Limits
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.weights import load_network
from cifar_lit.serving.app import Options, create_app
from cifar_lit.serving.inference_models import InferenceResponse
from cifar_lit.serving.rest import MAX_FORM_BYTES

ROOT = Path(__file__).parent.parent
FOLDER = tempfile.TemporaryDirectory()
CHECKPOINTS = shipped_v0001(FOLDER.name)
CAT = (ROOT / "docs" / "cat.jpg").read_bytes()
NUM_REAL = 1_000
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")


def options(**changes: Any) -> Options:
    return Options(**{"registry": CHECKPOINTS, "decode_workers": 1, **changes})


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(options())


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.fixture
def asleep() -> TestClient:
    """A client of a server that has not started."""
    return TestClient(create_app(options()), base_url="http://localhost")


def raw(client: TestClient, data: bytes, content_type: str = "application/octet-stream", **headers: str) -> Any:
    return client.post("/predict", content=data, headers={"Content-Type": content_type, **headers})


def files(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("file", (f"{number}.png", data)) for number, data in enumerate(contents)]


# Answers


def test_a_cat_is_a_cat(client: TestClient) -> None:
    response = client.post("/predict", files={"file": ("cat.jpg", CAT)})
    answer = response.json()
    assert response.status_code == 200
    assert list(answer) == ["filename", "prediction", "confidence", "probabilities", "version"]
    assert (answer["filename"], answer["prediction"], answer["version"]) == ("cat.jpg", "cat", "v0001")
    assert tuple(answer["probabilities"]) == CLASS_NAMES
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    assert answer["confidence"] == answer["probabilities"]["cat"] == max(answer["probabilities"].values())


@pytest.mark.parametrize("content_type", ["image/jpeg", "image/png", "application/octet-stream"])
def test_a_raw_body_has_the_same_answer(client: TestClient, content_type: str) -> None:
    of_form = client.post("/predict", files={"file": ("cat.jpg", CAT)}).json()
    assert raw(client, CAT, content_type).json() == {**of_form, "filename": ""}


def test_a_raw_body_may_have_no_type(client: TestClient) -> None:
    assert client.post("/predict", content=CAT).json()["prediction"] == "cat"


def test_several_files_have_a_list_of_answers_in_their_order(client: TestClient) -> None:
    contents = [PNG, JPEG, WEBP, CAT, encoded(GREY_IMAGE)] * 10
    answers = client.post("/predict", files=files(*contents)).json()
    assert [answer["filename"] for answer in answers] == [f"{number}.png" for number in range(50)]
    alone = [raw(client, data).json()["probabilities"] for data in contents[:5]]
    for answer, expected in zip(answers, alone * 10, strict=True):
        assert answer["probabilities"] == pytest.approx(expected, abs=1e-6)


def test_one_bad_file_of_several_is_named(client: TestClient) -> None:
    response = client.post("/predict", files=files(PNG, b"II*\0" + bytes(100), PNG))
    assert response.status_code == 415
    assert response.json()["detail"].startswith("image 2 of 3: this is a TIFF")


def test_an_answer_tells_its_version_and_where_the_time_went(client: TestClient) -> None:
    headers = raw(client, PNG).headers
    assert headers["x-model-version"] == "v0001"
    assert headers["content-type"] == "application/json"
    stages = re.fullmatch(r"decode;dur=([0-9.]+), queue;dur=([0-9.]+), model;dur=([0-9.]+)", headers["server-timing"])
    assert stages is not None
    assert all(0 <= float(value) < 10_000 for value in stages.groups())


def test_a_request_keeps_its_id(client: TestClient) -> None:
    assert raw(client, PNG, **{"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert re.fullmatch("[0-9a-f]{16}", raw(client, PNG).headers["x-request-id"])


def test_what_of_a_file_was_not_looked_at_is_said_and_nothing_else(client: TestClient) -> None:
    animated, still = (raw(client, content_of(IMAGES[f"{name}.gif"][0])).json() for name in ("animated", "still"))
    assert animated["note"] == "only the first frame of the animation was looked at"
    assert list(still) == ["filename", "prediction", "confidence", "probabilities", "version"]


def test_what_cameras_phones_and_programs_write_is_answered_or_refused(client: TestClient) -> None:
    of_base = {name: raw(client, encoded(Image.fromarray(pixels))).json() for name, pixels in BASES.items()}
    for name, (content, base) in IMAGES.items():
        response = raw(client, content_of(content))
        if base == "refused":
            assert 400 <= response.status_code < 500, name
        else:
            assert response.status_code == 200, (name, response.text)
            found, expected = response.json()["probabilities"], of_base[base]["probabilities"]
            assert max(abs(found[each] - expected[each]) for each in found) < 0.2, name


# Limits


def test_an_image_of_the_limit_is_answered(client: TestClient) -> None:
    padded = PNG + bytes(MAX_BYTES - len(PNG))
    assert raw(client, padded).status_code == 200
    assert client.post("/predict", files={"file": padded}).status_code == 200


def test_an_image_over_the_limit_is_too_large(client: TestClient) -> None:
    padded = PNG + bytes(MAX_BYTES + 1 - len(PNG))
    assert raw(client, padded).status_code == 413
    response = client.post("/predict", files={"file": padded})
    assert (response.status_code, "more than 26,214,400 bytes" in response.json()["detail"]) == (413, True)


def test_a_form_over_the_limit_is_too_large(client: TestClient) -> None:
    contents = [PNG + bytes(MAX_BYTES - len(PNG))] * (MAX_FORM_BYTES // MAX_BYTES + 1)
    response = client.post("/predict", files=files(*contents))
    assert (response.status_code, "at most 33,554,432 bytes" in response.json()["detail"]) == (413, True)


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b'{"instances": []}', "application/json", 415),
        (b"a=b", "application/x-www-form-urlencoded", 415),
        (b"hello", "text/plain", 415),
        (b"a=b&" * 10**6, "application/x-www-form-urlencoded", 415),
        (b"a=b&" * 7 * 10**6, "application/x-www-form-urlencoded", 413),
        (b"", "image/png", 400),
        (b"", "multipart/form-data", 400),
        (b"--x\r\n", "multipart/form-data; boundary=x", 400),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 422),
        (b"http://127.0.0.1/cat.png", "image/png", 422),
        (b"file:///etc/passwd", "application/octet-stream", 422),
    ],
)
def test_what_is_no_image_is_refused(client: TestClient, content: bytes, content_type: str, status: int) -> None:
    response = raw(client, content, content_type)
    assert response.status_code == status
    assert list(response.json()) == ["detail"]


def test_a_file_under_another_name_is_not_taken(client: TestClient) -> None:
    response = client.post("/predict", files={"picture": PNG, "image": PNG})
    assert (response.status_code, "it has 'picture', 'image'" in response.json()["detail"]) == (422, True)


def test_too_many_files_are_too_many(client: TestClient) -> None:
    assert client.post("/predict", files=files(*[PNG] * 64)).status_code == 200
    assert client.post("/predict", files=files(*[PNG] * 65)).status_code == 413


@pytest.mark.parametrize(
    "name", ["n" * 4_000, "\u202egnp.exe", "a\0b", "a\r\nX-Evil: 1", '"; filename="b', "../../x", "💥"]
)
def test_the_name_of_a_file_decides_nothing(client: TestClient, name: str) -> None:
    response = client.post("/predict", files={"file": (name, PNG, "text/html")})
    assert response.status_code == 200
    assert "x-evil" not in response.headers
    assert response.json()["prediction"] == raw(client, PNG).json()["prediction"]


# Methods and addresses


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/predict", "POST"),
        ("/health", "GET"),
        ("/ready", "GET"),
        ("/version", "GET"),
        ("/metrics", "GET"),
        ("/v2", "GET"),
        ("/v2/models/cifar10/infer", "POST"),
    ],
)
def test_another_method_is_not_for_a_path(client: TestClient, path: str, allowed: str) -> None:
    for method in {*METHODS, "TRACE", "OPTIONS", "LINK"} - {allowed}:
        response = client.request(method, path)
        assert (method, response.status_code) == (method, 405)
        assert response.json()["detail"].startswith(f"{method} is not for this path")


@pytest.mark.parametrize("path", ["/health", "/ready", "/version"])
def test_the_head_of_an_answer_is_that_of_the_whole(client: TestClient, asleep: TestClient, path: str) -> None:
    for each in (client, asleep):
        whole, head = each.get(path), each.head(path)
        assert head.status_code == whole.status_code
        for name in ("content-type", "content-length", "retry-after"):
            assert head.headers.get(name) == whole.headers.get(name)


def test_an_unknown_path_is_not_found(client: TestClient) -> None:
    assert client.post("/nothing", content=PNG).status_code == 404


# Keys


def test_a_key_is_asked_for_if_there_are_keys() -> None:
    client = TestClient(create_app(options(api_keys=frozenset({"first", "second"}))), base_url="http://localhost")
    for headers in ({}, {"X-API-Key": ""}, {"X-API-Key": "firs"}, {"X-API-Key": "first,second"}):
        response = client.post("/predict", content=PNG, headers=headers)
        assert (response.status_code, "X-API-Key" in response.json()["detail"]) == (401, True)
        assert client.post("/v2/models/cifar10/infer", content=b"{}", headers=headers).status_code == 401
    for key in ("first", "second"):
        assert client.post("/predict", content=PNG, headers={"X-API-Key": key}).status_code == 503  # it sleeps
    assert client.get("/health").status_code == 200


def test_a_client_with_too_many_requests_is_told_when_to_come_again() -> None:
    client = TestClient(create_app(options(requests_per_minute=2)), base_url="http://localhost")
    statuses = [client.post("/predict", content=PNG) for _ in range(3)]
    assert [response.status_code for response in statuses] == [503, 503, 429]
    assert 0 < int(statuses[2].headers["retry-after"]) <= 60


# When there is no answer


def test_before_a_version_is_loaded_it_is_not_ready(asleep: TestClient) -> None:
    for response in (asleep.post("/predict", content=PNG), asleep.get("/ready"), asleep.get("/version")):
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.json()["detail"].startswith("no version can be served yet")
    assert asleep.get("/health").json() == {"status": "ok"}


def test_while_it_stops_it_takes_nothing_more() -> None:
    app = create_app(options())

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await app.state.service.start()
            before = await client.get("/ready")
            await app.state.service.close()
            return [before, await client.post("/predict", content=PNG), await client.get("/ready")]

    before, *after = asyncio.run(ask())
    assert before.status_code == 200
    for response in after:
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.json()["detail"] == "the server is stopping. Send it again."


@pytest.mark.parametrize(
    ("error", "status"),
    [(OverloadedError("64 wait"), 503), (DeadlineError("too late"), 504), (RuntimeError("/srv/secret.py"), 500)],
)
def test_what_goes_wrong_is_told_in_words(
    app: FastAPI, client: TestClient, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    async def fail(data: bytes) -> None:
        raise error

    monkeypatch.setattr(app.state.service, "predict", fail)
    response = raw(client, PNG)
    assert response.status_code == status
    assert ("retry-after" in response.headers) == (status == 503)
    assert ("secret" in response.text, "Traceback" in response.text) == (False, False)
    assert list(response.json()) == ["detail"]


def test_more_images_than_there_is_room_for_are_turned_away(app: FastAPI, client: TestClient) -> None:
    service = app.state.service
    assert service.limits == Limits()
    with service._taken(service.limits.max_pending - 1):
        assert client.post("/predict", files=files(PNG, PNG)).status_code == 503
        assert raw(client, PNG).status_code == 200
    assert client.post("/predict", files=files(PNG, PNG)).status_code == 200


# What it says of itself


def test_ready_and_version_name_the_champion(client: TestClient) -> None:
    assert client.get("/ready").json() == {"status": "ready", "version": "v0001"}
    version = client.get("/version").json()
    manifest = Registry(CHECKPOINTS).get("v0001").manifest
    assert version["version"] == "v0001"
    assert version["metrics"] == manifest.metrics
    assert version["class_names"] == list(CLASS_NAMES)
    assert version["refused"] is None


def counted(client: TestClient) -> dict[str, float]:
    """Each sample by its name and labels."""
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_metrics_count_what_happened(client: TestClient) -> None:
    before = counted(client)
    raw(client, PNG)
    client.post("/predict", files=files(PNG, PNG, PNG))
    raw(client, b"II*\0")
    client.get("/nothing")
    after = counted(client)
    changed = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name)}
    predict = "cifar_lit_requests_total[('method', 'POST'), ('route', '/predict'), ('status', '{}')]"
    assert changed[predict.format(200)] == 2
    assert changed[predict.format(415)] == 1
    assert changed["cifar_lit_request_seconds_count[('route', '/predict')]"] == 3
    for stage in ("decode", "queue", "model"):
        assert changed[f"cifar_lit_stage_seconds_count[('stage', '{stage}')]"] == 4
    assert changed["cifar_lit_batch_size_count[]"] == 4
    assert sum(value for name, value in changed.items() if name.startswith("cifar_lit_predictions_total")) == 4
    assert after["cifar_lit_version[('version', 'v0001')]"] == 1
    assert after["cifar_lit_pending[]"] == 0
    assert after["cifar_lit_champion_changes_total[]"] == 1


# Documentation


@pytest.fixture(scope="module")
def schema(app: FastAPI) -> dict[str, Any]:
    return TestClient(app, base_url="http://localhost").get("/openapi.json").json()


def every(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from every(child)
    elif isinstance(node, list):
        for child in node:
            yield from every(child)


def test_the_description_of_the_interface_is_whole(schema: dict[str, Any]) -> None:
    assert schema["openapi"].startswith("3.1")
    for node in every(schema):
        if isinstance(reference := node.get("$ref"), str):
            found: Any = schema
            for key in reference.removeprefix("#/").split("/"):
                found = found[key]
    ids = [operation["operationId"] for path in schema["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))
    assert {"/predict", "/health", "/ready", "/version", "/metrics", "/v2/models/{name}/infer"} <= set(schema["paths"])


def test_every_route_is_described(app: FastAPI, schema: dict[str, Any]) -> None:
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], path
            names = set(re.findall(r"{(\w+)}", path))
            assert {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"} == names
            if method == "post":
                assert operation["requestBody"]["content"], path
                assert {"400", "401", "413", "415", "422", "503", "504"} <= set(operation["responses"]), path
            for status, response in operation["responses"].items():
                assert response["description"], (path, status)
                assert response["content"], (path, status)
                for media in response["content"].values():
                    assert media["schema"], (path, status)


def test_predict_is_described_with_examples(schema: dict[str, Any]) -> None:
    operation = schema["paths"]["/predict"]["post"]
    assert set(operation["requestBody"]["content"]) >= {"multipart/form-data", "image/png", "application/octet-stream"}
    assert set(operation["responses"]) == {*["200", "400", "401", "408", "413", "415", "422", "429", "503", "504"]}
    for status in ("429", "503"):
        assert "Retry-After" in operation["responses"][status]["headers"]
    for name in ("PredictionBody", "ErrorBody", "VersionBody", "ReadyBody"):
        for field, described in schema["components"]["schemas"][name]["properties"].items():
            assert described.get("examples") or described.get("const"), (name, field)


def test_answers_are_as_described(client: TestClient, schema: dict[str, Any]) -> None:
    for body, name in [
        (raw(client, content_of(IMAGES["animated.gif"][0])).json(), "PredictionBody"),
        (raw(client, b"").json(), "ErrorBody"),
        (client.get("/health").json(), "HealthBody"),
        (client.get("/ready").json(), "ReadyBody"),
        (client.get("/version").json(), "VersionBody"),
        (client.get("/v2").json(), "ServerMetadata"),
        (client.get("/v2/health/live").json(), "ServerLive"),
        (client.get("/v2/health/ready").json(), "ServerReady"),
        (client.get("/v2/models/cifar10").json(), "ModelMetadata"),
        (client.get("/v2/models/cifar10").json()["inputs"][0], "TensorMetadata"),
        (client.get("/v2/models/cifar10/ready").json(), "ModelReady"),
    ]:
        assert list(body) == list(schema["components"]["schemas"][name]["properties"])


@pytest.mark.parametrize("parameters", [{}, {"binary_data": True}])
def test_an_inference_is_answered_as_described(
    client: TestClient, schema: dict[str, Any], parameters: dict[str, bool]
) -> None:
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(PNG).decode()]}
    outputs = [{"name": name, "parameters": parameters} for name in ("probabilities", "prediction")]
    response = client.post("/v2/models/cifar10/infer", json={"id": "42", "inputs": [image], "outputs": outputs})
    length = int(response.headers.get("inference-header-content-length", len(response.content)))
    answer = InferenceResponse.model_validate_json(response.content[:length], strict=True, extra="forbid")
    assert (answer.id, answer.model_version) == ("42", "v0001")
    for tensor in answer.outputs:
        assert (tensor.data is None) == (tensor.parameters is not None) == bool(parameters)
    assert {"InferenceResponse", "OutputTensor"} <= set(schema["components"]["schemas"])


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_documentation_needs_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200
    addresses = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)""", page.text)
    assert len(addresses) >= 3
    for address in addresses:
        assert address.startswith("/"), address
        assert client.get(address).status_code == 200, address
    assert not re.findall(r"https?://(?!localhost)[^\s\"']+", page.text)


# The same answer everywhere


def network_probs(images: np.ndarray) -> np.ndarray:
    network = load_network(Registry(CHECKPOINTS).get("v0001")).eval()
    with torch.inference_mode():
        return network(torch.from_numpy(images).permute(0, 3, 1, 2)).div(network.temperature).softmax(1).numpy()


def probs_of(answers: list[dict[str, Any]]) -> np.ndarray:
    return np.array([[answer["probabilities"][name] for name in CLASS_NAMES] for answer in answers])


def command_probs(paths: list[Path], capsys: pytest.CaptureFixture[str]) -> np.ndarray:
    assert main(["predict", "--registry", str(CHECKPOINTS), "--format", "json", *map(str, paths)]) == 0
    return probs_of(json.loads(capsys.readouterr().out))


def ask_at_once(client: TestClient, contents: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Through forms and as raw bodies, several at a time so that they ride in batches."""
    with ThreadPoolExecutor(8) as pool:
        of_forms = list(pool.map(lambda data: client.post("/predict", files={"file": data}).json(), contents))
        of_raw = list(pool.map(lambda data: raw(client, data).json(), contents))
    return probs_of(of_forms), probs_of(of_raw)


def test_every_way_gives_the_same_probabilities(
    client: TestClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    paths = [tmp_path / f"{number:02}.png" for number in range(50)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    contents = [path.read_bytes() for path in paths]
    expected = network_probs(images)
    together = probs_of(client.post("/predict", files=files(*contents)).json())
    for found in (*ask_at_once(client, contents), together, command_probs(paths, capsys)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_images_of_any_size_and_kind_have_the_same_answer_everywhere(
    client: TestClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = RAMP_IMAGE.resize((150, 90))
    paths = []
    for number, data in enumerate([CAT, encoded(large), encoded(large, "JPEG"), WEBP, encoded(GREY_IMAGE)]):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(data)
    contents = [path.read_bytes() for path in paths]
    predictor = Predictor.from_version(Registry(CHECKPOINTS).get("v0001"))
    expected = probs_of([predictor.predict_bytes(data).as_dict() for data in contents])
    for found in (*ask_at_once(client, contents), command_probs(paths, capsys)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_real_images_have_the_same_probabilities_everywhere(
    client: TestClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(os.environ.get("CIFAR_LIT_DATA", "nowhere")) / "test"
    if not root.is_dir():
        pytest.skip("CIFAR_LIT_DATA names no image folder")
    paths = [path for each in sorted(root.iterdir()) for path in islice(sorted(each.iterdir()), NUM_REAL // 10)]
    assert len(paths) == NUM_REAL
    contents = [path.read_bytes() for path in paths]
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    expected = network_probs(images)
    before = counted(client)
    of_forms, of_raw = ask_at_once(client, contents)
    after = counted(client)
    alone = "cifar_lit_batch_size_bucket[('le', '1.0')]"
    assert after[alone] - before[alone] < 2 * NUM_REAL, "no image rode in a batch"
    for found in (of_forms, of_raw, command_probs(paths, capsys)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
