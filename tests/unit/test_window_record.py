import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tasks.core.audit import LabelCounts, MeasuredAccuracy
from tasks.core.drift import DriftTest, ShareShift
from tasks.core.expectations import ExpectationResult
from tasks.core.performance import EstimatedAccuracy
from tasks.core.retraining import Decision
from tasks.core.verdict import Verdict
from tasks.core.window_check import WindowCheck
from tasks.core.window_record import build_record, describe_drift, is_news, no_champion_record, render_decision
from tests.support.monitored import START

CHECK = WindowCheck(
    at=START,
    version="3",
    n=500,
    n_groups=120,
    oldest=START - timedelta(hours=5),
    newest=START,
    is_vote=True,
    verdict=Verdict("drift", "2 of 3", START - timedelta(hours=1)),
    tests=(DriftTest("outputs", 1.9, 0.3, 0.2, 0.09, False), DriftTest("embeddings", 5.0, 0.002, 0.001, 0.42, True)),
    shares=(ShareShift("negative", 0.25, 0.5),),
    measured=MeasuredAccuracy(0.71, 0.62, 0.79, 40),
    estimated=EstimatedAccuracy(0.7, 500, 0.65, 0.75),
    labelled=LabelCounts(audit=30, given=10, unsure=12),
)
LIVE = [ExpectationResult("expect", "text", "too many copies", "warning", False, ["p1"], "0.4")]
DECISION = Decision("label first", "60 more are needed")


def record(check: WindowCheck = CHECK, url: str | None = "http://host/reports/r1") -> dict[str, Any]:
    return build_record("toy", "r1", check, LIVE, DECISION, None, url)


def test_the_record_keeps_the_contract_of_the_command() -> None:
    found = record()
    assert (found["verdict"], found["report_url"]) == ("drift", "http://host/reports/r1")
    assert (
        found["window"] | {"n": 500, "from": "2026-02-28T19:00:00+00:00", "to": "2026-03-01T00:00:00+00:00"}
        == (found["window"])
    )
    assert [(test["name"], test["p_value"], test["fires"]) for test in found["tests"]] == [
        ("outputs", 0.3, False),
        ("embeddings", 0.002, True),
    ]
    assert found["accuracy"] == {
        "measured": 0.71, "interval": [0.62, 0.79], "method": "audit", "estimated": 0.7, "band": [0.65, 0.75],
        "n_labelled": 40, "labels": {"audit": 30, "given": 10, "unsure": 12},
    }  # fmt: skip
    assert found["decision"] == {
        "action": "label first", "reason": "60 more are needed", "trigger": None, "facts": {}, "flow_run_id": None,
    }  # fmt: skip
    assert json.loads(json.dumps(found)) == found


def test_the_record_of_an_empty_window_says_none() -> None:
    empty = replace(
        CHECK, n=0, oldest=None, newest=None, tests=(), measured=None, estimated=None, verdict=Verdict("too few", "0"),
        labelled=LabelCounts(),
    )  # fmt: skip
    found = record(empty, None)
    assert (found["window"]["from"], found["report_url"], found["since"]) == (None, None, None)
    assert found["accuracy"] == no_champion_record("toy")["accuracy"]
    assert (found["accuracy"]["measured"], found["accuracy"]["n_labelled"]) == (None, 0)
    assert "[Report]" not in render_decision(found)


def test_a_loop_without_champion_has_a_record_of_the_same_shape() -> None:
    found, usual = no_champion_record("toy"), record()
    assert found.keys() == usual.keys()
    for part in ("window", "accuracy", "decision"):
        assert found[part].keys() == usual[part].keys()
    assert found["reason"] == "no champion yet; train one: evertune retrain toy"


def test_no_row_ids_leave_the_live_suite() -> None:
    assert "p1" not in json.dumps(record())


@pytest.mark.parametrize(
    "expected",
    [
        "## toy version 3: drift",
        "Decision: **label first** – 60 more are needed.",
        "| embeddings | 0.002 | 0.420 | **yes** |",
        "| measured | 71.0% [62.0%, 79.0%] | 40 |",
        "| estimated without labels | 70.0% [65.0%, 75.0%] | 500 |",
        "| negative | 25.0% | 50.0% |",
        "Live check failed: too many copies (0.4)",
        "[Report](http://host/reports/r1)",
    ],
)
def test_the_decision_reads_well(expected: str) -> None:
    assert expected in render_decision(record())


def test_the_alert_says_what_how_bad_since_when_and_where() -> None:
    alert = describe_drift(record())
    assert alert["summary"] == "toy: drift since 2026-02-28T23:00:00+00:00: embeddings (p 0.002, effect 0.42)"
    assert alert["link"] == "http://host/reports/r1"
    assert alert["body"].splitlines() == [
        "Version 3 of toy reads or answers other texts than it was judged on.",
        "",
        "- embeddings: p 0.002, how well texts of both sides can be told apart, by the base model's vectors: 0.420",
        "- accuracy measured: 71.0% [62.0%, 79.0%] on 40 rows",
        "- accuracy estimated without labels: 70.0% [65.0%, 75.0%] on 500 rows",
        "- window: 500 texts; 2 of 3",
        "- since: 2026-02-28T23:00:00+00:00",
        "- decision: label first: 60 more are needed",
    ]


QUIET = record(replace(CHECK, verdict=Verdict("ok", "no test fires")))
AGAIN = record(replace(CHECK, is_vote=False))


@pytest.mark.parametrize(
    ("newest", "previous", "expected"),
    [
        (record(), None, True),
        (record(), record(), True),  # new rows speak for it
        (AGAIN, record(), False),  # the same rows, looked at again
        (AGAIN, AGAIN | {"version": "2"}, True),
        (AGAIN, AGAIN | {"decision": {"action": "wait"}}, True),
        (AGAIN, QUIET, True),
        (QUIET, record(), False),
    ],
)
def test_only_news_is_alerted(newest: dict[str, Any], previous: dict[str, Any] | None, expected: bool) -> None:
    assert is_news(newest, previous) is expected
