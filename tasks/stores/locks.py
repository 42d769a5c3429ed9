"""One process at a time moves a loop's champion, or settles its question."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from filelock import FileLock, Timeout

from configs.settings import Settings
from tasks.core.errors import TransientError

LOCK_SECONDS = 300.0  # a release that loads a large model may hold the lock for minutes


@contextmanager
def hold_lock(
    loop: str, what: Literal["release", "approval"], settings: Settings, wait_seconds: float = LOCK_SECONDS
) -> Iterator[None]:
    """Hold the loop's only lock of a kind; raises TransientError when another process does for so long."""
    folder = settings.root / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f"{loop}.{what}.lock", timeout=wait_seconds):
            yield
    except Timeout as error:
        raise TransientError(f"{loop}: another {what} holds the lock for more than {wait_seconds:.0f} s") from error
