"""How good the champion is on live texts: measured where labels came back, estimated where none did."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.core.metrics import exact_bound, interval, resample_groups

MIN_CALIBRATION_ROWS = 30  # an isotonic curve through fewer follows noise


@dataclass(frozen=True)
class MeasuredAccuracy:
    """Share of right labels among the n rows that feedback labelled, with an interval over resampled groups.

    Honest only as far as labels are a random choice of rows: feedback on disputed answers alone reads too low.
    """

    accuracy: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class EstimatedAccuracy:
    """Accuracy expected on n rows from their scores alone."""

    accuracy: float
    n: int


def measure_accuracy(
    *, predicted: Sequence[str], gold: Sequence[str], groups: Sequence[str], confidence: float = 0.95, seed: int = 0
) -> MeasuredAccuracy | None:
    """Return the accuracy on labelled rows, or None without any."""
    if not len(gold):
        return None
    correct = np.asarray(predicted, dtype=np.str_) == np.asarray(gold, dtype=np.str_)
    _, codes = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    counts_G2 = np.stack([np.bincount(codes, correct), np.bincount(codes)], axis=1)
    sums_R2 = resample_groups(counts_G2, 2000, seed)
    low, high = interval(sums_R2[:, 0] / sums_R2[:, 1], confidence)
    if low == high:  # all right or all wrong: resampling cannot show what was never drawn
        low, high = exact_bound(bool(correct.all()), len(counts_G2), confidence)
    return MeasuredAccuracy(float(correct.mean()), low, high, len(gold))


def estimate_accuracy(
    *,
    reference_scores: npt.NDArray[np.floating],
    reference_correct: npt.NDArray[np.bool_],
    current_scores: npt.NDArray[np.floating],
) -> EstimatedAccuracy | None:
    """Return the mean chance that the current answers are right, or None when there is too little to calibrate on.

    The chance behind a score is an isotonic curve through the reference (confidence-based performance estimation). It
    holds while a score keeps its meaning; under drift it is a hint, measured within 1–5 points on other genres.
    """
    from sklearn.isotonic import IsotonicRegression

    if len(reference_scores) < MIN_CALIBRATION_ROWS or not len(current_scores):
        return None
    curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    curve.fit(reference_scores.astype(np.float64), reference_correct.astype(np.float64))
    return EstimatedAccuracy(float(curve.predict(current_scores.astype(np.float64)).mean()), len(current_scores))
