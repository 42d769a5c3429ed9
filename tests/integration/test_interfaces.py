"""MLflow's scoring protocol and the Open Inference Protocol with their real clients, and our own client."""

import json
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import tritonclient.http as triton
import uvicorn
import yaml
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from tritonclient.utils import InferenceServerException

from infra.client import Evertune, ServiceProblem
from infra.serving.bodies import FeedbackItem
from tasks.stores.api_keys import ApiKeys
from tasks.stores.database import open_database
from tasks.stores.prediction_log import PredictionLog
from tests.support.serving import OPERATOR, Running, run_service
from tests.support.tiny_bundle import write_tiny_bundle
from tests.support.toy_loop import write_toy_loop

INVOKE, INFER = "/v1/loops/toy/invocations", "/v2/models/toy/infer"
TEXTS = ["good", "bad", "good é 漢字"]
TEN = {"requests_per_second": 100, "burst": 100, "texts_per_month": 10, "beyond": "refuse", "monthly_price": 0}
PLANS = {"currency": "EUR", "default_plan": "ten", "plans": {"ten": TEN}}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    serving = {"max_texts": 8, "max_chars": 200, "max_batch": 4}
    loops = write_toy_loop(tmp_path_factory.mktemp("loops"), num_rows=20, serving=serving).parent
    home = tmp_path_factory.mktemp("home")
    write_tiny_bundle(home / "registry" / "toy" / "1")
    (home / "registry" / "toy" / "champion").write_text("1", encoding="utf-8")
    (home / "plans.yaml").write_text(yaml.safe_dump(PLANS), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERTUNE_PLANS_FILE", str(home / "plans.yaml"))
        with run_service(home, loops) as running:
            yield running


@pytest.fixture
def client(service: Running) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def logged(service: Running, prediction_ids: list[str]) -> list[str]:
    kept = PredictionLog(open_database(service.settings.database)).read_predictions(prediction_ids)
    return [kept[one].text for one in prediction_ids]


def place_of(service: Running) -> str:
    return service.url.removeprefix("http://")


@pytest.mark.parametrize(
    "data",
    [
        pd.DataFrame({"text": TEXTS, "group": ["a", None, "b"], "other": [1.5, 2.0, float("nan")]}),
        np.array(TEXTS),
        np.array([[text] for text in TEXTS]),
        TEXTS,
        [{"text": text} for text in TEXTS],
        {"dataframe_records": [{"text": text, "stars": 5} for text in TEXTS]},
        {"dataframe_split": {"index": [7, 8, 9], "columns": ["stars", "text"], "data": [[5, text] for text in TEXTS]}},
        {"instances": [{"text": text} for text in TEXTS], "params": {}},
        {"inputs": {"text": TEXTS, "group": ["a", "b", "c"]}},
        {"inputs": {"text": [[text] for text in TEXTS]}, "params": None},
    ],
    ids=lambda data: type(data).__name__ if not isinstance(data, dict) else next(iter(data)),
)
def test_mlflows_own_client_gets_a_frame(service: Running, data: Any) -> None:
    host, port = f"key:{service.key}@{place_of(service)}".rsplit(":", 1)  # the only way in which it can send a key
    mlflow = ScoringServerClient(host, port)
    mlflow.wait_server_ready()
    sent = json.dumps(data) if isinstance(data, dict) else data  # it passes on what is JSON already
    frame = mlflow.invoke(sent).get_predictions()
    assert frame.columns.to_list() == ["label", "score", "p_negative", "p_positive", "prediction_id", "truncated"]
    assert frame["label"].to_list() == ["positive", "negative", "positive"]
    assert frame["score"].to_list() == frame[["p_negative", "p_positive"]].max(axis=1).to_list()
    assert logged(service, frame["prediction_id"].to_list()) == TEXTS
    assert mlflow.get_version().startswith("3.")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 422, "exactly one of dataframe_split"),
        ([], 422, "body: should be an object"),
        ({"inputs": ["good"], "instances": ["good"]}, 422, "exactly one of"),
        ({"inputs": ["good"], "more": 1}, 422, "exactly one of"),
        ({"inputs": ["good"], "params": {"temperature": 1}}, 422, "params: these models take none"),
        ({"inputs": ["good"], "params": False}, 422, "params: these models take none"),
        ({"inputs": []}, 422, "at least 1 item"),
        ({"inputs": 7}, 422, "inputs: should be a list, found int"),
        ({"inputs": [7]}, 422, "inputs.0.text: Input should be a valid string, found int"),
        ({"inputs": {"texts": ["good"]}}, 422, "inputs: no 'text'"),
        ({"inputs": {"text": ["good"], "group": ["a", "b"]}}, 422, "2 values for 1 texts"),
        ({"dataframe_records": ["good"]}, 422, "dataframe_records.0: should be an object with 'text'"),
        ({"dataframe_records": [{"text": "good", "group": 7}]}, 422, "inputs.0.group: Input should be a valid string"),
        ({"dataframe_split": {"columns": ["review"], "data": [["good"]]}}, 422, "should name 'text' once"),
        ({"dataframe_split": {"columns": ["text"], "data": [["good", 1]]}}, 422, "data.0: should have a value per"),
        ({"dataframe_split": {"data": [["good"]]}}, 422, "should have 'columns' and 'data'"),
        ({"inputs": ["x" * 201]}, 413, "at most 200 are accepted"),
        ({"inputs": ["good"] * 9}, 422, "9 texts, at most 8"),
    ],
)
def test_bad_invocations(client: httpx.Client, body: Any, status: int, message: str) -> None:
    response = client.post(INVOKE, json=body)
    assert (response.status_code, message in response.json()["error"]["message"]) == (status, True), response.text


