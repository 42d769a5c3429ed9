"""Where a loop's scope ends: how close a text is to what the loop was trained on, and how close it must be.

Closeness is the negated Mahalanobis distance of the sentence vector to the nearest label's mean (Lee et al. 2018,
arXiv:1807.03888). Probabilities cannot tell: a classifier is as sure of texts that it knows nothing about.

Shapes: N rows, C classes, D dimensions.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95  # that the share refused of texts in scope stays below the limit
SHRINKAGE = 0.1  # of the covariance towards a ball: fewer rows than dimensions would make it singular
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Scope:
    """What training rows look like: a map that makes their spread a ball, and each label's mean behind that map."""

    whitening: Floats  # [D, D]
    means: Floats  # [C, D]

    def closeness(self, vectors_ND: Floats) -> Floats:
        """Return the negated squared distance to the nearest mean, [N]."""
        mapped_ND = vectors_ND @ self.whitening
        distances_NC = np.stack([((mapped_ND - mean) ** 2).sum(axis=1) for mean in self.means], axis=1)
        closeness_N: Floats = -distances_NC.min(axis=1)
        return closeness_N


@dataclass(frozen=True)
class ScopeLimit:
    """The limit, and what it rests on."""

    min_closeness: float  # texts that are less close are unknown
    refused: int  # of the validation rows
    n: int


def fit_scope(vectors_ND: Floats, gold_N: npt.NDArray[np.int64]) -> Scope:
    """Return the scope of training rows; labels without a row have no mean."""
    vectors_ND = vectors_ND.astype(np.float64)
    classes = np.unique(gold_N)
    means = np.stack([vectors_ND[gold_N == label].mean(axis=0) for label in classes])
    rest_ND = vectors_ND - means[np.searchsorted(classes, gold_N)]
    covariance_DD = rest_ND.T @ rest_ND / len(rest_ND)
    size = float(np.trace(covariance_DD)) / len(covariance_DD)
    covariance_DD = (1 - SHRINKAGE) * covariance_DD + (SHRINKAGE * size + 1e-12) * np.eye(len(covariance_DD))
    whitening = np.linalg.cholesky(np.linalg.inv(covariance_DD))
    return Scope(whitening, means @ whitening)


def fit_scope_limit(closeness: Floats, max_refused_share: float) -> ScopeLimit | None:
    """Return the largest limit that refuses at most this share of texts in scope, or None when there are too few rows.

    `closeness` is that of validation rows, all of them in scope. The k-th smallest of n values refuses less than a
    share a of texts like them with probability P(Binomial(n, a) >= k), whatever their distribution (Wilks 1941); the
    largest k that keeps this at CONFIDENCE or more is taken. At 5 % that needs 59 rows.
    """
    from scipy.stats import binom

    n = len(closeness)
    places = np.arange(1, n + 1)
    safe = places[binom.sf(places - 1, n, max_refused_share) >= CONFIDENCE]
    if not len(safe):
        return None
    limit = float(np.sort(closeness)[safe[-1] - 1])
    return ScopeLimit(limit, int((closeness < limit).sum()), n)
