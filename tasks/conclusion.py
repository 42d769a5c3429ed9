"""Shells that end a retrain: the promotion, the ledger row, and what the run page shows."""

import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext
from prefect.runtime import flow_run

from configs.schema import Loop
from configs.settings import Settings
from tasks.alerts import emit
from tasks.approval import Asked, ask_for_approval, forget_challenger, withdraw_older_question
from tasks.core.metrics import Scores
from tasks.core.model_card import list_cases, list_slices, summarise_cases, summarise_slices
from tasks.core.worth import judge_worth
from tasks.data import SnapshotTaken
from tasks.evaluation import Evaluation
from tasks.registry import Registered
from tasks.release import Judged, release_version
from tasks.stores.database import open_database
from tasks.stores.ledger import Ledger, RetrainRow, StartedBy
from tasks.stores.model_registry import open_registry
from tasks.suspects import suspects_url
from tasks.training import Challenger, TrainingPlan


@dataclass(frozen=True)
class Promotion:
    """What became of the challenger: serving, pending (no service runs), refused (by the service) or not promoted.

    Staged: it goes through shadow and canary first. Awaiting approval: the gate let it through, and a person is asked.
    Outdated: the champion changed meanwhile.
    """

    status: Literal["serving", "pending", "staged", "refused", "not promoted", "outdated", "awaiting approval"]
    seconds: float
    approval: Asked | None = None


@task(name="promote")
def promote_challenger(config: Loop, registered: Registered, evaluation: Evaluation) -> Promotion:
    """Release the challenger that the gate lets through, or ask a person; a refusal is audited and alerted."""
    started = time.monotonic()
    version = registered.version.version
    decision = evaluation.decision
    if decision.promote and config.release.approval == "required":
        asked = ask_for_approval(config, registered.version, evaluation.champion_version, decision.summary)
        return Promotion("awaiting approval", time.monotonic() - started, asked)
    if decision.promote:
        withdraw_older_question(config, version)
        judged = Judged(evaluation.champion_version)
        outcome = release_version.fn(config, version, "retrain", decision.summary, "promote", judged)
        if outcome.status in ("serving", "pending"):
            forget_challenger(config.name, version, open_registry(Settings()))
        return Promotion(outcome.status, time.monotonic() - started)
    refusals = [reason for reason in decision.reasons if reason.startswith("refused")]
    ledger = Ledger(open_database(Settings().database))
    now = datetime.now(UTC)
    champion = evaluation.champion_version
    ledger.append_audit(config.name, "refuse", "retrain", "; ".join(refusals), champion, version, now)
    get_run_logger().warning("version %s is not promoted: %s", version, "; ".join(refusals))
    emit("refused", config.name, _refusal(config, version, evaluation, refusals))
    return Promotion("not promoted", time.monotonic() - started)


@task(name="conclude")
def conclude_trained(
    config: Loop,
    taken: SnapshotTaken,
    challenger: Challenger,
    evaluation: Evaluation,
    registered: Registered,
    promotion: Promotion,
    started_by: StartedBy,
) -> dict[str, Any]:
    """Write the ledger row and the decision table; return what `evertune retrain --json` prints."""
    record = {
        **_common(config, taken, "trained"),
        "version": registered.version.version,
        "metrics": summarise(evaluation.scores),
        "champion_metrics": summarise(evaluation.champion_scores) if evaluation.champion_scores else None,
        "champion": evaluation.champion_version,
        "started_from": challenger.facts.get("started from version"),
        "worth": judge_worth(evaluation.scores, evaluation.champion_scores, evaluation.difference, evaluation.slices),
        "decision": {"promote": evaluation.decision.promote, "reasons": evaluation.decision.reasons},
        "slices": summarise_slices(evaluation.slices, evaluation.slice_verdicts),
        "cases": summarise_cases(evaluation.behaviour),
        "released": promotion.status,
        "suspicious_rows": challenger.facts.get("suspicious rows"),
        "approval": asdict(promotion.approval) if promotion.approval else None,
        "seconds": {
            "snapshot": taken.seconds_snapshot,
            "validate": taken.seconds_validate,
            "train": challenger.seconds,
            "evaluate": evaluation.seconds,
            "register": registered.seconds,
            "release": promotion.seconds,
            "total": _seconds_since_start(),
        },
    }
    _write_ledger(config, record, started_by)
    table = _decision_table(config, record, evaluation)
    create_markdown_artifact(table, key=f"{config.name}-retrain", description="The decision")
    return record


