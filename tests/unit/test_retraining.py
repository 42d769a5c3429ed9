from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from configs.schema import Retraining
from tasks.core.retraining import decide, started_at

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RULES = Retraining(cooldown_hours=6, min_new_labels=100)
READY: dict[str, Any] = {"verdict": "drift", "num_new_labels": 100, "last_started_at": None, "is_running": False}


@pytest.mark.parametrize(
    ("facts", "action", "reason"),
    [
        ({}, "retrain", "100 labels that no training has seen"),
        ({"verdict": "watch"}, "wait", "no drift (verdict: watch)"),
        ({"verdict": "ok"}, "wait", "no drift (verdict: ok)"),
        ({"verdict": "too few"}, "wait", "too few rows for a verdict"),
        ({"num_new_labels": 99}, "label first", "only 99 of 100 labels that no training has seen: 1 more"),
        ({"num_new_labels": 0}, "label first", "100 more are needed"),
        ({"num_new_labels": 0, "is_running": True}, "label first", "100 more are needed"),
        ({"is_running": True}, "wait", "already running"),
        (
            {"last_started_at": NOW - timedelta(hours=5, minutes=59)},
            "wait",
            "cooldown lasts until 2026-03-01 12:01 UTC",
        ),
        ({"last_started_at": NOW - timedelta(hours=6)}, "retrain", "no training has seen"),
        ({"verdict": "ok", "num_new_labels": 10_000}, "wait", "no drift"),
        ({"learns_from_feedback": False}, "wait", "data.use_feedback is off"),
    ],
)
def test_decision(facts: dict[str, Any], action: str, reason: str) -> None:
    decision = decide(**READY | facts, rules=RULES, now=NOW)
    assert (decision.action, reason in decision.reason) == (action, True), decision.reason


@pytest.mark.parametrize(
    ("record", "minutes"), [({"read_at": (NOW - timedelta(minutes=2)).isoformat()}, 2), ({"seconds": {}}, 0), ({}, 0)]
)
def test_labels_that_came_while_a_retrain_ran_are_new_to_it(record: dict[str, Any], minutes: int) -> None:
    assert started_at(NOW, record) == NOW - timedelta(minutes=minutes)
