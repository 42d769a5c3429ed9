"""A loss of accuracy and an erasure are told to people although no drift test fires, once each time they change."""

from typing import Any

import pytest

from tasks.core.window_record import describe_drift, is_news


def record(trigger: str | None, action: str = "label first", verdict: str = "ok", version: str = "3") -> dict[str, Any]:
    reason = "measured accuracy 60.0% [52.0%, 68.0%] against 80.0% on test rows (5.0% allowed), but only 3 labels"
    return {
        "loop": "toy", "version": version, "verdict": verdict, "reason": "no test fires", "since": None,
        "window": {"n": 90, "groups": 30, "is_vote": True, "from": None, "to": None}, "tests": [],
        "accuracy": {"measured": 0.6, "interval": [0.52, 0.68], "method": "audit", "estimated": None, "band": None,
                     "n_labelled": 80, "labels": {"audit": 80, "given": 0, "unsure": 0}},
        "decision": {"action": action, "reason": reason, "trigger": trigger, "flow_run_id": None},
        "report_id": "r1", "report_url": None, "explanation": None, "shares": [], "live": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("now", "before", "news"),
    [
        (record("accuracy"), None, True),
        (record("accuracy"), record(None, "wait"), True),
        (record("accuracy"), record("accuracy"), False),
        (record("accuracy", "retrain"), record("accuracy"), True),
        (record("erasure", "retrain"), record("accuracy", "retrain"), True),
        (record("labels", "retrain"), None, False),  # all is well: nobody need be woken
        (record(None, "wait"), None, False),
    ],
)
def test_what_is_news_without_drift(now: dict[str, Any], before: dict[str, Any] | None, news: bool) -> None:
    assert is_news(now, before) is news


def test_the_alert_says_what_was_lost() -> None:
    told = describe_drift(record("accuracy"))
    assert told["summary"].startswith("toy: measured accuracy 60.0%")
    assert "drift since" not in told["summary"]
    assert told["body"].startswith("Version 3 of toy: measured accuracy 60.0%")
