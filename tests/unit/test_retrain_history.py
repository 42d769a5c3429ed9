from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tasks.core.retrain_history import (
    Ended,
    count_changes,
    read_ended,
    sort_versions,
    started_at,
    summarise_history,
    tried_since,
)
from tasks.core.retraining import BY_MONITORING

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def ended(hours_ago: float, outcome: Any = "open", **changes: Any) -> Ended:
    at = NOW - hours_ago * HOUR
    values = {"at": at, "read_at": at - HOUR, "started_by": "drift", "version": "1", "hours": 0.5, "outcome": outcome}
    return Ended(**{**values, **changes})


@pytest.mark.parametrize(
    ("record", "minutes"), [({"read_at": (NOW - timedelta(minutes=2)).isoformat()}, 2), ({"seconds": {}}, 0), ({}, 0)]
)
def test_labels_that_came_while_a_retrain_ran_are_new_to_it(record: dict[str, Any], minutes: int) -> None:
    assert started_at(NOW, record) == NOW - timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("moves", "won", "lost"),
    [
        ([("promote", None, "1"), ("promote", "1", "2")], {"1", "2"}, set()),
        ([("promote", None, "1"), ("promote", "1", "2"), ("rollback", "2", "1")], {"1"}, {"2"}),
        ([("promote", None, "1"), ("rollback", "1", None)], set(), {"1"}),  # the first one, refused by the service
        ([("refuse", "1", "2"), ("release", "1", "2")], {"2"}, set()),  # somebody released it after all
        ([("lapse", "1", "2"), ("drift_mute", None, None)], set(), {"2"}),
    ],
)
def test_the_audit_logs_last_word_on_a_version_counts(moves: Any, won: set[str], lost: set[str]) -> None:
    assert sort_versions(moves) == (won, lost)


@pytest.mark.parametrize(
    ("version", "released", "outcome"),
    [
        (None, None, "untrained"),
        ("1", "serving", "promoted"),
        ("1", "not promoted", "refused"),
        ("1", "staged", "open"),
        ("7", "staged", "promoted"),  # its stages ended well, says the audit log
        ("8", "staged", "refused"),
        ("8", "awaiting approval", "refused"),
        ("1", "outdated", "open"),
        ("8", "serving", "refused"),  # taken back later
    ],
)
def test_what_became_of_a_version(version: str | None, released: str | None, outcome: str) -> None:
    record = {"released": released, "seconds": {"total": 1800.0}}
    one = read_ended(NOW, "person", version, record, promoted={"7"}, refused={"8"})
    assert (one.outcome, one.hours) == (outcome, 0.5)


def test_only_this_months_hours_are_spent_and_the_usual_cost_is_the_median_of_trainings() -> None:
    retrains = [ended(1, hours=0.2), ended(2, "untrained", hours=0.01), ended(9, hours=0.6), ended(11 * 24, hours=5.0)]
    history = summarise_history(retrains, [], BY_MONITORING, NOW)
    assert history.spent_hours == pytest.approx(0.81)
    assert history.next_hours == 0.6


def test_a_held_back_retrain_saw_no_label() -> None:
    retrains = [ended(1, "untrained", postponed=True), ended(5), ended(9)]
    assert summarise_history(retrains, [], BY_MONITORING, NOW).labels_since == NOW - 6 * HOUR
    assert summarise_history([], [], BY_MONITORING, NOW).labels_since is None


def test_the_cooldown_runs_from_what_monitoring_started_even_if_it_crashed() -> None:
    retrains = [ended(1, started_by="schedule"), ended(2, started_by="person"), ended(8, started_by="accuracy")]
    assert summarise_history(retrains, [], BY_MONITORING, NOW).last_started_at == NOW - 8 * HOUR
    crashed = [NOW - 3 * HOUR]
    assert summarise_history(retrains, crashed, BY_MONITORING, NOW).last_started_at == NOW - 3 * HOUR


@pytest.mark.parametrize(
    ("outcomes", "refused"),
    [
        ([("drift", "refused"), ("schedule", "untrained"), ("drift", "refused"), ("drift", "promoted")], 2),
        ([("drift", "promoted"), ("drift", "refused")], 0),
        ([("drift", "refused"), ("person", "open"), ("drift", "refused")], 1),
        ([("person", "refused"), ("drift", "refused")], 1),
        ([("person", "untrained"), ("drift", "refused")], 1),
        ([("drift", "open"), ("drift", "refused")], 1),
    ],
)
def test_refusals_in_a_row(outcomes: list[tuple[str, str]], refused: int) -> None:
    retrains = [ended(place, outcome, started_by=who) for place, (who, outcome) in enumerate(outcomes)]
    assert len(summarise_history(retrains, [], BY_MONITORING, NOW).refused) == refused


@pytest.mark.parametrize(
    ("outcome", "hours_ago", "tried"),
    [("open", 1, "open"), ("refused", 1, "refused"), ("untrained", 1, "refused"), ("refused", 4, None)],
)
def test_an_erasure_is_tried_by_retrains_that_read_their_rows_after_it(
    outcome: str, hours_ago: int, tried: Any
) -> None:
    assert tried_since([ended(hours_ago, outcome)], NOW - 4 * HOUR) == tried
    assert tried_since([ended(hours_ago, outcome, postponed=True)], NOW - 4 * HOUR) is None


def test_changed_rows_are_new_mended_and_gone_ones() -> None:
    known = [("a", "text", "x"), ("b", "text", "x"), ("c", "text", "x")]
    rows = [("a", "text", "x"), ("b", "text", "y"), ("d", "text", "x")]
    assert count_changes(rows, known) == 4  # b as it was and as it is, c gone, d new
