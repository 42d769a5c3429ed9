"""Shells of the decision: what is known of a loop's past is gathered here, and weighed in the core."""

from dataclasses import replace
from datetime import UTC, datetime

import pandas as pd
from prefect import get_run_logger, task

from configs.schema import Loop
from configs.settings import Settings
from tasks.core.replay import list_learned
from tasks.core.retrain_history import count_changes, tried_since
from tasks.core.retrain_plan import code_version, recipe_key
from tasks.core.retraining import (
    Accuracy,
    Decision,
    Facts,
    LiveAccuracy,
    decide,
    decide_scheduled,
    has_reason,
)
from tasks.core.rows import SPLITS
from tasks.core.window_check import WindowCheck
from tasks.feedback import count_usable_labels
from tasks.monitoring import RETRIED, Champion, CheckedWindow
from tasks.stores.database import open_database
from tasks.stores.erasures import Erasures
from tasks.stores.ledger import Ledger, StartedBy
from tasks.stores.model_registry import open_registry
from tasks.stores.retrain_deployment import is_retraining
from tasks.stores.retrain_past import recall_past
from tasks.stores.snapshots import Snapshot, SnapshotStore
from tasks.training import TrainingPlan

COMPARED = ["row_id", "text", "label"]  # a row whose text or label was mended is another one


@task(name="decide", **RETRIED)
def decide_retraining(config: Loop, champion: Champion, checked: CheckedWindow) -> Decision:
    """Say whether to retrain, to ask for labels, or to wait."""
    engine, found = open_database(Settings().database), checked.check
    past = recall_past(Ledger(engine), config.name, found.at)
    erased_at = find_erasure(config.name, champion.version.version, Settings())
    facts = Facts(
        now=found.at,
        verdict=checked.standing.heed(found.verdict.word),  # a muted drift starts nothing
        num_new_labels=count_usable_labels(engine, config, past.history.labels_since),
        history=past.history,
        is_running=False,
        learns_from_feedback=config.data.use_feedback,
        accuracy=gather_accuracy(found, champion),
        champion=champion.version.version,
        erased_at=erased_at,
        tried_since=tried_since(past.retrains, erased_at) if erased_at else None,
    )
    if has_reason(facts, config.retraining):  # else nobody need ask Prefect
        facts = replace(facts, is_running=is_retraining(config.name, found.at))
    decision = decide(facts, config.retraining)
    get_run_logger().info("%s: %s", decision.action, decision.reason)
    return decision


@task(name="weigh schedule", **RETRIED)
def weigh_schedule(config: Loop, snapshot: Snapshot, plan: TrainingPlan, started_by: StartedBy) -> TrainingPlan:
    """Return the plan, held back where the rules say that a retrain which the schedule started is not worth it."""
    if plan.why_not or started_by != "schedule":
        return plan
    settings, now = Settings(), datetime.now(UTC)
    past = recall_past(Ledger(open_database(settings.database)), config.name, now)
    champion = open_registry(settings).find(config.name, "champion")
    if champion is None:
        return plan
    erased_at = find_erasure(config.name, champion.version, settings)
    decision = decide_scheduled(
        _count_changed_rows(config, snapshot, settings),
        past.history,
        config.retraining,
        is_erasure=erased_at is not None and tried_since(past.retrains, erased_at) is None,
    )
    get_run_logger().info("scheduled retrain: %s: %s", decision.action, decision.reason)
    return plan if decision.action == "retrain" else replace(plan, why_not=decision.reason, is_postponed=True)


def find_erasure(loop: str, version: str, settings: Settings) -> datetime | None:
    """Return when rows that a version learnt, or one that it went on from, were last erased; None: they never were."""
    marked = Erasures(open_database(settings.database)).list_marked(loop)
    if not marked:
        return None
    learnt = list_learned(version, open_registry(settings).tags_by_version(loop))
    return max((marked[fingerprint] for fingerprint in learnt if fingerprint in marked), default=None)


def gather_accuracy(found: WindowCheck, champion: Champion) -> LiveAccuracy:
    """Return the window's accuracy, measured and estimated, beside the champion's on its test rows."""
    reference = pd.read_parquet(champion.reference, columns=["label", "predicted"])
    expected = float((reference["label"] == reference["predicted"]).mean()) if len(reference) else None
    measured, estimated = found.measured, found.estimated
    return LiveAccuracy(
        expected,
        Accuracy(measured.accuracy, measured.low, measured.high, measured.n) if measured else None,
        Accuracy(estimated.accuracy, estimated.low, estimated.high, estimated.n) if estimated else None,
    )


def _count_changed_rows(config: Loop, snapshot: Snapshot, settings: Settings) -> int | None:
    """Return how many rows differ from those of the last training; None where its recipe was another one."""
    store, tags = SnapshotStore(settings.snapshots), open_registry(settings).tags_by_version(config.name)
    last = tags[max(tags, key=int)] if tags else {}
    known = store.find(config.name, last.get("snapshot", ""))
    is_same_recipe = last.get("recipe_key") == recipe_key(config.training, code_version(), config.unknown)
    if known is None or not is_same_recipe or known.fingerprint == snapshot.fingerprint:
        return None
    return count_changes(
        *(
            [
                row
                for split in SPLITS
                for row in store.read_split(one, split)[COMPARED].itertuples(index=False, name=None)
            ]
            for one in (snapshot, known)
        )
    )
