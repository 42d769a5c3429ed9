"""How much of the current window is new: texts such as the reference does not hold.

A classifier learns to tell both sides apart by embedding; every text is scored by one that saw nothing of its group.
If a share p of the window is new and the rest is as the reference was, then any region A of texts keeps
P_current(A) >= (1 - p) P_reference(A). So 1 - P_current(A) / P_reference(A) is a lower bound of p, and the regions to
ask are those where the classifier sees the reference (Blanchard, Lee & Scott 2010, JMLR 11, "Semi-supervised novelty
detection"). Shapes: N rows (reference first, then current), D dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import t

from tasks.core.grouped_shares import Shares, share_by_group

Floats = npt.NDArray[np.floating]
Float64s = npt.NDArray[np.float64]

FOLDS = 5
# Of the mean variance of a dimension. Measured: 30 % of another genre is guessed at 24 to 30 % of 500 texts.
RIDGE = 5.0
REGIONS = np.arange(0.3, 0.95, 0.1)  # shares of the reference that the regions hold; of smaller ones chance says most
ALPHA = 0.05


@dataclass(frozen=True)
class NewShare:
    """Share of the window that is new: a guess, and what it is at least, with 95 % confidence over groups."""

    estimate: float
    at_least: float


@dataclass(frozen=True)
class Novelty:
    """The share of the window that is new, and the current rows outside the region that shows it.

    `known_inside` is the share of the reference in that region.
    """

    share: NewShare
    is_outside: npt.NDArray[np.bool_]
    known_inside: float

    def share_of(self, outside: float) -> float:
        """Return how much is new of some current rows, this share of which is outside; 0 where nothing shows it."""
        return max(0.0, 1 - (1 - outside) / self.known_inside) if self.share.at_least > 0 else 0.0


def measure_novelty(
    *,
    reference: Floats,
    current: Floats,
    reference_groups: Sequence[str],
    current_groups: Sequence[str],
    seed: int = 0,
) -> Novelty:
    """Return how much of the current rows the reference does not hold; embeddings are [N, D]."""
    groups = [*reference_groups, *current_groups]
    vectors_ND = np.concatenate([reference, current]).astype(np.float64)
    is_current_N = np.arange(len(groups)) >= len(reference)
    scores_N = score_by_folds(vectors_ND, is_current_N, groups, seed)
    ends = np.quantile(scores_N[~is_current_N], REGIONS)
    inside_NK = scores_N[:, None] <= ends[None]
    known = share_by_group(inside_NK[~is_current_N], reference_groups)
    seen = share_by_group(inside_NK[is_current_N], current_groups)
    at_least_K = 1 - _bound_ratio(known, seen, _count_effective(current_groups))
    best = int(np.argmax(at_least_K))
    estimate = 1 - float(seen.shares[best] / known.shares[best])
    share = NewShare(max(0.0, estimate), max(0.0, float(at_least_K[best])))
    return Novelty(share, ~inside_NK[is_current_N, best], float(known.shares[best]))


def _count_effective(groups: Sequence[str]) -> float:
    """Return how many groups of equal size would say as much (Kish 1965)."""
    sizes = np.unique(np.asarray(groups, dtype=np.str_), return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _bound_ratio(known: Shares, seen: Shares, num_groups: float) -> Float64s:
    """Return what P_current / P_reference of a region is at most (Fieller 1954), all regions together.

    No row of a region among so many groups does not mean that none ever comes: one group might have come next.
    """
    z2 = float(t.isf(ALPHA / len(REGIONS), max(num_groups - 1, 1))) ** 2
    variances = np.maximum(seen.variances, 1 / num_groups**2)
    surplus = known.shares**2 - z2 * known.variances
    product = seen.shares * known.shares
    root = product**2 - surplus * (seen.shares**2 - z2 * variances)
    bound: Float64s = np.where(surplus > 0, (product + np.sqrt(np.maximum(root, 0))) / np.maximum(surplus, 1e-12), 1.0)
    return bound


def score_by_folds(
    vectors_ND: Float64s, is_current_N: npt.NDArray[np.bool_], groups: Sequence[str], seed: int
) -> Float64s:
    """Return how much each row looks like the current side, by ridge regressions that saw nothing of its group.

    Both sides weigh the same, whatever their number of rows.
    """
    codes = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)[1]
    folds_N = np.random.default_rng(seed).permutation(codes.max() + 1)[codes] % FOLDS
    scores_N = np.zeros(len(groups))
    for fold in range(FOLDS):
        held = folds_N == fold
        learnt = ~held
        if not held.any() or is_current_N[learnt].all() or not is_current_N[learnt].any():
            continue
        scores_N[held] = _fit(vectors_ND[learnt], is_current_N[learnt], vectors_ND[held])
    return scores_N


def _fit(vectors_nD: Float64s, is_current_n: npt.NDArray[np.bool_], asked_mD: Float64s) -> Float64s:
    weights_n = np.where(is_current_n, 0.5 / is_current_n.sum(), 0.5 / (~is_current_n).sum())
    centre_D = weights_n @ vectors_nD
    centred_nD = vectors_nD - centre_D
    weighted_nD = centred_nD * weights_n[:, None]
    covariance_DD = centred_nD.T @ weighted_nD
    covariance_DD += np.eye(len(centre_D)) * RIDGE * max(np.trace(covariance_DD) / len(centre_D), 1e-12)
    slope_D = np.linalg.solve(covariance_DD, weighted_nD.T @ np.where(is_current_n, 1.0, -1.0))
    scores: Float64s = (asked_mD - centre_D) @ slope_D
    return scores
