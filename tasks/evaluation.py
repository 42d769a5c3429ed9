"""Shell of the evaluation stage: challenger and champion, scored afresh on the same frozen test rows."""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import get_run_logger, task

from configs.schema import Gate, Loop
from configs.settings import Settings
from tasks.core.base_models import resolve_base_model
from tasks.core.behaviour import CaseResult, KindResult, count_by_kind, judge_cases
from tasks.core.engines import REFERENCE
from tasks.core.metrics import Scores, expected_calibration_error, score_predictions, uncalibrate
from tasks.core.paired import Difference
from tasks.core.predictor import Prediction, Predictor, softmax
from tasks.core.promotion import (
    GateDecision,
    GateEvidence,
    Parity,
    SliceVerdict,
    compare_accuracy,
    decide_promotion,
    describe_parity,
    is_faithful,
    judge_slices,
    measure_parity,
)
from tasks.core.redaction import redact
from tasks.core.retrain_plan import check_labels
from tasks.core.slices import SliceScores, cut_slices, score_slices
from tasks.stores.model_registry import open_registry
from tasks.stores.snapshots import Snapshot, SnapshotStore
from tasks.training import Challenger

LATENCY_TEXTS = 50


@dataclass(frozen=True)
class Evaluation:
    """The gate's decision with all that it rests on."""

    scores: Scores
    champion_scores: Scores | None
    champion_version: str | None
    parity: Parity
    decision: GateDecision
    seconds: float
    difference: Difference | None = None
    slices: tuple[SliceScores, ...] = ()
    slice_verdicts: tuple[SliceVerdict, ...] = ()  # in the order of `slices`
    behaviour: tuple[KindResult, ...] = ()
    cases: tuple[CaseResult, ...] = ()
    latency_ms: float = 0.0
    size_mb: float = 0.0
    temperature: float = 1.0
    ece_before_temperature: float = 0.0
    unknown_share: float | None = None  # of test rows answered `unknown`, all in scope; None: the loop never says so


@task(name="evaluate")
def evaluate_challenger(config: Loop, snapshot: Snapshot, challenger: Challenger) -> Evaluation:
    """Score the export that would be served, compare it with the champion's, decide, and write the evidence."""
    started = time.monotonic()
    settings = Settings()
    test = SnapshotStore(settings.snapshots).read_split(snapshot, "test")
    texts, groups = test["text"].tolist(), test["group"].tolist()
    gold = test["label"].map(config.labels.index).to_numpy()
    bundle = challenger.folder / "bundle"
    checkpoint = _ask_checkpoint(challenger, texts)
    predictor, parity = _load_faithful(bundle, checkpoint, texts, config.gate)
    answers = predictor.predict(texts)
    ours = answers.probabilities
    champion_version, champion = _predict_with_champion(config, settings, texts)
    cuts = cut_slices(test, config.slices)
    slices = score_slices(cuts, gold, ours, champion, groups, config.gate.resamples, config.gate.confidence)
    cases = judge_cases(config.behaviour, predictor.labels, predictor.predict)
    evidence = GateEvidence(
        scores=score_predictions(gold, ours, groups),
        parity=parity,
        difference=None if champion is None else compare_accuracy(gold, ours, champion, groups, config.gate),
        slices=slices,
        behaviour=count_by_kind(cases, config.behaviour),
        latency_ms=_measure_latency(predictor, texts[:LATENCY_TEXTS]),
        size_mb=sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file()) / 1e6,
        untested=tuple(label for label in config.labels if label not in set(test["label"])),
        unknown_share=float(answers.unknown.mean()) if predictor.manifest.min_closeness is not None else None,
        max_refused_share=config.unknown.max_refused_share if config.unknown else None,
    )
    decision = decide_promotion(evidence, config.gate)
    temperature = predictor.manifest.temperature
    evaluation = Evaluation(
        scores=evidence.scores,
        champion_scores=None if champion is None else score_predictions(gold, champion, groups),
        champion_version=champion_version,
        parity=evidence.parity,
        decision=decision,
        seconds=time.monotonic() - started,
        difference=evidence.difference,
        slices=slices,
        slice_verdicts=tuple(judge_slices(slices, config.gate)),
        behaviour=evidence.behaviour,
        cases=cases,
        latency_ms=evidence.latency_ms,
        size_mb=evidence.size_mb,
        temperature=temperature,
        ece_before_temperature=expected_calibration_error(gold, uncalibrate(ours, temperature)),
        unknown_share=evidence.unknown_share,
    )
    _write_evidence(config, challenger, test, answers, evaluation)
    _log_outcome(evaluation)
    return replace(evaluation, seconds=time.monotonic() - started)


