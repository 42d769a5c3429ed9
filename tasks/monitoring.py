"""Shells of the monitoring stage: from logged predictions to a verdict, a report, and a retrain where one helps."""

import secrets
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run

from configs.schema import Loop
from configs.settings import Settings
from tasks.alerts import emit
from tasks.core.base_models import resolve_base_model
from tasks.core.drift import Floats
from tasks.core.errors import TransientError
from tasks.core.expectations import ExpectationResult, validate
from tasks.core.retraining import Decision, decide, started_at
from tasks.core.rows import derive_columns
from tasks.core.verdict import Vote
from tasks.core.window_check import WindowCheck, check
from tasks.core.window_record import build_record, describe_drift, is_news, render_decision
from tasks.retries import is_transient
from tasks.stores.database import open_database
from tasks.stores.ledger import Ledger, ReportRow
from tasks.stores.model_registry import ModelVersion, open_registry
from tasks.stores.prediction_log import PredictionLog
from tasks.stores.retrain_deployment import Start, is_retraining, start_deployment

RETRIES = 3
REMEMBERED = 500  # reports and retrains that votes and the cooldown look back on
SHOWN = ["label", "score", "n_chars", "n_words"]  # what the page shows of each row: no texts


@dataclass(frozen=True)
class Champion:
    """The version that serves, its base model and the rows it was judged on."""

    version: ModelVersion
    base_model: str
    reference: Path


@dataclass(frozen=True)
class CheckedWindow:
    """What was found in a window, with the numbers of both sides that its page shows."""

    report_id: str
    check: WindowCheck
    live: list[ExpectationResult]
    reference: pd.DataFrame
    current: pd.DataFrame


RETRIED: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay_seconds": [2, 10, 30],
    "retry_condition_fn": is_transient,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}


@task(name="fetch champion", **RETRIED)
def fetch_champion(config: Loop) -> Champion | None:
    """Return the serving champion and its reference; None before the first one, which is no failure of a schedule."""
    settings = Settings()
    registry = open_registry(settings)
    version = registry.find(config.name, "champion")
    if version is None:
        get_run_logger().info(
            "%s has no champion to monitor yet; train one: evertune retrain %s", config.name, config.name
        )
        return None
    base_model = registry.describe(version)["tags"].get("base_model", config.training.base_model)
    return Champion(version, base_model, registry.fetch_reference(version, settings.root / "models"))


@task(name="check window", **RETRIED)
def check_window(config: Loop, champion: Champion) -> CheckedWindow:
    """Compare the champion's newest logged answers with its reference, and judge them by the live suite."""
    now = datetime.now(UTC)
    engine = open_database(Settings().database)
    version = champion.version.version
    current = read_current(PredictionLog(engine), config, version, now)
    reference = pd.read_parquet(champion.reference)
    found = check(
        current=current,
        reference=reference,
        earlier=read_votes(Ledger(engine), config.name, version),
        rules=config.monitoring,
        labels=config.labels,
        version=version,
        now=now,
        embed=lambda texts: _embed(texts, champion.base_model),
    )
    live = validate(current, config.data.expectations.live, "prediction_id") if found.n else []
    report_id = f"{now:%Y%m%dt%H%M%S}-{secrets.token_hex(3)}"
    get_run_logger().info("%d texts of version %s: %s (%s)", found.n, version, found.verdict.word, found.verdict.reason)
    return CheckedWindow(report_id, found, live, reference.assign(label=reference["predicted"])[SHOWN], current[SHOWN])


@task(name="decide", **RETRIED)
def decide_retraining(config: Loop, checked: CheckedWindow) -> Decision:
    """Say whether to retrain, to ask for labels, or to wait."""
    engine = open_database(Settings().database)
    ledger, found = Ledger(engine), checked.check
    last = next(iter(ledger.recent_retrains(config.name, 1)), None)
    decision = decide(
        verdict=found.verdict.word,
        num_new_labels=PredictionLog(engine).count_labels(
            config.name,
            since=started_at(last.at, last.record) if last else None,
            among=config.labels,  # `unknown` is no label to train on
        ),
        rules=config.retraining,
        now=found.at,
        last_started_at=find_last_start(ledger, config.name),
        is_running=found.verdict.word == "drift" and is_retraining(config.name, found.at),
        learns_from_feedback=config.data.use_feedback,
    )
    get_run_logger().info("%s: %s", decision.action, decision.reason)
    return decision


