"""Shells of the training stage: decide whether there is anything to train, then train it."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from prefect import get_run_logger, task

from configs.schema import Loop
from configs.settings import Settings
from tasks.approval import look_after_question
from tasks.core.base_models import resolve_base_model
from tasks.core.errors import DataError, TransientError
from tasks.core.retrain_plan import (
    answering_of,
    check_labels,
    code_version,
    find_same_training,
    gate_key,
    list_trained,
    recipe_key,
    training_key,
)
from tasks.stores.database import open_database
from tasks.stores.ledger import Ledger
from tasks.stores.model_registry import open_registry
from tasks.stores.snapshots import Snapshot, SnapshotStore
from tasks.training_rows import Start, count_new_rows, find_start, gather_material

SECONDS_BETWEEN_REPORTS = 2.0
CURVES = {"loss", "contrastive_loss", "learning_rate", "eval_loss", "eval_macro_f1", "eval_accuracy"}


@dataclass(frozen=True)
class TrainingPlan:
    """What would be trained, and which version already is exactly that."""

    key: str
    why_not: str | None  # why training would give nothing new; None: it would
    start: Start | None = None  # the champion to go on from; None: the base model
    is_postponed: bool = False  # there is something new, and the rules of `retraining` wait with it


@dataclass(frozen=True)
class Challenger:
    """A trained model on this machine's disk, before it has a version."""

    run_id: str
    key: str
    folder: Path  # holds bundle/, checkpoint/ and, after evaluation, evidence/
    seconds: float
    facts: dict[str, Any]


@contextmanager
def only_retrain(loop: str) -> Iterator[None]:
    """Hold the loop's retrain lock: two retrains would share, and delete, each other's checkpoints.

    Prefect's concurrency limit queues deployments' runs; this also stops a retrain started beside them in a terminal.
    """
    folder = Settings().root / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f"{loop}.retrain.lock", timeout=0):
            yield
    except Timeout as error:
        raise DataError(f"another retrain of '{loop}' runs with this home; wait for its end") from error


@task(name="plan training")
def plan_training(config: Loop, snapshot: Snapshot, force: bool) -> TrainingPlan:
    """Say what a training run would give, and whether a version is that already."""
    settings = Settings()
    registry = open_registry(settings)
    store = SnapshotStore(settings.snapshots)
    champion = registry.find(config.name, "champion")
    tags = registry.tags_by_version(config.name)
    if champion is not None and "labels" in tags.get(champion.version, {}):
        check_labels(config.name, config.labels, json.loads(tags[champion.version]["labels"]))
    start = find_start(config, snapshot, champion, tags, store)
    origin = start.version if start else None
    key = training_key(
        snapshot.fingerprint, config.training, code_version(), origin, config.unknown, answering_of(config)
    )
    waiting = look_after_question(config, registry)
    entries = Ledger(open_database(settings.database)).audit(config.name)
    trained = list_trained(tags, entries, waiting.version if waiting else None)
    why_not = None
    if not force:
        same_as = find_same_training(key, gate_key(config), trained, champion.version if champion else None)
        why_not = f"data, training configuration and code are {same_as}" if same_as else None
    recipe = recipe_key(config.training, code_version(), config.unknown)
    knows_how = start is not None and tags[start.version].get("recipe_key") == recipe  # else all rows train again
    if not force and start is not None and knows_how and count_new_rows(config, snapshot, start, store) == 0:
        why_not = f"the champion, version {start.version}, knows every training row, and training goes on from it"
    get_run_logger().info("training key %s: %s", key, why_not or "new")
    return TrainingPlan(key, why_not, start)


