"""The verdict on a window: k of the last n windows fired, and the newest did.

A window is a *vote* when at least half of its rows are ones that no earlier vote saw. Checking the same rows again
replaces the newest vote instead of adding one: else one false alarm in a quiet night would become drift by being looked
at twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Word = Literal["ok", "watch", "drift", "too few"]


@dataclass(frozen=True)
class Vote:
    """One window that counted: when it was checked, when its newest row was predicted, and whether a test fired."""

    at: datetime
    newest_row_at: datetime
    fired: bool


@dataclass(frozen=True)
class Verdict:
    """What is said about a window; `since` is the first of the consecutive votes that fired, up to the newest."""

    word: Word
    reason: str
    since: datetime | None = None


def judge(*, newest: Vote, earlier: Sequence[Vote], k: int, n: int) -> Verdict:
    """Say what the newest vote means beside the earlier ones (newest first)."""
    votes = [newest, *earlier][:n]
    num_fired = sum(vote.fired for vote in votes)
    if not newest.fired:
        return Verdict("ok", "no test fires")
    since = _first_of_streak([newest, *earlier])
    counted = f"{num_fired} of the last {len(votes)} windows fired, the newest among them; {k} of {n} make drift"
    return Verdict("drift" if num_fired >= k else "watch", counted, since)


def count_rows_for_vote(num_rows: int, min_rows: int) -> int:
    """Return how many rows of a window must be new to make it a vote of its own: half of them, at least min_rows.

    Neighbouring votes that share most of their rows fire falsely together, and k of n means little: with nine tenths
    shared, two of three fired falsely 20 times as often as independent windows do.
    """
    return max(min_rows, num_rows // 2)


def _first_of_streak(votes: Sequence[Vote]) -> datetime:
    since = votes[0].at
    for vote in votes:
        if not vote.fired:
            break
        since = vote.at
    return since
