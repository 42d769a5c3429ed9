"""Counts requests in sliding windows: in this process's memory, or in a Redis that replicas share.

The windows and their arithmetic are the `limits` library's: a sliding window counter, where the last window's count
fades out while this one fills.
"""

import logging
import math
import time
from dataclasses import dataclass
from typing import Any

from limits import RateLimitItemPerSecond
from limits.aio.storage import SlidingWindowCounterSupport, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string
from limits.storage.base import TimestampedSlidingWindow

from configs.load import ConfigError

logger = logging.getLogger(__name__)
SWEEP_SECONDS = 60.0
SILENT_SECONDS = 60.0  # between two lines about a Redis that does not answer
REDIS_TIMEOUT_SECONDS = 0.25  # a limit must not take longer than the prediction
ACCEPTED_URLS = (
    "accepted: redis://[:PASSWORD@]HOST:PORT[/DATABASE] or rediss://…, with pip install 'evertune[redis]'; "
    "unset for one process"
)


@dataclass(frozen=True)
class Window:
    """How a key stands after one more request."""

    is_open: bool  # whether that request fits
    left: int  # further requests that fit now
    resets_in: int  # seconds, rounded up, until more fit


class Windows:
    """The windows of all keys. Belongs to one event loop."""

    def __init__(self, storage: Storage) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._silent_until = 0.0

    async def pass_one(self, key_id: str, amount: int, seconds: int) -> Window:
        """Count one request of a key against `amount` per `seconds`.

        Where the shared store does not answer the request passes: an outage of the limiter must not become one of the
        service. It is logged, once a minute.
        """
        item = RateLimitItemPerSecond(amount, seconds)
        try:
            is_open = await self._limiter.hit(item, key_id)
            stats = await self._limiter.get_window_stats(item, key_id)
        except StorageError as error:
            self._tell(error)
            return Window(True, amount, seconds)
        return Window(is_open, stats.remaining, max(1, math.ceil(stats.reset_time - time.time())))

    async def close(self) -> None:
        """Let go of the connections to a shared store."""
        client = getattr(getattr(self._limiter.storage, "bridge", None), "storage", None)
        if client is not None:
            await client.aclose()

    def _tell(self, error: StorageError) -> None:
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + SILENT_SECONDS
            cause = type(error.storage_error).__name__
            logger.error("EVERTUNE_LIMITS_URL: does not answer (%s): rate limits are not enforced meanwhile", cause)


def open_windows(url: str | None) -> Windows:
    """Return windows in memory, or in the Redis of a URL; raises ConfigError for a URL that cannot be used."""
    if url is None:
        return Windows(MemoryWindows())
    scheme = url.partition(":")[0]
    if scheme not in ("redis", "rediss"):
        raise ConfigError(f"EVERTUNE_LIMITS_URL: no scheme '{scheme}'; {ACCEPTED_URLS}")
    options: dict[str, Any] = {
        "implementation": "redispy",
        "wrap_exceptions": True,
        "socket_timeout": REDIS_TIMEOUT_SECONDS,
        "socket_connect_timeout": REDIS_TIMEOUT_SECONDS,
        "key_prefix": "evertune",
    }
    try:
        storage = storage_from_string(f"async+{url}", **options)
    except (ConfigurationError, ValueError):  # the text of a ValueError may hold the password
        raise ConfigError(f"EVERTUNE_LIMITS_URL: not a usable URL; {ACCEPTED_URLS}") from None
    assert isinstance(storage, Storage)
    return Windows(storage)


class MemoryWindows(Storage, SlidingWindowCounterSupport, TimestampedSlidingWindow):
    """The library's storage interface on one dictionary. Its own memory storage starts a task or thread per request."""

    STORAGE_SCHEME: list[str] | None = None  # made directly, not by a URL

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, tuple[int, float]] = {}  # (count, when it is forgotten)
        self._swept_at = time.time()

    @property
    def base_exceptions(self) -> type[Exception]:
        """Return what the storage may raise."""
        return ValueError

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add to a count that is forgotten `expiry` seconds after it began; return it."""
        now = time.time()
        count, expires = self._counts.get(key, (0, 0.0))
        if expires <= now:
            count, expires = 0, now + expiry
        self._counts[key] = (count + amount, expires)
        if now - self._swept_at > SWEEP_SECONDS:
            self._sweep(now)
        return count + amount

    async def get(self, key: str) -> int:
        """Return a count."""
        return self._get(key, time.time())

    async def get_expiry(self, key: str) -> float:
        """Return when a count is forgotten."""
        return self._counts.get(key, (0, time.time()))[1]

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count a request unless the window is full; say whether it was counted."""
        now = time.time()
        previous, current = self.sliding_window_keys(key, expiry, now)
        fading = self._get(previous, now) * (1 - (now / expiry) % 1)
        if int(fading + self._get(current, now)) + amount > limit:
            return False
        await self.incr(current, 2 * expiry, amount)
        return True

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return count and remaining seconds of the last and of this window."""
        now = time.time()
        previous, current = self.sliding_window_keys(key, expiry, now)
        left = (1 - (now / expiry) % 1) * expiry
        count = self._get(previous, now)
        return count, left if count else 0.0, self._get(current, now), left + expiry

    async def check(self) -> bool:
        """Say that the storage answers."""
        return True

    async def reset(self) -> int:
        """Forget every count; return how many there were."""
        number = len(self._counts)
        self._counts.clear()
        return number

    async def clear(self, key: str) -> None:
        """Forget a count."""
        self._counts.pop(key, None)

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget both windows of a key."""
        for one in self.sliding_window_keys(key, expiry, time.time()):
            self._counts.pop(one, None)

    def _get(self, key: str, now: float) -> int:
        count, expires = self._counts.get(key, (0, 0.0))
        return count if expires > now else 0

    def _sweep(self, now: float) -> None:
        self._counts = {key: kept for key, kept in self._counts.items() if kept[1] > now}
        self._swept_at = now
