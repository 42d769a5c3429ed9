"""Permuting whole groups: who could have been on the other side, and what a row counts in a group of many.

Rows of one group (a review, a user, a session) are alike, so a group is drawn as a whole: shuffling single rows cries
wolf on clustered text (measured: up to 85 % false alarms at a nominal 1 %).

Groups of the two sides may differ in size (a reference of long reviews, live texts that name no group). So a row
counts 1 / (1 + (m - 1) * rho) in a group of m rows with intraclass correlation rho (Kish 1965), and statistics are
scaled by the effective sizes that follow: permuted splits stay comparable although they hold other numbers of rows.

Shapes: N rows, D dimensions, G groups, P splits (observed, then permuted), T tests.
"""

from collections.abc import Sequence
from math import comb

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Float64s = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def can_fire(*, num_reference_groups: int, num_current_groups: int, alpha: float) -> bool:
    """Say whether there are enough groups for a p-value to reach alpha."""
    if min(num_reference_groups, num_current_groups) < 2:
        return False
    return comb(num_reference_groups + num_current_groups, num_current_groups) * alpha >= 1


def sample_groups(groups: Sequence[str], max_rows: int, seed: int = 0) -> Ints:
    """Return the row numbers, ascending, of a random choice of whole groups with at most max_rows rows.

    Only the last group drawn may lose rows, so group sizes keep their distribution; but of several groups none fills
    more than half of the choice, for a side of one group cannot be tested.
    """
    names, codes = number_groups(groups)
    if len(codes) <= max_rows:
        return np.arange(len(codes))
    places = np.random.default_rng(seed).permutation(len(names))[codes]
    order = np.argsort(places, kind="stable")
    if len(names) > 1:
        ascending = places[order]
        rank_in_group = np.arange(len(order)) - np.searchsorted(ascending, ascending)
        order = order[rank_in_group < max(max_rows // 2, 1)]
    return np.sort(order[:max_rows])


def number_groups(groups: Sequence[str]) -> tuple[npt.NDArray[np.str_], Ints]:
    """Return the names of the groups, ascending, and the number of each row's group."""
    names, codes = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    return names, codes.astype(np.int64)


def pool_groups(reference: Sequence[str], current: Sequence[str]) -> tuple[Ints, Bools]:
    """Number the groups of both sides; a key on both sides is two groups, for it was observed at two times."""
    reference_names, reference_codes = number_groups(reference)
    current_names, current_codes = number_groups(current)
    num_reference = len(reference_names)
    codes = np.concatenate([reference_codes, current_codes + num_reference])
    return codes, np.arange(num_reference + len(current_names)) < num_reference


def permute(is_reference_G: Bools, permutations: int, seed: int) -> Bools:
    """Return who is reference in each split, bool [P, G]; the first row is the observed split."""
    shuffled = np.tile(is_reference_G, (permutations, 1))
    np.random.default_rng(seed).permuted(shuffled, axis=1, out=shuffled)
    return np.concatenate([is_reference_G[None], shuffled])


def min_p(statistics_PT: Float64s, weights_T: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return per test the p-value corrected for all of them (Westfall & Young 1993), and its own.

    A test of weight 1/4 needs a p-value four times as small, and costs the others a quarter of what a whole one does.
    p = (1 + permutations at least as large) / (1 + permutations), so it is never 0 (Phipson & Smyth 2010). As many
    splits share a p-value as there are tests, so with ten tests and 999 permutations even the smallest one would not
    reach 1 %. Of those that share it, the ones come first that lie further from the mean of their test, in standard
    deviations. Every split is ranked by the same rule, which keeps the stated rate exactly.
    """
    rounded_PT = np.round(statistics_PT, 12)  # equal splits must tie whatever the order of summation
    num_splits = len(rounded_PT)
    ascending_PT = np.sort(rounded_PT, axis=0)
    num_smaller_PT = [np.searchsorted(ascending, column, side="left")
                      for ascending, column in zip(ascending_PT.T, rounded_PT.T, strict=True)]  # fmt: skip
    p_values_PT = (num_splits - np.stack(num_smaller_PT, axis=1)) / num_splits
    spread_T = rounded_PT.std(axis=0)
    z_PT = np.maximum(rounded_PT - rounded_PT.mean(axis=0), 0) / np.where(spread_T > 0, spread_T, 1)
    ranks_PT = (p_values_PT - z_PT / (1 + z_PT) / num_splits) / np.asarray(weights_T)
    smallest_P = ranks_PT.min(axis=1)
    corrected = [float((smallest_P <= rank + 1e-12).mean()) for rank in ranks_PT[0]]
    return corrected, [float(p) for p in p_values_PT[0]]


def weigh_rows(codes: Ints, values_ND: Floats) -> Float64s:
    """Return what each row counts: less in a large group whose rows are alike (Kish 1965, design effect)."""
    weights_N: Float64s = 1 / (1 + (np.bincount(codes)[codes] - 1) * intraclass_correlation(values_ND, codes))
    return weights_N


def effective_size(size_P: Float64s, total: float) -> Float64s:
    """Return the effective number of rows behind a difference of two sides, one of them of this size."""
    size: Float64s = size_P * (total - size_P) / total
    return size


def intraclass_correlation(values_ND: Floats, codes: Ints) -> float:
    """Return how alike two rows of one group are, 0 (as any two rows) to 1 (copies), over all dimensions together."""
    sizes_G = np.bincount(codes).astype(np.float64)
    centred_ND = values_ND.astype(np.float64) - values_ND.mean(axis=0)
    spread = float((centred_ND**2).sum())
    num_pairs = float((sizes_G * (sizes_G - 1)).sum())
    if num_pairs == 0 or spread == 0:
        return 0.0
    sums_GD = sum_by_group(centred_ND, codes)
    covariance = (float((sums_GD**2).sum()) - spread) / num_pairs
    return min(max(covariance * len(codes) / spread, 0.0), 1.0)


def sum_by_group(values_ND: Float64s, codes: Ints) -> Float64s:
    """Return the sums over the rows of each group that has any, [G, D], groups ascending."""
    order = np.argsort(codes, kind="stable")
    ascending = codes[order]
    starts = np.flatnonzero(np.append(True, np.diff(ascending) > 0))
    sums: Float64s = np.add.reduceat(values_ND[order], starts, axis=0)
    return sums
