"""The tables that a person looks at to believe a version: reference, slices, cases, classes, the hardest errors."""

from collections.abc import Sequence
from dataclasses import asdict, fields

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.core.behaviour import CaseResult
from tasks.core.metrics import Scores, average_precision, confusion_matrix
from tasks.core.promotion import SliceVerdict
from tasks.core.slices import SliceScores

Floats = npt.NDArray[np.floating]
LOGGED_DECIMALS = 6  # as the prediction service answers and logs


def build_reference(
    test: pd.DataFrame,
    probabilities: Floats,
    n_tokens: npt.NDArray[np.int64],
    embeddings: Floats,
    labels: Sequence[str],
    answers: Sequence[str] | None = None,
    representation: Floats | None = None,
    described: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return what drift is measured against: one row per test row, with scores and embedding but without its text.

    `answers` are what the service would say, perhaps `unknown`; None: the likeliest labels. `representation` are the
    model's own sentence vectors, `described` the columns of `core/descriptors.py`.
    """
    reference = pd.DataFrame(
        {
            "row_id": test["row_id"].to_numpy(),
            "group": test["group"].to_numpy(),
            "label": test["label"].to_numpy(),
            "predicted": np.asarray(_likeliest(probabilities, labels) if answers is None else answers, dtype=object),
            "score": as_logged(probabilities.max(1)),
            "n_chars": test["text"].str.len().to_numpy(),
            "n_words": test["text"].str.split().str.len().to_numpy(),
            "n_tokens": n_tokens,
        }
    )
    for position, label in enumerate(labels):
        reference[f"p_{label}"] = as_logged(probabilities[:, position])
    reference["embedding"] = list(embeddings)
    if representation is not None:
        reference["representation"] = list(representation)
    return reference if described is None else reference.join(described.set_axis(reference.index))


def _likeliest(probabilities: Floats, labels: Sequence[str]) -> list[str]:
    return [labels[position] for position in probabilities.argmax(1)]


def as_logged(probabilities: Floats) -> Floats:
    """Return probabilities as exact as the prediction log keeps them.

    With more digits than the log, a confident model's ties at 0 and 1 would be broken on one side only, and
    Kolmogorov–Smirnov would find drift in every window.
    """
    return np.round(probabilities.astype(np.float64), LOGGED_DECIMALS)


def list_hardest_errors(
    test: pd.DataFrame, probabilities: Floats, labels: Sequence[str], limit: int = 50
) -> pd.DataFrame:
    """Return the test rows that the model got wrong with the highest score."""
    scores = probabilities.max(1)
    wrong = np.flatnonzero(np.asarray(labels, dtype=object)[probabilities.argmax(1)] != test["label"].to_numpy())
    worst = wrong[np.argsort(-scores[wrong], kind="stable")][:limit]
    predicted = [labels[position] for position in probabilities[worst].argmax(1)]
    rows = test.iloc[worst][["row_id", "label", "source", "text"]]
    return rows.assign(predicted=predicted, score=scores[worst].round(4)).reset_index(drop=True)


def tabulate_slices(slices: Sequence[SliceScores], verdicts: Sequence[SliceVerdict]) -> pd.DataFrame:
    """Return one row per slice: sizes, both models' scores, their difference with interval, and the gate's verdict."""
    rows = []
    for one, verdict in zip(slices, verdicts, strict=True):
        low, high = one.accuracy_ci or (None, None)
        f1_low, f1_high = one.macro_f1_ci or (None, None)
        difference = one.difference
        rows.append(
            {
                "slice": one.name,
                "rule": one.rule,
                "n": one.n,
                "groups": one.n_groups,
                "accuracy": one.accuracy,
                "accuracy_low": low,
                "accuracy_high": high,
                "macro_f1": one.macro_f1,
                "macro_f1_low": f1_low,
                "macro_f1_high": f1_high,
                "champion_accuracy": one.champion_accuracy,
                "champion_macro_f1": one.champion_macro_f1,
                "difference": difference.value if difference else None,
                "difference_low": difference.ci[0] if difference else None,
                "difference_high": difference.ci[1] if difference else None,
                "p_loss_corrected": verdict.p_value,
                "verdict": verdict.outcome,
                "note": one.note,
            }
        )
    columns = list(rows[0]) if rows else ["slice", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def tabulate_cases(cases: Sequence[CaseResult]) -> pd.DataFrame:
    """Return one row per behavioural case, the failed ones first."""
    names = [field.name for field in fields(CaseResult)]
    table = pd.DataFrame([asdict(case) for case in cases], columns=names).rename(columns={"number": "case"})
    return table.sort_values(["passed", "case"], kind="stable", ignore_index=True)


def tabulate_classes(
    gold: npt.NDArray[np.int64], probabilities: Floats, scores: Scores, labels: Sequence[str]
) -> pd.DataFrame:
    """Return one row per class: test rows, precision, recall, F1 with its interval, and average precision."""
    counts = confusion_matrix(gold, probabilities.argmax(1), len(labels))
    hits = np.diagonal(counts)
    bounds = np.array(scores.per_class_f1_ci or [(np.nan, np.nan)] * len(labels))
    return pd.DataFrame(
        {
            "label": list(labels),
            "n": counts.sum(1),
            "precision": hits / np.maximum(counts.sum(0), 1),
            "recall": hits / np.maximum(counts.sum(1), 1),
            "f1": scores.per_class_f1,
            "f1_low": bounds[:, 0],
            "f1_high": bounds[:, 1],
            "average_precision": [
                average_precision(gold == place, probabilities[:, place]) for place in range(len(labels))
            ],
        }
    ).round(4)
