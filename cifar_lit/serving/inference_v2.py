"""The Open Inference Protocol (version 2, REST, with binary tensors): bytes to requests, predictions to bytes.

Knows nothing of HTTP routes, of decoding images or of the network. A request's claims are compared with the bytes that
are really there before anything is allocated for them.

JSON is read and written by orjson, not by the standard library: on 64 images as lists of integers it takes a quarter of
the time if they are flat and two thirds if they are nested (2.6 and 10.5 ms, 20 and 30 ms), it writes FP32 with as many
digits as FP32 has, and it refuses what this service refuses: NaN and Infinity, numbers that overflow, lone surrogates,
more than 1,024 levels. Integers beyond 64 bits come as floats, which no field here takes.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from cifar_lit.cifar10 import IMAGE_SHAPE, IMAGE_SIZE, NUM_CLASSES
from cifar_lit.data.formats import ACCEPTED
from cifar_lit.errors import InputError
from cifar_lit.serving.inference_models import (
    MAX_ITEMS,
    MODEL_NAME,
    PLATFORM,
    InferenceRequest,
    InputTensor,
    ModelMetadata,
    TensorMetadata,
)
from cifar_lit.serving.inference_tensors import (
    HEADER_LENGTH,
    read_files,
    read_pixels,
    serialised,
    shown,
    tensor_data,
    wrong,
)

# orjson makes some 50 bytes of objects of each byte of hostile JSON; counting what makes objects bounds that.
_MAX_COMMAS = MAX_ITEMS * math.prod(IMAGE_SHAPE) + 1000
_MAX_BRACKETS = MAX_ITEMS * (1 + IMAGE_SIZE + IMAGE_SIZE**2) + 1000


@dataclass(frozen=True)
class _Tensor:
    """An input or an output as it is announced. Shapes are without their first dimension, the number of images."""

    name: str
    datatype: str
    shapes: tuple[tuple[int, ...], ...]
    description: str

    @property
    def expected(self) -> str:
        shapes = " or ".join(f"[{', '.join(map(str, ('n', *shape)))}]" for shape in self.shapes)
        return f"expected {self.datatype} and {shapes}, n from 1 to {MAX_ITEMS}: {self.description}"

    def metadata(self) -> TensorMetadata:
        parameters = {"description": self.description}
        return TensorMetadata(
            name=self.name, datatype=self.datatype, shape=[-1, *self.shapes[0]], parameters=parameters
        )


def _by_name(*tensors: _Tensor) -> dict[str, _Tensor]:
    return {tensor.name: tensor for tensor in tensors}


_INPUTS = _by_name(
    _Tensor("image", "BYTES", ((), (1,)), f"image files ({ACCEPTED}), as base64 strings where they stand in JSON"),
    _Tensor("pixels", "UINT8", (IMAGE_SHAPE,), "integers 0..255; height, width, channels (RGB)"),
)
_OUTPUTS = _by_name(
    _Tensor("probabilities", "FP32", ((NUM_CLASSES,),), "of every class, in the order of class_names"),
    _Tensor("prediction", "BYTES", ((),), "name of the most probable class"),
    _Tensor("confidence", "FP32", ((),), "probability of that class"),
)


def _outputs(class_names: Sequence[str]) -> dict[str, _Tensor]:
    """The outputs of a network with these classes."""
    return _OUTPUTS | {"probabilities": replace(_OUTPUTS["probabilities"], shapes=((len(class_names),),))}


@dataclass(frozen=True)
class OutputWish:
    """An output that a request asks for, and whether as binary data rather than as JSON."""

    name: str
    binary: bool


@dataclass(frozen=True, eq=False)
class InferRequest:
    """An inference request. Either `files` or `pixels` is given, with 1 to `MAX_ITEMS` images.

    Attributes:
        id: to be echoed, if the client gave one.
        files: contents of image files, not looked at yet.
        pixels: uint8 (n, 32, 32, 3), RGB, 0..255; writable, shares no memory with the body.
        outputs: in the order in which they are asked for.
    """

    id: str | None
    files: tuple[bytes, ...] | None
    pixels: NDArray[np.uint8] | None
    outputs: tuple[OutputWish, ...]

    @property
    def num_items(self) -> int:
        items = self.files if self.pixels is None else self.pixels
        assert items is not None
        return len(items)


def parse_header_length(value: str | None) -> int | None:
    """Reads the header `HEADER_LENGTH`, None if the request has none.

    Raises:
        InputError: it is not a number of bytes.
    """
    if value is None:
        return None
    if not re.fullmatch("[0-9]{1,18}", value):
        raise InputError(f"{HEADER_LENGTH} is {shown(value)}, expected a number of bytes.", "malformed")
    return int(value)


def parse(body: bytes, header_length: int | None) -> InferRequest:
    """Reads the body of an inference request. Members that are not known, and null, count as absent.

    Args:
        body: JSON, followed by binary tensors if there are any.
        header_length: number of bytes of JSON; None if the body is nothing else.

    Raises:
        InputError: the body is malformed, holds too many images, or asks for something else than this model does.
    """
    if header_length is None:
        header_length = len(body)
    if not 0 < header_length <= len(body):
        raise InputError(
            f"the JSON of the request is said to have {header_length:,} bytes and the body has {len(body):,}, expected "
            f"at least one byte of JSON. Correct {HEADER_LENGTH}, or leave it out if the body is JSON alone.",
            "malformed",
        )
    request = _load(body[:header_length])
    outputs = _wishes(request)
    tensor = _only_input(request)
    data = tensor_data(tensor, memoryview(body)[header_length:])
    if tensor.name == "image":
        return InferRequest(request.id, read_files(tensor, data), None, outputs)
    return InferRequest(request.id, None, read_pixels(tensor, data), outputs)


def render(
    request: InferRequest, *, version: str, class_names: Sequence[str], probabilities: NDArray[np.float64]
) -> tuple[bytes, dict[str, str]]:
    """Writes the response to a request.

    Probabilities are rounded to the nearest FP32, off by 3e-8 at most; a row's sum may so differ from 1 by up to 1e-7.
    JSON gives the fewest digits that read back as the same FP32. The predicted class is that of the unrounded
    probabilities, the first one if several are highest.

    Args:
        request: what was asked for.
        version: id of the version that classified all images.
        class_names: in label order.
        probabilities: (n, 10), in the order of the request's images.

    Returns:
        The body, and the HTTP headers that it needs.
    """
    assert probabilities.shape == (request.num_items, len(class_names))
    rounded = probabilities.astype("<f4")
    names = [class_names[label] for label in probabilities.argmax(1)]
    values: dict[str, NDArray[np.float32] | list[str]] = {
        "probabilities": rounded,
        "prediction": names,
        "confidence": rounded.max(1),
    }
    tensors = []
    chunks = []
    for wish in request.outputs:
        value = values[wish.name]
        announced = _outputs(class_names)[wish.name]
        shape = [request.num_items, *announced.shapes[0]]
        tensor: dict[str, Any] = {"name": wish.name, "datatype": announced.datatype, "shape": shape}
        if wish.binary:
            chunks.append(value.tobytes() if isinstance(value, np.ndarray) else serialised(value))
            tensor["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            tensor["data"] = value.ravel() if isinstance(value, np.ndarray) else value
        tensors.append(tensor)
    response: dict[str, Any] = {"model_name": MODEL_NAME, "model_version": version, "outputs": tensors}
    if request.id is not None:
        response["id"] = request.id
    text = orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY)
    if not chunks:
        return text, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return b"".join([text, *chunks]), headers


def model_metadata(version: str, class_names: Sequence[str]) -> ModelMetadata:
    """The response to `GET /v2/models/cifar10`. A request gives one of the inputs; -1 is the number of images."""
    return ModelMetadata(
        name=MODEL_NAME,
        versions=[version],
        platform=PLATFORM,
        inputs=[tensor.metadata() for tensor in _INPUTS.values()],
        outputs=[tensor.metadata() for tensor in _outputs(class_names).values()],
        # The protocol knows no lists as parameters.
        parameters={"class_names": ",".join(class_names), "max_items": MAX_ITEMS},
    )


def _load(text: bytes) -> InferenceRequest:
    if text.count(b",") > _MAX_COMMAS or text.count(b"[") + text.count(b"{") > _MAX_BRACKETS:
        raise InputError(
            f"the request's JSON holds more values than {MAX_ITEMS} images have. Divide the request.", "too_large"
        )
    try:
        return InferenceRequest.model_validate(orjson.loads(text))
    except ValidationError as error:
        raise InputError(_sentence(error)) from error
    except ValueError as error:
        raise InputError(f"the request is no valid JSON ({error}), expected an object.", "malformed") from error


def _sentence(error: ValidationError) -> str:
    """What is wrong first, with its place in the request."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, ("request", *first["loc"])))
    if first["type"] == "value_error":
        return f"{place}: {first['ctx']['error']}"
    found = "absent" if first["type"] == "missing" else shown(first["input"])
    expected = "Input should be an object" if first["type"] == "model_type" else first["msg"]
    return f"{place} is {found}: {expected}."


