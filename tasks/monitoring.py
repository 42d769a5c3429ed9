"""Shells of the monitoring stage: from logged predictions to a verdict, a report, and a retrain where one helps."""

import secrets
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
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
from tasks.core.drift_decisions import Reference, Standing
from tasks.core.errors import TransientError
from tasks.core.expectations import ExpectationResult, validate
from tasks.core.explanation import Explanation
from tasks.core.feedback_rows import settle_window
from tasks.core.permutations import Floats
from tasks.core.readers import remember
from tasks.core.retraining import Decision
from tasks.core.verdict import Vote
from tasks.core.window_check import WindowCheck, check
from tasks.core.window_record import build_record, describe_drift, is_news, render_decision
from tasks.explaining import explain_window, read_reference, recall_standing, select_shown
from tasks.feedback import judge_feedback
from tasks.retries import is_transient
from tasks.stores.database import open_database
from tasks.stores.ledger import Ledger, ReportRow, StartedBy
from tasks.stores.model_registry import ModelVersion, open_registry
from tasks.stores.retrain_deployment import Start, start_deployment
from tasks.window_reading import describer, fetch_representing, read_current, representer, season_reader

RETRIES = 3
REMEMBERED = 500  # reports and retrains that votes and the cooldown look back on


@dataclass(frozen=True)
class Champion:
    """The version that serves, its base model and the rows it was judged on."""

    version: ModelVersion
    base_model: str
    reference: Path
    snapshot: str | None = None  # its fingerprint: where the texts of the test rows are, while it is kept
    checkpoint: Path | None = None  # None: its reference holds no vectors of its own encoder


@dataclass(frozen=True)
class CheckedWindow:
    """What was found in a window, with the numbers of both sides that its page shows."""

    report_id: str
    check: WindowCheck
    live: list[ExpectationResult]
    reference: pd.DataFrame
    current: pd.DataFrame
    explanation: Explanation | None = None  # None where it was not judged
    standing: Standing = field(default_factory=Standing)
    compared_with: Reference | None = None


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
    tags = registry.describe(version)["tags"]
    cache = settings.root / "models"
    reference = registry.fetch_reference(version, cache)
    checkpoint = fetch_representing(registry, version, reference, cache)
    base_model = tags.get("base_model", config.training.base_model)
    return Champion(version, base_model, reference, tags.get("snapshot"), checkpoint)


@task(name="check window", **RETRIED)
def check_window(config: Loop, champion: Champion) -> CheckedWindow:
    """Compare the champion's newest logged answers with its reference, and judge them by the live suite."""
    now, settings = datetime.now(UTC), Settings()
    engine = open_database(settings.database)
    version = champion.version.version
    current = read_current(engine, config, version, now)
    current = settle_window(current, judge_feedback(engine, config).settled)
    judged = pd.read_parquet(champion.reference)
    embed = remember(lambda texts: _embed(texts, champion.base_model))
    standing = recall_standing(engine, config.name, version, now)
    represent, describe = representer(champion.checkpoint), describer(champion.base_model)
    reference, compared_with = read_reference(
        config, judged, standing, engine, embed, champion.snapshot, represent=represent, describe=describe
    )
    found = check(
        current=current,
        reference=reference,
        judged=judged,
        earlier=read_votes(Ledger(engine), config.name, version, standing.reference_since),
        rules=config.monitoring,
        labels=config.labels,
        version=version,
        now=now,
        embed=embed,
        represent=represent,
        describe=describe,
        read_season=season_reader(engine, config),
        complete_keys=config.data.feedback.complete_keys,
    )
    explanation = None
    if found.tests:
        explanation = explain_window(
            config, reference=reference, current=current, embed=embed, snapshot=champion.snapshot, settings=settings
        )
    live = validate(current, config.data.expectations.live, "prediction_id") if found.n else []
    report_id = f"{now:%Y%m%dt%H%M%S}-{secrets.token_hex(3)}"
    get_run_logger().info("%d texts of version %s: %s (%s)", found.n, version, found.verdict.word, found.verdict.reason)
    shown = select_shown(reference, current, describe, config.monitoring.max_tested_rows)
    return CheckedWindow(report_id, found, live, *shown, explanation, standing, compared_with)


@task(name="start retrain", **RETRIED)
def start_retrain(loop: str, report_id: str, started_by: StartedBy = "drift") -> Start:
    """Start the loop's retrain, once per report; that it cannot be started is told in the report, and fails nothing."""
    try:
        return start_deployment(loop, f"{loop}-{report_id}", started_by)
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
    if checked.standing.mute_note:
        decision = replace(decision, reason=f"{decision.reason}; {checked.standing.mute_note}")
    record = build_record(
        config.name, checked.report_id, found, checked.live, decision, flow_run_id, url,
        explanation=checked.explanation, standing=checked.standing, compared_with=checked.compared_with,
    )  # fmt: skip
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


def read_votes(ledger: Ledger, loop: str, version: str, since: datetime | None = None) -> list[Vote]:
    """Return the windows of this version that counted as votes, newest first; `since` its reference is what it is."""
    rows = [row for row in ledger.recent_reports(loop, REMEMBERED)
            if row.version == version and (since is None or row.at > since)]  # fmt: skip
    return [Vote(row.at, datetime.fromisoformat(row.record["window"]["to"]), row.fired)
            for row in rows if row.record["window"]["is_vote"]]  # fmt: skip


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
