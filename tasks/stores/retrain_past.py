"""A loop's past as decisions and pages need it: what its retrains cost, and what became of their versions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from tasks.core.replay import list_learned
from tasks.core.retrain_history import Ended, History, read_ended, sort_versions, summarise_history
from tasks.core.retraining import BY_MONITORING
from tasks.stores.ledger import Ledger, RetrainRow

REMEMBERED = 500  # reports and retrains that are looked back on


@dataclass(frozen=True)
class Past:
    """A loop's ended retrains, newest first, and what they mean now."""

    retrains: list[Ended]
    history: History


def recall_past(ledger: Ledger, loop: str, now: datetime) -> Past:
    """Return a loop's ended retrains with what the audit log says of their versions."""
    won, lost = sort_versions((move.action, move.from_version, move.to_version) for move in ledger.audit(loop))
    retrains = [
        read_ended(row.at, row.started_by, row.version, row.record, won, lost)
        for row in ledger.recent_retrains(loop, REMEMBERED)
    ]
    starts = [row.at for row in ledger.recent_reports(loop, REMEMBERED) if row.record["decision"].get("flow_run_id")]
    return Past(retrains, summarise_history(retrains, starts, BY_MONITORING, now))


def find_marked_versions(retrains: Sequence[RetrainRow], marked: Mapping[str, datetime]) -> dict[str, datetime]:
    """Return the versions that learnt an erased snapshot, themselves or by whom they went on from, with its time."""
    tags = {
        row.version: {
            "snapshot": (row.record.get("snapshot") or {}).get("fingerprint", "none"),
            "started_from": row.record.get("started_from") or "",
        }
        for row in retrains
        if row.version is not None
    }
    found = {}
    for version in tags:
        times = [marked[one] for one in list_learned(version, tags) if one in marked]
        if times:
            found[version] = max(times)
    return found
