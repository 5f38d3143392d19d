"""The bytes called CAPTURED are what tritonclient 2.73.0 and kserve 0.21.0 sent."""

import base64
import json
import math
import random
import re
import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.errors import InputError
from cifar_lit.serving.inference_models import MAX_ITEMS
from cifar_lit.serving.inference_tensors import HEADER_LENGTH
from cifar_lit.serving.inference_v2 import (
    InferRequest,
    OutputWish,
    model_metadata,
    parse,
    parse_header_length,
    render,
)

OUTPUTS = ("probabilities", "prediction", "confidence")
FILES = (b"\x89PNG one", b"\xff\xd8\xff two-two", b"")
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)

# By tritonclient.http.InferenceServerClient.infer; the pixels are followed by 6,144 bytes of data.
CAPTURED_PIXELS = (
    b'{"inputs":[{"name":"pixels","shape":[2,32,32,3],"datatype":"UINT8","parameters":{"binary_data_size":6144}}],'
    b'"parameters":{"binary_data_output":true}}'
)
CAPTURED_PIXELS_ALL_OPTIONS = (
    b'{"inputs":[{"name":"pixels","shape":[2,32,32,3],"datatype":"UINT8","parameters":{"binary_data_size":6144}}],'
    b'"parameters":{"sequence_id":3,"sequence_start":false,"sequence_end":false,"priority":1,"timeout":5000,'
    b'"binary_data_output":true,"x":"y"}}'
)
CAPTURED_PIXELS_JSON = (
    b'{"id":"j","inputs":[{"name":"pixels","shape":[2,32,32,3],"datatype":"UINT8","data":[%b]}],"outputs":[{"name":'
    b'"probabilities","parameters":{"binary_data":false}},{"name":"prediction","parameters":{"binary_data":false}},'
    b'{"name":"confidence","parameters":{"binary_data":false}}]}'
)
CAPTURED_IMAGE = (
    b'{"inputs":[{"name":"image","shape":[3],"datatype":"BYTES","parameters":{"binary_data_size":31}}],'
    b'"parameters":{"binary_data_output":true}}\x08\x00\x00\x00\x89PNG one\x0b\x00\x00\x00\xff\xd8\xff two-two'
    b"\x00\x00\x00\x00"
)
CAPTURED_IMAGE_COLUMN = (
    b'{"inputs":[{"name":"image","shape":[3,1],"datatype":"BYTES","parameters":{"binary_data_size":31}}],'
    b'"outputs":[{"name":"prediction","parameters":{"binary_data":true}}]}\x08\x00\x00\x00\x89PNG one'
    b"\x0b\x00\x00\x00\xff\xd8\xff two-two\x00\x00\x00\x00"
)
CAPTURED_IMAGE_JSON = (
    b'{"inputs":[{"name":"image","shape":[3,1],"datatype":"BYTES","data":["iVBORyBvbmU=","/9j/IHR3by10d28=",""]}],'
    b'"outputs":[{"name":"confidence","parameters":{"binary_data":false}},'
    b'{"name":"probabilities","parameters":{"binary_data":true}}]}'
)
CAPTURED_CLASSIFICATION = (
    b'{"inputs":[{"name":"pixels","shape":[2,32,32,3],"datatype":"UINT8","parameters":{"binary_data_size":6144}}],'
    b'"outputs":[{"name":"probabilities","parameters":{"classification":3,"binary_data":true}}]}'
)
CAPTURED_BOTH = (
    b'{"inputs":[{"name":"pixels","shape":[2,32,32,3],"datatype":"UINT8","parameters":{"binary_data_size":6144}},'
    b'{"name":"image","shape":[3],"datatype":"BYTES","parameters":{"binary_data_size":31}}],'
    b'"parameters":{"binary_data_output":true}}'
)
CAPTURED_SHARED_MEMORY = (
    b'{"inputs":[{"name":"pixels","shape":[2,32,32,3],"datatype":"UINT8","parameters":{"shared_memory_region":"r",'
    b'"shared_memory_byte_size":6144}}],"parameters":{"binary_data_output":true}}'
)
CAPTURED_NO_DATA = (
    b'{"inputs":[{"name":"pixels","shape":[2,32,32,3],"datatype":"UINT8"}],"parameters":{"binary_data_output":true}}'
)
# By kserve.InferenceRESTClient.infer.
CAPTURED_KSERVE_JSON = (
    b'{"id":"k","model_name":"cifar10","inputs":[{"name":"image","shape":[2],"datatype":"BYTES","data":'
    b'["iVBORyBvbmU=","dHdv"]}],"outputs":[{"name":"probabilities","parameters":{"binary_data":false}},'
    b'{"name":"prediction","parameters":{"binary_data":false}}]}'
)
CAPTURED_KSERVE_BINARY = (
    b'{"id":"k","model_name":"cifar10","inputs":[{"name":"image","shape":[2],"datatype":"BYTES","parameters":'
    b'{"binary_data_size":19}}]}\x08\x00\x00\x00\x89PNG one\x03\x00\x00\x00two'
)


