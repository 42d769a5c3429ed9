"""How far two sides lie apart, in every split of their groups at once: by distributions, and by sentence vectors.

Shapes: N rows (reference first, then current), K columns, V cuts, D dimensions, G groups, P splits (the observed one
first, then permuted ones).
"""

from dataclasses import dataclass

import numpy as np

from tasks.core.permutations import Bools, Float64s, Floats, Ints, effective_size, sum_by_group, weigh_rows

MAX_CUTS = 200  # values at which distributions are compared
MIN_UNUSUAL = 10  # rows with another value than most; one odd row of its own group would outweigh those of large groups
SHRINKAGE = 0.3  # of the mean variance of a direction
MAX_MEDIAN_ROWS = 500  # pairwise distances beyond this many rows no longer move their median


@dataclass(frozen=True)
class Distance:
    """What every split says, scaled by its sizes, and how far the observed sides lie apart, 0–1 whatever their size."""

    statistics: Float64s
    effect: float


def compare_distributions(values_NK: Floats, codes: Ints, splits_PG: Bools) -> Distance:
    """Return the largest Kolmogorov–Smirnov distance over the columns; a row is left out of one where it is NaN.

    A column in which hardly any row differs from the others says nothing. Of many different values, the distributions
    are compared at MAX_CUTS quantiles of both sides together.
    """
    largest_P, effect = np.zeros(len(splits_PG)), 0.0
    for column in values_NK.T:
        known = ~np.isnan(column)
        values, own = column[known], codes[known]
        if len(values) - np.unique(values, return_counts=True)[1].max(initial=0) < MIN_UNUSUAL:
            continue
        ranks_N = np.searchsorted(np.sort(values), values).astype(np.float64)
        weights_N = weigh_rows(own, ranks_N[:, None])
        distance_P, scale_P = _ks(values, weights_N, own, splits_PG)
        largest_P = np.maximum(largest_P, distance_P * scale_P)
        effect = max(effect, float(distance_P[0]))
    return Distance(largest_P, effect)


def compare_vectors(vectors_ND: Floats, codes: Ints, splits_PG: Bools, whiten: bool = False) -> Distance:
    """Return the squared maximum mean discrepancy; its effect is how well the sides can be told apart.

    An RBF kernel (Gretton et al. 2012, JMLR 13) sees what most of the spread is made of: other topics, other genres.
    Whitened, the kernel is linear: the distance of means where every direction counts alike (Hotelling 1931, shrunk).
    That sees what is small beside topics but the same in all texts, as typing errors are. Pairs inside one group, alike
    whatever the split, are left out: the estimate is unbiased when rows are clustered.

    The effect is 2 AUC - 1 of the kernel's witness function, which scores each row by the other groups' rows only: 0
    where both sides look the same, 1 where no row of one side looks like the other.
    """
    vectors_ND = _whiten(vectors_ND) if whiten else vectors_ND
    weights_N = weigh_rows(codes, vectors_ND)
    kernel_NG = (_sum_linear if whiten else _sum_rbf)(vectors_ND, weights_N, codes)
    kernel_NG[np.arange(len(codes)), codes] = 0
    sizes_G = np.bincount(codes, weights_N).astype(np.float64)
    effect = _separability(kernel_NG, weights_N, sizes_G, codes, splits_PG[0])
    kernel_GG = sum_by_group(kernel_NG * weights_N[:, None], codes)
    return Distance(_mmd2(kernel_GG, sizes_G, splits_PG), effect)


def _ks(values_N: Floats, weights_N: Float64s, codes: Ints, splits_PG: Bools) -> tuple[Float64s, Float64s]:
    """Return, per split, the distance between the weighted distributions of both sides, and its scale."""
    cuts_V = np.unique(values_N)
    if len(cuts_V) > MAX_CUTS:
        cuts_V = np.unique(np.sort(values_N)[np.linspace(0, len(values_N) - 1, MAX_CUTS).round().astype(np.int64)])
    bins_N = np.searchsorted(cuts_V, values_N)
    weights_GV = np.zeros((splits_PG.shape[1], len(cuts_V)))
    np.add.at(weights_GV, (codes, bins_N), weights_N)
    at_most_GV = weights_GV.cumsum(axis=1)
    below_PV = splits_PG.astype(np.float64) @ at_most_GV
    below_V = at_most_GV.sum(axis=0)
    size_P, total = below_PV[:, -1].copy(), float(below_V[-1])
    is_split_P = (size_P > 1e-9) & (size_P < total - 1e-9)  # a side without a known row has no distribution
    in_P, out_P = np.where(is_split_P, size_P, 1.0), np.where(is_split_P, total - size_P, 1.0)
    distance_PV = below_PV / in_P[:, None] - (below_V - below_PV) / out_P[:, None]
    distance_P = np.where(is_split_P, np.abs(distance_PV).max(axis=1), 0.0)
    return distance_P, np.sqrt(effective_size(np.where(is_split_P, size_P, 0.0), total))