def _only_input(request: InferenceRequest) -> InputTensor:
    """The request's input tensor; its datatype and shape are checked."""
    if len(request.inputs) != 1:
        raise InputError(f"the request has {len(request.inputs)} inputs, expected one: either 'image' or 'pixels'.")
    (tensor,) = request.inputs
    expected = _INPUTS[tensor.name]
    count, *shape = tensor.shape or [0]
    if tensor.datatype != expected.datatype or tuple(shape) not in expected.shapes or count < 1:
        raise wrong(tensor, f"{expected.expected}.")
    if count > MAX_ITEMS:
        raise wrong(tensor, f"at most {MAX_ITEMS} images are accepted in one request. Divide it.", "too_large")
    return tensor


def _wishes(request: InferenceRequest) -> tuple[OutputWish, ...]:
    """The outputs that a request asks for; all of them if it names none."""
    default = request.parameters.binary_data_output
    wishes: dict[str, OutputWish] = {}
    for output in request.outputs:
        if output.name in wishes:
            raise InputError(f"the request asks for the output {output.name!r} twice, expected it once.")
        binary = output.parameters.binary_data
        wishes[output.name] = OutputWish(output.name, default if binary is None else binary)
    return tuple(wishes.values()) or tuple(OutputWish(name, default) for name in _OUTPUTS)
