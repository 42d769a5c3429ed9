"""What people decided about drift, kept for good: a mute, its end, a window that became the reference."""

from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import Engine, insert, select

from tasks.core.drift_decisions import DriftDecision
from tasks.core.errors import DataError
from tasks.stores.database import reading, writing
from tasks.stores.schema import audit, drift_decisions

COLUMNS = [field.name for field in fields(DriftDecision)]


class DriftDecisions:
    """The decisions of all loops in a database of `open_database`. Thread-safe; what it keeps is committed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def keep(self, loop: str, decision: DriftDecision) -> None:
        """Keep a decision, and its row in the audit log, both or none; raises DataError without a reason."""
        if not decision.why.strip():
            raise DataError(f"drift {decision.action}: say why (--why); the audit log keeps it")
        with writing(self._engine) as connection:
            connection.execute(insert(drift_decisions), [{"loop": loop, **asdict(decision)}])
            connection.execute(insert(audit), [_audit_row(loop, decision)])

    def of_loop(self, loop: str) -> list[DriftDecision]:
        """Return the decisions of a loop, oldest first."""
        table = drift_decisions.c
        query = select(*(table[name] for name in COLUMNS)).where(table.loop == loop).order_by(table.at, table.id)
        with reading(self._engine) as connection:
            return [DriftDecision(**row) for row in connection.execute(query).mappings()]


def _audit_row(loop: str, decision: DriftDecision) -> dict[str, Any]:
    told = {
        "mute": f"until {decision.until:%Y-%m-%d %H:%M} UTC" if decision.until else "",
        "acknowledge": f"window {decision.report_id} is the reference of version {decision.version}",
        "restore": f"the test rows are the reference of version {decision.version}",
        "unmute": "",
    }[decision.action]
    return {
        "at": decision.at,
        "loop": loop,
        "action": decision.action,
        "who": decision.who,
        "why": f"{decision.why} ({told})" if told else decision.why,
        "from_version": None,  # no version moved: what reads moves from the audit log must not see one here
        "to_version": None,
    }