@pytest.mark.parametrize(
    ("content", "kind", "status", "message"),
    [
        ("review,text\n5,good\n", "text/csv", 200, ""),
        ("good\n", "text/csv", 422, "line 1: no column 'text'"),
        (b"text\n\xff\n", "text/csv", 400, "not csv in UTF-8"),
        ('text\n"good\n', "text/csv", 400, "not csv"),
        ("{", "application/json", 400, "the body is not JSON (character 1)"),
        ("[" * 100_000, "application/json", 400, "JSON that nobody can read"),
        ("good", "text/plain", 415, "application/json' or text/csv"),
    ],
)
def test_invocations_as_they_come(
    client: httpx.Client, content: bytes | str, kind: str, status: int, message: str
) -> None:
    response = client.post(INVOKE, content=content, headers={"Content-Type": kind})
    assert response.status_code == status, response.text
    assert message in response.json().get("error", {}).get("message", ""), response.text


def test_the_loop_need_not_be_named_where_there_is_one(service: Running, client: httpx.Client) -> None:
    body = {"inputs": ["good"]}
    assert client.post("/invocations", json=body).json()["loop"] == "toy"
    assert client.post("/invocations?loop=toy", json=body).status_code == 200
    assert client.post("/invocations?loop=nope", json=body).status_code == 404
    assert httpx.post(f"{service.url}/invocations", json=body).status_code == 401
    _, elsewhere = ApiKeys(open_database(service.settings.database)).create("elsewhere", ["other"], datetime.now(UTC))
    with service.client(elsewhere) as stranger:
        assert stranger.post("/invocations", json=body).json()["error"]["code"] == "which_loop"
        assert stranger.post("/invocations?loop=toy", json=body).status_code == 403


@pytest.fixture
def tritons(service: Running) -> Iterator[tuple[triton.InferenceServerClient, dict[str, str]]]:
    with triton.InferenceServerClient(place_of(service)) as client:
        yield client, {"Authorization": f"Bearer {service.key}"}


Triton = tuple[Any, dict[str, str]]


