from datetime import UTC, datetime, timedelta

import pytest

from tasks.core.verdict import Vote, count_rows_for_vote, judge

START = datetime(2026, 3, 1, tzinfo=UTC)


def votes(pattern: str) -> list[Vote]:
    """Votes newest first, one an hour: F fired, . did not."""
    hours = range(len(pattern), 0, -1)
    return [Vote(START + timedelta(hours=hour), START + timedelta(hours=hour), mark == "F")
            for hour, mark in zip(hours, pattern, strict=True)]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "k", "n", "word", "since_hour"),
    [
        (".", 2, 3, "ok", None),
        ("F", 2, 3, "watch", 1),
        ("F", 1, 1, "drift", 1),
        ("FF", 2, 3, "drift", 1),
        ("F.F", 2, 3, "drift", 3),
        ("F..F", 2, 3, "watch", 4),
        (".FF", 2, 3, "ok", None),  # the newest must fire
        ("FFFFF", 2, 3, "drift", 1),  # since looks back beyond n
        ("FF.FF", 3, 5, "drift", 4),
        ("FF...", 3, 5, "watch", 4),
    ],
)
def test_verdict(pattern: str, k: int, n: int, word: str, since_hour: int | None) -> None:
    newest, *earlier = votes(pattern)
    verdict = judge(newest=newest, earlier=earlier, k=k, n=n)
    assert verdict.word == word
    assert verdict.since == (None if since_hour is None else START + timedelta(hours=since_hour))


def test_the_reason_counts_windows() -> None:
    newest, *earlier = votes("FF.")
    reason = judge(newest=newest, earlier=earlier, k=2, n=3).reason
    assert reason == "2 of the last 3 windows fired, the newest among them; 2 of 3 make drift"


@pytest.mark.parametrize(("num_rows", "min_rows", "needed"), [(60, 50, 50), (500, 50, 250), (101, 10, 50)])
def test_half_of_a_window_must_be_new_to_make_a_vote(num_rows: int, min_rows: int, needed: int) -> None:
    assert count_rows_for_vote(num_rows, min_rows) == needed
