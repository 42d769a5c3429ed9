"""Which rows a training run learns, with which weights, and from whose weights it starts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import get_run_logger

from configs.schema import Loop
from configs.settings import Settings
from tasks.core.encoding import ROWS_IN_MEMORY
from tasks.core.errors import DataError
from tasks.core.replay import Mixture, count_learned, list_learned, mix_replay
from tasks.stores.model_registry import ModelRegistry, ModelVersion
from tasks.stores.snapshots import Snapshot, SnapshotStore
from tasks.suspects import find_loop_suspects


@dataclass(frozen=True)
class Start:
    """The champion that training goes on from, and the snapshot it learned."""

    version: str
    snapshot: str


@dataclass(frozen=True)
class Material:
    """What a run is given: training rows, perhaps with `weight`, and the folder of the weights it starts from."""

    train: pd.DataFrame | Path  # a file: too many rows for memory
    start: Path | None
    facts: dict[str, Any] = field(default_factory=dict)


def find_start(
    config: Loop,
    snapshot: Snapshot,
    champion: ModelVersion | None,
    tags: Mapping[str, Mapping[str, str]],
    store: SnapshotStore,
) -> Start | None:
    """Return the champion to go on from, or None where the loop begins at its base model, or must: the log says why.

    `tags` are those of all versions. A champion that learned a snapshot which is gone is not gone on from: what it
    learned may have been erased since. Nor is one that learned rows which are test rows today: they would judge a
    challenger that knows them.
    """
    if config.training.origin == "base":
        return None
    problem = _why_not_from(config, snapshot, champion, tags, store)
    if problem is None:
        assert champion is not None
        return Start(champion.version, tags[champion.version]["snapshot"])
    get_run_logger().warning("training.from: %s; training begins at the base model, on all rows", problem)
    return None


def _why_not_from(
    config: Loop,
    snapshot: Snapshot,
    champion: ModelVersion | None,
    all_tags: Mapping[str, Mapping[str, str]],
    store: SnapshotStore,
) -> str | None:
    if champion is None:
        return "there is no champion yet"
    tags = all_tags.get(champion.version, {})
    of, training = f"the champion, version {champion.version},", config.training
    if tags.get("base_model") != training.base_model:
        return f"{of} stands on {tags.get('base_model')}, the loop on {training.base_model}"
    if tags.get("pooling", training.pooling) != training.pooling:
        return f"{of} pools by {tags['pooling']}, the loop by {training.pooling}"
    learned = [store.find(config.name, fingerprint) for fingerprint in list_learned(champion.version, all_tags)]
    found = [one for one in learned if one is not None]
    if not found or len(found) < len(learned):
        return f"the snapshot that {of} learned is gone"
    test = store.read_split(snapshot, "test")
    n_learned = count_learned(test, [store.read_split(one, "train") for one in found])
    return f"{of} learned {n_learned} of today's {len(test)} test rows" if n_learned else None


def count_new_rows(config: Loop, snapshot: Snapshot, start: Start, store: SnapshotStore) -> int:
    """Return how many training rows the champion does not know."""
    return _mix(config, store.read_split(snapshot, "train"), start, store).n_new


def gather_material(
    config: Loop, snapshot: Snapshot, start: Start | None, registry: ModelRegistry, settings: Settings
) -> Material:
    """Return what to train on: all rows from the base model, or new and replayed ones from the champion.

    Suspicious rows count less where the loop asks for it.
    """
    store = SnapshotStore(settings.snapshots)
    weight = config.training.label_noise.suspect_weight
    if snapshot.train > ROWS_IN_MEMORY and start is None and weight == 1:
        train_file = store.open_split(snapshot, "train", settings.root / "cache" / "snapshots")
        return Material(train_file, None, {"train rows": snapshot.train})
    train = store.read_split(snapshot, "train")
    facts: dict[str, Any] = {"train rows": len(train)}
    folder = None
    if start is not None:
        folder = _checkpoint(config, registry.get(config.name, start.version), registry, settings)
        mixture = _mix(config, train, start, store)
        if mixture.n_new:  # else the run was forced: all rows again
            train = mixture.rows
        facts |= {
            "train rows": len(train),
            "started from version": start.version,
            "new rows": mixture.n_new,
            "replayed rows": mixture.n_old,
        }
        get_run_logger().info(
            "goes on from version %s: %d new rows, %d old ones replayed", start.version, mixture.n_new, mixture.n_old
        )
    if weight < 1:
        suspects = find_loop_suspects(config, snapshot, settings)
        is_suspect = train["row_id"].isin(suspects["row_id"])
        train = train.assign(weight=is_suspect.map({True: weight, False: 1.0}).astype("float64"))
        facts["suspicious rows"] = int(is_suspect.sum())
        get_run_logger().info("%d suspicious rows count %g each", facts["suspicious rows"], weight)
    return Material(train, folder, facts)


def _mix(config: Loop, train: pd.DataFrame, start: Start, store: SnapshotStore) -> Mixture:
    known = store.find(config.name, start.snapshot)
    assert known is not None, "find_start looked"
    training = config.training
    return mix_replay(train, store.read_split(known, "train"), training.replay.old_per_new, training.seed)


def _checkpoint(config: Loop, version: ModelVersion, registry: ModelRegistry, settings: Settings) -> Path:
    folder = registry.fetch_checkpoint(version, settings.root / "models")
    shape = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
    if shape["pooling"] != config.training.pooling:  # a version from before its tags told this
        raise DataError(
            f"training.from: version {version.version} pools by {shape['pooling']}, the loop by "
            f"{config.training.pooling}: its head would read other vectors. Retrain once with training.from=base"
        )
    return folder