@task(name="conclude")
def conclude_skipped(config: Loop, taken: SnapshotTaken, plan: TrainingPlan, started_by: StartedBy) -> dict[str, Any]:
    """Say that nothing is new, or not enough of it, in the ledger and as the command's answer."""
    reason = f"{'held back' if plan.is_postponed else 'nothing new'}: {plan.why_not}"
    record = {
        **_common(config, taken, "skipped"),
        "postponed": plan.is_postponed,
        "version": None,
        "metrics": None,
        "champion_metrics": None,
        "decision": {"promote": False, "reasons": [reason]},
        "seconds": {
            "snapshot": taken.seconds_snapshot,
            "validate": taken.seconds_validate,
            **dict.fromkeys(("train", "evaluate", "register", "release"), 0.0),
            "total": _seconds_since_start(),
        },
    }
    get_run_logger().info("%s; use force to train all the same", reason)
    _write_ledger(config, record, started_by)
    return record


def summarise(scores: Scores) -> dict[str, Any]:
    """Return the part of the scores that commands print."""
    keep = ("accuracy", "macro_f1", "ece", "n", "accuracy_ci", "macro_f1_ci")
    return {key: value for key, value in asdict(scores).items() if key in keep}


def _common(config: Loop, taken: SnapshotTaken, status: str) -> dict[str, Any]:
    counts = taken.snapshot.counts
    return {
        "loop": config.name,
        "status": status,
        "read_at": taken.read_at.isoformat(),
        "snapshot": {"fingerprint": taken.snapshot.fingerprint}
        | {part: counts[part] for part in ("train", "validation", "test", "quarantined")},
    }


def _write_ledger(config: Loop, record: dict[str, Any], started_by: StartedBy) -> None:
    row = RetrainRow(
        flow_run_id=str(flow_run.id or f"local-{time.time_ns()}"),
        at=datetime.now(UTC),
        loop=config.name,
        started_by=started_by,
        status=record["status"],
        version=record["version"],
        record=record,
    )
    Ledger(open_database(Settings().database)).append_retrain(row)


def _seconds_since_start() -> float:
    """Return the time since the run really began: a queued run waited for others, which is not its cost."""
    context = FlowRunContext.get()
    return (datetime.now(UTC) - context.start_time).total_seconds() if context else 0.0


def _refusal(config: Loop, version: str, evaluation: Evaluation, refusals: list[str]) -> dict[str, Any]:
    scores = evaluation.scores
    body = [f"Version {version} of {config.name} stays a challenger; the champion serves on.", ""]
    body += [f"- {reason}" for reason in refusals]
    body += ["", f"Accuracy {scores.accuracy:.3f}, macro-F1 {scores.macro_f1:.3f} on {scores.n} test rows."]
    return {
        "summary": f"{config.name}: version {version} was refused by the gate",
        "body": "\n".join(body),
        "link": f"{Settings().mlflow}/#/models/{config.name}/versions/{version}",
        "version": version,
    }


def _decision_table(config: Loop, record: dict[str, Any], evaluation: Evaluation) -> str:
    verdict = "passes the gate" if record["decision"]["promote"] else "**not promoted**"
    metrics, champion = record["metrics"], record["champion_metrics"]
    lines = [f"## {config.name} version {record['version']}: {verdict} ({record['released']})", ""]
    lines += ["| on the frozen test rows | challenger | champion |", "|---|---|---|"]
    for name in ("accuracy", "macro_f1", "ece", "n"):
        lines.append(f"| {name} | {_number(metrics[name])} | {_number(champion[name]) if champion else '–'} |")
    lines += ["", *[f"- {reason}" for reason in record["decision"]["reasons"]], ""]
    if approval := record["approval"]:
        page = f" or [in Prefect]({approval['url']})" if approval["url"] else ""
        lines += [f"**It serves after a yes:** `{approval['command']}`{page}, until {approval['until'][:16]} UTC.", ""]
    lines += list_slices(list(zip(evaluation.slices, evaluation.slice_verdicts, strict=True)))
    lines += list_cases(evaluation.behaviour)
    lines += ["| stage | seconds |", "|---|---|"]
    lines += [f"| {stage} | {seconds:.1f} |" for stage, seconds in record["seconds"].items()]
    lines += ["", f"[MLflow version]({Settings().mlflow}/#/models/{config.name}/versions/{record['version']})"]
    page = f"{Settings().api}/validation/{config.name}/{record['snapshot']['fingerprint']}"
    lines.append(f"[Data validation]({page})")
    if record["suspicious_rows"] is not None:
        url = suspects_url(Settings(), config.name, record["snapshot"]["fingerprint"])
        lines.append(f"[{record['suspicious_rows']} suspicious labels]({url})")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