def texts_of(texts: list[str], binary: bool, shape: list[int] | None = None, name: str = "text") -> Any:
    tensor = triton.InferInput(name, shape or [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array(texts, dtype=object).reshape(shape or [len(texts)]), binary_data=binary)
    return tensor


def test_tritons_client_finds_a_server_and_a_model(service: Running, tritons: Triton) -> None:
    client, headers = tritons
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.is_model_ready("toy", headers=headers)
    assert client.is_model_ready("toy", "1", headers=headers)
    assert not client.is_model_ready("toy", "2", headers=headers)
    assert not client.is_model_ready("nope", headers=headers)
    assert not client.is_model_ready("toy")
    model = client.get_model_metadata("toy", headers=headers)
    assert (model["name"], model["versions"]) == ("toy", ["1"])
    assert {"name": "text", "datatype": "BYTES", "shape": [-1]} in model["inputs"]
    scores = next(one for one in model["outputs"] if one["name"] == "scores")
    assert (scores["shape"], json.loads(scores["parameters"]["labels"])) == ([-1, 2], ["negative", "positive"])


@pytest.mark.parametrize("shape", [[3], [3, 1]], ids=str)
@pytest.mark.parametrize("out", ["default", "binary", "json"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_tritons_client_gets_tensors(
    service: Running, tritons: Triton, binary: bool, out: str, shape: list[int]
) -> None:
    client, headers = tritons
    names = ["label", "score", "scores", "prediction_id", "truncated"]
    wanted = {"default": None} | {
        kind: [triton.InferRequestedOutput(name, binary_data=kind == "binary") for name in names]
        for kind in ("binary", "json")
    }
    inputs = [texts_of(TEXTS, binary, shape), texts_of(["a", "", "b"], binary, name="group")]
    result = client.infer("toy", inputs, outputs=wanted[out], request_id="r-1", headers=dict(headers))
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("r-1", "toy", "1")
    labels, ids = (
        [value.decode() if isinstance(value, bytes) else value for value in result.as_numpy(name).ravel()]
        for name in ("label", "prediction_id")
    )
    assert labels == ["positive", "negative", "positive"]
    assert logged(service, ids) == TEXTS
    assert list(result.as_numpy("label").shape) == shape
    scores = result.as_numpy("scores")
    assert (scores.shape, scores.dtype, result.as_numpy("truncated").tolist()) == (
        (3, 2), np.float32, np.zeros(shape, bool).tolist()
    )  # fmt: skip
    assert scores.max(axis=1) == pytest.approx(result.as_numpy("score").ravel())
    kept = PredictionLog(open_database(service.settings.database)).read_predictions(ids)
    assert [kept[one].group for one in ids] == ["a", None, "b"]


def test_tritons_client_may_ask_for_some_outputs_in_either_form(tritons: Triton) -> None:
    client, headers = tritons
    outputs = [triton.InferRequestedOutput("score", True), triton.InferRequestedOutput("label", False)]
    result = client.infer("toy", [texts_of(["bad"], True)], "1", outputs=outputs, headers=dict(headers))
    assert [one["name"] for one in result.get_response()["outputs"]] == ["label", "score"]
    assert (result.as_numpy("label")[0], result.as_numpy("score").dtype) == ("negative", np.float32)


def test_tritons_client_reads_our_problems(service: Running, tritons: Triton) -> None:
    client, headers = tritons
    asked, blank = [texts_of(["good"], True)], [texts_of([" "], False)]

    def squeeze() -> Any:
        return client.infer("toy", asked, request_compression_algorithm="gzip", headers=dict(headers))

    cases: list[tuple[Callable[[], Any], str, str]] = [
        (lambda: client.infer("toy", asked), "401", "send 'Authorization: Bearer KEY'"),
        (lambda: client.infer("nope", asked, headers=dict(headers)), "404", "there is no such loop"),
        (lambda: client.infer("toy", asked, "9", headers=dict(headers)), "404", "version 9 does not serve; 1 does"),
        (lambda: client.infer("toy", [texts_of(["x" * 201], True)], headers=dict(headers)), "413", "at most 200"),
        (lambda: client.infer("toy", blank, headers=dict(headers)), "422", "inputs.0.text: is empty"),
        (squeeze, "415", "Encoding"),
    ]
    for call, status, message in cases:
        with pytest.raises(InferenceServerException, match=message) as raised:
            call()
        assert raised.value.status() == status


def tensor(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]} | changes]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "accepted are id, inputs, outputs, parameters"),
        ({"inputs": []}, "inputs: should be a list of at least one tensor"),
        ({"inputs": [7]}, "inputs[0]: should be an object with a 'name'"),
        (tensor(name="texts"), "accepted are 'text' and beside it 'group'"),
        (tensor(datatype="FP32"), "datatype should be BYTES"),
        (tensor(shape=[2]), "its shape says 2 elements, there are 1"),
        (tensor(shape=[1, 1, 1]), "should be [N] or [N, 1]"),
        (tensor(shape=[-1]), "should be [N] or [N, 1]"),
        (tensor(shape=[True]), "should be [N] or [N, 1]"),
        (tensor(data=[7]), "element 0 should be a string, found int"),
        (tensor(data=None), "should have 'data'"),
        (tensor(parameters=7), "'parameters' should be an object"),
        (tensor(parameters={"binary_data_size": 5}), "binary_data_size is 5, 0 bytes are there"),
        (tensor() | {"id": 7}, "id: should be a string"),
        (tensor() | {"outputs": [{"name": "logits"}]}, "outputs: accepted are label"),
        ({"inputs": tensor()["inputs"] * 2}, "input 'text': is there twice"),
    ],
)
def test_bad_inference_requests(client: httpx.Client, body: Any, message: str) -> None:
    response = client.post(INFER, json=body)
    assert (response.status_code, message in response.json()["error"]) == (400, True), response.text


