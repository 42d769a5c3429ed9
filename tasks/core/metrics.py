"""Scores of a classifier, each with an interval that resamples whole groups.

Rows of one group (a review, a user) are alike, so resampling single rows would make every interval too narrow.
Shapes: N rows, C classes, G groups, R resamples, K sums. A confusion matrix counts [true, predicted].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.stats import norm, t

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
DRAWS_AT_ONCE = 2**23  # group weights held in memory while resampling
ECE_RESAMPLES = 500  # every group's scores differ, so equal groups cannot be drawn together


@dataclass(frozen=True)
class Scores:
    """What a model reached on n rows; each `_ci` is a 95 % interval over resampled groups."""

    accuracy: float
    macro_f1: float
    ece: float
    n: int
    accuracy_ci: tuple[float, float]
    macro_f1_ci: tuple[float, float]
    per_class_f1: tuple[float, ...]
    ece_ci: tuple[float, float] | None = None
    per_class_f1_ci: tuple[tuple[float, float], ...] = ()


def score_predictions(
    gold: Ints, probabilities: npt.NDArray[np.floating], groups: Sequence[str], resamples: int = 2000, seed: int = 0
) -> Scores:
    """Score probabilities [N, C] against gold class numbers [N]; macro-F1 is over classes true or predicted."""
    codes, num_groups = number_groups(groups)
    num_classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    counts = count_answers(gold, predicted, codes, num_groups, num_classes)
    present = np.union1d(gold, predicted)
    f1 = f1_of_counts(np.asarray(counts.sum(1)), num_classes).ravel()
    sums_KR = resample_sums(counts, resamples, seed)
    f1_CR = f1_of_counts(sums_KR, num_classes)
    accuracy_R = accuracy_of_counts(sums_KR, num_classes)
    return Scores(
        accuracy=float((predicted == gold).mean()),
        macro_f1=float(f1[present].mean()),
        ece=expected_calibration_error(gold, probabilities),
        n=len(gold),
        accuracy_ci=share_interval(accuracy_R, 0.95, num_groups),
        macro_f1_ci=interval(f1_CR[present].mean(0), 0.95, num_groups),
        per_class_f1=tuple(map(float, f1)),
        ece_ci=_calibration_interval(gold, probabilities, codes, num_groups, min(resamples, ECE_RESAMPLES), seed),
        per_class_f1_ci=tuple(interval(values, 0.95, num_groups) for values in f1_CR),
    )


def number_groups(groups: Sequence[str]) -> tuple[Ints, int]:
    """Return each row's group as a number below G, and G."""
    names, codes = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    return codes.astype(np.int64), len(names)


def count_answers(gold: Ints, predicted: Ints, codes: Ints, num_groups: int, num_classes: int) -> sparse.csr_array:
    """Return int [3C, G]: for each class and group its true positives, its true rows, and the rows answered with it.

    That is all that accuracy and F1 need, and grows with C where a confusion matrix grows with its square.
    """
    hit = np.flatnonzero(gold == predicted)
    kinds = np.concatenate([gold[hit], num_classes + gold, 2 * num_classes + predicted])
    places = np.concatenate([codes[hit], codes, codes])
    shape = (3 * num_classes, num_groups)
    return sparse.csr_array((np.ones(len(kinds), dtype=np.float64), (kinds, places)), shape=shape)


