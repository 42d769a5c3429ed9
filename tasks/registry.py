"""Shells of the register and promote stages: from files on disk to an MLflow version, and the verdict on it."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task

from configs.schema import Loop
from configs.settings import Settings
from tasks.core.champions import NO_CHAMPION
from tasks.core.engine_choice import read_table
from tasks.core.model_card import cut_description, write_model_card
from tasks.core.predictor import read_manifest
from tasks.core.retrain_plan import code_version, gate_key, recipe_key
from tasks.core.slices import SliceScores
from tasks.evaluation import Evaluation
from tasks.stores.model_registry import ModelVersion, open_registry
from tasks.stores.snapshots import Snapshot
from tasks.training import Challenger

LIBRARIES = ("torch", "transformers", "onnxruntime", "tokenizers", "mlflow", "great-expectations")
METRICS_AT_ONCE = 500  # MLflow takes 1,000 in one request
MAX_NAME = 200  # characters of a slice's name in a metric's


@dataclass(frozen=True)
class Registered:
    """The new version, which the alias `challenger` names."""

    version: ModelVersion
    seconds: float


@task(name="register")
def register_challenger(config: Loop, snapshot: Snapshot, challenger: Challenger, evaluation: Evaluation) -> Registered:
    """Register bundle, checkpoint and evidence as the loop's next version, and name it challenger."""
    started = time.monotonic()
    settings = Settings()
    registry = open_registry(settings)
    facts = {**challenger.facts, **_describe_answering(challenger), **_origin(settings, config, snapshot)}
    if evaluation.unknown_share is not None:
        facts["test rows answered unknown"] = f"{evaluation.unknown_share:.1%}"
    card = _write_card(config, evaluation, facts, challenger.folder / "bundle")
    (challenger.folder / "evidence" / "model_card.md").write_text(card, encoding="utf-8")
    metrics = list(_final_metrics(evaluation, challenger).items())
    for start in range(0, len(metrics), METRICS_AT_ONCE):
        part = dict(metrics[start : start + METRICS_AT_ONCE])
        registry.log_metrics(challenger.run_id, part, 0, int(time.time() * 1000))
    registry.tag_run(challenger.run_id, {key.replace(" ", "_"): str(value) for key, value in facts.items()})
    folders = {part: challenger.folder / part for part in ("bundle", "checkpoint", "evidence")}
    version = registry.register(
        config.name,
        challenger.run_id,
        folders,
        config.labels,
        cut_description(card),
        _version_tags(config, challenger, evaluation, snapshot),
    )
    for file in sorted((challenger.folder / "evidence").iterdir()):
        registry.attach(challenger.run_id, file, "evidence")  # the run's page shows plots, the model's page does not
    registry.set_alias(config.name, "challenger", version.version)
    shutil.rmtree(challenger.folder, ignore_errors=True)
    get_run_logger().info("registered version %s from training run %s", version.version, challenger.run_id)
    return Registered(version, time.monotonic() - started)


def _describe_answering(challenger: Challenger) -> dict[str, Any]:
    manifest = read_manifest(challenger.folder / "bundle")
    long = f"windows of {manifest.max_tokens} tokens, {manifest.window_overlap} of them shared"
    return {
        "engine": manifest.engine,
        "long texts": long if manifest.long_texts == "window" else f"cut off after {manifest.max_tokens} tokens",
    }


def _write_card(config: Loop, evaluation: Evaluation, facts: dict[str, Any], bundle: Path) -> str:
    return write_model_card(
        config.name,
        config.description,
        evaluation.scores,
        evaluation.champion_scores,
        evaluation.decision,
        facts,
        list(zip(evaluation.slices, evaluation.slice_verdicts, strict=True)),
        evaluation.behaviour,
        [case for case in evaluation.cases if not case.passed],
        read_table(bundle),
    )