@task(name="fine-tune")
def fine_tune_challenger(config: Loop, snapshot: Snapshot, plan: TrainingPlan) -> Challenger:
    """Train, export, and keep bundle and checkpoint under the home; a killed run continues at its last checkpoint."""
    from tasks.core.classifier import save_classifier
    from tasks.core.engine_choice import engine_limits
    from tasks.core.export import Answering, export_bundle
    from tasks.launching import fine_tune_somewhere

    settings = Settings()
    store = SnapshotStore(settings.snapshots)
    validation = store.read_split(snapshot, "validation")
    folder = settings.root / "checkpoints" / config.name / plan.key
    folder.mkdir(parents=True, exist_ok=True)
    registry = open_registry(settings)
    run_id = registry.start_run(config.name, f"{config.name} {plan.key[:8]}", _params(config), _tags(plan, snapshot))
    try:
        registry.log_config(run_id, config.model_dump(mode="json"))
        registry.log_dataset(run_id, config.name, snapshot.fingerprint, snapshot.url, snapshot.counts)
        started = time.monotonic()
        material = gather_material(config, snapshot, plan.start, registry, settings)
        reporter = _Reporter(registry, run_id)
        base_model = resolve_base_model(config.training.base_model)
        tuned = fine_tune_somewhere(
            settings,
            folder,
            material.train,
            validation,
            config.labels,
            config.training,
            base_model,
            reporter,
            start=material.start,
        )
        gold = validation["label"].map(config.labels.index).to_numpy()
        export_bundle(
            tuned.classifier,
            tuned.tokenizer,
            config.name,
            validation["text"].tolist(),
            gold,
            folder / "bundle",
            unknown=config.unknown,
            train=_read_scope(snapshot, store, settings) if config.unknown else None,
            case_texts=list_case_texts(validation),
            answering=Answering(
                config.serving,
                engine_limits(config.gate, config.release, config.serving),
                settings.serving_threads,
            ),
        )
        save_classifier(tuned.classifier, tuned.tokenizer, folder / "checkpoint")
    except BaseException:
        registry.finish_run(run_id, failed=True)
        raise
    reporter.close()
    registry.finish_run(run_id)  # registering opens it again; a run that fails before must not look alive for ever
    seconds = time.monotonic() - started
    facts = {
        "base model": config.training.base_model,
        "snapshot": snapshot.fingerprint,
        **material.facts,
        "validation macro-F1": round(tuned.validation_macro_f1, 4),
        "steps": tuned.steps,
        "resumed from step": tuned.resumed_from,
        "training seconds": round(tuned.seconds, 1),
        "device": tuned.device,
        "precision": tuned.precision,
    }
    get_run_logger().info(
        "trained %s steps in %.1f s on %s (%s)", tuned.steps, tuned.seconds, tuned.device, tuned.precision
    )
    return Challenger(run_id, plan.key, folder, seconds, facts)


def list_case_texts(validation: pd.DataFrame) -> list[str]:
    """Return the texts that may be stored in a version: none that a user sent, which may have to be erased."""
    texts: list[str] = validation.loc[validation["source"] != "feedback", "text"].tolist()
    return texts


def _read_scope(snapshot: Snapshot, store: SnapshotStore, settings: Settings) -> pd.DataFrame:
    """Return text and label of all training rows: what the model knows, whichever of them this run was given."""
    file = store.open_split(snapshot, "train", settings.root / "cache" / "snapshots")
    return pd.read_parquet(file, columns=["text", "label"])


class _Reporter:
    """Shows training progress in the log, on the Prefect run page and as curves in MLflow."""

    def __init__(self, registry: Any, run_id: str) -> None:
        self._registry = registry
        self._run_id = run_id
        self._logger = get_run_logger()
        self._progress = _ProgressArtifact("fine-tuning")
        self._last_report = 0.0
        self._is_away = False  # the tracking server

    def __call__(self, progress: Any) -> None:
        """Report one step; between measurements at most every few seconds."""
        curves = {name: value for name, value in progress.metrics.items() if name in CURVES}
        if curves:
            self._log_curves(curves, progress.step)
        is_measurement = "eval_macro_f1" in curves
        now = time.monotonic()
        if not is_measurement and now - self._last_report < SECONDS_BETWEEN_REPORTS:
            return
        self._last_report = now
        shown = ", ".join(f"{name.replace('eval_', 'validation ')} {value:.4f}" for name, value in curves.items()
                          if name != "learning_rate")  # fmt: skip
        left = f"{int(progress.seconds_left) // 60}:{int(progress.seconds_left) % 60:02d} left"
        self._logger.info("step %d/%d  %s  %s", progress.step, progress.num_steps, shown, left)
        self._progress.show(100 * progress.step / max(1, progress.num_steps))

    def _log_curves(self, curves: dict[str, float], step: int) -> None:
        """Log a point of each curve; one that is lost must not cost the training."""
        try:
            self._registry.log_metrics(self._run_id, curves, step, int(time.time() * 1000))
        except TransientError as error:
            if not self._is_away:
                self._logger.warning("the curves lack what is measured from step %d on: %s", step, error)
            self._is_away = True
        else:
            self._is_away = False

    def close(self) -> None:
        """Fill the progress bar: early stopping ends before the last step."""
        self._progress.show(100.0)


class _ProgressArtifact:
    """A progress bar on the Prefect run page."""

    def __init__(self, description: str) -> None:
        from prefect.artifacts import create_progress_artifact

        self._id = create_progress_artifact(progress=0.0, description=description)

    def show(self, percent: float) -> None:
        """Move the bar to a percentage."""
        from prefect.artifacts import update_progress_artifact

        update_progress_artifact(self._id, progress=min(100.0, percent))  # type: ignore[arg-type]


def _params(config: Loop) -> dict[str, Any]:
    return {f"training.{key}": value for key, value in config.training.model_dump(mode="json").items()}


def _tags(plan: TrainingPlan, snapshot: Snapshot) -> dict[str, str]:
    return {"training_key": plan.key, "snapshot": snapshot.fingerprint, "code_version": code_version()}
