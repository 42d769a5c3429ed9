"""The whole loop once, on real servers: answers, feedback, drift, an alert, a retrain by itself, a release."""

import json
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from infra.demo.sink import AlertSink
from tests.support.stack import StackUnderTest, wait_for_alert, wait_until
from tests.support.tiny_base import BAD, GOOD, PLAIN, make_rows

pytestmark = pytest.mark.timeout(500)
ROUTE = "/v1/loops/toy"


def make_other_genre(num_rows: int) -> pd.DataFrame:
    """Return rows that are judged as before but read differently: long, repetitive, with the verdict said twice."""
    random = np.random.default_rng(77)
    rows = []
    for number in range(num_rows):
        is_good = bool(random.integers(2))
        verdict = str(random.choice(GOOD if is_good else BAD))
        words = [verdict, *random.choice(PLAIN[:2], 24), verdict, f"m{number}"]
        rows.append(
            {"text": " ".join(words), "label": "positive" if is_good else "negative", "group": f"user-{number}"}
        )
    return pd.DataFrame(rows)


def send(client: httpx.Client, rows: pd.DataFrame) -> list[str]:
    """Send rows in batches and return their prediction ids."""
    ids = []
    for start in range(0, len(rows), 20):
        inputs = rows.iloc[start : start + 20][["text", "group"]].to_dict("records")
        response = client.post(f"{ROUTE}/predict", json={"inputs": inputs})
        assert response.status_code == 200, response.text
        ids += [one["prediction_id"] for one in response.json()["predictions"]]
    return ids


def monitor(stack: StackUnderTest) -> dict[str, Any]:
    done = stack.run("monitor", "toy", "--json")
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def test_the_loop_closes(stack: StackUnderTest, alert_sink: AlertSink) -> None:
    key = (stack.home / "first.key").read_text(encoding="utf-8").strip()
    with httpx.Client(base_url=stack.api, headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
        first = client.get(ROUTE).json()["version"]
        send(client, make_rows(240, seed=21))
        steady = monitor(stack)
        assert steady["verdict"] == "ok"
        assert steady["window"]["n"] == 200
        assert {test["fires"] for test in steady["tests"]} == {False}

        drifted = make_other_genre(200)
        ids = send(client, drifted)
        found = monitor(stack)
        assert found["verdict"] == "drift"
        assert found["decision"]["action"] == "label first"
        assert min(test["p_value"] for test in found["tests"]) <= 0.01
        alert = wait_for_alert(alert_sink, "drift")
        assert found["report_url"] in json.dumps(alert)
        token = (stack.home / "operator.token").read_text(encoding="utf-8").strip()
        page = httpx.get(found["report_url"], headers={"Authorization": f"Bearer {token}"}, timeout=30)
        assert page.status_code == 200
        assert "<html" in page.text

        labels = [{"prediction_id": one, "label": label} for one, label in zip(ids, drifted["label"], strict=True)]
        answered = client.post(f"{ROUTE}/feedback", json={"items": labels}).json()["items"]
        assert {one["status"] for one in answered} == {"recorded"}
        send(client, make_other_genre(60))
        decided = monitor(stack)
        assert decided["accuracy"]["n_labelled"] > 0
        assert decided["decision"]["action"] == "retrain", decided["decision"]

        def is_retrained() -> bool:
            last = stack.status()["loops"][0]["last_retrain"]
            return bool(last["started_by"] == "drift")

        wait_until(is_retrained, seconds=180)
        last = stack.status()["loops"][0]["last_retrain"]
        assert last["status"] == "trained"
        wait_until(lambda: client.get(ROUTE).json()["version"] == last["version"] != first)
        assert client.post(f"{ROUTE}/predict", json={"text": "great great the a"}).json()["version"] == last["version"]

    back = stack.run("rollback", "toy", "--json")
    assert back.returncode == 0, back.stderr
    assert json.loads(back.stdout)["version"] == first
    assert stack.status()["loops"][0]["champion"] == first
    wait_for_alert(alert_sink, "rolled back")
