"""Training rows whose label looks wrong, found once per snapshot and kept with it."""

import hashlib
import json
import logging
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from configs.schema import Loop
from configs.settings import Settings
from tasks.core.base_models import resolve_base_model
from tasks.core.retrain_plan import code_version
from tasks.core.suspects_page import render_suspects_page
from tasks.stores.snapshots import Snapshot, SnapshotStore

logger = logging.getLogger(__name__)


def find_loop_suspects(config: Loop, snapshot: Snapshot, settings: Settings) -> pd.DataFrame:
    """Return the training rows of a snapshot whose label looks wrong, the worst first; their page is kept with it.

    Rows that a person mended are never among them. What was found before, in the same way, is not sought again.
    """
    store = SnapshotStore(settings.snapshots)
    train = store.read_split(snapshot, "train")
    mended = store.read_mended(config.name)
    recipe = _recipe(config, mended)
    kept = store.read_suspects(snapshot, recipe)
    if kept is not None:
        logger.info("suspicious labels of snapshot %s: %d, as found before", snapshot.fingerprint, len(kept))
        return kept
    suspects = _seek(config, train)
    settled = suspects.merge(mended[["row_id", "label"]], on=["row_id", "label"])["row_id"]
    suspects = suspects[~suspects["row_id"].isin(settled)].reset_index(drop=True)
    page = render_suspects_page(
        loop=config.name,
        fingerprint=snapshot.fingerprint,
        made_at=datetime.now(UTC),
        suspects=suspects,
        n_rows=len(train),
    )
    place = store.write_suspects(snapshot, suspects, page, recipe)
    logger.info("suspicious labels: %d of %d training rows, see %s", len(suspects), len(train), place)
    return suspects


def suspects_url(settings: Settings, loop: str, fingerprint: str) -> str:
    """Return where the prediction service shows the page."""
    return f"{settings.api}/suspects/{loop}/{fingerprint}"


def _seek(config: Loop, train: pd.DataFrame) -> pd.DataFrame:
    """Let models of the loop's own recipe judge the rows that they did not see."""
    from tasks.core.label_noise import find_suspects, fine_tuned_judge, judge_out_of_fold

    training = config.training
    base_model = resolve_base_model(training.base_model)
    with tempfile.TemporaryDirectory(prefix="evertune-") as scratch:
        judge = fine_tuned_judge(config.labels, training, base_model, Path(scratch))
        folds = training.label_noise.folds
        probabilities = judge_out_of_fold(train, config.labels, folds, training.seed, judge)
    return find_suspects(train, probabilities, config.labels)


def _recipe(config: Loop, mended: pd.DataFrame) -> str:
    """Return a hash of all that decides which rows are found in a snapshot."""
    training = config.training.model_dump(mode="json", exclude={"label_noise": {"suspect_weight"}, "replay": True})
    parts = json.dumps([code_version(), training, mended[["row_id", "label"]].to_numpy().tolist()], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:16]
