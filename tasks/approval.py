"""Shells around a person's yes: a version that the gate lets through is asked about, and released or let go.

The audit log holds the question and its end, so that it can be asked and answered with or without Prefect; the flow run
that waits in Prefect's UI is one way to answer.
"""

import json
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from configs.schema import Loop
from configs.settings import Settings
from tasks.alerts import Kind, emit
from tasks.core.approval import Question, Ruling, describe_end, describe_question, find_question, judge_question
from tasks.core.champions import find_last_champion
from tasks.core.errors import DataError, TransientError
from tasks.release import Judged, name_of_asker, release_version
from tasks.retries import is_transient
from tasks.stores.approval_runs import list_asking, start_asking, stop_asking
from tasks.stores.database import open_database
from tasks.stores.ledger import Action, AuditRow, Ledger
from tasks.stores.locks import hold_lock
from tasks.stores.model_registry import ModelRegistry, ModelVersion, open_registry
from tasks.stores.releases import Releases
from tasks.stores.retrain_deployment import has_server

logger = logging.getLogger(__name__)
GRACE = timedelta(days=30)  # Prefect fails a run whose time is up; the question is let go by us long before
RETRIED: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [2, 10, 30],
    "retry_condition_fn": is_transient,
    "cache_policy": NO_CACHE,  # a resumed flow run must see today's state, not the state it was suspended with
    "persist_result": False,
}


@dataclass(frozen=True)
class Asked:
    """A question as a retrain leaves it, for its record."""

    version: str
    until: str
    command: str
    url: str | None  # the flow run that waits in Prefect's UI


@dataclass(frozen=True)
class OpenQuestion:
    """A question with all that a person needs to answer it; `version` None: none is open."""

    version: str | None
    table: str  # markdown; where none is open, how the last one ended
    problem: str = ""  # why it stands no more
    timeout_seconds: int = 0
    has_ended: bool = False  # none is open now, but one was


def ask_for_approval(config: Loop, version: ModelVersion, champion: str | None, why: str) -> Asked:
    """Ask people about a version that the gate lets through; an older open question is withdrawn."""
    settings, registry = Settings(), open_registry(Settings())
    with hold_lock(config.name, "approval", settings):
        _withdraw_older(config, version.version, registry)
        now = datetime.now(UTC)
        ledger = Ledger(open_database(settings.database))
        ledger.append_audit(config.name, "ask", "retrain", why, champion, version.version, now)
        question = find_question(ledger.audit(config.name), config.release.approval_days)
    assert question is not None
    _note(config.name, version.version, registry, f"waits since {now:%Y-%m-%d %H:%M} UTC")
    url = _start_asking(config.name, question, settings)
    command = f"evertune approve {config.name}"
    body = _try_to_describe(config, question, registry, settings)
    answer = f"Answer in Prefect's UI ({url}) or with `{command}`." if url else f"Answer with `{command}`."
    logger.warning("version %s of %s waits for approval. %s", version.version, config.name, answer)
    _tell("approval", config.name, version.version, "waits for your approval", f"{body}\n\n{answer}", url)
    return Asked(version.version, question.closes_at.isoformat(), command, url)


def withdraw_older_question(config: Loop, version: str) -> None:
    """End the question about an older version: a newer one passed the gate."""
    settings = Settings()
    with hold_lock(config.name, "approval", settings):
        _withdraw_older(config, version, open_registry(settings))


def find_open_question(config: Loop, registry: ModelRegistry) -> Question | None:
    """Return the question that waits for a person; one that stands no more is ended here, audited and alerted."""
    with hold_lock(config.name, "approval", Settings()):
        return _find_standing(config, registry)


def look_after_question(config: Loop, registry: ModelRegistry) -> Question | None:
    """Return the question that waits for a person, as `find_open_question` does, once a flow run asks it.

    The run that asked it may never have been started: Prefect did not answer, or the retrain was killed before.
    """
    question = find_open_question(config, registry)
    if question is not None:
        _start_asking(config.name, question, Settings())
    return question


@task(task_run_name="read the question about {config.name}", **RETRIED)
def read_question(config: Loop, version: str | None) -> OpenQuestion:
    """Return the open question of a loop, about a version if one is named, with the gate's table."""
    find_open_question(config, open_registry(Settings()))  # ends one that stands no more
    asked = look_at_question(config, version)
    if asked.version is not None and has_server():
        create_markdown_artifact(asked.table, key=f"{config.name}-approval", description="What waits for a yes")
    return asked


