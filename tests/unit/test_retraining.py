from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from configs.retraining_schema import Retraining
from tasks.core.retrain_history import History
from tasks.core.retraining import Accuracy, Facts, LiveAccuracy, decide, decide_scheduled, find_drop, has_reason

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RULES = Retraining(cooldown_hours=6, min_new_labels=100)
QUIET = History(None, None, (), 0.0, None)
READY: dict[str, Any] = {"now": NOW, "verdict": "drift", "num_new_labels": 100, "history": QUIET, "is_running": False}
LOW = LiveAccuracy(0.80, measured=Accuracy(0.60, 0.52, 0.68, 80))
ERASED: dict[str, Any] = {"champion": "3", "erased_at": NOW - timedelta(days=1), "num_new_labels": 0, "verdict": "ok"}


def past(**changes: Any) -> History:
    return History(**{**vars(QUIET), **changes})


def rules(**changes: Any) -> Retraining:
    return RULES.model_copy(update=changes)


@pytest.mark.parametrize(
    ("facts", "action", "reason"),
    [
        ({}, "retrain", "drift, and 100 labels that no training has seen"),
        ({"verdict": "watch"}, "wait", "no drift (verdict: watch)"),
        ({"verdict": "ok"}, "wait", "no drift (verdict: ok)"),
        ({"verdict": "too few"}, "wait", "too few rows for a verdict"),
        ({"num_new_labels": 99}, "label first", "only 99 of 100 labels that no training has seen: 1 more"),
        ({"num_new_labels": 0}, "label first", "100 more are needed"),
        ({"num_new_labels": 0, "is_running": True}, "label first", "100 more are needed"),
        ({"is_running": True}, "wait", "already running"),
        (
            {"history": past(last_started_at=NOW - timedelta(hours=5, minutes=59))},
            "wait",
            "cooldown lasts until 2026-03-01 12:01 UTC",
        ),
        ({"history": past(last_started_at=NOW - timedelta(hours=6))}, "retrain", "no training has seen"),
        ({"verdict": "ok", "num_new_labels": 10_000}, "wait", "no drift"),
        ({"learns_from_feedback": False}, "wait", "data.use_feedback is off"),
    ],
)
def test_drift(facts: dict[str, Any], action: str, reason: str) -> None:
    decision = decide(Facts(**READY | facts), RULES)
    assert (decision.action, reason in decision.reason) == (action, True), decision.reason
    assert decision.trigger == ("drift" if facts.get("verdict", "drift") == "drift" else None)


@pytest.mark.parametrize(
    ("accuracy", "drop"),
    [
        (LOW, "measured accuracy 60.0% [52.0%, 68.0%] against 80.0% on test rows (5.0% allowed)"),
        (LiveAccuracy(0.80, measured=Accuracy(0.60, 0.44, 0.76, 80)), None),  # within chance
        (LiveAccuracy(0.80, measured=Accuracy(0.60, 0.50, 0.70, 49)), None),  # too few labels, and no estimate
        (LiveAccuracy(0.80, estimated=Accuracy(0.60, 0.57, 0.63, 500)), "estimated accuracy 60.0%"),
        (LiveAccuracy(0.80, Accuracy(0.79, 0.74, 0.84, 90), Accuracy(0.60, 0.57, 0.63, 500)), None),  # labels overrule
        (LiveAccuracy(None, measured=Accuracy(0.1, 0.0, 0.2, 90)), None),
    ],
)
def test_a_loss_of_accuracy_counts_beyond_chance(accuracy: LiveAccuracy, drop: str | None) -> None:
    told = find_drop(accuracy, rules(max_accuracy_drop=0.05))
    assert told is None if drop is None else drop in str(told)
    assert find_drop(accuracy, RULES) is None  # null: nobody asked


def test_a_loss_of_accuracy_needs_labels_and_stands_beside_drift() -> None:
    asked = rules(max_accuracy_drop=0.05)
    both = decide(Facts(**READY, accuracy=LOW), asked)
    assert (both.action, both.trigger) == ("retrain", "drift")
    assert both.reason.startswith("drift and measured accuracy 60.0%")
    quiet = Facts(**READY | {"verdict": "too few", "num_new_labels": 40}, accuracy=LOW)
    assert has_reason(quiet, asked)
    assert not has_reason(quiet, RULES)
    alone = decide(quiet, asked)
    assert (alone.action, alone.trigger, alone.facts["needed_labels"]) == ("label first", "accuracy", 100)


