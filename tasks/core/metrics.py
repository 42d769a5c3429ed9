"""Scores of a classifier, each with an interval that resamples whole groups.

Rows of one group (a review, a user) are alike, so resampling single rows would make every interval too narrow.
Shapes: N rows, C classes, G groups, R resamples. A confusion matrix counts [true, predicted].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
TEMPERATURE_BOUNDS = (float(np.log(0.5)), float(np.log(12)))  # rows without an error would have it run off to 0


@dataclass(frozen=True)
class Scores:
    """What a model reached on n rows; `accuracy_ci` is a 95 % interval over resampled groups."""

    accuracy: float
    macro_f1: float
    ece: float
    n: int
    accuracy_ci: tuple[float, float]
    macro_f1_ci: tuple[float, float]
    per_class_f1: tuple[float, ...]


def score_predictions(
    gold: Ints, probabilities: npt.NDArray[np.floating], groups: Sequence[str], resamples: int = 2000, seed: int = 0
) -> Scores:
    """Score probabilities [N, C] against gold class numbers [N]."""
    num_classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    counts_GCC = group_confusions(gold, predicted, groups, num_classes)
    total_CC = counts_GCC.sum(0)
    resampled_RCC = resample_groups(counts_GCC, resamples, seed)
    accuracies = accuracy(resampled_RCC)
    f1s = macro_f1(resampled_RCC)
    return Scores(
        accuracy=float(accuracy(total_CC)),
        macro_f1=float(macro_f1(total_CC)),
        ece=expected_calibration_error(gold, probabilities),
        n=len(gold),
        accuracy_ci=interval(accuracies, 0.95),
        macro_f1_ci=interval(f1s, 0.95),
        per_class_f1=tuple(float(value) for value in class_f1(total_CC)),
    )


def confusion_matrix(gold: Ints, predicted: Ints, num_classes: int) -> Ints:
    """Return counts int64 [C, C] of true (rows) by predicted (columns) class."""
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (gold, predicted), 1)
    return counts


def group_confusions(gold: Ints, predicted: Ints, groups: Sequence[str], num_classes: int) -> Ints:
    """Return one confusion matrix per group, int64 [G, C, C]."""
    names, codes = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    counts = np.zeros((len(names), num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (codes, gold, predicted), 1)
    return counts


def resample_groups(values_G: npt.NDArray[np.number], resamples: int, seed: int) -> Floats:
    """Return sums over R bootstrap samples of whole groups, [R, ...] for values [G, ...]."""
    num_groups = len(values_G)
    weights = np.random.default_rng(seed).multinomial(num_groups, np.full(num_groups, 1 / num_groups), resamples)
    flat = weights.astype(np.float64) @ values_G.reshape(num_groups, -1).astype(np.float64)
    sums: Floats = flat.reshape(resamples, *values_G.shape[1:])
    return sums


def accuracy(counts: npt.NDArray[np.number]) -> Floats:
    """Return the share on the diagonal of confusion matrices [..., C, C]."""
    diagonal = np.diagonal(counts, axis1=-2, axis2=-1).sum(-1)
    share: Floats = np.asarray(diagonal / np.maximum(counts.sum((-2, -1)), 1))
    return share


def class_f1(counts: npt.NDArray[np.number]) -> Floats:
    """Return the F1 of each class, [..., C]; a class that is neither true nor predicted scores 0."""
    true_positives = np.diagonal(counts, axis1=-2, axis2=-1)
    f1: Floats = 2 * true_positives / np.maximum(counts.sum(-1) + counts.sum(-2), 1)
    return f1


def macro_f1(counts: npt.NDArray[np.number]) -> Floats:
    """Return the unweighted mean of the classes' F1."""
    mean: Floats = np.asarray(class_f1(counts).mean(-1))
    return mean


def interval(values: npt.NDArray[np.floating], confidence: float) -> tuple[float, float]:
    """Return the two-sided percentile interval (Efron & Tibshirani 1993, chapter 13)."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def expected_calibration_error(gold: Ints, probabilities: npt.NDArray[np.floating], bins: int = 15) -> float:
    """Return the gap between score and accuracy, averaged over equal-width score bins (Guo et al. 2017)."""
    scores = probabilities.max(1)
    correct = probabilities.argmax(1) == gold
    places = np.minimum((scores * bins).astype(int), bins - 1)
    gaps = [abs(correct[places == place].mean() - scores[places == place].mean()) * (places == place).mean()
            for place in np.unique(places)]  # fmt: skip
    return float(sum(gaps))


def fit_temperature(logits: npt.NDArray[np.floating], gold: Ints) -> float:
    """Return the temperature that minimises the negative log-likelihood of held-out rows (Guo et al. 2017)."""
    logits64 = logits.astype(np.float64)

    def negative_log_likelihood(log_temperature: float) -> float:
        scaled = logits64 / np.exp(log_temperature)
        log_sums = np.logaddexp.reduce(scaled, axis=1)
        return float((log_sums - scaled[np.arange(len(gold)), gold]).mean())

    best = minimize_scalar(negative_log_likelihood, bounds=TEMPERATURE_BOUNDS, method="bounded")
    return float(np.exp(best.x))
