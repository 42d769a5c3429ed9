"""Drift: does the current window look as if it came from where the reference came from?

Rows of one group (a review, a user, a session) are alike, so every test here permutes whole groups: shuffling single
rows cries wolf on clustered text (measured: up to 85 % false alarms at a nominal 1 %). One statistic on what the
champion answers and one on what it reads share the same permutations and are judged together by their smaller p-value
(Westfall & Young 1993), which keeps the stated false-alarm rate exactly while groups are alike.

Groups of the two sides may differ in size (a reference of long reviews, live texts that name no group). So a row
counts 1 / (1 + (m - 1) * rho) in a group of m rows with intraclass correlation rho (Kish 1965), and statistics are
scaled by the effective sizes that follow: permuted splits stay comparable although they hold other numbers of rows.

Shapes: N rows (reference first, then current), C classes, D dimensions, G groups, P splits (observed, then permuted).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb, sqrt

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Float64s = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MAX_CHUNK_CELLS = 2**22  # of a [P, N] intermediate: 32 MiB
MAX_MEDIAN_ROWS = 2000  # pairwise distances beyond this many rows no longer move their median


@dataclass(frozen=True)
class Sample:
    """One side of the comparison: class probabilities [N, C], embeddings [N, D] and the group of each row."""

    probabilities: Floats
    embeddings: Floats
    groups: Sequence[str]


@dataclass(frozen=True)
class DriftTest:
    """One test's answer.

    `p_value` is corrected for all tests of the window; `effect` does not grow with the number of rows: the largest
    Kolmogorov–Smirnov distance of a class's probabilities (0–1), or the maximum mean discrepancy of embeddings.
    """

    name: str
    statistic: float
    p_value: float
    unadjusted_p_value: float
    effect: float
    fires: bool


@dataclass(frozen=True)
class ShareShift:
    """Share of rows predicted as a label on both sides: a fact to read, not a test."""

    label: str
    reference: float
    current: float


def compare(
    *, reference: Sample, current: Sample, alpha: float, permutations: int = 999, seed: int = 0
) -> tuple[DriftTest, ...]:
    """Test whether both sides come from one population, by permuting whole groups.

    Any test fires falsely in at most `alpha` of windows, all tests together. 500 texts of one user are one witness.
    Raises ValueError unless both sides have two groups or more: ask `can_fire` first.
    """
    codes, is_reference_G = _pool_groups(reference.groups, current.groups)
    if min(is_reference_G.sum(), (~is_reference_G).sum()) < 2:
        raise ValueError("one group alone says nothing about chance; ask can_fire first")
    splits_PG = _permute(is_reference_G, permutations, seed)
    ks_P, ks = _compare_distributions(_stack(reference.probabilities, current.probabilities), codes, splits_PG)
    mmd2_P, mmd = _compare_embeddings(_stack(reference.embeddings, current.embeddings), codes, splits_PG)
    adjusted, unadjusted = _min_p(np.stack([ks_P, mmd2_P], axis=1))
    columns = zip(("outputs", "embeddings"), (ks_P, mmd2_P), adjusted, unadjusted, (ks, mmd), strict=True)
    return tuple(DriftTest(name, float(values[0]), p, own, effect, p <= alpha)
                 for name, values, p, own, effect in columns)  # fmt: skip


def can_fire(*, num_reference_groups: int, num_current_groups: int, alpha: float) -> bool:
    """Say whether there are enough groups for a p-value to reach alpha."""
    if min(num_reference_groups, num_current_groups) < 2:
        return False
    return comb(num_reference_groups + num_current_groups, num_current_groups) * alpha >= 1


def sample_groups(groups: Sequence[str], max_rows: int, seed: int = 0) -> Ints:
    """Return the row numbers, ascending, of a random choice of whole groups with at most max_rows rows.

    Only the last group drawn may lose rows, so group sizes keep their distribution.
    """
    names, codes = _number_groups(groups)
    if len(codes) <= max_rows:
        return np.arange(len(codes))
    places = np.random.default_rng(seed).permutation(len(names))
    return np.sort(np.argsort(places[codes], kind="stable")[:max_rows])


def shift_shares(*, reference: Sequence[str], current: Sequence[str], labels: Sequence[str]) -> list[ShareShift]:
    """Return each label's share of the predictions on both sides."""
    return [ShareShift(label, _share(reference, label), _share(current, label)) for label in labels]