@pytest.mark.parametrize(
    ("binary", "size", "length", "message"),
    [
        (struct.pack("<I", 4) + b"good", 8, None, None),
        (struct.pack("<I", 5) + b"good", 8, None, "ends inside element 0"),
        (b"\x04\x00", 2, None, "ends inside a length"),
        (struct.pack("<I", 1) + b"\xff", 5, None, "element 0 is not UTF-8"),
        (struct.pack("<I", 4) + b"good" + b"more", 8, None, "4 bytes of the binary part belong to no input"),
        (struct.pack("<I", 4) + b"good", 9, None, "binary_data_size is 9, 8 bytes are there"),
        (b"", 0, "99999", "Inference-Header-Content-Length: 99999 of a body of"),
        (b"", 0, "-1", "should be a number of bytes"),
    ],
)
def test_bad_binary_parts(
    client: httpx.Client, binary: bytes, size: int, length: str | None, message: str | None
) -> None:
    asked = tensor(parameters={"binary_data_size": size})
    del asked["inputs"][0]["data"]
    head = json.dumps(asked).encode()
    headers = {"Inference-Header-Content-Length": length or str(len(head))}
    response = client.post(INFER, content=head + binary, headers=headers)
    if message is None:
        assert response.json()["outputs"][0]["data"] == ["positive"]
    else:
        assert (response.status_code, message in response.json()["error"]) == (400, True), response.text


def test_our_client_answers_feeds_back_and_counts(service: Running) -> None:
    _, key = ApiKeys(open_database(service.settings.database)).create("typed", None, datetime.now(UTC))
    with Evertune(service.url, key) as evertune:
        assert [loop.name for loop in evertune.list_loops()] == ["toy"]
        answers = evertune.predict("toy", TEXTS * 4, groups=["a"] * 12)  # more than one request may hold
        assert [one.label for one in answers] == ["positive", "negative", "positive"] * 4
        items = [FeedbackItem(prediction_id=answers[0].prediction_id, label="negative"),
                 FeedbackItem(prediction_id="nope", label="negative")]  # fmt: skip
        assert [one.status for one in evertune.give_feedback("toy", items)] == ["recorded", "unknown"]
        (usage,) = evertune.read_usage()
        assert (usage.requests, usage.texts) == (2, 12)
        with pytest.raises(ServiceProblem, match="404 unknown_loop: there is no such loop") as raised:
            evertune.predict("nope", ["good"])
        assert not raised.value.is_temporary
    with Evertune("http://127.0.0.1:9", key) as nobody, pytest.raises(ServiceProblem, match="0 unreachable"):
        nobody.list_loops()


def test_our_client_waits_when_it_is_told_to() -> None:
    said = [(503, {"Retry-After": "0"}), (429, {"Retry-After": "0"}), (200, {})]
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        status, headers = said[len(asked)]
        asked.append(request.url.path)
        body = [] if status == 200 else {"error": {"code": "x", "message": ""}}
        return httpx.Response(status, headers=headers, json=body)

    with Evertune("http://service", "key") as evertune:
        evertune._http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://service")
        assert evertune.list_loops() == []
        assert len(asked) == 3
        asked.clear()
        said[0] = (429, {"Retry-After": "86400"})  # until the month is over nobody waits
        with pytest.raises(ServiceProblem):
            evertune.list_loops()
        assert len(asked) == 1


