"""What people's decisions about drift mean: who is silenced until when, and what a window is compared with."""

from datetime import timedelta
from typing import Any

import pandas as pd
import pytest

from tasks.core.drift_decisions import (
    ACKNOWLEDGED,
    TEST_ROWS,
    DriftDecision,
    choose_reference,
    find_obstacle,
    record_standing,
    stand,
)
from tests.support.monitored import START, make_reference

HOUR = timedelta(hours=1)


def mute(hour: int, hours: int) -> DriftDecision:
    return DriftDecision(START + hour * HOUR, "mute", "eve", "a campaign", until=START + (hour + hours) * HOUR)


def unmute(hour: int) -> DriftDecision:
    return DriftDecision(START + hour * HOUR, "unmute", "eve", "over")


def acknowledge(hour: int, version: str = "1", report_id: str = "r1") -> DriftDecision:
    return DriftDecision(START + hour * HOUR, "acknowledge", "eve", "new shop", version=version, report_id=report_id)


def restore(hour: int, version: str = "1") -> DriftDecision:
    return DriftDecision(START + hour * HOUR, "restore", "eve", "a mistake", version=version)


@pytest.mark.parametrize(
    ("decisions", "hour", "is_muted"),
    [
        ([], 1, False),
        ([mute(0, 5)], 1, True),
        ([mute(0, 5)], 5, False),  # it ends by itself
        ([mute(0, 5), unmute(2)], 3, False),
        ([mute(0, 5), unmute(2), mute(3, 1)], 3, True),
        ([mute(0, 9), mute(1, 1)], 3, False),  # a later mute takes the place of an earlier one
        ([mute(0, 5), acknowledge(1), restore(2)], 3, True),
    ],
)
def test_a_mute_lasts_until_its_end_or_until_it_is_taken_back(
    decisions: list[DriftDecision], hour: int, is_muted: bool
) -> None:
    standing = stand(decisions, version="1", now=START + hour * HOUR)
    assert (standing.muted is not None) is is_muted
    assert [standing.heed(word) for word in ("drift", "watch", "ok", "too few")] == [
        "ok" if is_muted else "drift",
        "ok" if is_muted else "watch",
        "ok",
        "too few",
    ]
    assert bool(standing.mute_note) is is_muted


@pytest.mark.parametrize(
    ("decisions", "accepted", "since"),
    [
        ([], None, None),
        ([acknowledge(1)], "r1", 1),
        ([acknowledge(1), acknowledge(2, report_id="r2")], "r2", 2),
        ([acknowledge(1), restore(3)], None, 3),
        ([acknowledge(1, version="0")], None, None),  # another version was judged on rows of its own
        ([acknowledge(1), restore(3, version="0")], "r1", 1),
        ([acknowledge(1), mute(2, 9)], "r1", 1),
    ],
)
def test_an_acknowledged_window_belongs_to_its_version(
    decisions: list[DriftDecision], accepted: str | None, since: int | None
) -> None:
    standing = stand(decisions, version="1", now=START + 9 * HOUR)
    assert (standing.accepted.report_id if standing.accepted else None) == accepted
    assert standing.reference_since == (None if since is None else START + since * HOUR)


RECORD: dict[str, Any] = {"version": "1", "tests": [{"name": "outputs"}], "verdict": "drift", "reason": "2 of 3"}


@pytest.mark.parametrize(
    ("record", "served", "obstacle"),
    [
        (RECORD, "1", None),
        (RECORD | {"verdict": "watch"}, "1", None),
        (None, "1", "no such report"),
        (RECORD, "2", "version 1 answered this window, and version 2 serves"),
        (RECORD, None, "version none serves"),
        (RECORD | {"tests": [], "reason": "3 texts"}, "1", "never judged: 3 texts"),
        (RECORD | {"verdict": "ok"}, "1", "no drift to acknowledge"),
    ],
)
def test_only_a_judged_drift_of_the_serving_version_can_be_acknowledged(
    record: dict[str, Any] | None, served: str | None, obstacle: str | None
) -> None:
    found = find_obstacle(record, served)
    assert (found is None) if obstacle is None else (found is not None and obstacle in found)


@pytest.mark.parametrize(("left", "kind"), [(60, ACKNOWLEDGED), (50, ACKNOWLEDGED), (49, TEST_ROWS), (0, TEST_ROWS)])
def test_an_acknowledged_window_counts_while_enough_of_it_is_kept(left: int, kind: str) -> None:
    judged, window = make_reference(120), make_reference(60).head(left)
    rows, reference = choose_reference(judged, window, acknowledge(1), 50, "abc")
    assert (reference.kind, reference.n, len(rows)) == (kind, len(rows), left if kind == ACKNOWLEDGED else 120)
    assert (f"r1 has {left} texts left, 50 needed" in reference.note) is (kind == TEST_ROWS)
    assert reference.snapshot == ("abc" if kind == TEST_ROWS else None)


def test_without_a_decision_the_test_rows_are_the_reference() -> None:
    judged = make_reference(12)
    rows, reference = choose_reference(judged, None, None, 50, "abc")
    assert rows is judged
    assert isinstance(rows, pd.DataFrame)
    standing = stand([mute(0, 2)], version="1", now=START)
    assert record_standing(standing, reference) == {
        "muted": {"until": "2026-03-01T02:00:00+00:00", "who": "eve", "why": "a campaign"},
        "reference": {"kind": "test rows", "n": 12, "report_id": None, "note": "", "snapshot": "abc"},
    }
    assert record_standing(None, None) == {"muted": None, "reference": None}
