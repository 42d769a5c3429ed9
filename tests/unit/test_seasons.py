from datetime import UTC, datetime, timedelta

import pytest

from tasks.core.drift import DriftTest
from tasks.core.seasons import DAY, WEEK, judge_season, list_spans, went_away
from tasks.core.verdict import Vote

SUNDAY = datetime(2026, 3, 1, 12, tzinfo=UTC)


def vote(days_ago: float, *, fired: bool) -> Vote:
    at = SUNDAY - timedelta(days=days_ago)
    return Vote(at, at, fired)


def drift_test(name: str, effect: float, *, fires: bool) -> DriftTest:
    return DriftTest(name, 1.0, 0.001 if fires else 0.4, 0.001, effect, fires)


QUIET_WEEK = [vote(days, fired=False) for days in (2, 3, 4, 5)]
FIRED = [drift_test("embeddings", 0.6, fires=True)]
LIKE_BEFORE = [drift_test("embeddings", 0.1, fires=False), drift_test("length", 0.05, fires=False)]


def test_earlier_weeks_are_the_same_hours() -> None:
    assert list_spans(SUNDAY, SUNDAY + 3 * timedelta(hours=1), 2) == [
        (SUNDAY - WEEK, SUNDAY - WEEK + timedelta(hours=3)),
        (SUNDAY - 2 * WEEK, SUNDAY - 2 * WEEK + timedelta(hours=3)),
    ]


def test_a_window_of_minutes_is_compared_with_an_hour_and_one_of_days_with_nothing() -> None:
    [(since, until)] = list_spans(SUNDAY, SUNDAY + timedelta(minutes=2), 1)
    assert until - since == timedelta(hours=1)
    assert list_spans(SUNDAY - 2 * DAY, SUNDAY, 4) == []
    assert list_spans(SUNDAY, SUNDAY, 0) == []


def test_what_recurs_after_a_quiet_week_is_a_season() -> None:
    season = judge_season(fired=FIRED, tests=LIKE_BEFORE, n=400, votes=QUIET_WEEK, oldest=SUNDAY)
    assert season.recurs
    assert season.reason == (
        "the reference differs (embeddings), but not 400 texts of the same weekday in earlier weeks"
    )


@pytest.mark.parametrize(
    ("tests", "votes", "reason"),
    [
        ([drift_test("embeddings", 0.5, fires=True)], QUIET_WEEK, "earlier weeks differs, too: embeddings"),
        ([drift_test("embeddings", 0.4, fires=False)], QUIET_WEEK, "earlier weeks differs, too: embeddings"),
        ([*LIKE_BEFORE[:1], drift_test("length", 0.5, fires=True)], QUIET_WEEK, "differs, too: length"),
        ([drift_test("length", 0.0, fires=False)], QUIET_WEEK, "nothing that fired can be compared"),
        (LIKE_BEFORE, [vote(days, fired=True) for days in (2, 3, 4, 5)], "too few windows between were quiet"),
        (LIKE_BEFORE, QUIET_WEEK[:2], "too few windows between were quiet"),
    ],
)
def test_what_is_no_season(tests: list[DriftTest], votes: list[Vote], reason: str) -> None:
    season = judge_season(fired=FIRED, tests=tests, n=400, votes=votes, oldest=SUNDAY)
    assert not season.recurs
    assert reason in season.reason


def test_windows_of_the_two_days_themselves_do_not_count() -> None:
    same_days = [vote(days, fired=True) for days in (0.1, 0.2, 0.3, 6.8, 6.9)]
    assert went_away([*same_days, *QUIET_WEEK], SUNDAY - WEEK, SUNDAY)
