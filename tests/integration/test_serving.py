"""The prediction service over real HTTP: answers, bad input, keys, log, swaps; kills are in test_commerce."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.stores.api_keys import ApiKeys
from tasks.stores.database import open_database
from tasks.stores.ledger import Ledger, ReportRow
from tasks.stores.prediction_log import PredictionLog
from tests.support.serving import OPERATOR, Running, run_service
from tests.support.tiny_bundle import write_tiny_bundle
from tests.support.toy_loop import write_toy_loop

PREDICT, FEEDBACK = "/v1/loops/toy/predict", "/v1/loops/toy/feedback"


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    serving = {"max_texts": 8, "max_chars": 200, "max_batch": 4, "max_queue": 64, "timeout_seconds": 5}
    return write_toy_loop(tmp_path_factory.mktemp("loops"), num_rows=20, serving=serving).parent


def make_home(folder: Path) -> Path:
    for version, sure in (("1", 4.0), ("2", 6.0)):
        write_tiny_bundle(folder / "registry" / "toy" / version, sure=sure)
    (folder / "registry" / "toy" / "champion").write_text("1", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, loops: Path) -> Iterator[Running]:
    with run_service(make_home(tmp_path_factory.mktemp("home")), loops) as running:
        yield running


@pytest.fixture
def client(service: Running) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def read_log(running: Running) -> Any:
    return PredictionLog(open_database(running.settings.database)).read_window("toy", max_rows=100_000)


def wait_for_version(client: httpx.Client, version: str) -> None:
    waiting = threading.Event()
    for _ in range(400):
        if client.get("/v1/loops/toy").json()["version"] == version:
            return
        waiting.wait(0.05)
    raise AssertionError(f"version {version} does not serve")


def test_a_text_is_labelled_and_logged_before_the_answer(service: Running, client: httpx.Client) -> None:
    answer = client.post(PREDICT, json={"text": "good", "group": "session-1"}).json()
    (predicted,) = answer["predictions"]
    assert (answer["loop"], answer["version"], predicted["label"]) == ("toy", "1", "positive")
    assert predicted["score"] == predicted["scores"]["positive"] > 0.9
    assert sum(predicted["scores"].values()) == pytest.approx(1.0, abs=1e-5)
    row = read_log(service).set_index("prediction_id").loc[predicted["prediction_id"]]
    assert (row["text"], row["group"], row["label"], row["version"]) == ("good", "session-1", "positive", "1")


def test_a_batch_keeps_its_order_and_redacts_what_it_keeps(service: Running, client: httpx.Client) -> None:
    texts = ["bad", "good, write to ana@example.org", "bad bad", "good"]
    predictions = client.post(PREDICT, json={"inputs": [{"text": text} for text in texts]}).json()["predictions"]
    assert [one["label"] for one in predictions] == ["negative", "positive", "negative", "positive"]
    kept = read_log(service).set_index("prediction_id")["text"]
    assert [kept[one["prediction_id"]] for one in predictions][1] == "good, write to [email]"


def test_a_long_text_says_that_its_tail_was_left_out(client: httpx.Client) -> None:
    assert client.post(PREDICT, json={"text": "good " * 30}).json()["predictions"][0]["truncated"] is True
    assert client.post(PREDICT, json={"text": "good " * 3}).json()["predictions"][0]["truncated"] is False


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b'{"text": "good"', 400, "the body is not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b'{"text": "caf\xe9"}', 400, "not UTF-8"),
        (b"[]", 422, "body: Input should be"),
        (b"{}", 422, "give either 'text' or 'inputs'"),
        (b'{"text": ""}', 422, "text: is empty"),
        (b'{"text": "  \\n "}', 422, "text: is empty"),
        (b'{"text": 7}', 422, "text: Input should be a valid string, found int"),
        (b'{"text": null}', 422, "give either"),
        (b'{"text": "a\\u0000b"}', 422, "control character at position 1"),
        (b'{"text": "a\\u001bb"}', 422, "control character at position 1"),
        (b'{"text": "\\ud800"}', 422, "not valid Unicode"),
        (b'{"text": "good", "texts": []}', 422, "texts: Extra inputs are not permitted"),
        (b'{"inputs": []}', 422, "inputs: List should have at least 1 item"),
        (b'{"inputs": [{"text": "good"}, {"text": ["x"]}]}', 422, "inputs.1.text: Input should be a valid string"),
        (b'{"inputs": [{"text": "good"}], "text": "good"}', 422, "give either"),
        (b'{"text": "good", "group": ""}', 422, "group: String should have at least 1 character"),
        (json.dumps({"inputs": [{"text": "good"}] * 9}).encode(), 422, "9 texts, at most 8 are accepted"),
        (json.dumps({"text": "x" * 201}).encode(), 413, "201 characters, at most 200 are accepted"),
        (b'{"text": "' + b"x" * 9_000_000 + b'"}', 413, "the body is longer than 8388608 bytes"),
    ],
)
def test_bad_bodies(client: httpx.Client, content: bytes, status: int, message: str) -> None:
    response = client.post(PREDICT, content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, message in response.json()["error"]["message"]) == (status, True), response.text


def test_a_body_of_unsaid_length_is_cut_off(client: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"text": "'
        for _ in range(100):
            yield b"x" * 100_000

    response = client.post(PREDICT, content=chunks(), headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_long")


def test_a_body_that_is_no_json_is_415(client: httpx.Client) -> None:
    response = client.post(PREDICT, content=b"text=good", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", "Basic abc", "Bearer \xe9"])
def test_no_valid_key_is_401(service: Running, header: str | None) -> None:
    headers = [] if header is None else [(b"Authorization", header.encode("latin-1"))]
    response = httpx.post(f"{service.url}{PREDICT}", json={"text": "good"}, headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_an_unknown_loop_names_those_there_are(client: httpx.Client) -> None:
    response = client.post("/v1/loops/nope/predict", json={"text": "good"})
    assert response.status_code == 404
    assert response.json()["error"]["message"] == "there is no such loop; this key may use: toy"
    assert client.get("/nowhere").json()["error"]["code"] == "not_found"
    refused = client.get(PREDICT)
    assert (refused.status_code, refused.headers["Allow"]) == (405, "POST")
    assert client.patch("/v1/admin/keys").headers["Allow"] == "GET, POST"  # of several routes
    assert client.post("/static/style.css").status_code == 405


def test_a_key_for_other_loops_is_403_and_a_revoked_one_401(service: Running) -> None:
    keys = ApiKeys(open_database(service.settings.database))
    _, elsewhere = keys.create("elsewhere", ["other"], datetime.now(UTC))
    revoked, secret = keys.create("gone", None, datetime.now(UTC))
    keys.revoke(revoked.key_id, datetime.now(UTC))
    with service.client(elsewhere) as client:
        assert client.post(PREDICT, json={"text": "good"}).status_code == 403
        assert client.get("/v1/loops").json() == []
    with service.client(secret) as client:
        assert client.post(PREDICT, json={"text": "good"}).status_code == 401


def test_feedback_outcomes(service: Running, client: httpx.Client) -> None:
    prediction_id = client.post(PREDICT, json={"text": "good"}).json()["predictions"][0]["prediction_id"]
    body = {"prediction_id": prediction_id, "label": "negative", "labeller": "ana"}
    assert client.post(FEEDBACK, json=body).json() == {"status": "recorded"}
    assert client.post(FEEDBACK, json=body).json() == {"status": "repeated"}
    conflict = client.post(FEEDBACK, json=body | {"label": "positive"})
    assert (conflict.status_code, conflict.json()["error"]["code"]) == (409, "conflict")
    unknown = client.post(FEEDBACK, json=body | {"prediction_id": "nope"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_prediction")
    wrong = client.post(FEEDBACK, json=body | {"label": "great"})
    assert wrong.status_code == 422
    assert "accepted are negative, positive" in wrong.json()["error"]["message"]
    assert client.post(FEEDBACK, json={"label": "positive"}).status_code == 422
    items = [body, body | {"prediction_id": "nope"}, body | {"label": "great"}]
    answered = client.post(FEEDBACK, json={"items": items}).json()["items"]
    assert [one["status"] for one in answered] == ["repeated", "unknown", "invalid"]
    log = PredictionLog(open_database(service.settings.database))
    assert log.labelled_rows("toy").set_index("row_id").loc[f"feedback:{prediction_id}", "label"] == "negative"


def test_feedback_on_another_keys_prediction_is_unknown(service: Running, client: httpx.Client) -> None:
    prediction_id = client.post(PREDICT, json={"text": "good"}).json()["predictions"][0]["prediction_id"]
    _, other = ApiKeys(open_database(service.settings.database)).create("other", None, datetime.now(UTC))
    with service.client(other) as stranger:
        response = stranger.post(FEEDBACK, json={"prediction_id": prediction_id, "label": "positive"})
    assert response.status_code == 404


def test_usage_counts_what_this_key_did(service: Running) -> None:
    _, secret = ApiKeys(open_database(service.settings.database)).create("meter", None, datetime.now(UTC))
    with service.client(secret) as client:
        client.post(PREDICT, json={"inputs": [{"text": "good"}] * 3})
        client.post(PREDICT, json={"text": "bad"})
        client.post(PREDICT, json={"text": ""})
        (row,) = client.get("/v1/usage").json()
        tomorrow = (datetime.now(UTC) + timedelta(days=1)).date()
        assert client.get("/v1/usage", params={"since": str(tomorrow)}).status_code == 422
    assert (row["loop"], row["requests"], row["texts"]) == ("toy", 2, 4)


def test_health_and_metrics(service: Running, client: httpx.Client) -> None:
    assert httpx.get(f"{service.url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{service.url}/readyz").json()["status"] == "ready"
    assert client.get("/metrics").status_code == 403
    record = {
        "accuracy": {"measured": 0.75, "estimated": 0.8},
        "window": {"n": 60},
        "decision": {"action": "wait", "reason": "no drift"},
    }
    row = ReportRow("r1", datetime.now(UTC), "toy", "1", "watch", True, record)
    Ledger(open_database(service.settings.database)).append_report(row)
    client.post(PREDICT, json={"text": "good"})
    with service.client(OPERATOR) as operator:
        text = operator.get("/metrics").text
    assert 'evertune_drift_verdict{loop="toy",verdict="watch"} 1.0' in text
    assert 'evertune_live_accuracy{kind="measured",loop="toy"} 0.75' in text
    assert 'evertune_texts_total{label="positive",loop="toy",version="1"}' in text
    assert 'route="/v1/loops/{loop}/predict",status="200"' in text


def test_keys_are_made_and_ended_by_the_operator(service: Running, client: httpx.Client) -> None:
    assert client.get("/v1/admin/keys").status_code == 403
    with service.client(OPERATOR) as operator:
        made = operator.post("/v1/admin/keys", json={"name": "shop", "loops": ["toy"]}).json()
        assert operator.post("/v1/admin/keys", json={"name": "x", "loops": ["nope"]}).status_code == 404
        listed = {key["key_id"]: key for key in operator.get("/v1/admin/keys").json()}
        assert "secret" not in listed[made["key_id"]]
        with service.client(made["secret"]) as shop:
            assert shop.get("/v1/loops/toy").json()["labels"] == ["negative", "positive"]
        assert operator.delete(f"/v1/admin/keys/{made['key_id']}").json() == {"status": "revoked"}
        assert operator.delete(f"/v1/admin/keys/{made['key_id']}").status_code == 404


def test_releases_are_checked(service: Running) -> None:
    write_tiny_bundle(service.registry.folder / "toy" / "7", broken_case=True)
    write_tiny_bundle(service.registry.folder / "toy" / "8", labels=["no", "yes"])
    (service.registry.folder / "toy" / "9").mkdir()
    with service.client(OPERATOR) as operator:
        release = "/v1/admin/loops/toy/release"
        for version, reason in (
            ("7", "a stored case differs by"),
            ("8", "the loop says"),
            ("9", "not a usable bundle"),
        ):
            refused = operator.post(release, json={"version": version})
            assert (refused.status_code, refused.json()["status"]) == (409, "refused")
            assert reason in refused.json()["reason"]
        assert operator.post(release, json={"version": "99"}).status_code == 404
        assert operator.post(release, json={"version": "latest"}).status_code == 422
        assert operator.get("/v1/loops/toy").json()["version"] == "1"


def test_a_version_that_is_only_checked_waits_loaded(service: Running, client: httpx.Client) -> None:
    with service.client(OPERATOR) as operator:
        release = "/v1/admin/loops/toy/release"
        checked = operator.post(release, json={"version": "2", "check_only": True})
        assert (checked.status_code, checked.json()["status"], checked.json()["previous"]) == (200, "checked", "1")
        assert set(checked.json()["checks"]) == {"largest_case_difference", "latency_ms"}
        assert client.post(PREDICT, json={"text": "good"}).json()["version"] == "1"
        served = operator.post(release, json={"version": "2"}).json()
        assert (served["status"], served["checks"]) == ("serving", checked.json()["checks"])  # no second load
        operator.post(release, json={"version": "1"})
        write_tiny_bundle(service.registry.folder / "toy" / "18", broken_case=True)
        assert operator.post(release, json={"version": "18", "check_only": True}).status_code == 409
    assert client.post(PREDICT, json={"text": "good"}).json()["version"] == "1"


def test_the_service_follows_the_alias_without_a_failed_request(service: Running, client: httpx.Client) -> None:
    stop, statuses, versions = threading.Event(), [], set()

    def call() -> None:
        with service.client() as own:
            while not stop.is_set():
                response = own.post(PREDICT, json={"text": "good"})
                statuses.append(response.status_code)
                versions.add(response.json()["version"])

    with ThreadPoolExecutor(8) as callers:
        for _ in range(8):
            callers.submit(call)
        try:
            for version in ("2", "1", "2", "1"):
                service.registry.set_champion("toy", version)
                wait_for_version(client, version)
        finally:
            stop.set()
    assert len(statuses) > 50
    assert set(statuses) == {200}
    assert versions == {"1", "2"}


def test_a_broken_champion_never_serves(service: Running, client: httpx.Client) -> None:
    write_tiny_bundle(service.registry.folder / "toy" / "17", broken_case=True)
    service.registry.set_champion("toy", "17")
    try:
        with service.client(OPERATOR) as operator:
            assert operator.post("/v1/admin/loops/toy/release", json={"version": "17"}).status_code == 409
        assert client.post(PREDICT, json={"text": "good"}).json()["version"] == "1"
    finally:
        service.registry.set_champion("toy", "1")


def test_a_full_queue_is_503_with_retry_after(service: Running) -> None:
    """More than 64 waiting texts cannot be: of 40 requests with 8 texts each at once, some are sent away."""

    def call(_: int) -> httpx.Response:
        return httpx.post(
            f"{service.url}{PREDICT}",
            json={"inputs": [{"text": "good " * 15}] * 8},
            headers={"Authorization": f"Bearer {service.key}"},
            timeout=30,
        )

    with ThreadPoolExecutor(40) as callers:
        responses = list(callers.map(call, range(40)))
    assert {response.status_code for response in responses} <= {200, 503}
    busy = [response for response in responses if response.status_code == 503]
    assert all(response.headers["Retry-After"] == "1" for response in busy)
    assert any(response.status_code == 200 for response in responses)


def test_an_unreachable_registry_changes_nothing(tmp_path: Path, loops: Path) -> None:
    home = make_home(tmp_path / "home")
    with run_service(home, loops) as running, running.client() as client:
        wait_for_version(client, "1")
    (home / "registry" / "unreachable").touch()
    with run_service(home, loops) as running, running.client() as client:
        wait_for_version(client, "1")
        assert client.post(PREDICT, json={"text": "good"}).status_code == 200


def test_a_loop_without_a_champion_is_503_until_it_has_one(tmp_path: Path, loops: Path) -> None:
    home = make_home(tmp_path / "home")
    (home / "registry" / "toy" / "champion").unlink()
    with run_service(home, loops) as running, running.client() as client:
        response = client.post(PREDICT, json={"text": "good"})
        assert (response.status_code, response.headers["Retry-After"]) == (503, "10")
        assert "'toy' has no champion yet" in response.json()["error"]["message"]
        running.registry.set_champion("toy", "2")
        wait_for_version(client, "2")
        assert client.post(PREDICT, json={"text": "good"}).json()["version"] == "2"


def test_the_openapi_description_names_every_answer(service: Running) -> None:
    described = httpx.get(f"{service.url}/openapi.json").json()
    answers = described["paths"][PREDICT.replace("toy", "{loop}")]["post"]["responses"]
    assert set(answers) == {"200", "400", "401", "403", "404", "413", "415", "422", "429", "503"}