@task(name="start retrain", **RETRIED)
def start_retrain(loop: str, report_id: str) -> Start:
    """Start the loop's retrain, once per report; that it cannot be started is told in the report, and fails nothing."""
    try:
        return start_deployment(loop, f"{loop}-{report_id}")
    except TransientError as error:
        if (task_run.run_count or 1) <= RETRIES:
            raise
        return Start(None, f"it did not start, the next check tries again: {error}")


@task(name="write report", cache_policy=NO_CACHE, persist_result=False)
def write_report(config: Loop, checked: CheckedWindow, decision: Decision, start: Start | None) -> dict[str, Any]:
    """Write page, ledger row and artifacts, alert where there is news; return what `evertune monitor --json` prints."""
    settings, found = Settings(), checked.check
    if start is not None:
        decision = replace(decision, reason=f"{decision.reason}; {start.note}")
    url = f"{settings.api}/reports/{config.name}/{checked.report_id}" if found.n else None
    flow_run_id = start.flow_run_id if start else None
    record = build_record(config.name, checked.report_id, found, checked.live, decision, flow_run_id, url)
    if found.n:
        _write_page(settings, config, checked, record)
    ledger = Ledger(open_database(settings.database))
    previous = next(iter(ledger.recent_reports(config.name, 1)), None)
    ledger.append_report(
        ReportRow(checked.report_id, found.at, config.name, found.version, found.verdict.word, found.fires, record)
    )
    _publish(config.name, record)
    if is_news(record, previous.record if previous else None):
        emit("drift", config.name, describe_drift(record))
    return record


@task(name="attach report", **RETRIED)
def attach_report(champion: Champion, record: dict[str, Any]) -> None:
    """Put the page under the champion's training run in MLflow, folder `monitoring`.

    Pages of windows that fired are kept; quiet ones replace each other: at 4 MB each they would fill MLflow's store.
    """
    settings = Settings()
    page = page_path(settings, record["loop"], record["report_id"])
    if not page.is_file():
        return
    fired = any(test["fires"] for test in record["tests"])
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / (page.name if fired else "latest-quiet.html")
        shutil.copy(page, named)
        open_registry(settings).attach(champion.version.run_id, named, "monitoring")


def page_path(settings: Settings, loop: str, report_id: str) -> Path:
    """Return where the page of a report lies; the prediction service shows it."""
    return settings.root / "reports" / loop / f"{report_id}.html"


def read_current(log: PredictionLog, config: Loop, version: str, now: datetime) -> pd.DataFrame:
    """Return the newest rows that this version answered, with n_chars, n_words and n_control_chars."""
    rules = config.monitoring.window
    since = now - timedelta(hours=rules.max_age_hours) if rules.max_age_hours else None
    window = log.read_window(config.name, max_rows=rules.max_rows, since=since)
    return derive_columns(window[window["version"] == version].reset_index(drop=True))


def read_votes(ledger: Ledger, loop: str, version: str) -> list[Vote]:
    """Return the windows of this version that counted as votes, newest first."""
    rows = [row for row in ledger.recent_reports(loop, REMEMBERED) if row.version == version]
    return [Vote(row.at, datetime.fromisoformat(row.record["window"]["to"]), row.fired)
            for row in rows if row.record["window"]["is_vote"]]  # fmt: skip


def find_last_start(ledger: Ledger, loop: str) -> datetime | None:
    """Return when monitoring last started a retrain or one such ended; a crashed one counts, it has no ledger row."""
    ended = [row.at for row in ledger.recent_retrains(loop, REMEMBERED) if row.started_by == "drift"]
    begun = [row.at for row in ledger.recent_reports(loop, REMEMBERED) if row.record["decision"]["flow_run_id"]]
    return max(ended + begun, default=None)


def _embed(texts: Sequence[str], base_model: str) -> Floats:
    from tasks.core.embedding import embed

    return embed(texts, resolve_base_model(base_model))


def _write_page(settings: Settings, config: Loop, checked: CheckedWindow, record: dict[str, Any]) -> None:
    from tasks.stores.monitoring_page import write_monitoring_page

    write_monitoring_page(
        page_path(settings, config.name, checked.report_id),
        record=record,
        alpha=config.monitoring.alpha,
        reference=checked.reference,
        current=checked.current,
    )


def _publish(loop: str, record: dict[str, Any]) -> None:
    summary = f"{record['verdict']}; {record['decision']['action']}"
    create_markdown_artifact(render_decision(record), key=f"{loop}-monitor", description=summary)
    if record["report_url"]:
        create_link_artifact(
            record["report_url"], "Monitoring report", key=f"{loop}-monitor-report", description=summary
        )
