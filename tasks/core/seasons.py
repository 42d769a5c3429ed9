"""Seasons: traffic that differs from the reference, but as it did on the same weekday of earlier weeks.

Whoever writes on Sundays may write otherwise than whoever writes on Mondays, every week again. Such a window is no
drift when it looks as that weekday did, and the days between did not look so: what never went away is no season.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tasks.core.drift import DriftTest
from tasks.core.verdict import Vote

WEEK = timedelta(weeks=1)
DAY = timedelta(days=1)
MIN_WIDTH = timedelta(hours=1)  # of an earlier span: a busy window may last minutes only
MIN_QUIET_VOTES = 3
MOST_OF_EFFECT = 0.5  # an effect that is larger than this part of the one to explain is not explained


@dataclass(frozen=True)
class Season:
    """What the comparison with earlier weeks said; `tests` are those against the earlier rows."""

    recurs: bool
    reason: str
    n: int
    tests: tuple[DriftTest, ...] = ()


def list_spans(oldest: datetime, newest: datetime, weeks: int) -> list[tuple[datetime, datetime]]:
    """Return since and until of the same hours one, two … weeks ago, the latest first; none for windows of days."""
    width = max(newest - oldest, MIN_WIDTH)
    if width > DAY:
        return []
    middle = oldest + (newest - oldest) / 2
    return [(middle - width / 2 - week * WEEK, middle + width / 2 - week * WEEK) for week in range(1, weeks + 1)]


def went_away(votes: Sequence[Vote], since: datetime, until: datetime) -> bool:
    """Say whether most windows between two times were quiet: those within a day of either are left out."""
    between = [vote.fired for vote in votes if since + DAY < vote.newest_row_at < until - DAY]
    quiet = between.count(False)
    return quiet >= MIN_QUIET_VOTES and quiet > len(between) / 2


def judge_season(
    *, fired: Sequence[DriftTest], tests: Sequence[DriftTest], n: int, votes: Sequence[Vote], oldest: datetime
) -> Season:
    """Say whether a window that fired looks as earlier weeks did.

    `tests` are against n rows of the same weekday of earlier weeks, `votes` are the champion's, the newest first.
    What cannot be compared with them (outputs of another version) explains nothing and hinders nothing.
    """

    def say(recurs: bool, reason: str) -> Season:
        return Season(recurs, reason, n, tuple(tests))

    against = {test.name: test for test in tests}
    known = [(test, against[test.name]) for test in fired if test.name in against]
    if not known:
        return say(False, "nothing that fired can be compared with earlier weeks")
    apart = [one.name for one, other in known if other.fires or other.effect > MOST_OF_EFFECT * one.effect]
    apart += [test.name for test in tests if test.fires and test.name not in apart]
    if apart:
        return say(False, f"the same weekday of earlier weeks differs, too: {', '.join(apart)}")
    if not went_away(votes, oldest - WEEK, oldest):
        return say(False, "as a week ago, but too few windows between were quiet to call it a season")
    names = ", ".join(one.name for one, _ in known)
    return say(True, f"the reference differs ({names}), but not {n} texts of the same weekday in earlier weeks")
