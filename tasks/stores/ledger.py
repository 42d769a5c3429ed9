"""What was decided and done to each loop: alias moves, monitoring reports, retrains."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import Engine, Table, insert, select

from tasks.core.errors import DataError
from tasks.stores.database import reading, writing
from tasks.stores.schema import audit, reports, retrains

Action = Literal["promote", "release", "rollback", "refuse", "ask", "lapse", "withdraw", "shadow", "canary"]
Verdict = Literal["ok", "watch", "drift", "too few"]
StartedBy = Literal["schedule", "drift", "accuracy", "labels", "erasure", "person"]
RetrainStatus = Literal["trained", "skipped"]


@dataclass(frozen=True)
class AuditRow:
    """One move of a loop's champion, the refusal of one, a stage before it, or a question: asked, lapsed, withdrawn."""

    at: datetime
    loop: str
    action: str
    who: str
    why: str
    from_version: str | None
    to_version: str | None


@dataclass(frozen=True)
class ReportRow:
    """One monitored window; `record` is what `evertune monitor --json` prints."""

    report_id: str
    at: datetime
    loop: str
    version: str
    verdict: Verdict
    fired: bool
    record: dict[str, Any]


@dataclass(frozen=True)
class RetrainRow:
    """One ended retrain; `record` is what `evertune retrain --json` prints."""

    flow_run_id: str
    at: datetime
    loop: str
    started_by: StartedBy
    status: RetrainStatus
    version: str | None
    record: dict[str, Any]


class Ledger:
    """The history of all loops in a database of `open_database`. Thread-safe; appends commit before they return."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def append_audit(
        self,
        loop: str,
        action: Action,
        who: str,
        why: str,
        from_version: str | None,
        to_version: str | None,
        at: datetime,
    ) -> None:
        """Keep one alias move, refusal or question."""
        if action not in get_args(Action):
            raise DataError(f"audit: no action '{action}'; there are: {', '.join(get_args(Action))}")
        self._append(audit, asdict(AuditRow(at, loop, action, who, why, from_version, to_version)))

    def audit(self, loop: str) -> list[AuditRow]:
        """Return every alias move, refusal and question of a loop, oldest first."""
        return [AuditRow(**row) for row in reversed(self._newest(audit, loop, None))]

    def append_report(self, row: ReportRow) -> None:
        """Keep one monitoring report."""
        self._append(reports, vars(row))

    def recent_reports(self, loop: str, limit: int) -> list[ReportRow]:
        """Return the newest reports of a loop, newest first."""
        return [ReportRow(**row) for row in self._newest(reports, loop, limit)]

    def find_report(self, loop: str, report_id: str) -> ReportRow | None:
        """Return one report of a loop, or None where there is none of this id."""
        query = select(reports).where(reports.c.report_id == report_id, reports.c.loop == loop)
        with reading(self._engine) as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else ReportRow(**row)

    def append_retrain(self, row: RetrainRow) -> None:
        """Keep one ended retrain."""
        self._append(retrains, vars(row))

    def recent_retrains(self, loop: str, limit: int) -> list[RetrainRow]:
        """Return the newest retrains of a loop, newest first."""
        return [RetrainRow(**row) for row in self._newest(retrains, loop, limit)]

    def retrain_by_flow_run(self, flow_run_id: str) -> RetrainRow | None:
        """Return the retrain of a Prefect flow run, or None while it has not ended or did not happen."""
        query = select(retrains).where(retrains.c.flow_run_id == flow_run_id)
        with reading(self._engine) as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else RetrainRow(**row)

    def _append(self, table: Table, values: dict[str, Any]) -> None:
        with writing(self._engine) as connection:
            connection.execute(insert(table), [values])

    def _newest(self, table: Table, loop: str, limit: int | None) -> list[dict[str, Any]]:
        key = next(iter(table.primary_key))
        query = select(table).where(table.c.loop == loop).order_by(table.c.at.desc(), key.desc()).limit(limit)
        with reading(self._engine) as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        for row in rows:
            row.pop("id", None)
        return rows
