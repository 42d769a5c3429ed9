"""Shell of the evaluation stage: challenger and champion, scored afresh on the same frozen test rows."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import get_run_logger, task

from configs.schema import Loop
from configs.settings import Settings
from tasks.core.metrics import Scores, score_predictions
from tasks.core.predictor import Prediction, Predictor, softmax
from tasks.core.promotion import (
    GateDecision,
    Parity,
    decide_promotion,
    measure_parity,
    paired_accuracy_differences,
)
from tasks.core.redaction import redact
from tasks.core.retrain_plan import check_labels
from tasks.stores.base_models import resolve_base_model
from tasks.stores.model_registry import open_registry
from tasks.stores.snapshots import Snapshot, SnapshotStore
from tasks.training import Challenger


@dataclass(frozen=True)
class Evaluation:
    """The gate's decision with all that it rests on."""

    scores: Scores
    champion_scores: Scores | None
    champion_version: str | None
    parity: Parity
    decision: GateDecision
    seconds: float


@task(name="evaluate")
def evaluate_challenger(config: Loop, snapshot: Snapshot, challenger: Challenger) -> Evaluation:
    """Score the export that would be served, compare it with the champion's, decide, and write the evidence."""
    started = time.monotonic()
    settings = Settings()
    test = SnapshotStore(settings.snapshots).read_split(snapshot, "test")
    gold = test["label"].map(config.labels.index).to_numpy()
    groups = test["group"].tolist()
    predictor = Predictor.load(challenger.folder / "bundle")
    answers = predictor.predict(test["text"].tolist())
    scores = score_predictions(gold, answers.probabilities, groups)
    champion_version, champion = _predict_with_champion(config, settings, test["text"].tolist())
    champion_scores = None if champion is None else score_predictions(gold, champion, groups)
    differences = None
    if champion is not None:
        differences = paired_accuracy_differences(gold, answers.probabilities, champion, groups, config.gate.resamples)
    parity = measure_parity(answers.probabilities, _predict_with_checkpoint(challenger, predictor, test))
    decision = decide_promotion(scores, parity, config.gate, differences)
    evaluation = Evaluation(
        scores, champion_scores, champion_version, parity, decision, seconds=time.monotonic() - started
    )
    _write_evidence(config, challenger, test, answers, evaluation)
    logger = get_run_logger()
    low, high = scores.accuracy_ci
    logger.info("test: accuracy %.3f [%.3f, %.3f], macro-F1 %.3f, ECE %.3f, n %d", scores.accuracy, low, high,
                scores.macro_f1, scores.ece, scores.n)  # fmt: skip
    for reason in decision.reasons:
        logger.info("gate: %s", reason)
    return Evaluation(scores, champion_scores, champion_version, parity, decision, time.monotonic() - started)


def _predict_with_champion(config: Loop, settings: Settings, texts: list[str]) -> tuple[str | None, Any]:
    """Return the champion's version and probabilities in the loop's label order, or None before the first promotion."""
    registry = open_registry(settings)
    champion = registry.find(config.name, "champion")
    if champion is None:
        return None, None
    predictor = Predictor.load(registry.fetch_bundle(champion, settings.root / "models"))
    check_labels(config.name, config.labels, predictor.labels)
    order = [predictor.labels.index(label) for label in config.labels]
    return champion.version, predictor.predict(texts).probabilities[:, order]


def _predict_with_checkpoint(challenger: Challenger, predictor: Predictor, test: pd.DataFrame) -> Any:
    from tasks.core.classifier import load_classifier, load_tokenizer
    from tasks.core.export import checkpoint_logits

    folder = challenger.folder / "checkpoint"
    tokenizer = load_tokenizer(str(folder / "encoder"))
    logits = checkpoint_logits(load_classifier(folder), tokenizer, test["text"].tolist())
    return softmax(logits / predictor.manifest.temperature)


def _write_evidence(
    config: Loop, challenger: Challenger, test: pd.DataFrame, answers: Prediction, evaluation: Evaluation
) -> None:
    from tasks.core.embedding import embed
    from tasks.core.evidence import build_reference, list_hardest_errors, plot_confusion, plot_reliability

    folder = challenger.folder / "evidence"
    folder.mkdir(exist_ok=True)
    redacted = [redact(text) for text in test["text"]]
    embeddings = embed(redacted, resolve_base_model(config.training.base_model))
    gold = test["label"].map(config.labels.index).to_numpy()
    probabilities = np.asarray(answers.probabilities)
    reference = build_reference(test, probabilities, answers.n_tokens, embeddings, config.labels)
    reference.to_parquet(folder / "reference.parquet", index=False)
    list_hardest_errors(test.assign(text=redacted), probabilities, config.labels).to_csv(
        folder / "hardest_errors.csv", index=False
    )
    plot_confusion(gold, probabilities, config.labels, folder / "confusion.png")
    plot_reliability(gold, probabilities, evaluation.scores.ece, folder / "reliability.png")
    write_json(folder / "gate.json", asdict(evaluation))


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record as indented JSON."""
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")