def look_at_question(config: Loop, version: str | None) -> OpenQuestion:
    """Return the question of a loop that nobody answered, about a version if one is named; changes nothing."""
    settings, now = Settings(), datetime.now(UTC)
    registry = open_registry(settings)
    question = find_question(Ledger(open_database(settings.database)).audit(config.name), config.release.approval_days)
    if question is None or version not in (None, question.version):
        has_ended = _find_end(config, version, settings) is not None
        return OpenQuestion(None, _describe_end(config, version, settings), has_ended=has_ended)
    ruling = _judge(config, question, registry, now)
    table = "" if ruling.action == "withdraw" else _describe(config, question, registry, settings)
    left = question.closes_at + GRACE - now
    return OpenQuestion(question.version, table, ruling.reason, int(left.total_seconds()))


@task(task_run_name="settle the question about {config.name}", **RETRIED)
def settle_question(
    config: Loop, asked: OpenQuestion, answer: Literal["yes", "no"] | None, why: str, who: str
) -> dict[str, Any]:
    """Release the version for a yes, let it go for a no; return what `evertune approve --json` prints.

    An answer that comes too late, or about a version that was judged against another champion, releases nothing; where
    no question was open there is none.
    """
    started, settings = time.monotonic(), Settings()
    registry = open_registry(settings)
    approver = f"approver {who or name_of_asker()}"
    status, reason = "ended", asked.table
    if asked.version is not None:
        with hold_lock(config.name, "approval", settings):
            question = _find_standing(config, registry)
            if question is None or question.version != asked.version:
                status, reason = _repeat_end(config, asked.version, answer, approver)
            elif answer == "yes":
                status, reason = _release(config, question, registry, approver, why)
            else:
                status, reason = _turn_down(config, question, registry, approver, why)
        _stop_asking(config.name, asked.version, f"{approver} answered {answer}", settings)
    record = {"loop": config.name, "version": asked.version, "answer": answer, "status": status, "reason": reason}
    logger.info("approval of %s version %s: %s, %s", config.name, asked.version, status, reason)
    return {**record, "who": approver, "why": why, "seconds": time.monotonic() - started}


@task(task_run_name="review the question about {config.name}", **RETRIED)
def review_question(config: Loop) -> int:
    """End a question whose time is up or that stands no more, and flow runs that ask in vain; return how many runs."""
    settings = Settings()
    question = look_after_question(config, open_registry(settings))
    runs = list_asking(config.name, settings)
    in_vain = [run for run in runs if question is None or run.version not in (None, question.version)]
    for run in in_vain:
        stop_asking(config.name, [run.version], _describe_end(config, run.version, settings), settings)
    return len(in_vain)


def _release(config: Loop, question: Question, registry: ModelRegistry, approver: str, why: str) -> tuple[str, str]:
    version = question.version
    reasons = why or "approved"
    outcome = release_version.fn(config, version, approver, reasons, "promote", Judged(question.champion))
    if outcome.status == "outdated":
        _end(config, question, registry, "withdraw", "evertune", outcome.reason)
        return "withdrawn", f"{outcome.reason}; judge it again: evertune retrain {config.name}"
    if outcome.status in ("serving", "pending"):
        forget_challenger(config.name, version, registry)
    _note(config.name, version, registry, f"yes of {approver}: {reasons}")
    return outcome.status, outcome.reason


def _repeat_end(config: Loop, version: str, answer: str | None, approver: str) -> tuple[str, str]:
    """Return what became of a version whose question has ended: a yes that is settled again was a success before."""
    settings = Settings()
    reason = _describe_end(config, version, settings)
    champion = open_registry(settings).find(config.name, "champion")
    is_released = champion is not None and champion.version == version == find_last_champion(_audit(config, settings))
    running = Releases(open_database(settings.database)).find_running(config.name)
    if answer == "yes" and running is not None and running.version == version:
        return "staged", f"in {running.stage}: {running.reason}"
    if answer == "yes" and is_released:
        return release_version.fn(config, version, approver, "approved", "promote", Judged(version)).status, reason
    return "ended", reason


def forget_challenger(loop: str, version: str, registry: ModelRegistry) -> None:
    """Take the alias from a challenger that won; that it cannot be taken is told, and makes no failure of a success."""
    try:
        challenger = registry.find(loop, "challenger")
        if challenger is not None and challenger.version == version:
            registry.delete_alias(loop, "challenger")
    except TransientError as error:
        logger.warning("%s: version %s is still named challenger: %s", loop, version, error)


def _turn_down(config: Loop, question: Question, registry: ModelRegistry, approver: str, why: str) -> tuple[str, str]:
    """Keep the version as the gate keeps one that it refuses: a challenger that stays one."""
    reason = why or "no reason given"
    _end(config, question, registry, "refuse", approver, reason)
    return "turned down", reason


