"""How good the champion's answers probably are where nobody labelled them.

An independent second opinion tells more than the champion's own scores, which mean other things on other texts: a
linear probe, fitted on the reference's gold labels and the base encoder's vectors, answers the same texts. Where the
champion agrees with it less often than on the reference, it is right less often by about as much (Baek et al. 2022,
"Agreement-on-the-line"). Measured on other genres in `tests/bench/accuracy.py`.

Shapes: N rows, D dimensions, R resamples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from tasks.core.metrics import resample_groups

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MIN_REFERENCE_ROWS = 100  # a probe on fewer, or an isotonic curve through them, follows noise
INVERSE_PENALTY = 50.0  # of the probe, on vectors of length 1
FOLDS = 5
RESAMPLES = 500
BAND = 0.9  # share of windows whose accuracy lies in the band
AGREEMENT_ERROR = 0.045  # standard error of the method itself on other texts: measured on nine, beyond chance
SCORE_ERROR = 0.055  # the same where there are no vectors, and scores must do


@dataclass(frozen=True)
class Answers:
    """What a version answered; `gold` on the reference only, `vectors` [N, D] of the base encoder where there are."""

    predicted: Sequence[str]
    scores: npt.NDArray[np.floating]
    groups: Sequence[str]
    vectors: npt.NDArray[np.floating] | None = None
    gold: Sequence[str] | None = None


@dataclass(frozen=True)
class EstimatedAccuracy:
    """Accuracy expected on n rows without their labels, and the band that holds it in nine of ten windows."""

    accuracy: float
    n: int
    low: float
    high: float


class SecondOpinion:
    """A linear probe on the base encoder's vectors, fitted on the reference's gold labels.

    `agrees` says of each row of the reference whether it gives the champion's answer; a probe that did not see the
    row's group says so.
    """

    def __init__(self, reference: Answers) -> None:
        from sklearn.model_selection import GroupKFold

        assert reference.vectors is not None
        self._vectors = np.asarray(reference.vectors, dtype=np.float64)
        self._gold = np.asarray(reference.gold, dtype=np.str_)
        everything, num_groups = np.arange(len(self._gold)), len(set(reference.groups))
        self._answer = self._fit(everything)
        said = np.empty_like(self._gold)
        if num_groups < 2:
            said = self._answer(self._vectors)
        else:
            folds = GroupKFold(min(FOLDS, num_groups)).split(self._vectors, groups=list(reference.groups))
            for rows, left_out in folds:
                said[left_out] = self._fit(rows)(self._vectors[left_out])
        self.agrees: Bools = said == np.asarray(reference.predicted, dtype=np.str_)

    def ask(self, current: Answers) -> Bools:
        """Say of each row whether the probe gives the champion's answer."""
        said = self._answer(np.asarray(current.vectors, dtype=np.float64))
        agrees: Bools = said == np.asarray(current.predicted, dtype=np.str_)
        return agrees

    def _fit(self, rows: npt.NDArray[np.int64]) -> Callable[[Floats], npt.NDArray[np.str_]]:
        from sklearn.linear_model import LogisticRegression

        labels = np.unique(self._gold[rows])
        if len(labels) < 2:
            return lambda vectors: np.full(len(vectors), labels[0])
        probe = LogisticRegression(C=INVERSE_PENALTY, max_iter=500).fit(self._vectors[rows], self._gold[rows])
        return lambda vectors: np.asarray(probe.predict(vectors), dtype=np.str_)


def estimate_accuracy(
    *, reference: Answers, current: Answers, second: SecondOpinion | None = None
) -> EstimatedAccuracy | None:
    """Return the accuracy that the current answers probably have, or None when there is too little to go by.

    Who estimates many windows by one reference gives its second opinion, which takes seconds to form.
    """
    assert reference.gold is not None, "the reference has labels"
    if len(reference.gold) < MIN_REFERENCE_ROWS or not len(current.predicted):
        return None
    correct = np.asarray(reference.predicted, dtype=np.str_) == np.asarray(reference.gold, dtype=np.str_)
    if reference.vectors is None or current.vectors is None or len(set(reference.gold)) < 2:
        return _estimate_by_scores(reference, current, correct)
    second = second or SecondOpinion(reference)
    agrees_reference, agrees_current = second.agrees, second.ask(current)
    counts_R3 = _resample(np.stack([correct, agrees_reference, np.ones(len(correct))], axis=1), reference.groups, 0)
    counts_R2 = _resample(np.stack([agrees_current, np.ones(len(agrees_current))], axis=1), current.groups, 1)
    accuracy = float(_carry(correct.mean(), agrees_reference.mean(), agrees_current.mean(), len(correct)))
    resampled_R = _carry(
        counts_R3[:, 0] / counts_R3[:, 2],
        counts_R3[:, 1] / counts_R3[:, 2],
        counts_R2[:, 0] / counts_R2[:, 1],
        len(correct),
    )
    return _with_band(accuracy, float(resampled_R.std()), AGREEMENT_ERROR, len(current.predicted))


def _carry(accuracy: Floats | float, agreement: Floats | float, agreement_now: Floats | float, num_rows: int) -> Floats:
    """Return the accuracy at another agreement: on the probit scale, where the two lie on a line."""
    edge = 0.5 / num_rows
    at = [norm.ppf(np.clip(rate, edge, 1 - edge)) for rate in (accuracy, agreement, agreement_now)]
    carried: Floats = norm.cdf(at[0] + at[2] - at[1])
    return carried


def _estimate_by_scores(reference: Answers, current: Answers, correct: Bools) -> EstimatedAccuracy:
    """Return the mean chance behind the scores: an isotonic curve through the reference."""
    from sklearn.isotonic import IsotonicRegression

    curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    curve.fit(reference.scores.astype(np.float64), correct.astype(np.float64))
    chances = curve.predict(current.scores.astype(np.float64))
    counts_R2 = _resample(np.stack([correct, np.ones(len(correct))], axis=1), reference.groups, 0)
    spread = float((counts_R2[:, 0] / counts_R2[:, 1]).std())
    return _with_band(float(chances.mean()), spread, SCORE_ERROR, len(chances))


def _with_band(accuracy: float, chance_error: float, method_error: float, n: int) -> EstimatedAccuracy:
    """Return the estimate with its band: what chance drew on both sides, and what the method is known to be off."""
    own = sqrt(accuracy * (1 - accuracy) / n)
    reach = float(norm.ppf((1 + BAND) / 2)) * sqrt(chance_error**2 + method_error**2 + own**2)
    return EstimatedAccuracy(accuracy, n, max(0.0, accuracy - reach), min(1.0, accuracy + reach))


def _resample(values_NK: npt.NDArray[np.number], groups: Sequence[str], seed: int) -> Floats:
    codes = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)[1]
    sums_GK = np.stack([np.bincount(codes, values) for values in values_NK.T.astype(np.float64)], axis=1)
    return resample_groups(sums_GK, RESAMPLES, seed)
