"""Tensors of the Open Inference Protocol, from JSON or binary: their values, compared with what they claim."""

import base64
import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_lit.errors import Fault, InputError
from cifar_lit.serving.inference_models import InputTensor

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The HTTP header that says where the JSON ends and binary tensors begin."""

_MAX_SHOWN = 60
_MAX_SHOWN_ITEMS = 6


def tensor_data(tensor: InputTensor, rest: memoryview) -> list[Any] | memoryview:
    """A tensor's values: a list from JSON, or all the bytes after the JSON."""
    size, data = tensor.parameters.binary_data_size, tensor.data
    if (size is None) == (data is None):
        found = "neither" if size is None else "both"
        raise wrong(tensor, f"it has {found} of 'data' and the parameter 'binary_data_size', expected one of them.")
    if len(rest) != (size or 0):
        raise wrong(
            tensor,
            f"its 'binary_data_size' is {size or 0:,} and {len(rest):,} bytes follow the JSON, expected as many. "
            f"Correct it, or the header {HEADER_LENGTH}.",
            "malformed",
        )
    return rest if data is None else data


def read_files(tensor: InputTensor, data: list[Any] | memoryview) -> tuple[bytes, ...]:
    """The elements of a BYTES tensor, base64 in JSON."""
    num_items = tensor.shape[0]
    if isinstance(data, memoryview):
        return _deserialised(tensor, data)
    texts = _flat(tensor, data)
    if len(texts) != num_items:
        raise wrong(tensor, f"its 'data' has {len(texts):,} elements, expected {num_items}.", "malformed")
    files = []
    for row, text in enumerate(texts):
        try:
            if not isinstance(text, str):
                raise ValueError("no string")
            files.append(base64.b64decode(text, validate=True))
        except ValueError as error:
            raise wrong(
                tensor,
                f"element {row} of its 'data' is no base64 ({error}), expected the image file in base64: padded, with "
                "no line breaks and no 'data:' before it.",
                "malformed" if isinstance(text, str) else "invalid",
            ) from error
    return tuple(files)


def _deserialised(tensor: InputTensor, data: memoryview) -> tuple[bytes, ...]:
    """Elements of a binary BYTES tensor, each behind its length (4 bytes, little-endian)."""
    files = []
    position = 0
    for row in range(tensor.shape[0]):
        start = position + 4
        position = start + int.from_bytes(data[position:start], "little")
        if position > len(data):
            raise wrong(tensor, f"its binary data ends within element {row} ({len(data):,} bytes).", "malformed")
        files.append(bytes(data[start:position]))
    if position != len(data):
        raise wrong(tensor, f"its binary data has {len(data) - position:,} bytes after the last element.", "malformed")
    return tuple(files)


def serialised(texts: Sequence[str]) -> bytes:
    """A binary BYTES tensor."""
    encoded = [text.encode() for text in texts]
    return b"".join(len(each).to_bytes(4, "little") + each for each in encoded)


def read_pixels(tensor: InputTensor, data: list[Any] | memoryview) -> NDArray[np.uint8]:
    """The values of a UINT8 tensor, in its shape; the array is owned and can be written to."""
    shape = tensor.shape
    values = data if isinstance(data, memoryview) else _flat(tensor, data)
    if len(values) != math.prod(shape):
        raise wrong(tensor, f"it has {len(values):,} values, its shape makes {math.prod(shape):,}.", "malformed")
    # bytearray alone would take true and false for 1 and 0.
    if isinstance(values, list) and set(map(type, values)) != {int}:
        raise _wrong_pixel(tensor, values)
    try:
        buffer = bytearray(values)
    except ValueError as error:
        raise _wrong_pixel(tensor, values) from error
    return np.frombuffer(buffer, np.uint8).reshape(shape)


def _wrong_pixel(tensor: InputTensor, values: Sequence[Any]) -> InputError:
    place = next(place for place, value in enumerate(values) if type(value) is not int or not 0 <= value <= 255)
    index = np.unravel_index(place, tensor.shape)
    where = ", ".join(str(each) for each in index)
    return wrong(tensor, f"it has {shown(values[place])} at [{where}], expected integers 0..255.")


def _flat(tensor: InputTensor, data: list[Any]) -> list[Any]:
    """The values of a list that is flat, or nested exactly as the tensor's shape says."""
    if not data or not isinstance(data[0], list):
        return data
    level = [data]
    for size in tensor.shape:
        if set(map(type, level)) != {list} or set(map(len, level)) != {size}:
            raise wrong(tensor, "its 'data' is nested otherwise, expected a flat list or one nested as the shape says.")
        level = list(chain.from_iterable(level))
    return level


def wrong(tensor: InputTensor, what: str, fault: Fault = "invalid") -> InputError:
    """An error that names an input with its datatype and shape."""
    shape, datatype = shown(tensor.shape), shown(tensor.datatype)
    return InputError(f"input {tensor.name!r} with datatype {datatype} and shape {shape}: {what}", fault)


def shown(value: object) -> str:
    """A value from JSON in a message: short, in ASCII, and no deeper than a list of numbers."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        if len(value) > _MAX_SHOWN_ITEMS or any(isinstance(each, list | dict) for each in value):
            return f"a list of {len(value):,}"
        return f"[{', '.join(shown(each) for each in value)}]"
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, str) and len(value) > _MAX_SHOWN:
        return f"{ascii(value[:_MAX_SHOWN])}..."
    return ascii(value)