def numbers(pixels: NDArray[np.uint8]) -> bytes:
    return ",".join(map(str, pixels.ravel().tolist())).encode()


def probabilities(num_items: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).dirichlet(np.full(10, 0.3), num_items)


def tensor(**changes: Any) -> dict[str, Any]:
    """A valid input of two images as a flat list; a change to None takes the member away."""
    members = {
        "name": "pixels",
        "shape": [2, 32, 32, 3],
        "datatype": "UINT8",
        "data": PIXELS.ravel().tolist(),
    } | changes
    return {key: value for key, value in members.items() if value is not None}


def image(**changes: Any) -> dict[str, Any]:
    return tensor(**{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["dHdv"]} | changes)


def as_json(*inputs: dict[str, Any], **members: Any) -> bytes:
    return json.dumps({"inputs": list(inputs)} | members).encode()


def as_binary(head: dict[str, Any], data: bytes, size: int | None = None, **members: Any) -> tuple[bytes, int]:
    head = {key: value for key, value in head.items() if key != "data"}
    head["parameters"] = {"binary_data_size": len(data) if size is None else size}
    text = as_json(head, **members)
    return text + data, len(text)


def wishes(*names: str, binary: bool) -> tuple[OutputWish, ...]:
    return tuple(OutputWish(name, binary) for name in names)


