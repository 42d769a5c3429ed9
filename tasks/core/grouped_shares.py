"""Shares of rows that bear a mark (a word, a topic), and how sure a difference between two sides is when rows are
clustered.

Rows of one group are alike, so a share's variance comes from whole groups: the linearised variance of a ratio estimate
(Cochran 1977, Sampling Techniques, chapter 6). Shapes: N rows, G groups, K marks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.stats import norm

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shares:
    """Share of rows per mark [K], its variance over groups [K], and how many groups have such a row [K]."""

    shares: Floats
    variances: Floats
    num_groups: Ints


def share_by_group(marks_NK: Any, groups: Sequence[str]) -> Shares:
    """Return the shares of rows that bear each mark; `marks_NK` holds zeros and ones, dense or sparse.

    A share's variance is never 0: one more row might have borne the mark.
    """
    num_rows = marks_NK.shape[0]
    codes = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)[1]
    num_groups = int(codes.max()) + 1
    members_GN = sparse.csr_matrix((np.ones(num_rows), (codes, np.arange(num_rows))), shape=(num_groups, num_rows))
    sums_GK = sparse.csr_matrix(members_GN @ sparse.csr_matrix(marks_NK))
    sizes_G = np.bincount(codes).astype(np.float64)
    shares_K = np.asarray(sums_GK.sum(axis=0)).ravel() / num_rows
    squares_K = np.asarray(sums_GK.multiply(sums_GK).sum(axis=0)).ravel()
    crossed_K = sums_GK.T @ sizes_G
    residuals_K = np.maximum(squares_K - 2 * shares_K * crossed_K + shares_K**2 * (sizes_G**2).sum(), 0)
    correction = num_groups / max(num_groups - 1, 1)
    variances_K = (residuals_K * correction + 1) / num_rows**2
    return Shares(shares_K, variances_K, np.asarray((sums_GK > 0).sum(axis=0)).ravel())


def compare_shares(reference: Shares, current: Shares) -> Floats:
    """Return, per mark, by how many standard errors the current share lies above the reference's."""
    z_K: Floats = (current.shares - reference.shares) / np.sqrt(reference.variances + current.variances)
    return z_K


def find_sure(z_K: Floats, false_share: float = 0.05) -> npt.NDArray[np.bool_]:
    """Return which marks changed: of those named, at most this share is named by chance (Benjamini & Hochberg 1995)."""
    p_K = 2 * norm.sf(np.abs(z_K))
    ascending = np.sort(p_K)
    allowed = false_share * np.arange(1, len(p_K) + 1) / max(len(p_K), 1)
    passed = np.flatnonzero(ascending <= allowed)
    limit = ascending[passed[-1]] if len(passed) else -1.0
    sure_K: npt.NDArray[np.bool_] = p_K <= limit
    return sure_K
