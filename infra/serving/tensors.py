"""Tensors of the Open Inference Protocol, in JSON and in its binary extension.

A BYTES element is, in binary, its length as 4 little-endian bytes and then the bytes. Binary tensors follow the JSON
part in the order in which it names them. https://github.com/kserve/open-inference-protocol
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from infra.serving.json_bodies import decode
from infra.serving.problems import ApiProblem

MAX_ELEMENTS = 1_000_000
FIELDS = {"id", "parameters", "inputs", "outputs"}


@dataclass(frozen=True)
class Tensor:
    """An output: `values` are str for BYTES, float for FP32, bool for BOOL, in row-major order."""

    name: str
    datatype: str
    shape: list[int]
    values: Sequence[Any]


@dataclass(frozen=True)
class Asked:
    """What a request holds: the texts of each input by name, its shape, and how the outputs are wanted."""

    request_id: str | None
    texts: dict[str, list[str]]
    shapes: dict[str, list[int]]
    outputs: dict[str, bool] | None  # name → in binary; None: all of them
    binary: bool  # unless an output says otherwise


def read_request(raw: bytes, json_length: int | None) -> Asked:
    """Return a request's tensors; raises the 400 problem, naming the place.

    `json_length`: bytes of the JSON part, where a binary part follows it.
    """
    if json_length is not None and not 0 <= json_length <= len(raw):
        raise bad_request(f"Inference-Header-Content-Length: {json_length} of a body of {len(raw)} bytes")
    body = decode(raw if json_length is None else raw[:json_length])
    if not isinstance(body, dict) or set(body) - FIELDS:
        raise bad_request(f"the body: accepted are {', '.join(sorted(FIELDS))}")
    binary = memoryview(b"" if json_length is None else raw[json_length:])
    texts: dict[str, list[str]] = {}
    shapes: dict[str, list[int]] = {}
    for place, tensor in enumerate(_listed(body, "inputs")):
        name = _name_of(tensor, f"inputs[{place}]")
        if name in texts:
            raise bad_request(f"input '{name[:40]}': is there twice")
        shapes[name] = _shape_of(tensor, name)
        texts[name], binary = _texts_of(tensor, name, math.prod(shapes[name]), binary)
    if binary:
        raise bad_request(f"{len(binary)} bytes of the binary part belong to no input")
    request_id = body.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise bad_request("id: should be a string")
    in_binary = bool(_parameters(body, "the body").get("binary_data_output", False))
    return Asked(request_id, texts, shapes, _outputs_of(body, in_binary), in_binary)


def write_response(header: dict[str, Any], outputs: Sequence[Tensor], asked: Asked) -> tuple[bytes, int | None]:
    """Return the body, and the length of its JSON part where a binary part follows."""
    described, parts = [], []
    for tensor in outputs:
        one: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        in_binary = asked.binary if asked.outputs is None else asked.outputs[tensor.name]
        if in_binary:
            parts.append(pack(tensor))
            one["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            one["data"] = list(tensor.values)
        described.append(one)
    content = orjson.dumps({**header, "outputs": described})
    return (content + b"".join(parts), len(content)) if parts else (content, None)


def pack(tensor: Tensor) -> bytes:
    """Return a tensor's binary form."""
    if tensor.datatype == "FP32":
        return np.asarray(tensor.values, dtype="<f4").tobytes()
    if tensor.datatype == "BOOL":
        return np.asarray(tensor.values, dtype=np.bool_).tobytes()
    encoded = [value.encode() for value in tensor.values]
    return b"".join(struct.pack("<I", len(value)) + value for value in encoded)


def unpack(name: str, binary: memoryview, num_elements: int) -> list[str]:
    """Return the texts of a BYTES tensor's binary form; raises the 400 problem."""
    texts: list[str] = []
    start = 0
    while start < len(binary):
        if start + 4 > len(binary):
            raise bad_request(f"input '{name}': its binary data ends inside a length")
        (length,) = struct.unpack_from("<I", binary, start)
        start += 4
        if start + length > len(binary):
            raise bad_request(f"input '{name}': its binary data ends inside element {len(texts)}")
        try:
            texts.append(str(binary[start : start + length], "utf-8"))
        except UnicodeDecodeError as error:
            raise bad_request(f"input '{name}': element {len(texts)} is not UTF-8") from error
        start += length
    return _check_count(name, texts, num_elements)


def bad_request(message: str) -> ApiProblem:
    """Return the problem of a body that is no inference request."""
    return ApiProblem(400, "bad_request", message)


def _listed(body: dict[str, Any], key: str) -> list[Any]:
    value = body.get(key)
    if not isinstance(value, list) or not value:
        raise bad_request(f"{key}: should be a list of at least one tensor")
    return value


def _name_of(tensor: Any, place: str) -> str:
    name = tensor.get("name") if isinstance(tensor, dict) else None
    if not isinstance(name, str):
        raise bad_request(f"{place}: should be an object with a 'name'")
    return name


def _shape_of(tensor: dict[str, Any], name: str) -> list[int]:
    shape = tensor.get("shape")
    sizes = [size for size in shape if type(size) is int] if isinstance(shape, list) else []
    is_column = sizes == shape and len(sizes) in (1, 2) and sizes[1:] in ([], [1])
    if not is_column or not 0 <= sizes[0] <= MAX_ELEMENTS:
        raise bad_request(f"input '{name[:40]}': its shape should be [N] or [N, 1]")
    return sizes


def _texts_of(tensor: dict[str, Any], name: str, num_elements: int, binary: memoryview) -> tuple[list[str], memoryview]:
    """Return an input's texts, and what of the binary part comes after it."""
    name = name[:40]
    if tensor.get("datatype") != "BYTES":
        raise bad_request(f"input '{name}': its datatype should be BYTES")
    size = _parameters(tensor, f"input '{name}'").get("binary_data_size")
    if size is None:
        values = _flatten(tensor.get("data"), name)
        return _check_count(name, values, num_elements), binary
    if type(size) is not int or not 0 <= size <= len(binary):
        raise bad_request(f"input '{name}': binary_data_size is {size!r:.40}, {len(binary)} bytes are there")
    return unpack(name, binary[:size], num_elements), binary[size:]


def _flatten(data: object, name: str) -> list[str]:
    if not isinstance(data, list):
        raise bad_request(f"input '{name}': should have 'data', or a binary_data_size")
    values = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in data]
    for place, value in enumerate(values):
        if not isinstance(value, str):
            raise bad_request(f"input '{name}': element {place} should be a string, found {type(value).__name__}")
    return values


def _check_count(name: str, values: list[str], num_elements: int) -> list[str]:
    if len(values) != num_elements:
        raise bad_request(f"input '{name}': its shape says {num_elements} elements, there are {len(values)}")
    return values


def _outputs_of(body: dict[str, Any], in_binary: bool) -> dict[str, bool] | None:
    if body.get("outputs") is None:
        return None
    outputs = {}
    for place, tensor in enumerate(_listed(body, "outputs")):
        name = _name_of(tensor, f"outputs[{place}]")
        outputs[name] = bool(_parameters(tensor, f"outputs[{place}]").get("binary_data", in_binary))
    return outputs


def _parameters(holder: dict[str, Any], place: str) -> dict[str, Any]:
    parameters = holder.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise bad_request(f"{place}: 'parameters' should be an object")
    return parameters
