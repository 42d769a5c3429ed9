"""What a flow found, as one JSON object and as lines for people."""

from typing import Any

from configs.settings import Settings
from infra.running import FlowOutcome
from tasks.core.errors import TransientError
from tasks.core.search_report import describe_search
from tasks.stores.database import open_database
from tasks.stores.ledger import Ledger


def find_record(name: str, loop: str, outcome: FlowOutcome, settings: Settings) -> dict[str, Any]:
    """Return a flow's result, from the ledger where the flow ran in another process and keeps none."""
    record = outcome.result
    ledger = Ledger(open_database(settings.database))
    if record is None and name == "retrain":
        row = ledger.retrain_by_flow_run(outcome.flow_run_id)
        record = row.record if row else None
    if record is None and name == "monitor":
        reports = ledger.recent_reports(loop, 1)
        record = reports[0].record if reports else None
    if record is None:
        raise TransientError(f"the {name} flow run {outcome.flow_run_id} left no result in {settings.root}")
    return record


def describe_record(name: str, record: dict[str, Any]) -> list[str]:
    """Return what a person wants to read at the end of a flow."""
    describe = {
        "retrain": _retrain,
        "monitor": _monitor,
        "score": _score,
        "tune": describe_search,
        "release": _move,
        "rollback": _move,
        "approve": _approve,
    }[name]
    return describe(record)


ENDS = {
    "serving": "the gate promotes it, and it serves",
    "pending": "the gate promotes it; the service takes it up when it runs",
    "staged": "the gate promotes it; it goes through its stages first, and the champion serves on until then",
    "refused": "the gate promotes it, but the service refused it: the champion before, if there is one, serves on",
    "not promoted": "the gate refuses it; the champion serves on",
    "outdated": "the champion changed while it was judged, so nothing was released; a retrain judges it again",
    "awaiting approval": "the gate lets it through; it waits for a person's yes, the champion serves on",
}


def _retrain(record: dict[str, Any]) -> list[str]:
    if record["status"] == "skipped" and record.get("postponed"):
        return [f"{record['loop']}: {record['decision']['reasons'][0]} (a retrain by hand trains all the same)"]
    if record["status"] == "skipped":
        return [f"{record['loop']}: nothing new, nothing trained (--force trains all the same)"]
    metrics, decision = record["metrics"], record["decision"]
    low, high = metrics["accuracy_ci"]
    lines = [
        f"{record['loop']}: version {record['version']}, accuracy {metrics['accuracy']:.3f} [{low:.3f}, {high:.3f}], "
        f"macro-F1 {metrics['macro_f1']:.3f}, ECE {metrics['ece']:.3f} on {metrics['n']} test rows"
    ]
    lines += [f"  {reason}" for reason in decision["reasons"]]
    lines.append(ENDS[record["released"]])
    if approval := record.get("approval"):
        lines.append(f"answer with: {approval['command']}" + (f"  or {approval['url']}" if approval["url"] else ""))
    return lines


def _approve(record: dict[str, Any]) -> list[str]:
    if record["status"] in ("serving", "pending", "staged", "refused"):
        return [f"version {record['version']} is {record['status']}: {record['reason']}"]
    if record["status"] == "turned down":
        return [f"version {record['version']} stays a challenger: {record['reason']}"]
    return [f"nothing was released: {record['reason']}"]


def _monitor(record: dict[str, Any]) -> list[str]:
    lines = [f"verdict {record['verdict']} on {record['window']['n']} texts"]
    decision = record.get("decision") or {}
    if decision:
        lines.append(f"decision {decision['action']}: {decision['reason']}")
    return [*lines, f"report {record['report_url']}"] if record.get("report_url") else lines


def _score(record: dict[str, Any]) -> list[str]:
    lines = [f"{record['n_scored']} rows scored with version {record['version']} in {record['seconds']:.1f} s"]
    if record["rejected"]:
        lines.append(f"{record['n_rejected']} rows rejected, with reasons: {record['rejected']}")
    return lines


def _move(record: dict[str, Any]) -> list[str]:
    previous = f", before: version {record['previous']}" if record["previous"] else ""
    return [f"version {record['version']} is {record['status']}: {record['reason']}{previous}"]
