"""Bodies of foreign protocols: whatever arrives, it is read or told to be wrong, and what is written is read back."""

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.serving.bodies import PredictRequest, check_name, check_text
from infra.serving.invocations import read_csv, read_rows
from infra.serving.json_bodies import decode, validate
from infra.serving.problems import ApiProblem
from infra.serving.tensors import Asked, Tensor, pack, read_request, unpack, write_response

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ROW_KEYS = ["text", "group", "inputs", "instances", "dataframe_split", "dataframe_records", "columns", "data", "params"]
TENSOR_KEYS = ["id", "parameters", "outputs", "name", "shape", "datatype", "binary_data_size", "binary_data_output"]
KEYS = st.sampled_from([*ROW_KEYS, *TENSOR_KEYS])
NAMES = st.sampled_from(["text", "BYTES", "good", "label"])
VALUES = st.recursive(
    LEAVES | NAMES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def status_of(read: Callable[[], Any]) -> int:
    try:
        read()
    except ApiProblem as problem:
        return problem.status
    return 200


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_any_json_is_rows_or_a_422(body: Any) -> None:
    assert status_of(lambda: validate(PredictRequest, {"inputs": read_rows(body)}).as_inputs()) in (200, 422)


@settings(max_examples=300, deadline=None)
@given(VALUES, st.binary(max_size=12), st.none() | st.integers(0, 100))
def test_any_json_is_tensors_or_a_400(body: Any, binary: bytes, length: int | None) -> None:
    raw = json.dumps(body).encode()
    assert status_of(lambda: read_request(raw + binary, len(raw) if length is None else length)) in (200, 400)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_json_or_csv_or_a_problem(raw: bytes) -> None:
    assert status_of(lambda: decode(raw)) in (200, 400)
    assert status_of(lambda: read_csv(raw)) in (200, 400, 422)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=10), max_size=5))
def test_bytes_tensors_come_back(texts: list[str]) -> None:
    packed = pack(Tensor("text", "BYTES", [len(texts)], texts))
    assert unpack("text", memoryview(packed), len(texts)) == texts
    with pytest.raises(ApiProblem, match="its shape says"):
        unpack("text", memoryview(packed), len(texts) + 1)


def test_each_output_comes_in_the_form_that_was_asked_for() -> None:
    outputs = [Tensor("label", "BYTES", [2], ["a", "é"]), Tensor("score", "FP32", [2], [0.5, 0.25])]
    plain, length = write_response({"model_name": "toy"}, outputs, Asked(None, {}, {}, None, False))
    assert (json.loads(plain)["outputs"][0]["data"], length) == (["a", "é"], None)
    mixed, length = write_response({}, outputs, Asked(None, {}, {}, {"label": False, "score": True}, False))
    assert length is not None
    assert json.loads(mixed[:length])["outputs"][1]["parameters"] == {"binary_data_size": 8}
    assert np.frombuffer(mixed[length:], "<f4").tolist() == [0.5, 0.25]
    both, length = write_response({}, outputs, Asked(None, {}, {}, None, True))
    assert both[length:] == struct.pack("<I", 1) + b"a" + struct.pack("<I", 2) + "é".encode() + mixed[-8:]


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_a_text_is_accepted_if_none_of_its_characters_is_a_control_or_half_a_pair(text: str) -> None:
    bad = [one for one in text if ("\ud800" <= one <= "\udfff") or (ord(one) in {*range(32), *range(127, 160)})]
    is_good = all(one in "\t\n\r" for one in bad)
    for check, accepts in ((check_name, is_good), (check_text, is_good and bool(text.strip()))):
        try:
            assert check(text) == text
        except ValueError:
            assert not accepts
        else:
            assert accepts