def resample_sums(values_KG: sparse.csr_array, resamples: int, seed: int) -> Floats:
    """Return sums over R bootstrap samples of whole groups, [K, R] for values [K, G].

    Groups with the same values are drawn together: their numbers in a sample are multinomial all the same.
    """
    num_sums, num_groups = values_KG.shape
    random = np.random.default_rng(seed)
    keys = values_KG.T @ np.random.default_rng(0).standard_normal(num_sums)  # equal columns, equal keys
    _, first, times = np.unique(keys, return_index=True, return_counts=True)
    distinct = values_KG[:, first]
    at_once = max(1, DRAWS_AT_ONCE // len(first))
    parts = []
    for start in range(0, resamples, at_once):
        weights_RU = random.multinomial(num_groups, times / num_groups, min(at_once, resamples - start))
        parts.append(distinct @ np.ascontiguousarray(weights_RU.T, dtype=np.float64))
    sums: Floats = np.concatenate(parts, axis=1)
    return sums


def accuracy_of_counts(sums: Floats, num_classes: int) -> Floats:
    """Return the accuracy of sums of `count_answers`, [...] for [3C, ...]; NaN where nothing was drawn."""
    with np.errstate(invalid="ignore"):
        share: Floats = sums[:num_classes].sum(0) / sums[num_classes : 2 * num_classes].sum(0)
    return share


def f1_of_counts(sums: Floats, num_classes: int) -> Floats:
    """Return the F1 of each class, [C, ...] for sums [3C, ...]; a class neither true nor predicted scores 0."""
    hits, true, predicted = (sums[part * num_classes : (part + 1) * num_classes] for part in range(3))
    f1: Floats = 2 * hits / np.maximum(true + predicted, 1)
    return f1


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
    flat = sparse.csr_array(values_G.reshape(len(values_G), -1).T.astype(np.float64))
    sums: Floats = resample_sums(flat, resamples, seed).T.reshape(resamples, *values_G.shape[1:])
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
    """Return the mean F1 of the classes that are true or predicted, [...]: no row tells anything of the others."""
    is_present = counts.sum(-1) + counts.sum(-2) > 0
    mean: Floats = np.asarray(class_f1(counts).sum(-1) / np.maximum(is_present.sum(-1), 1))
    return mean


def interval(values: npt.NDArray[np.floating], confidence: float, num_groups: int | None = None) -> tuple[float, float]:
    """Return the two-sided percentile interval (Efron & Tibshirani 1993, chapter 13), expanded for few groups.

    One group alone never varies, so it says nothing: a score between 0 and 1 may then be any of them.
    """
    if num_groups is not None and num_groups < 2:
        return 0.0, 1.0
    share = expand((1 - confidence) / 2, num_groups)
    low, high = np.nanquantile(values, [share, 1 - share])
    return float(low), float(high)


@lru_cache(maxsize=256)
def expand(share: float, num_groups: int | None) -> float:
    """Return the share of a resampling distribution to cut off for a nominal share, from G groups.

    The percentile bootstrap is too narrow by sqrt((G-1)/G) and has normal tails where t's are due; cutting at
    Φ(sqrt(G/(G-1)) t) mends both (Hesterberg 2015, doi:10.1080/00031305.2015.1089789).
    """
    if num_groups is None or num_groups < 2:
        return share
    return float(norm.cdf(np.sqrt(num_groups / (num_groups - 1)) * t.ppf(share, num_groups - 1)))


def share_interval(values: npt.NDArray[np.floating], confidence: float, num_groups: int) -> tuple[float, float]:
    """Return the interval of a share: exact over groups where all or none are right, which no resample can vary."""
    low, high = interval(values, confidence, num_groups)
    if low == high and low in (0.0, 1.0):
        return exact_bound(low == 1.0, num_groups, confidence)
    return low, high


def exact_bound(all_right: bool, num_groups: int, confidence: float) -> tuple[float, float]:
    """Return the Clopper–Pearson interval of num_groups equal outcomes."""
    reach = float(((1 - confidence) / 2) ** (1 / num_groups))
    return (reach, 1.0) if all_right else (0.0, 1 - reach)


def expected_calibration_error(gold: Ints, probabilities: npt.NDArray[np.floating], bins: int = 15) -> float:
    """Return the gap between score and accuracy, averaged over equal-width score bins (Guo et al. 2017)."""
    scores = probabilities.max(1)
    correct = probabilities.argmax(1) == gold
    places = np.minimum((scores * bins).astype(int), bins - 1)
    gaps = [abs(correct[places == place].mean() - scores[places == place].mean()) * (places == place).mean()
            for place in np.unique(places)]  # fmt: skip
    return float(sum(gaps))


def _calibration_interval(
    gold: Ints, probabilities: npt.NDArray[np.floating], codes: Ints, num_groups: int, resamples: int, seed: int,
    bins: int = 15,
) -> tuple[float, float]:  # fmt: skip
    """Return the ECE plus and minus t standard errors of its resamples.

    Not their percentiles: noise only adds to an ECE, resampling adds it again, and the interval would miss the value.
    """
    scores = probabilities.max(1).astype(np.float64)
    gap = (probabilities.argmax(1) == gold) - scores
    places = np.minimum((scores * bins).astype(int), bins - 1)
    rows = np.concatenate([places, np.full(len(gap), bins)])
    values = np.concatenate([gap, np.ones(len(gap))])
    sums_KG = sparse.csr_array((values, (rows, np.concatenate([codes, codes]))), shape=(bins + 1, num_groups))
    total = np.asarray(sums_KG.sum(1)).ravel()
    ece = float(np.abs(total[:bins]).sum() / total[bins])
    sums = resample_sums(sums_KG, resamples, seed)
    error = float((np.abs(sums[:bins]).sum(0) / sums[bins]).std(ddof=1))
    reach = float(t.ppf(0.975, num_groups - 1)) * error if num_groups > 1 else 1.0
    return max(0.0, ece - reach), min(1.0, ece + reach)


def average_precision(is_class: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]) -> float:
    """Return the area under the precision-recall steps of one class against the rest; NaN without a row of it."""
    precision, recall = precision_recall(is_class, scores)
    return float((np.diff(recall, prepend=0.0) * precision).sum()) if is_class.any() else float("nan")


def precision_recall(is_class: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Return precision and recall at every threshold, the highest first; rows of one score share a threshold."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(is_class[order])[last].astype(np.float64)
    return hits / (last + 1), hits / max(1, int(is_class.sum()))


def uncalibrate(probabilities: npt.NDArray[np.floating], temperature: float) -> Floats:
    """Return the probabilities that the model gave before its logits were divided by a temperature."""
    scaled = temperature * np.log(np.maximum(probabilities.astype(np.float64), 1e-30))
    shifted = np.exp(scaled - scaled.max(1, keepdims=True))
    before: Floats = shifted / shifted.sum(1, keepdims=True)
    return before