def intraclass_correlation(values_ND: Floats, codes: Ints) -> float:
    """Return how alike two rows of one group are, 0 (as any two rows) to 1 (copies), over all dimensions together."""
    sizes_G = np.bincount(codes).astype(np.float64)
    centred_ND = values_ND.astype(np.float64) - values_ND.mean(axis=0)
    spread = float((centred_ND**2).sum())
    num_pairs = float((sizes_G * (sizes_G - 1)).sum())
    if num_pairs == 0 or spread == 0:
        return 0.0
    sums_GD = _sum_rows_by_group(centred_ND, codes)
    covariance = (float((sums_GD**2).sum()) - spread) / num_pairs
    return min(max(covariance * len(codes) / spread, 0.0), 1.0)


def _share(labels: Sequence[str], label: str) -> float:
    return sum(each == label for each in labels) / len(labels) if len(labels) else 0.0


def _stack(reference: Floats, current: Floats) -> npt.NDArray[np.float32]:
    return np.concatenate([np.asarray(reference, np.float32), np.asarray(current, np.float32)])


def _number_groups(groups: Sequence[str]) -> tuple[npt.NDArray[np.str_], Ints]:
    names, codes = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    return names, codes.astype(np.int64)


def _pool_groups(reference: Sequence[str], current: Sequence[str]) -> tuple[Ints, Bools]:
    """Number the groups of both sides; a key on both sides is two groups, for it was observed at two times."""
    reference_names, reference_codes = _number_groups(reference)
    current_names, current_codes = _number_groups(current)
    num_reference = len(reference_names)
    codes = np.concatenate([reference_codes, current_codes + num_reference])
    return codes, np.arange(num_reference + len(current_names)) < num_reference


def _permute(is_reference_G: Bools, permutations: int, seed: int) -> Bools:
    """Return who is reference in each split, bool [P, G]; the first row is the observed split."""
    shuffled = np.tile(is_reference_G, (permutations, 1))
    np.random.default_rng(seed).permuted(shuffled, axis=1, out=shuffled)
    return np.concatenate([is_reference_G[None], shuffled])


def _min_p(statistics_PT: Float64s) -> tuple[list[float], list[float]]:
    """Return per test the p-value corrected for all of them, and its own.

    p = (1 + permutations at least as large) / (1 + permutations), so it is never 0 (Phipson & Smyth 2010).
    """
    rounded_PT = np.round(statistics_PT, 12)  # equal splits must tie whatever the order of summation
    num_splits = len(rounded_PT)
    num_smaller_PT = [np.searchsorted(np.sort(column), column, side="left") for column in rounded_PT.T]
    p_values_PT = 1 - np.stack(num_smaller_PT, axis=1) / num_splits
    smallest_P = p_values_PT.min(axis=1)
    own = [float(p) for p in p_values_PT[0]]
    return [float((smallest_P <= p + 1e-12).mean()) for p in own], own


def _weigh_rows(codes: Ints, values_ND: Floats) -> Float64s:
    """Return what each row counts: less in a large group whose rows are alike (Kish 1965, design effect)."""
    weights_N: Float64s = 1 / (1 + (np.bincount(codes)[codes] - 1) * intraclass_correlation(values_ND, codes))
    return weights_N


def _effective_size(size_P: Float64s, total: float) -> Float64s:
    """Return the effective number of rows behind a difference of two sides, one of them of this size."""
    size: Float64s = size_P * (total - size_P) / total
    return size


def _compare_distributions(values_NC: Floats, codes: Ints, splits_PG: Bools) -> tuple[Float64s, float]:
    """Return, per split, the largest scaled Kolmogorov–Smirnov distance over the classes; and the observed distance."""
    largest_P, distance = np.zeros(len(splits_PG)), 0.0
    for column in values_NC.T:
        order = np.argsort(column, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(column[order]) > 0, True))  # rows that tie count together
        ranks_N = np.searchsorted(column[order], column).astype(np.float64)
        weights_N = _weigh_rows(codes, ranks_N[:, None])[order]
        for chunk in _chunks(len(splits_PG), len(codes)):
            distance_P, scale_P = _ks(codes[order], weights_N, splits_PG[chunk], ends)
            largest_P[chunk] = np.maximum(largest_P[chunk], distance_P * scale_P)
            distance = max(distance, float(distance_P[0])) if chunk.start == 0 else distance
    return largest_P, distance


