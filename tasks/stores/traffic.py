"""How many texts a loop answered, day by day."""

import threading
import time
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Engine, func, select

from tasks.stores.database import reading
from tasks.stores.schema import past_usage, predictions

FRESH_SECONDS = 30.0  # counting a busy month takes a while, and a page may be loaded again and again


class Traffic:
    """Counts answered texts in a database of `open_database`; a count is kept for half a minute. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._counted: dict[tuple[str, int], tuple[float, list[tuple[date, int]]]] = {}

    def by_day(self, loop: str, num_days: int) -> list[tuple[date, int]]:
        """Return (UTC day, texts) of the last days up to today, oldest first; days without one and erased texts too."""
        with self._lock:
            known = self._counted.get((loop, num_days))
            if known is None or known[0] < time.monotonic():
                counted = count_texts_by_day(self._engine, loop, datetime.now(UTC), num_days)
                known = self._counted[loop, num_days] = (time.monotonic() + FRESH_SECONDS, counted)
        return known[1]


def count_texts_by_day(engine: Engine, loop: str, now: datetime, num_days: int) -> list[tuple[date, int]]:
    """Return (UTC day, texts) of the last days up to today, oldest first; days without one and erased texts too."""
    today = now.astimezone(UTC).date()
    days = [today - timedelta(days=back) for back in range(num_days - 1, -1, -1)]
    since = datetime(days[0].year, days[0].month, days[0].day, tzinfo=UTC)
    day = func.date(predictions.c.at)
    kept = select(day, func.count()).where(predictions.c.loop == loop, predictions.c.at >= since).group_by(day)
    past = select(past_usage.c.day, func.sum(past_usage.c.texts))
    past = past.where(past_usage.c.loop == loop, past_usage.c.day >= days[0].isoformat()).group_by(past_usage.c.day)
    counted: dict[str, int] = {}
    with reading(engine) as connection:
        for named, texts in [*connection.execute(kept), *connection.execute(past)]:
            counted[str(named)] = counted.get(str(named), 0) + int(texts)
    return [(each, counted.get(each.isoformat(), 0)) for each in days]