def answer(request: InferRequest, probs: NDArray[np.float64]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a client reads: the JSON, and every output as an array or a list of strings."""
    body, headers = render(request, version="v0007", class_names=CLASS_NAMES, probabilities=probs)
    length = int(headers.get(HEADER_LENGTH, len(body)))
    text, rest = json.loads(body[:length]), body[length:]
    outputs: dict[str, Any] = {}
    for output in text["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            value = output["data"]
            if output["datatype"] == "FP32":
                value = np.array(value, np.float32).reshape(output["shape"])
        elif output["datatype"] == "FP32":
            value = np.frombuffer(rest[:size], "<f4").reshape(output["shape"])
        else:
            value, data = [], rest[:size]
            while data:
                end = 4 + int.from_bytes(data[:4], "little")
                value.append(data[4:end].decode())
                data = data[end:]
            assert [len(value)] == output["shape"]
        assert ("data" in output) == (size is None)
        rest = rest[size or 0 :]
        outputs[output["name"]] = value
    assert not rest
    return text, outputs


# What real clients send


@pytest.mark.parametrize("head", [CAPTURED_PIXELS, CAPTURED_PIXELS_ALL_OPTIONS])
def test_binary_pixels_of_tritonclient(head: bytes) -> None:
    request = parse(head + PIXELS.tobytes(), len(head))
    assert request.pixels is not None
    assert np.array_equal(request.pixels, PIXELS)
    assert (request.id, request.files) == (None, None)
    assert request.outputs == wishes(*OUTPUTS, binary=True)


def test_json_pixels_of_tritonclient() -> None:
    request = parse(CAPTURED_PIXELS_JSON % numbers(PIXELS), None)
    assert request.pixels is not None
    assert np.array_equal(request.pixels, PIXELS)
    assert (request.id, request.files) == ("j", None)
    assert request.outputs == wishes(*OUTPUTS, binary=False)


def test_image_files_of_tritonclient() -> None:
    for body, length, outputs in [
        (CAPTURED_IMAGE, 138, wishes(*OUTPUTS, binary=True)),
        (CAPTURED_IMAGE_COLUMN, 167, wishes("prediction", binary=True)),
        (CAPTURED_IMAGE_JSON, None, (OutputWish("confidence", False), OutputWish("probabilities", True))),
    ]:
        request = parse(body, length)
        assert request.files == FILES
        assert request.pixels is None
        assert request.outputs == outputs


def test_image_files_of_kserve() -> None:
    for body, length, outputs in [
        (CAPTURED_KSERVE_JSON, None, wishes("probabilities", "prediction", binary=False)),
        (CAPTURED_KSERVE_BINARY, 129, wishes(*OUTPUTS, binary=False)),
    ]:
        request = parse(body, length)
        assert (request.id, request.files) == ("k", (b"\x89PNG one", b"two"))
        assert request.outputs == outputs


@pytest.mark.parametrize(
    ("head", "data", "message"),
    [
        (CAPTURED_CLASSIFICATION, PIXELS.tobytes(), "'classification' is not offered"),
        (CAPTURED_BOTH, PIXELS.tobytes() + bytes(31), "2 inputs, expected one: either 'image' or 'pixels'"),
        (CAPTURED_SHARED_MEMORY, b"", "request.inputs.0.parameters: shared memory is not offered"),
        (CAPTURED_NO_DATA, b"", "neither of 'data' and the parameter 'binary_data_size'"),
    ],
)
def test_what_is_not_offered_is_refused_by_name(head: bytes, data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse(head + data, len(head))
    assert caught.value.fault == "invalid"


# Round trips


@pytest.mark.parametrize("num_items", [1, 2, MAX_ITEMS])
def test_pixels_are_read_alike_flat_nested_and_binary(num_items: int) -> None:
    pixels = np.random.default_rng(num_items).integers(0, 256, (num_items, 32, 32, 3), dtype=np.uint8)
    head = tensor(shape=list(pixels.shape))
    bodies = [
        (as_json(head | {"data": pixels.ravel().tolist()}), None),
        (as_json(head | {"data": pixels.tolist()}), None),
        as_binary(head, pixels.tobytes()),
    ]
    for body, length in bodies:
        request = parse(body, length)
        assert request.pixels is not None
        assert request.pixels.dtype == np.uint8
        assert request.pixels.flags.writeable
        assert request.num_items == num_items
        assert np.array_equal(request.pixels, pixels)


@pytest.mark.parametrize("shape", [[MAX_ITEMS], [MAX_ITEMS, 1]])
def test_image_files_are_read_alike_flat_nested_and_binary(shape: list[int]) -> None:
    rng = random.Random(0)
    files = tuple(rng.randbytes(rng.randrange(300)) for _ in range(MAX_ITEMS))
    texts = [base64.b64encode(file).decode() for file in files]
    nested = texts if len(shape) == 1 else [[text] for text in texts]
    data = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    head = image(shape=shape)
    for body, length in [(as_json(head | {"data": each}), None) for each in (texts, nested)] + [as_binary(head, data)]:
        assert parse(body, length).files == files


@pytest.mark.parametrize("binary", [False, True])
def test_an_answer_gives_back_every_output(binary: bool) -> None:
    probs = probabilities(2)
    body = as_json(tensor(), id="7 \u00e9", parameters={"binary_data_output": binary})
    text, outputs = answer(parse(body, None), probs)
    assert (text["model_name"], text["model_version"], text["id"]) == ("cifar10", "v0007", "7 \u00e9")
    assert tuple(outputs) == OUTPUTS
    assert [(each["datatype"], each["shape"]) for each in text["outputs"]] == [
        ("FP32", [2, 10]),
        ("BYTES", [2]),
        ("FP32", [2]),
    ]
    assert np.array_equal(outputs["probabilities"], probs.astype(np.float32))
    assert np.array_equal(outputs["confidence"], outputs["probabilities"].max(1))
    assert outputs["prediction"] == [CLASS_NAMES[label] for label in probs.argmax(1)]


def test_outputs_are_answered_in_the_order_asked_for_each_in_its_own_way() -> None:
    outputs = [
        {"name": "confidence"},
        {"name": "probabilities", "parameters": {"binary_data": False}},
        {"name": "prediction", "parameters": {"binary_data": True}},
    ]
    body = as_json(tensor(), outputs=outputs, parameters={"binary_data_output": True})
    request = parse(body, None)
    assert request.outputs == (
        OutputWish("confidence", True),
        OutputWish("probabilities", False),
        OutputWish("prediction", True),
    )
    text, values = answer(request, probabilities(2))
    assert list(values) == ["confidence", "probabilities", "prediction"]
    assert "id" not in text


def test_the_header_is_sent_with_binary_outputs_only() -> None:
    for binary, expected in [(False, {"Content-Type"}), (True, {"Content-Type", HEADER_LENGTH})]:
        request = parse(as_json(tensor(), parameters={"binary_data_output": binary}), None)
        _, headers = render(request, version="v0001", class_names=CLASS_NAMES, probabilities=probabilities(2))
        assert set(headers) == expected
        assert headers["Content-Type"] == ("application/octet-stream" if binary else "application/json")


def test_probabilities_are_off_by_no_more_than_fp32() -> None:
    probs = np.vstack([probabilities(60), np.eye(10)[:1], np.full((1, 10), 0.1), [[1 - 9e-50, *[1e-50] * 9]]])
    request = parse(as_json(tensor(shape=[len(probs), 32, 32, 3], data=[0] * len(probs) * 3072)), None)
    _, outputs = answer(request, probs)
    assert np.abs(outputs["probabilities"].astype(float) - probs).max() <= 2**-25
    sums = [math.fsum(row) for row in outputs["probabilities"].tolist()]
    assert sums == pytest.approx([1] * len(probs), abs=1e-7)


def test_json_has_no_more_digits_than_fp32() -> None:
    request = parse(as_json(image(), outputs=[{"name": "probabilities"}]), None)
    body, _ = render(request, version="v0001", class_names=CLASS_NAMES, probabilities=np.full((1, 10), 0.1))
    assert b'"data":[0.1,0.1,' in body


def test_the_prediction_is_that_of_the_unrounded_probabilities() -> None:
    probs = np.zeros((1, 10))
    probs[0, 3], probs[0, 5] = 0.5 - 1e-12, 0.5 + 1e-12
    _, outputs = answer(parse(as_json(image()), None), probs)
    assert outputs["probabilities"][0, 3] == outputs["probabilities"][0, 5]
    assert outputs["prediction"] == ["dog"]


# Null and unknown members


def test_null_and_unknown_members_count_as_absent() -> None:
    head = image(parameters={"content_type": "base64"}) | {"extra": {"a": [1.5, None]}}
    request = parse(as_json(head, id=None, parameters=None, outputs=None, model_name="x"), None)
    assert (request.id, request.files) == (None, (b"two",))
    assert request.outputs == wishes(*OUTPUTS, binary=False)
    assert parse(as_json(image(), outputs=[], parameters={"binary_data_output": None}), None).outputs == request.outputs


def test_a_header_length_of_the_whole_body_is_the_same_as_none() -> None:
    body = as_json(image())
    assert parse(body, len(body)).files == parse(body, None).files


# Hostile requests

HOSTILE: list[tuple[str, tuple[bytes, int | None], str, str]] = [
    # not the JSON it should be
    ("empty", (b"", None), "malformed", "0 bytes"),
    ("no JSON", (b"\x89PNG\r\n", None), "malformed", "no valid JSON"),
    ("truncated", (as_json(image())[:-1], None), "malformed", "no valid JSON"),
    ("not UTF-8", (b'{"id":"\xff"}', None), "malformed", "no valid JSON"),
    ("UTF-16", (as_json(image()).decode().encode("utf-16"), None), "malformed", "no valid JSON"),
    ("lone surrogate", (as_json(image(), id="\ud800"), None), "malformed", "no valid JSON"),
    ("a list", (b"[]", None), "invalid", r"request is \[\]: Input should be an object"),
    ("null", (b"null", None), "invalid", "request is null: Input should be an object"),
    ("empty object", (b"{}", None), "invalid", "0 inputs"),
    ("NaN", (as_json(tensor(data=[math.nan] * 6144)), None), "malformed", "no valid JSON"),
    ("Infinity", (as_json(image(), x=math.inf), None), "malformed", "no valid JSON"),
    ("overflowing number", (b'{"x":1e999}', None), "malformed", "no valid JSON"),
    ("10,000 digits", (b'{"inputs":[],"x":' + b"9" * 10_000 + b"}", None), "malformed", "no valid JSON"),
    ("deep nesting", (b"[" * 60_000, None), "malformed", "no valid JSON"),
    ("deep objects", (b'{"a":' * 60_000, None), "malformed", "no valid JSON"),
    ("deep unknown member", (b'{"x":' + b"[" * 1000 + b"]" * 1000 + b"}", None), "invalid", "0 inputs"),
    ("many lists", (b'{"x":[' + b"[]," * 2_000_000 + b"[]]}", None), "too_large", "more values than 64 images"),
    ("many deep lists", (b'{"x":[' + (b"[" * 900 + b"]" * 900 + b",") * 900, None), "too_large", "more values"),
    ("many numbers", (b'{"x":[' + b"0," * 2_000_000 + b"0]}", None), "too_large", "more values than 64 images"),
    # header length
    ("header 0", (as_json(image()), 0), "malformed", HEADER_LENGTH),
    ("header negative", (as_json(image()), -1), "malformed", HEADER_LENGTH),
    ("header too long", (as_json(image()), 10**18), "malformed", HEADER_LENGTH),
    ("header too short", (as_json(image()), 20), "malformed", "no valid JSON"),
    ("bytes after JSON", (as_json(image()) + b"xyz", len(as_json(image()))), "malformed", "3 bytes follow the JSON"),
    # members of the wrong kind
    ("id number", (as_json(image(), id=7), None), "invalid", "request.id is 7: Input should be a valid string"),
    ("id long", (as_json(image(), id="i" * 257), None), "invalid", "String should have at most 256 characters"),
    ("inputs object", (b'{"inputs":{}}', None), "invalid", "request.inputs is an object: Input should be a valid list"),
    ("inputs of numbers", (b'{"inputs":[1]}', None), "invalid", "request.inputs.0 is 1: Input should be an object"),
    (
        "parameters list",
        (as_json(image(), parameters=[]), None),
        "invalid",
        r"request.parameters is \[\]: Input should be an object",
    ),
    (
        "wish number",
        (as_json(image(), parameters={"binary_data_output": 1}), None),
        "invalid",
        "binary_data_output is 1: Input should be a valid boolean",
    ),
    (
        "data string",
        (as_json(image(data="dHdv")), None),
        "invalid",
        "inputs.0.data is 'dHdv': Input should be an instance of list",
    ),
    (
        "long value",
        (as_json(image(data="dHdv" * 90_000)), None),
        "invalid",
        r"dHdv'\.\.\.: Input should be an instance of list",
    ),
    # names
    ("no name", (as_json(image(name=None)), None), "invalid", "request.inputs.0.name is absent: Field required"),
    (
        "unknown name",
        (as_json(image(name="Image")), None),
        "invalid",
        "request.inputs.0.name is 'Image': Input should be 'image' or 'pixels'",
    ),
    ("odd name", (as_json(image(name="\u202e\n\u00e9")), None), "invalid", r"'\\u202e\\n\\xe9'"),
    ("twice", (as_json(image(), image()), None), "invalid", "2 inputs, expected one"),
    ("both", (as_json(image(), tensor()), None), "invalid", "2 inputs, expected one"),
    (
        "unknown output",
        (as_json(image(), outputs=[{"name": "logits"}]), None),
        "invalid",
        "outputs.0.name is 'logits': .* 'confidence'",
    ),
    ("output twice", (as_json(image(), outputs=[{"name": "confidence"}] * 2), None), "invalid", "'confidence' twice"),
    (
        "output in shared memory",
        (as_json(image(), outputs=[{"name": "confidence", "parameters": {"shared_memory_region": "r"}}]), None),
        "invalid",
        "request.outputs.0.parameters: shared memory is not offered",
    ),
    # datatypes and shapes
    (
        "FP32",
        (as_json(tensor(datatype="FP32")), None),
        "invalid",
        "'pixels' with datatype 'FP32' .* expected UINT8 and",
    ),
    ("no datatype", (as_json(tensor(datatype=None)), None), "invalid", "inputs.0.datatype is absent"),
    ("datatype list", (as_json(tensor(datatype=[[]])), None), "invalid", "datatype is a list of 1"),
    ("no shape", (as_json(tensor(shape=None)), None), "invalid", "inputs.0.shape is absent"),
    ("shape empty", (as_json(image(shape=[])), None), "invalid", r"shape \[\]: expected BYTES and \[n\] or \[n, 1\]"),
    ("shape number", (as_json(image(shape=1)), None), "invalid", "shape is 1: Input should be a valid list"),
    ("one image", (as_json(tensor(shape=[32, 32, 3])), None), "invalid", r"\[32, 32, 3\]: .* \[n, 32, 32, 3\]"),
    ("channels first", (as_json(tensor(shape=[2, 3, 32, 32])), None), "invalid", r"height, width, channels \(RGB\)"),
    ("flat shape", (as_json(tensor(shape=[6144])), None), "invalid", r"\[6144\]"),
    ("column of two", (as_json(image(shape=[1, 2])), None), "invalid", r"shape \[1, 2\]"),
    ("shape true", (as_json(image(shape=[True])), None), "invalid", "shape.0 is true"),
    ("shape 1.0", (as_json(image(shape=[1.0])), None), "invalid", "shape.0 is 1.0"),
    ("shape 0", (as_json(image(shape=[0], data=[])), None), "invalid", "n from 1 to 64"),
    ("shape -1", (as_json(image(shape=[-1])), None), "invalid", r"shape \[-1\]"),
    ("shape long", (as_json(image(shape=[1] * 9000)), None), "invalid", "shape a list of 9,000"),
    ("shape nested", (as_json(image(shape=[[1]])), None), "invalid", r"shape.0 is \[1\]"),
    ("65 images", (as_json(tensor(shape=[65, 32, 32, 3])), None), "too_large", "at most 64 images"),
    ("2**63 - 1", (as_json(tensor(shape=[2**63 - 1, 32, 32, 3])), None), "too_large", "at most 64 images"),
    ("2**64", (as_json(tensor(shape=[2**64, 32, 32, 3])), None), "invalid", "should be a valid integer"),
    ("product 0 mod 2**64", (as_json(tensor(shape=[2**32, 2**32, 32, 3])), None), "invalid", "expected UINT8"),
    # data that is not what the shape says
    ("data missing", (as_json(tensor(data=None)), None), "invalid", "neither of 'data'"),
    ("data twice", (as_json(tensor(parameters={"binary_data_size": 0})), None), "invalid", "both of 'data'"),
    ("data empty", (as_json(tensor(data=[])), None), "malformed", "0 values, its shape makes 6,144"),
    ("a value less", (as_json(tensor(data=[0] * 6143)), None), "malformed", "6,143 values"),
    ("a value more", (as_json(tensor(data=[0] * 6145)), None), "malformed", "6,145 values"),
    ("rows of pixels", (as_json(tensor(data=[[0] * 3072] * 2)), None), "invalid", "nested otherwise"),
    (
        "ragged",
        (as_json(tensor(data=[PIXELS[0].tolist(), PIXELS[1, 1:].tolist()])), None),
        "invalid",
        "nested otherwise",
    ),
    (
        "a level more",
        (as_json(tensor(data=PIXELS[..., None].tolist())), None),
        "invalid",
        r"it has \[\d+\] at \[0, 0, 0, 0\]",
    ),
    ("list among numbers", (as_json(tensor(data=[0, [0], *[0] * 6142])), None), "invalid", r"\[0\] at \[0, 0, 0, 1\]"),
    ("256", (as_json(tensor(data=[0] * 6143 + [256])), None), "invalid", r"256 at \[1, 31, 31, 2\], expected integers"),
    ("-1", (as_json(tensor(data=[-1] * 6144)), None), "invalid", r"-1 at \[0, 0, 0, 0\]"),
    ("2**63", (as_json(tensor(data=[2**63] * 6144)), None), "invalid", "9223372036854775808 at"),
    ("10**300", (as_json(tensor(data=[10**300] * 6144)), None), "invalid", r"1e\+300 at"),
    ("0.5", (as_json(tensor(data=[0.5] * 6144)), None), "invalid", "0.5 at .* expected integers 0..255"),
    ("1.0", (as_json(tensor(data=[1] * 6143 + [1.0])), None), "invalid", r"1.0 at \[1, 31, 31, 2\]"),
    ("true", (as_json(tensor(data=[True] * 6144)), None), "invalid", "true at"),
    ("null pixel", (as_json(tensor(data=[None] * 6144)), None), "invalid", "null at"),
    ("string pixel", (as_json(tensor(data=["0"] * 6144)), None), "invalid", "'0' at"),
    # image files
    ("no base64", (as_json(image(data=["cat.jpg"])), None), "malformed", "element 0 .* no base64"),
    ("data URL", (as_json(image(data=["data:image/png;base64,dHdv"])), None), "malformed", "no 'data:' before it"),
    ("line break", (as_json(image(data=["dHdv\ndHdv"])), None), "malformed", "no line breaks"),
    ("no padding", (as_json(image(data=["dHdvdA"])), None), "malformed", "padded"),
    ("not ASCII", (as_json(image(data=["dHdv\u00e9"])), None), "malformed", "no base64"),
    ("number", (as_json(image(shape=[2], data=["dHdv", 5])), None), "invalid", "element 1"),
    ("element less", (as_json(image(shape=[2])), None), "malformed", "1 elements, expected 2"),
    ("element nested", (as_json(image(data=[["dHdv"]], shape=[1])), None), "invalid", "element 0"),
    # binary tensors
    ("size too small", as_binary(tensor(), PIXELS.tobytes(), 6143), "malformed", "6,143 and 6,144 bytes follow"),
    ("size too large", as_binary(tensor(), PIXELS.tobytes(), 10**18), "malformed", "6,144 bytes follow"),
    ("size negative", as_binary(tensor(), PIXELS.tobytes(), -1), "malformed", "-1 and 6,144"),
    (
        "size true",
        as_binary(image(), b"x", True),
        "invalid",
        "binary_data_size is true: Input should be a valid integer",
    ),
    ("no header", (as_binary(tensor(), b"", 6144)[0], None), "malformed", "0 bytes follow"),
    ("pixels truncated", as_binary(tensor(), PIXELS.tobytes()[:-1]), "malformed", "6,143 values"),
    ("pixels of another shape", as_binary(tensor(shape=[3, 32, 32, 3]), PIXELS.tobytes()), "malformed", "makes 9,216"),
    ("no length", as_binary(image(), b"\x03\x00\x00"), "malformed", "ends within element 0"),
    ("length alone", as_binary(image(), b"\x03\x00\x00\x00"), "malformed", "ends within element 0"),
    ("length of 4 GB", as_binary(image(), b"\xff\xff\xff\xfftwo"), "malformed", "ends within element 0"),
    ("element missing", as_binary(image(shape=[2]), b"\x03\x00\x00\x00two"), "malformed", "ends within element 1"),
    ("element left", as_binary(image(), b"\x03\x00\x00\x00two\x00\x00\x00\x00"), "malformed", "4 bytes after the last"),
]


@pytest.mark.parametrize(
    ("request_parts", "fault", "message"), [each[1:] for each in HOSTILE], ids=[each[0] for each in HOSTILE]
)
def test_a_hostile_request_is_refused(request_parts: tuple[bytes, int | None], fault: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse(*request_parts)
    assert caught.value.fault == fault
    assert re.fullmatch(r"[ -~]{20,400}", str(caught.value))


@pytest.mark.parametrize(
    "parts",
    [
        (as_json(image(shape=[2**62])), None),
        (as_json(tensor(shape=[64, 32, 32, 3], data=[0])), None),
        as_binary(tensor(shape=[64, 32, 32, 3]), b"", 196_608),
        as_binary(image(shape=[64]), b"\xff\xff\xff\x7f" * 9),
        (b'{"x":[' + b"[]," * 1_000_000 + b"[]]}", None),
        (b'{"":' * 500_000, None),
    ],
)
def test_memory_does_not_grow_with_claims(parts: tuple[bytes, int | None]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            parse(*parts)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("value", ["", "-1", "+1", "1.0", "1_0", " 1", "\u0661", "0x1", "9" * 5000, "1\n"])
def test_a_header_that_is_no_number_of_bytes_is_refused(value: str) -> None:
    with pytest.raises(InputError, match=f"{HEADER_LENGTH} is .* expected a number of bytes") as caught:
        parse_header_length(value)
    assert caught.value.fault == "malformed"
    assert len(str(caught.value)) < 200


def test_the_header_gives_a_number_of_bytes_or_none() -> None:
    assert parse_header_length(None) is None
    assert parse_header_length("149") == 149


def mutated(rng: random.Random, body: bytes, length: int | None) -> tuple[bytes, int | None]:
    """One or two small changes, half of them in the JSON."""
    pieces = [
        b"-1",
        b"1e5",
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'"',
        b"99999999999999999999",
        b"[[1]]",
        b",",
        b"0.5",
        b"\xff",
    ]
    for _ in range(rng.randint(1, 2)):
        start = rng.randrange(min(len(body), rng.choice([length or 400, len(body)])))
        match rng.randrange(5):
            case 0:
                body = body[:start] + bytes([rng.randrange(256)]) + body[start + 1 :]
            case 1:
                body = body[:start] + body[start + rng.randint(1, 9) :]
            case 2:
                body = body[:start] + rng.choice(pieces) + body[start + rng.randint(0, 3) :]
            case 3:
                found = [
                    each.span() for each in re.finditer(rb'\d+|"\w*"|true|false|\[[^][]*\]', body[: length or 400])
                ]
                if found:
                    first, last = rng.choice(found)
                    piece = rng.choice(pieces)
                    body = body[:first] + piece + body[last:]
                    # Otherwise nearly all would fail where the JSON ends.
                    length = length and length + len(piece) - (last - first)
            case _ if length is not None:
                length += rng.randint(-3, 3)
            case _:
                body = body[: rng.randrange(1, len(body) + 1)]
        if not body:
            break
    return body, length


def test_damaged_requests_are_refused_or_answered() -> None:
    rng = random.Random(0)
    few = PIXELS[:1]
    valid = [
        (CAPTURED_PIXELS_ALL_OPTIONS + PIXELS.tobytes(), len(CAPTURED_PIXELS_ALL_OPTIONS)),
        (CAPTURED_IMAGE, 138),
        (CAPTURED_IMAGE_COLUMN, 167),
        (CAPTURED_IMAGE_JSON, None),
        (CAPTURED_KSERVE_JSON, None),
        (as_json(tensor(shape=[1, 32, 32, 3], data=few.tolist())), None),
    ]
    answered = 0
    messages = []
    for _ in range(2000):
        body, length = mutated(rng, *rng.choice(valid))
        try:
            request = parse(body, length)
        except InputError as error:
            messages.append(str(error))
            continue
        answered += 1
        assert 1 <= request.num_items <= MAX_ITEMS
        assert (request.files is None) != (request.pixels is None)
        if request.pixels is not None:
            assert (request.pixels.dtype, request.pixels.shape[1:]) == (np.uint8, (32, 32, 3))
        text, outputs = answer(request, probabilities(request.num_items))
        assert text.get("id") == request.id
        assert list(outputs) == [wish.name for wish in request.outputs]
    assert answered > 100
    assert len(messages) > 1000
    assert not [message for message in messages if not re.fullmatch(r"[ -~]{20,600}", message)]


# Metadata


def test_model_metadata_describes_what_requests_and_answers_hold() -> None:
    metadata = model_metadata("v0007", CLASS_NAMES).model_dump(mode="json")
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("cifar10", ["v0007"], "onnxruntime_onnx")
    assert [(each["name"], each["datatype"], each["shape"]) for each in metadata["inputs"]] == [
        ("image", "BYTES", [-1]),
        ("pixels", "UINT8", [-1, 32, 32, 3]),
    ]
    text, _ = answer(parse(as_json(image()), None), probabilities(1))
    for announced, given in zip(metadata["outputs"], text["outputs"], strict=True):
        assert (announced["name"], announced["datatype"]) == (given["name"], given["datatype"])
        assert announced["shape"] == [-1, *given["shape"][1:]]
    assert metadata["parameters"]["class_names"].split(",") == list(CLASS_NAMES)


def test_the_outputs_have_as_many_probabilities_as_there_are_classes() -> None:
    names = ["apple", "pear", "plum"]
    announced = model_metadata("v0007", names).outputs[0]
    assert (announced.name, announced.shape) == ("probabilities", [-1, 3])
    request = parse(as_json(image()), None)
    body, _ = render(request, version="v0007", class_names=names, probabilities=np.array([[0.1, 0.7, 0.2]]))
    outputs = {each["name"]: each for each in json.loads(body)["outputs"]}
    assert outputs["probabilities"]["shape"] == [1, 3]
    assert outputs["prediction"]["data"] == ["pear"]