def _mmd2(kernel_GG: Float64s, sizes_G: Float64s, splits_PG: Bools) -> Float64s:
    in_PG, out_PG = splits_PG.astype(np.float64), (~splits_PG).astype(np.float64)
    within_P = np.einsum("pg,pg->p", in_PG @ kernel_GG, in_PG)
    across_P = in_PG @ kernel_GG.sum(axis=1) - within_P
    rest_P = kernel_GG.sum() - within_P - 2 * across_P
    in_P, out_P = in_PG @ sizes_G, out_PG @ sizes_G
    pairs_in_P, pairs_out_P = in_P**2 - in_PG @ sizes_G**2, out_P**2 - out_PG @ sizes_G**2
    mmd2_P = within_P / pairs_in_P + rest_P / pairs_out_P - 2 * across_P / (in_P * out_P)
    scaled: Float64s = mmd2_P * effective_size(in_P, float(sizes_G.sum()))
    return scaled


def _separability(
    kernel_NG: Float64s, weights_N: Float64s, sizes_G: Float64s, codes: Ints, is_reference_G: Bools
) -> float:
    near_N2 = kernel_NG @ np.stack([is_reference_G, ~is_reference_G], axis=1).astype(np.float64)
    is_reference_N = is_reference_G[codes]
    own_N2 = sizes_G[codes, None] * np.stack([is_reference_N, ~is_reference_N], axis=1)
    others_N2 = np.array([sizes_G[is_reference_G].sum(), sizes_G[~is_reference_G].sum()]) - own_N2
    scores_N = near_N2[:, 1] / others_N2[:, 1] - near_N2[:, 0] / others_N2[:, 0]
    return max(0.0, 2 * _area_under_curve(np.round(scores_N, 12), weights_N, ~is_reference_N) - 1)


def _area_under_curve(scores_N: Float64s, weights_N: Float64s, is_positive_N: Bools) -> float:
    """Return how often a row of one side scores higher than one of the other; ties count half."""
    negatives, weights = scores_N[~is_positive_N], weights_N[~is_positive_N]
    order = np.argsort(negatives, kind="stable")
    total_N = np.concatenate([[0.0], np.cumsum(weights[order])])
    below = total_N[np.searchsorted(negatives[order], scores_N[is_positive_N], side="left")]
    at_most = total_N[np.searchsorted(negatives[order], scores_N[is_positive_N], side="right")]
    positive_weights = weights_N[is_positive_N]
    return float(positive_weights @ (below + at_most)) / (2 * float(total_N[-1]) * float(positive_weights.sum()))


def _whiten(vectors_ND: Floats) -> Float64s:
    """Return centred vectors whose directions all have about the same spread; rare directions are held down."""
    centred_ND = vectors_ND - vectors_ND.mean(axis=0, dtype=np.float64)
    covariance_DD = centred_ND.T @ centred_ND / len(centred_ND)
    size = max(float(np.trace(covariance_DD)) / len(covariance_DD), 1e-12)
    root_DD = np.linalg.cholesky(covariance_DD + SHRINKAGE * size * np.eye(len(covariance_DD)))
    whitened_ND: Float64s = np.linalg.solve(root_DD, centred_ND.T).T
    return whitened_ND


def _sum_linear(vectors_ND: Floats, weights_N: Float64s, codes: Ints) -> Float64s:
    """Return the weighted products of each row with the rows of each group, [N, G]."""
    sums_NG: Float64s = vectors_ND @ sum_by_group(vectors_ND * weights_N[:, None], codes).T
    return sums_NG


def _sum_rbf(vectors_ND: Floats, weights_N: Float64s, codes: Ints) -> Float64s:
    """Return the weighted RBF kernel between each row and the rows of each group, [N, G]."""
    order = np.argsort(codes, kind="stable")
    vectors, weights = vectors_ND[order], weights_N[order]
    starts = np.searchsorted(codes[order], np.arange(codes.max() + 1))
    squares = (vectors_ND**2).sum(axis=1)
    scale = 2 * _median_distance2(vectors_ND, squares)
    sums_NG = np.empty((len(vectors), len(starts)))
    for start in range(0, len(vectors), 1024):
        rows = slice(start, start + 1024)
        distances2 = squares[rows, None] + squares[order][None] - 2 * vectors_ND[rows] @ vectors.T
        sums_NG[rows] = np.add.reduceat(np.exp(-np.maximum(distances2, 0) / scale) * weights, starts, axis=1)
    return sums_NG


def _median_distance2(vectors: Floats, squares: Floats) -> float:
    """Return the squared bandwidth by the median heuristic over the pooled rows, so that no split moves it."""
    rows = np.arange(len(vectors))
    if len(rows) > MAX_MEDIAN_ROWS:
        rows = np.random.default_rng(0).choice(rows, MAX_MEDIAN_ROWS, replace=False)
    distances2 = squares[rows, None] + squares[None, rows] - 2 * vectors[rows] @ vectors[rows].T
    median = float(np.median(distances2[np.triu_indices(len(rows), k=1)]))
    return median if median > 1e-12 else 1.0
