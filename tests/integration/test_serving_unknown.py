"""A loop that answers `unknown`: in the answer, the log, the pages and feedback."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tasks.core.predictor import UNKNOWN
from tasks.stores.database import open_database
from tasks.stores.prediction_log import PredictionLog
from tests.support.pages import sign_in
from tests.support.serving import OPERATOR, Running, run_service
from tests.support.tiny_bundle import limit_scope, write_tiny_bundle
from tests.support.toy_loop import write_toy_loop

PREDICT, FEEDBACK = "/v1/loops/toy/predict", "/v1/loops/toy/feedback"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home, loops = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("loops")
    write_toy_loop(loops, num_rows=20, unknown={"max_refused_share": 0.05})
    limit_scope(write_tiny_bundle(home / "registry" / "toy" / "1"), 0.8)
    (home / "registry" / "toy" / "champion").write_text("1", encoding="utf-8")
    with run_service(home, loops) as running:
        yield running


def test_a_text_out_of_scope_is_answered_and_logged_as_unknown(service: Running) -> None:
    with service.client() as client:
        body = {"inputs": [{"text": "good"}, {"text": "nothing"}]}
        known, other = client.post(PREDICT, json=body).json()["predictions"]
        assert client.get("/v1/loops/toy").json()["answers_unknown"] is True
        metrics = httpx.get(f"{service.url}/metrics", headers={"Authorization": f"Bearer {OPERATOR}"}).text
    assert (known["label"], other["label"], other["score"]) == ("positive", UNKNOWN, 0.5)
    assert other["scores"] == {"negative": 0.5, "positive": 0.5}
    log = PredictionLog(open_database(service.settings.database))
    row = log.read_window("toy", max_rows=10).set_index("prediction_id").loc[other["prediction_id"]]
    assert (row["label"], row["score"], row["p_negative"]) == (UNKNOWN, 0.5, 0.5)
    assert 'label="unknown"' in metrics


def test_feedback_may_say_unknown(service: Running) -> None:
    with service.client() as client:
        predicted = client.post(PREDICT, json={"text": "nothing"}).json()["predictions"][0]
        said = {"prediction_id": predicted["prediction_id"], "label": UNKNOWN}
        assert client.post(FEEDBACK, json=said).json() == {"status": "recorded"}
        wrong = client.post(FEEDBACK, json=said | {"label": "great"}).json()["error"]["message"]
    assert "accepted are negative, positive, unknown" in wrong


def test_the_playground_shows_it_and_takes_it_back(service: Running) -> None:
    with sign_in(service) as browser:
        shown = browser.submit("/playground/toy", text="nothing").text
        missing = browser.get("/suspects/toy/00112233445566aa")
    assert "unknown <small>" in shown
    assert 'name="label" value="unknown"' in shown
    assert missing.status_code == 404


def test_openapi_says_so(service: Running) -> None:
    schemas = httpx.get(f"{service.url}/openapi.json").json()["components"]["schemas"]
    assert "unknown" in schemas["PredictedText"]["properties"]["label"]["description"]
    assert "unknown" in schemas["FeedbackItem"]["properties"]["label"]["description"]


def test_a_loop_label_may_not_be_called_unknown(tmp_path: Path) -> None:
    from configs.load import ConfigError, load_loop

    path = write_toy_loop(tmp_path, num_rows=20, unknown={}, labels=["unknown", "positive"])
    with pytest.raises(ConfigError, match="'unknown' is what texts out of scope are answered"):
        load_loop(path)
