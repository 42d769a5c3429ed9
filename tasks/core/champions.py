"""Which version a loop goes back to, read from the history of its champion."""

from collections.abc import Iterable
from typing import Protocol

# Actions that leave the champion where it was; shadow and canary are stages on the way there, the last four are about
# drift.
NO_MOVE = frozenset(
    {"refuse", "ask", "lapse", "withdraw", "shadow", "canary", "mute", "unmute", "acknowledge", "restore"}
)
NO_CHAMPION = "none"  # what a version's tag `champion_then` says of the first
SERVICE = "service"  # who refuses, in the audit log, where the prediction service said no


class Move(Protocol):
    """One row of the audit log, oldest first."""

    @property
    def action(self) -> str:
        """What was done: promote, release, rollback, or something of NO_MOVE."""

    @property
    def from_version(self) -> str | None:
        """The champion before."""

    @property
    def to_version(self) -> str | None:
        """The version that became champion."""


def find_last_champion(moves: Iterable[Move]) -> str | None:
    """Return the version that the last move went to, or None when nothing was ever moved, or to none."""
    return next((move.to_version for move in reversed(list(moves)) if move.action not in NO_MOVE), None)


def find_previous_champion(moves: Iterable[Move], current: str) -> str | None:
    """Return the version that served before the current one, or None when there was none.

    A rollback takes the versions above its target off the history, so a second one goes further back and never returns
    to the version that was just rolled back. One to a version that never served, or to none (the service refused the
    first model), takes off what it left.
    """
    served: list[str] = []
    for move in moves:
        version = move.to_version
        if move.action in NO_MOVE:
            continue
        if move.action == "rollback" and version in served:
            served = served[: len(served) - served[::-1].index(version)]
            continue
        if move.action == "rollback":
            while served and served[-1] == move.from_version:
                served.pop()
        if version is not None and served[-1:] != [version]:
            served.append(version)
    if current in served:
        served = served[: len(served) - served[::-1].index(current)]
        return next((version for version in reversed(served[:-1]) if version != current), None)
    return served[-1] if served else None