def _find_standing(config: Loop, registry: ModelRegistry) -> Question | None:
    settings = Settings()
    ledger = Ledger(open_database(settings.database))
    question = find_question(ledger.audit(config.name), config.release.approval_days)
    if question is None:
        return None
    ruling = _judge(config, question, registry, datetime.now(UTC))
    if ruling.action == "stand":
        return question
    _end(config, question, registry, ruling.action, "evertune", ruling.reason)
    return None


def _judge(config: Loop, question: Question, registry: ModelRegistry, now: datetime) -> Ruling:
    champion = registry.find(config.name, "champion")
    exists = any(known.version == question.version for known in registry.list_versions(config.name))
    return judge_question(question, champion.version if champion else None, exists, now)


def _withdraw_older(config: Loop, version: str, registry: ModelRegistry) -> None:
    question = _find_standing(config, registry)
    if question is not None and question.version != version:
        _end(config, question, registry, "withdraw", "retrain", f"version {version} is newer and passes the gate too")


def _end(config: Loop, question: Question, registry: ModelRegistry, action: Action, who: str, why: str) -> None:
    """Keep the end of a question without a release in the audit log, and tell people."""
    settings = Settings()
    version = question.version
    ledger = Ledger(open_database(settings.database))
    ledger.append_audit(config.name, action, who, why, question.champion, version, datetime.now(UTC))
    verb = {"refuse": "was refused", "lapse": "was let go", "withdraw": "is no longer asked about"}[action]
    _note(config.name, version, registry, f"{verb} by {who}: {why}")
    _stop_asking(config.name, version, f"{verb}: {why}", settings)
    stays = f"version {question.champion} serves on" if question.champion else "nothing serves"
    body = f"**Why:** {why}\n\n**By:** {who}\n\nIt stays a challenger; {stays}."
    _tell("refused" if action == "refuse" else "approval", config.name, version, f"{verb}: {why}", body, None)


def _describe(config: Loop, question: Question, registry: ModelRegistry, settings: Settings) -> str:
    version = registry.get(config.name, question.version)
    file = registry.fetch_reference(version, settings.root / "models").with_name("gate.json")
    try:
        evidence = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: the gate's evidence of version {version.version} cannot be read: {error}") from error
    fingerprint = registry.tags_by_version(config.name)[version.version].get("snapshot", "")
    links = {
        "MLflow version": _version_page(config.name, version.version, settings),
        "data validation": f"{settings.api}/validation/{config.name}/{fingerprint}",
    }
    return describe_question(config.name, question, evidence, links)


def _try_to_describe(config: Loop, question: Question, registry: ModelRegistry, settings: Settings) -> str:
    """Return the gate's table, or that it cannot be read now: people are told of a version that waits all the same."""
    try:
        return _describe(config, question, registry, settings)
    except (DataError, TransientError) as error:
        logger.warning("%s", error)
        return f"The gate's table cannot be shown: {error}"


def _audit(config: Loop, settings: Settings) -> list[AuditRow]:
    return Ledger(open_database(settings.database)).audit(config.name)


def _find_end(config: Loop, version: str | None, settings: Settings) -> str | None:
    return describe_end(_audit(config, settings), version)


def _describe_end(config: Loop, version: str | None, settings: Settings) -> str:
    ended = _find_end(config, version, settings)
    name = f"version {version} of {config.name}" if version else f"no version of {config.name}"
    return ended or f"{name} {'does not wait' if version else 'waits'} for approval"


def _start_asking(loop: str, question: Question, settings: Settings) -> str | None:
    """Start the flow run that asks; that it cannot be started is told, and fails nothing: the command asks as well."""
    try:
        return start_asking(loop, question.version, f"approve-{loop}-{question.asked_at.isoformat()}", settings)
    except TransientError as error:
        logger.warning("%s", error)
        return None


def _stop_asking(loop: str, version: str, reason: str, settings: Settings) -> None:
    """End the runs that ask; one that stays finds its question answered, so it fails nothing here."""
    try:
        stop_asking(loop, [version, None], reason, settings)  # None: that table was shown to people as well
    except TransientError as error:
        logger.warning("%s", error)


def _note(loop: str, version: str, registry: ModelRegistry, text: str) -> None:
    """Show in MLflow what became of a version; that it cannot be shown, as one was deleted there, fails nothing."""
    try:
        registry.tag(registry.get(loop, version), {"approval": text[:4900]})
    except (DataError, TransientError) as error:
        logger.warning("%s version %s is not marked as '%s': %s", loop, version, text, error)


def _tell(kind: Kind, loop: str, version: str, what: str, body: str, url: str | None) -> None:
    link = url or _version_page(loop, version, Settings())
    emit(kind, loop, {"summary": f"{loop}: version {version} {what}", "body": body, "link": link, "version": version})


def _version_page(loop: str, version: str, settings: Settings) -> str:
    return f"{settings.mlflow}/#/models/{loop}/versions/{version}"
