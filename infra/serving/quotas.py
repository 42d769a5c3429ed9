"""Counts each key's texts of the running month: read once from the prediction log, then kept as answers are logged."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from tasks.core.billing import month_bounds
from tasks.core.errors import TransientError

logger = logging.getLogger(__name__)
CountTexts = Callable[[str, datetime, datetime], int]  # key id, since, until


@dataclass
class MonthCount:
    """One key's month; `reserved` texts are admitted and not answered yet, so that together they cannot overshoot."""

    used: int
    ends_at: float  # seconds since the epoch
    read_at: float
    reserved: int = 0
    is_told: bool = False  # that the included texts are used up: one log line a month

    def left(self, included: int) -> int:
        """Return how many of the included texts may still be asked."""
        return max(included - self.used - self.reserved, 0)


class Reservation:
    """Texts that were admitted and are not answered yet: they are held in the month until they are counted or freed."""

    __slots__ = ("_month", "_num_texts")

    def __init__(self, month: MonthCount | None = None, num_texts: int = 0) -> None:
        self._month = month
        self._num_texts = 0
        self._hold(num_texts)

    def settle(self, num_texts: int) -> None:
        """Count texts whose answers are committed to the log; may be called several times, as parts are committed."""
        if self._month is not None:
            self._month.used += num_texts
            self._hold(-min(num_texts, self._num_texts))

    def limit(self, num_texts: int) -> None:
        """Give back what is held beyond so many texts."""
        self._hold(min(num_texts - self._num_texts, 0))

    def close(self) -> None:
        """Give back what was admitted and not answered."""
        self.limit(0)

    def _hold(self, num_texts: int) -> None:
        if self._month is not None:
            self._month.reserved += num_texts
            self._num_texts += num_texts


class Quotas:
    """The months of all keys. Belongs to one event loop.

    A key keeps its `MonthCount` when the month changes: what is on its way then is counted in the new one.

    `refresh_seconds`: read the log again in the background when it is this old, for replicas that share one log;
    between two looks each replica knows only its own texts.
    """

    def __init__(self, count_texts: CountTexts, refresh_seconds: float | None = None) -> None:
        self._count_texts = count_texts
        self._refresh_seconds = refresh_seconds
        self._months: dict[str, MonthCount] = {}
        self._reading: dict[str, asyncio.Task[MonthCount]] = {}

    async def month_of(self, key_id: str) -> MonthCount:
        """Return a key's running month; raises TransientError when the log cannot be read."""
        month = self._months.get(key_id)
        now = time.time()
        if month is None or now >= month.ends_at:
            return await asyncio.shield(self._read(key_id))  # one look, however many requests wait for it
        is_old = self._refresh_seconds is not None and now - month.read_at > self._refresh_seconds
        if is_old and key_id not in self._reading:
            self._read(key_id).add_done_callback(_tell_failure)
        return month

    def _read(self, key_id: str) -> "asyncio.Task[MonthCount]":
        task = self._reading.get(key_id)
        if task is None:
            task = self._reading[key_id] = asyncio.create_task(self._load(key_id))
            task.add_done_callback(lambda _: self._reading.pop(key_id, None))
        return task

    async def _load(self, key_id: str) -> MonthCount:
        now = datetime.fromtimestamp(time.time(), UTC)
        start, end = month_bounds(now.date())
        month = self._months.get(key_id) or MonthCount(0, 0.0, 0.0)
        month.read_at = now.timestamp()  # also when it fails: then it is tried again after the same time
        before = month.used
        logged = await asyncio.to_thread(self._count_texts, key_id, start, end)
        settled = month.used - before  # while the log was read: it may tell of them, or not yet
        is_same = month.ends_at == end.timestamp()
        known = month.used if is_same else settled
        month.is_told = month.is_told and is_same
        month.used = max(logged, min(known, logged + settled))
        month.ends_at = end.timestamp()
        self._months[key_id] = month
        return month


def _tell_failure(task: "asyncio.Task[MonthCount]") -> None:
    error = None if task.cancelled() else task.exception()
    if isinstance(error, TransientError):
        logger.warning("a month's texts could not be read again, counting goes on: %s", error)
    elif error is not None:
        logger.error("a month's texts could not be read again", exc_info=error)
