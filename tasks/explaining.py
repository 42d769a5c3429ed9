"""What a window is compared with, and what changed since: reads for the monitoring stage what the core explains."""

import logging
from datetime import datetime, timedelta

import pandas as pd
from sqlalchemy import Engine

from configs.schema import Loop
from configs.settings import Settings
from tasks.core.descriptors import SHOWN
from tasks.core.drift_decisions import DriftDecision, Reference, Standing, choose_reference, stand
from tasks.core.errors import DataError, TransientError
from tasks.core.explanation import Explanation, explain
from tasks.core.permutations import sample_groups
from tasks.core.readers import Describe, Embed
from tasks.core.redaction import redact
from tasks.core.rows import derive_columns
from tasks.stores.drift_decisions import DriftDecisions
from tasks.stores.periods import read_period
from tasks.stores.prediction_log import PredictionLog
from tasks.stores.snapshots import SnapshotStore

logger = logging.getLogger(__name__)


def recall_standing(engine: Engine, loop: str, version: str, now: datetime) -> Standing:
    """Return what people decided about a loop's drift, as far as it holds for this version now."""
    return stand(DriftDecisions(engine).of_loop(loop), version=version, now=now)


def read_reference(
    config: Loop,
    judged: pd.DataFrame,
    standing: Standing,
    engine: Engine,
    embed: Embed,
    snapshot: str | None,
    *,
    represent: Embed | None = None,
    describe: Describe | None = None,
) -> tuple[pd.DataFrame, Reference]:
    """Return the rows that the window is compared with: the champion's test rows, or an acknowledged window."""
    decision = standing.accepted
    accepted = _read_accepted(config, decision, engine) if decision else None
    reference, kind = choose_reference(judged, accepted, decision, config.monitoring.window.min_rows, snapshot)
    if kind.note:
        logger.warning("%s: %s; its test rows are the reference again", config.name, kind.note)
    if accepted is None or reference is not accepted:
        return reference, kind
    rows = sample_groups(accepted["group"].tolist(), config.monitoring.max_tested_rows)
    sample = accepted.iloc[rows].reset_index(drop=True)
    texts = sample["text"].tolist()
    sample = sample.assign(embedding=list(embed(texts)))
    if represent is not None and "representation" in judged.columns:
        sample = sample.assign(representation=list(represent(texts)))
    return (sample if describe is None else sample.join(describe(texts))), kind


def select_shown(
    reference: pd.DataFrame, current: pd.DataFrame, describe: Describe, max_rows: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the columns of both sides that a page shows, no texts among them; of large windows, whole groups.

    Live texts are described where those of the reference were.
    """
    seen = current.iloc[sample_groups(current["group"].tolist(), max_rows)].reset_index(drop=True)
    if len(seen) and "language" in reference.columns:
        seen = seen.join(describe(seen["text"].tolist()))
    known = reference.assign(label=reference["predicted"])
    shown = [column for column in SHOWN if column in known.columns and column in seen.columns]
    return known[shown], seen[shown]


def explain_window(
    config: Loop,
    *,
    reference: pd.DataFrame,
    current: pd.DataFrame,
    embed: Embed,
    snapshot: str | None,
    settings: Settings,
) -> Explanation:
    """Return what changed between both sides; test rows get their texts from the snapshot, while it is kept."""
    note = ""
    if "text" not in reference.columns:
        texts, note = _read_texts(config.name, snapshot, settings)
        reference = reference.assign(text=reference["row_id"].map(texts))
    return explain(
        reference=reference, current=current, embed=embed, max_rows=config.monitoring.max_tested_rows, note=note
    )


def _read_accepted(config: Loop, decision: DriftDecision, engine: Engine) -> pd.DataFrame:
    """Return what the log still has of an acknowledged window, read as windows are, in the columns of a reference."""
    rules, since = config.monitoring.window, decision.window_from
    until = decision.window_to + timedelta(microseconds=1) if decision.window_to else None
    if rules.by == "time" and since is not None and until is not None:
        window = read_period(engine, config.name, since=since, until=until, max_rows=rules.max_rows)
    else:
        window = PredictionLog(engine).read_window(config.name, max_rows=rules.max_rows, since=since, until=until)
    rows = derive_columns(window[window["version"] == decision.version].reset_index(drop=True))
    return rows.rename(columns={"prediction_id": "row_id", "label": "predicted"}).assign(label=None)


def _read_texts(loop: str, snapshot: str | None, settings: Settings) -> tuple[dict[str, str], str]:
    """Return the texts of a snapshot's test rows by row id, redacted as the log's are; or why there are none."""
    try:
        store = SnapshotStore(settings.snapshots)
        found = store.find(loop, snapshot) if snapshot else None
        if found is None:
            return {}, "the snapshot that the champion was judged on is not kept any more: words are not compared"
        rows = store.read_split(found, "test")
    except (DataError, TransientError) as error:  # a report without words is better than none
        logger.warning("%s: no texts of the test rows: %s", loop, error)
        return {}, f"the test rows' texts could not be read ({error}): words are not compared"
    return dict(zip(rows["row_id"], map(redact, rows["text"]), strict=True)), ""