def _log_outcome(evaluation: Evaluation) -> None:
    logger, scores = get_run_logger(), evaluation.scores
    low, high = scores.accuracy_ci
    logger.info("test: accuracy %.3f [%.3f, %.3f], macro-F1 %.3f, ECE %.3f, n %d", scores.accuracy, low, high,
                scores.macro_f1, scores.ece, scores.n)  # fmt: skip
    if evaluation.unknown_share is not None:
        logger.info("test: %.1f %% of rows, all in scope, are answered unknown", 100 * evaluation.unknown_share)
    for reason in evaluation.decision.reasons:
        logger.info("gate: %s", reason)


def _measure_latency(predictor: Predictor, texts: list[str]) -> float:
    """Return the median milliseconds of answering one text alone, as the service's smallest request does."""
    seconds = []
    for text in texts[:3] + texts:  # the first ones warm up
        started = time.perf_counter()
        predictor.predict([text])
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds[3:]))


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


def _ask_checkpoint(challenger: Challenger, texts: list[str]) -> Any:
    """Return the training checkpoint's logits [N, C]; it reads the beginning of long texts only."""
    from tasks.core.classifier import load_classifier, load_tokenizer
    from tasks.core.export import checkpoint_logits

    folder = challenger.folder / "checkpoint"
    return checkpoint_logits(load_classifier(folder), load_tokenizer(str(folder / "encoder")), texts)


def _load_faithful(bundle: Path, logits: Any, texts: list[str], gate: Gate) -> tuple[Predictor, Parity]:
    """Return the predictor that is to serve, and how closely it repeats the checkpoint's logits.

    An engine that passed on the validation rows may be found not to pass here: onnx-fp32 then serves in its place.
    """
    from tasks.core.engine_choice import read_table, refuse_choice, use_choice

    def load() -> tuple[Predictor, Parity]:
        predictor = Predictor.load(bundle)
        answered = predictor.reading(long_texts="truncate").predict(texts).probabilities
        return predictor, measure_parity(answered, softmax(logits / predictor.manifest.temperature))

    predictor, parity = load()
    table = read_table(bundle)
    if table and predictor.manifest.engine != REFERENCE and not is_faithful(parity, gate):
        why = f"on the {len(texts)} test rows: {describe_parity(parity, gate)}"
        get_run_logger().warning("engine %s: %s; %s serves instead", predictor.manifest.engine, why, REFERENCE)
        use_choice(bundle, refuse_choice(table, why))
        predictor, parity = load()
    return predictor, parity


def _write_evidence(
    config: Loop, challenger: Challenger, test: pd.DataFrame, answers: Prediction, evaluation: Evaluation
) -> None:
    from tasks.core.classifier import load_classifier, load_tokenizer
    from tasks.core.descriptors import describe
    from tasks.core.embedding import embed
    from tasks.core.evidence import (
        build_reference,
        list_hardest_errors,
        tabulate_cases,
        tabulate_classes,
        tabulate_slices,
    )
    from tasks.core.export import sentence_vectors

    folder = challenger.folder / "evidence"
    folder.mkdir(exist_ok=True)
    redacted = [redact(text) for text in test["text"]]
    base_model, checkpoint = resolve_base_model(config.training.base_model), challenger.folder / "checkpoint"
    own = load_classifier(checkpoint), load_tokenizer(str(checkpoint / "encoder"))
    gold = test["label"].map(config.labels.index).to_numpy()
    probabilities = np.asarray(answers.probabilities)
    reference = build_reference(
        test,
        probabilities,
        answers.n_tokens,
        embed(redacted, base_model),
        config.labels,
        answers.answers,
        sentence_vectors(*own, redacted),
        describe(redacted, load_tokenizer(base_model)),
    )
    reference.to_parquet(folder / "reference.parquet", index=False)
    tables = {
        "hardest_errors": list_hardest_errors(test.assign(text=redacted), probabilities, config.labels),
        "classes": tabulate_classes(gold, probabilities, evaluation.scores, config.labels),
        "slices": tabulate_slices(evaluation.slices, evaluation.slice_verdicts),
        "behaviour": tabulate_cases(evaluation.cases),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    _draw(config, gold, probabilities, evaluation, folder)
    write_json(folder / "gate.json", asdict(evaluation))


def _draw(config: Loop, gold: Any, probabilities: Any, evaluation: Evaluation, folder: Path) -> None:
    from tasks.core.plots import plot_confusion, plot_precision_recall, plot_reliability, plot_slices

    before = uncalibrate(probabilities, evaluation.temperature)
    sides = [
        ("before temperature scaling", before, evaluation.ece_before_temperature),
        (f"as served, temperature {evaluation.temperature:.2f}", probabilities, evaluation.scores.ece),
    ]
    plot_confusion(gold, probabilities, config.labels, folder / "confusion.png")
    plot_reliability(gold, sides, folder / "reliability.png")
    plot_precision_recall(gold, probabilities, config.labels, folder / "precision_recall.png")
    if any(one.n for one in evaluation.slices):
        plot_slices(evaluation.slices, evaluation.scores.accuracy, folder / "slices.png")


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record as indented JSON."""
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")
