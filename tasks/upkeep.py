"""Writes the statements of ended months, and deletes what is past its time: predictions, pages, checkpoints."""

import logging
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.plans import load_plans
from configs.schema import Loop
from configs.settings import Settings
from tasks.stores.database import open_database
from tasks.stores.prediction_log import PredictionLog
from tasks.stores.statement_files import publish_month
from tasks.stores.statements import Statements
from tasks.stores.training_files import list_shared_runs

logger = logging.getLogger(__name__)
CHECKPOINT_DAYS = 7  # a killed retrain that nobody continued for a week


@task(task_run_name="purge predictions of {config.name}", persist_result=False, cache_policy=NO_CACHE)
def purge_predictions(config: Loop) -> int:
    """Delete a loop's predictions beyond serving.retention_days, labelled ones beyond their own; return how many."""
    log = PredictionLog(open_database(Settings().database))
    now = datetime.now(UTC)
    n_deleted = log.purge(now - timedelta(days=config.serving.retention_days), config.name)
    if config.data.feedback_retention_days is not None:
        before = now - timedelta(days=config.data.feedback_retention_days)
        n_deleted += log.purge(before, config.name, labelled=True)
    logger.info("%s: %d predictions older than %d days deleted", config.name, n_deleted, config.serving.retention_days)
    return n_deleted


@task(task_run_name="delete old reports of {config.name}", persist_result=False, cache_policy=NO_CACHE)
def delete_reports(config: Loop) -> int:
    """Delete a loop's monitoring pages beyond serving.retention_days; return how many."""
    folder = Settings().root / "reports" / config.name
    return delete_older(folder, datetime.now(UTC) - timedelta(days=config.serving.retention_days))


@task(task_run_name="delete old checkpoints", persist_result=False, cache_policy=NO_CACHE)
def delete_checkpoints() -> int:
    """Delete checkpoints of training runs, and backtests, that nobody continued, a cluster's too; return how many."""
    settings = Settings()
    runs = [path for name in ("checkpoints", "backtests") for path in sorted((settings.root / name).glob("*/*"))]
    runs += list_shared_runs(settings.ray_storage)
    return _delete_old(runs, datetime.now(UTC) - timedelta(days=CHECKPOINT_DAYS))


@task(task_run_name="write statements", persist_result=False, cache_policy=NO_CACHE)
def write_statements() -> int:
    """Bill every ended month that was not billed yet and keep csv and pages under home; return how many are new.

    Raises DataError for those whose plan is not defined any more, after all the others were written.
    """
    settings = Settings()
    store = Statements(open_database(settings.database))
    try:
        written = store.write_missing(load_plans(settings.plans_file), datetime.now(UTC))
    finally:
        for month in store.months():
            publish_month(settings.root / "statements", month, store.read(month))
    for one in written:
        logger.info("%s: %s owes %s %s (%d texts)", one.month, one.key_id, one.currency, one.amount, one.texts)
    return len(written)


def delete_older(folder: Path, before: datetime) -> int:
    """Delete the entries of a folder in which nothing changed since a time; return how many."""
    return _delete_old(sorted(folder.glob("*")), before)


def _delete_old(entries: Sequence[Path], before: datetime) -> int:
    old = [entry for entry in entries if _changed_at(entry) < before]
    for entry in old:
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
        logger.info("deleted %s", entry)
    return len(old)


def _changed_at(entry: Path) -> datetime:
    try:
        newest = max(path.lstat().st_mtime for path in (entry, *entry.rglob("*")))
    except FileNotFoundError:  # a running retrain took it away: this folder changes at this moment
        return datetime.now(UTC)
    return datetime.fromtimestamp(newest, UTC)
