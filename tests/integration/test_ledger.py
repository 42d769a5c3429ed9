from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.core.errors import DataError
from tasks.stores.database import open_database
from tasks.stores.ledger import AuditRow, Ledger, ReportRow, RetrainRow

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
REPORT = ReportRow("r1", NOON, "mood", "1", "ok", False, {"verdict": "ok", "tests": [{"p_value": 0.5}]})
RETRAIN = RetrainRow("flow-1", NOON, "mood", "drift", "trained", "2", {"decision": {"promote": True}})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(open_database(f"sqlite:///{tmp_path}/evertune.db"))


def test_audit_reads_oldest_first(ledger: Ledger) -> None:
    ledger.append_audit("mood", "promote", "retrain", "first model", None, "1", NOON)
    ledger.append_audit("mood", "rollback", "eve", "slow", "2", "1", NOON + timedelta(hours=1))
    ledger.append_audit("other", "release", "eve", "", None, "7", NOON)
    assert ledger.audit("mood") == [
        AuditRow(NOON, "mood", "promote", "retrain", "first model", None, "1"),
        AuditRow(NOON + timedelta(hours=1), "mood", "rollback", "eve", "slow", "2", "1"),
    ]
    assert ledger.audit("nothing") == []


def test_audit_knows_its_actions(ledger: Ledger) -> None:
    with pytest.raises(DataError, match="no action 'break'; there are: promote, release, rollback, refuse"):
        ledger.append_audit("mood", "break", "eve", "", None, None, NOON)  # type: ignore[arg-type]


def test_reports_come_newest_first(ledger: Ledger) -> None:
    newer = replace(REPORT, report_id="r2", at=NOON + timedelta(hours=1), verdict="drift", fired=True)
    for row in (REPORT, newer, replace(REPORT, report_id="r3", loop="other")):
        ledger.append_report(row)
    assert ledger.recent_reports("mood", 10) == [newer, REPORT]
    assert ledger.recent_reports("mood", 1) == [newer]


def test_retrains_come_newest_first_and_by_flow_run(ledger: Ledger) -> None:
    newer = replace(RETRAIN, flow_run_id="flow-2", at=NOON + timedelta(hours=1), status="skipped", version=None)
    for row in (RETRAIN, newer):
        ledger.append_retrain(row)
    assert ledger.recent_retrains("mood", 10) == [newer, RETRAIN]
    assert ledger.retrain_by_flow_run("flow-1") == RETRAIN
    assert ledger.retrain_by_flow_run("flow-9") is None