def _final_metrics(evaluation: Evaluation, challenger: Challenger) -> dict[str, float]:
    scores = evaluation.scores
    metrics = {
        "test_accuracy": scores.accuracy,
        "test_accuracy_low": scores.accuracy_ci[0],
        "test_accuracy_high": scores.accuracy_ci[1],
        "test_macro_f1": scores.macro_f1,
        "test_macro_f1_low": scores.macro_f1_ci[0],
        "test_macro_f1_high": scores.macro_f1_ci[1],
        "test_ece": scores.ece,
        "test_ece_before_temperature": evaluation.ece_before_temperature,
        "latency_ms": evaluation.latency_ms,
        "size_mb": evaluation.size_mb,
        "test_n": float(scores.n),
        "training_seconds": challenger.seconds,
    }
    if evaluation.champion_scores is not None:
        metrics["champion_accuracy"] = evaluation.champion_scores.accuracy
        metrics["champion_macro_f1"] = evaluation.champion_scores.macro_f1
    if evaluation.difference is not None:
        metrics["accuracy_gain"] = evaluation.difference.value
        metrics["accuracy_gain_lower"] = evaluation.difference.lower
    metrics |= {f"behaviour/{one.kind}": one.passed / one.n for one in evaluation.behaviour}
    for one in evaluation.slices:
        metrics |= _slice_metrics(one)
    return metrics


def _slice_metrics(one: SliceScores) -> dict[str, float]:
    """Return a slice's metrics under the slashes that MLflow's pages group by; a value may hold anything."""
    name = re.sub(r"[^\w\- ]", "_", one.name)
    if len(name) > MAX_NAME:  # MLflow takes 250 characters; the hash keeps values of one beginning apart
        name = f"{name[:MAX_NAME]}-{hashlib.sha256(one.name.encode()).hexdigest()[:8]}"
    found = {"n": float(one.n), "accuracy": one.accuracy, "macro_f1": one.macro_f1}
    if one.accuracy_ci is not None:
        found |= {"accuracy_low": one.accuracy_ci[0], "accuracy_high": one.accuracy_ci[1]}
    if one.difference is not None:
        found["accuracy_gain"] = one.difference.value
    return {f"slices/{name}/{key}": value for key, value in found.items() if value is not None}


def _version_tags(config: Loop, challenger: Challenger, evaluation: Evaluation, snapshot: Snapshot) -> dict[str, str]:
    scores = evaluation.scores
    origin = challenger.facts.get("started from version")
    return {
        **({"started_from": origin} if origin else {}),
        "training_key": challenger.key,
        "labels": json.dumps(config.labels),
        "base_model": config.training.base_model,
        "pooling": config.training.pooling,
        "snapshot": snapshot.fingerprint,
        "recipe_key": recipe_key(config.training, code_version(), config.unknown),
        "gate_key": gate_key(config),
        "gate": "promote" if evaluation.decision.promote else "refuse",
        "gate_failed": " | ".join(rule.name for rule in evaluation.decision.rules if not rule.passed),
        "gate_reasons": " | ".join(evaluation.decision.reasons)[:4900],
        "test_accuracy": f"{scores.accuracy:.4f} [{scores.accuracy_ci[0]:.4f}, {scores.accuracy_ci[1]:.4f}]",
        "test_macro_f1": f"{scores.macro_f1:.4f}",
        "test_n": str(scores.n),
        "champion_then": evaluation.champion_version or NO_CHAMPION,
        "engine": read_manifest(challenger.folder / "bundle").engine,
    }


def _origin(settings: Settings, config: Loop, snapshot: Snapshot) -> dict[str, Any]:
    origin: dict[str, Any] = {"validation page": f"{settings.api}/validation/{config.name}/{snapshot.fingerprint}"}
    commit = _git_commit()
    if commit:
        origin["git commit"] = commit
    return origin | {f"{library} version": package_version(library) for library in LIBRARIES}


def _git_commit() -> str | None:
    """Return the commit this code was checked out from, or None outside a checkout."""
    named = os.environ.get("EVERTUNE_GIT_COMMIT")  # images carry no .git
    if named:
        return named
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False
    )
    return asked.stdout.strip() or None