def test_every_door_counts_against_the_same_quota(service: Running, tmp_path: Path) -> None:
    keys = ApiKeys(open_database(service.settings.database))
    _, key = keys.create("ten", None, datetime.now(UTC), plan="ten")
    inference = {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["good", "bad"]}]}
    doors = (("/v1/loops/toy/predict", {"inputs": [{"text": "good"}, {"text": "bad"}]}),
             (INVOKE, {"inputs": ["good", "bad"]}), (INFER, inference))  # fmt: skip
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "good"}\n{"text": "bad"}\n{"text": ""}\n', encoding="utf-8")
    with service.client(key) as client, Evertune(service.url, key) as evertune:
        for path, body in doors:
            response = client.post(path, json=body)
            assert (response.status_code, '"texts";q=10' in response.headers["RateLimit-Policy"]) == (200, True)
        job = evertune.start_job("toy", file)
        evertune.wait_for_job("toy", job.job_id, timeout_seconds=30, poll_seconds=0.02)
        assert client.get("/v1/usage/plan").json()["left"] == 2
        assert client.post(INVOKE, json={"inputs": ["good"]}).status_code == 200
        for path, body in doors:
            response = client.post(path, json=body)
            assert (response.status_code, int(response.headers["Retry-After"]) > 0) == (429, True)
            assert "10 texts per month, 1 are left, 2 were asked" in response.text
        with pytest.raises(ServiceProblem, match=r"429 quota_exceeded: .* 1 are left, 2 were asked") as refused:
            evertune.start_job("toy", file)
        assert not refused.value.is_temporary
        assert sum(row.texts for row in evertune.read_usage()) == 9


def test_every_route_documents_its_answers_and_shows_a_body(service: Running) -> None:
    described = httpx.get(f"{service.url}/openapi.json").json()
    for path in (INVOKE, INFER):
        operation = described["paths"][path.replace("toy", "{loop}")]["post"]
        assert set(operation["responses"]) >= {"200", "400", "401", "403", "404", "413", "415", "422", "429", "503"}
    assert "HTTPValidationError" not in str(described)  # FastAPI's own form, which is not ours
    assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    open_to_all = ("/healthz", "/readyz", "/ping", "/version", "/v2", "/v2/health/live", "/v2/health/ready")
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            answers = set(operation["responses"])
            assert ("401" not in answers) or "503" in answers, (method, path)  # keys are looked up in the database
            assert ("401" in answers) == (path not in open_to_all) == ("security" in operation), (method, path)
            assert "429" not in answers or "Retry-After" in operation["responses"]["429"]["headers"], (method, path)
            assert "{loop}" not in path or "404" in answers, (method, path)
            for status in (answer for answer in answers if answer >= "400"):
                assert list(operation["responses"][status]["content"]) == ["application/json"], (method, path, status)
            if "requestBody" in operation:
                assert answers >= {"413", "415", "422"}, (method, path)
                assert shows_example(operation["requestBody"], described), (method, path)


def shows_example(body: dict[str, Any], described: dict[str, Any]) -> bool:
    for content in body["content"].values():
        schema = content.get("schema", {})
        if "$ref" in schema:
            schema = described["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        if content.get("example") or content.get("examples") or schema.get("examples"):
            return True
    return False


def test_the_stages_reach_prometheus(service: Running, client: httpx.Client) -> None:
    client.post("/v1/loops/toy/predict", json={"text": "good"})
    with service.client(OPERATOR) as operator:
        lines = operator.get("/metrics").text.splitlines()
    seen = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    for stage in ("queue", "tokenise", "engine", "log"):
        assert float(seen[f'evertune_stage_seconds_count{{loop="toy",stage="{stage}"}}']) >= 1
    assert float(seen['evertune_batch_texts_count{loop="toy"}']) >= 1
    assert seen['evertune_served_version{loop="toy",version="1"}'] == "1.0"
    assert seen['evertune_queue_texts{loop="toy"}'] == "0.0"


def test_the_server_takes_the_fast_loop_and_parser() -> None:
    config = uvicorn.Config("infra.serving.app:create_app")
    config.load_app = lambda: None  # type: ignore[method-assign]
    assert config.get_loop_factory().__module__ == "uvloop"
    config.load()
    assert config.http_protocol_class.__name__ == "HttpToolsProtocol"