def _chunks(num_splits: int, num_rows: int) -> Iterator[slice]:
    size = max(1, MAX_CHUNK_CELLS // num_rows)
    return (slice(start, start + size) for start in range(0, num_splits, size))


def _ks(codes: Ints, weights_N: Float64s, splits_PG: Bools, ends: Ints) -> tuple[Float64s, Float64s]:
    """Return, per split, the distance between the weighted distributions of ascending rows, and its scale."""
    total_N = np.cumsum(weights_N)
    reference_PN = np.cumsum(splits_PG[:, codes] * weights_N, axis=1)
    size_P = reference_PN[:, -1].copy()
    below_PN = reference_PN[:, ends]
    distance_PN = below_PN / size_P[:, None] - (total_N[ends] - below_PN) / (total_N[-1] - size_P)[:, None]
    return np.abs(distance_PN).max(axis=1), np.sqrt(_effective_size(size_P, float(total_N[-1])))


def _compare_embeddings(vectors_ND: Floats, codes: Ints, splits_PG: Bools) -> tuple[Float64s, float]:
    """Return, per split, the scaled squared maximum mean discrepancy; and the observed discrepancy.

    RBF kernel (Gretton et al. 2012, JMLR 13). Pairs inside one group, alike whatever the split, are left out: the
    estimate is unbiased when rows are clustered.
    """
    weights_N = _weigh_rows(codes, vectors_ND)
    kernel_GG = _sum_kernel_by_group(vectors_ND, weights_N, codes)
    np.fill_diagonal(kernel_GG, 0)
    sizes_G = np.bincount(codes, weights_N)
    in_PG, out_PG = splits_PG.astype(np.float64), (~splits_PG).astype(np.float64)
    within_P = np.einsum("pg,pg->p", in_PG @ kernel_GG, in_PG)
    across_P = in_PG @ kernel_GG.sum(axis=1) - within_P
    rest_P = kernel_GG.sum() - within_P - 2 * across_P
    in_P, out_P = in_PG @ sizes_G, out_PG @ sizes_G
    pairs_in_P, pairs_out_P = in_P**2 - in_PG @ sizes_G**2, out_P**2 - out_PG @ sizes_G**2
    mmd2_P = within_P / pairs_in_P + rest_P / pairs_out_P - 2 * across_P / (in_P * out_P)
    return mmd2_P * _effective_size(in_P, float(sizes_G.sum())), sqrt(max(float(mmd2_P[0]), 0.0))


def _sum_kernel_by_group(vectors_ND: Floats, weights_N: Float64s, codes: Ints) -> Float64s:
    """Return the weighted kernel summed over the rows of each pair of groups, [G, G]."""
    order = np.argsort(codes, kind="stable")
    vectors, weights = vectors_ND[order], weights_N[order]
    starts = np.searchsorted(codes[order], np.arange(codes.max() + 1))
    squares = (vectors**2).sum(axis=1)
    scale = 2 * _median_distance2(vectors, squares)
    sums_NG = np.empty((len(vectors), len(starts)))
    for start in range(0, len(vectors), 1024):
        rows = slice(start, start + 1024)
        distances2 = np.maximum(squares[rows, None] + squares[None] - 2 * vectors[rows] @ vectors.T, 0)
        sums_NG[rows] = np.add.reduceat(np.exp(-distances2 / scale) * weights, starts, axis=1)
    sums: Float64s = np.add.reduceat(sums_NG * weights[:, None], starts, axis=0)
    return sums


def _sum_rows_by_group(values_ND: Float64s, codes: Ints) -> Float64s:
    order = np.argsort(codes, kind="stable")
    sums: Float64s = np.add.reduceat(
        values_ND[order], np.searchsorted(codes[order], np.arange(codes.max() + 1)), axis=0
    )
    return sums


def _median_distance2(vectors: Floats, squares: Floats) -> float:
    """Return the squared bandwidth by the median heuristic over the pooled rows, so that no split moves it."""
    rows = np.arange(len(vectors))
    if len(rows) > MAX_MEDIAN_ROWS:
        rows = np.random.default_rng(0).choice(rows, MAX_MEDIAN_ROWS, replace=False)
    distances2 = squares[rows, None] + squares[None, rows] - 2 * vectors[rows] @ vectors[rows].T
    median = float(np.median(distances2[np.triu_indices(len(rows), k=1)]))
    return median if median > 1e-12 else 1.0
