"""What ended retrains leave to the next decision: what was spent, what was refused, what the last one learnt."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any, Literal

Outcome = Literal["promoted", "refused", "open", "untrained"]
REFUSED = ("not promoted", "refused")  # what a retrain's record says of a challenger that did not win
PROMOTED = ("serving", "pending")
WON, LOST = ("promote", "release"), ("refuse", "lapse")  # moves of the audit log
COST_LOOK_BACK = 10  # trainings whose median says what the next one may take


@dataclass(frozen=True)
class Ended:
    """One ended retrain. `postponed`: the rules held it back, so no label was seen by it."""

    at: datetime
    read_at: datetime  # of its rows: labels that came later are new to it
    started_by: str
    version: str | None
    hours: float
    outcome: Outcome
    postponed: bool = False


@dataclass(frozen=True)
class History:
    """What counts of a loop's past when it is decided."""

    labels_since: datetime | None  # labels from then on are ones that no training has seen; None: all are
    last_started_at: datetime | None  # of a retrain that monitoring started
    refused: tuple[str, ...]  # versions refused in a row up to now, newest first
    spent_hours: float  # this calendar month
    next_hours: float | None  # that a retrain usually takes; None: there was none yet

    def over_budget(self, budget_hours: float | None) -> str | None:
        """Say why another retrain does not fit this month's budget, or None."""
        if budget_hours is None:
            return None
        expected = self.next_hours or 0.0
        if self.spent_hours + expected <= budget_hours and self.spent_hours < budget_hours:
            return None
        more = f", one more takes about {expected:.2f} h" if self.next_hours is not None else ""
        return f"{self.spent_hours:.2f} h of this month's {budget_hours:g} h are spent{more}"


def started_at(ended_at: datetime, record: Mapping[str, Any]) -> datetime:
    """Return when an ended retrain read its rows: labels that came later are new to it. Without a record, its end."""
    read_at = record.get("read_at")
    return datetime.fromisoformat(read_at) if read_at else ended_at


def sort_versions(moves: Iterable[tuple[str, str | None, str | None]]) -> tuple[set[str], set[str]]:
    """Return the versions that won and those that were refused, by the audit log: action, from and to, oldest first.

    The last word counts: one that was taken back did not win, also where the service refused it as it was switched to.
    """
    won: set[str] = set()
    lost: set[str] = set()
    for action, from_version, to_version in moves:
        winner = to_version if action in WON else None
        loser = to_version if action in LOST else from_version if action == "rollback" else None
        if winner:
            won.add(winner)
            lost.discard(winner)
        if loser:
            lost.add(loser)
            won.discard(loser)
    return won, lost


def read_ended(
    at: datetime,
    started_by: str,
    version: str | None,
    record: Mapping[str, Any],
    promoted: Collection[str],
    refused: Collection[str],
) -> Ended:
    """Return one ledger row; `promoted` and `refused` are the versions that the audit log has such moves of.

    The audit log knows more than the row: a version that went through stages, or waited for a person, ended later.
    """
    released = record.get("released")
    outcome: Outcome = "open"
    if version is None:
        outcome = "untrained"
    elif version in promoted:
        outcome = "promoted"
    elif version in refused or released in REFUSED:
        outcome = "refused"
    elif released in PROMOTED:
        outcome = "promoted"
    hours = float((record.get("seconds") or {}).get("total", 0.0)) / 3600
    return Ended(at, started_at(at, record), started_by, version, hours, outcome, bool(record.get("postponed")))


def summarise_history(
    retrains: Sequence[Ended], starts: Sequence[datetime], by_monitoring: Collection[str], now: datetime
) -> History:
    """Return what ended retrains (newest first) mean now.

    `starts` are times at which monitoring started one: a crashed retrain never ended, and counts all the same.
    """
    ended_starts = [one.at for one in retrains if one.started_by in by_monitoring]
    learnt = [one.read_at for one in retrains if not one.postponed]
    this_month = [one.hours for one in retrains if _month(one.at) == _month(now)]
    trained = [one.hours for one in retrains if one.outcome != "untrained"][:COST_LOOK_BACK]
    return History(
        labels_since=learnt[0] if learnt else None,
        last_started_at=max([*ended_starts, *starts], default=None),
        refused=_refused_in_a_row(retrains),
        spent_hours=sum(this_month),
        next_hours=median(trained) if trained else None,
    )


def tried_since(retrains: Sequence[Ended], erased_at: datetime) -> Literal["open", "refused"] | None:
    """Say what became of the newest retrain whose rows were read after an erasure, None where there was none."""
    for one in retrains:
        if one.postponed or one.outcome == "promoted" or one.read_at < erased_at:
            continue
        return "open" if one.outcome == "open" else "refused"
    return None


def count_changes(rows: Iterable[tuple[Any, ...]], known: Iterable[tuple[Any, ...]]) -> int:
    """Return how many rows are new or mended, and how many are gone, beside those of an earlier training."""
    return len(set(rows) ^ set(known))


def _refused_in_a_row(retrains: Sequence[Ended]) -> tuple[str, ...]:
    """Return the versions refused since the last one that won; a retrain that a person started begins anew."""
    refused: list[str] = []
    for one in retrains:
        if one.outcome == "promoted":
            break
        if one.outcome == "refused":
            refused.append(one.version or "")
        if one.started_by == "person" and one.outcome != "untrained":
            break
    return tuple(refused)


def _month(at: datetime) -> tuple[int, int]:
    utc = at.astimezone(UTC)
    return utc.year, utc.month