def test_many_labels_alone_are_reason_enough() -> None:
    asked = rules(labels_alone=300)
    decision = decide(Facts(**READY | {"verdict": "ok", "num_new_labels": 300}), asked)
    assert (decision.action, decision.trigger) == ("retrain", "labels")
    assert decide(Facts(**READY | {"verdict": "ok", "num_new_labels": 299}), asked).action == "wait"


@pytest.mark.parametrize(
    ("spent", "usual", "action"),
    [(0.0, None, "retrain"), (1.5, 0.5, "retrain"), (1.51, 0.5, "wait"), (2.0, None, "wait"), (0.0, 2.1, "wait")],
)
def test_the_months_budget(spent: float, usual: float | None, action: str) -> None:
    history = past(spent_hours=spent, next_hours=usual)
    decision = decide(Facts(**READY | {"history": history}), rules(budget_hours=2))
    assert decision.action == action, decision.reason
    assert ("of this month's 2 h are spent" in decision.reason) == (action == "wait")
    assert decide_scheduled(50, history, rules(budget_hours=2)).action == action


@pytest.mark.parametrize(
    ("num_refused", "labels", "action"),
    [(2, 100, "retrain"), (3, 299, "label first"), (3, 300, "retrain"), (5, 499, "label first"), (5, 500, "retrain")],
)
def test_after_refusals_in_a_row_it_takes_as_many_times_the_labels(num_refused: int, labels: int, action: str) -> None:
    history = past(refused=tuple(str(9 - number) for number in range(num_refused)))
    decision = decide(Facts(**READY | {"history": history, "num_new_labels": labels}), RULES)
    assert decision.action == action, decision.reason
    if action == "label first":
        assert f"stopped: {num_refused} challengers in a row were refused, versions 9, 8, 7" in decision.reason
    never = decide(Facts(**READY | {"history": history}), rules(stop_after_refused=None))
    assert never.action == "retrain"


def test_an_erasure_needs_neither_drift_nor_labels_nor_budget_but_keeps_the_cooldown() -> None:
    history = past(spent_hours=9.0, refused=("1", "2", "3"))
    facts: dict[str, Any] = READY | ERASED | {"history": history, "learns_from_feedback": False}
    decision = decide(Facts(**facts), rules(budget_hours=1))
    assert (decision.action, decision.trigger) == ("retrain", "erasure")
    assert "version 3 learnt rows that were erased on 2026-02-28" in decision.reason
    cooling = past(last_started_at=NOW - timedelta(hours=1))
    assert "cooldown" in decide(Facts(**facts | {"history": cooling}), RULES).reason


@pytest.mark.parametrize(
    ("tried", "told"),
    [("refused", "did not win: somebody must look at the gate"), ("open", "a version without them waits")],
)
def test_an_erasure_that_a_retrain_answered_starts_no_second_one_and_is_not_forgotten(tried: Any, told: str) -> None:
    decision = decide(Facts(**READY | ERASED, tried_since=tried), RULES)
    assert (decision.action, decision.trigger) == ("wait", None)
    assert told in decision.reason


@pytest.mark.parametrize(
    ("changed", "num_refused", "action", "reason"),
    [
        (1, 0, "retrain", "1 rows that are new"),
        (None, 3, "retrain", "recipe, code or limits changed"),
        (299, 3, "wait", "only 299 of 300 rows"),
        (300, 3, "retrain", "300 rows"),
    ],
)
def test_a_scheduled_retrain(changed: int | None, num_refused: int, action: str, reason: str) -> None:
    decision = decide_scheduled(changed, past(refused=("7",) * num_refused), RULES)
    assert (decision.action, reason in decision.reason) == (action, True), decision.reason


def test_a_scheduled_retrain_waits_for_rows_unless_an_erasure_asks_for_it() -> None:
    asked = rules(schedule_min_new_rows=50, budget_hours=1)
    assert decide_scheduled(49, QUIET, asked).reason.startswith("only 49 of 50 rows")
    erased = decide_scheduled(49, past(spent_hours=9.0), asked, is_erasure=True)
    assert (erased.action, erased.trigger) == ("retrain", "erasure")
