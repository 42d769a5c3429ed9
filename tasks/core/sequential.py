"""Tests that may be looked at after every observation, and still err no more often than they say.

Each test bets against its null hypothesis. The capital after n observations, begun with 1, is a nonnegative
supermartingale while the null hypothesis holds, so by Ville's inequality it ever reaches 1/a with probability a at
most: looking again and again costs nothing. Bets are a fixed mixture, so the capital depends on counts only: nothing
has to be remembered but what was counted, and a restart forgets nothing.

Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting", J. R. Stat. Soc. B 86;
Howard & Ramdas 2022, "Sequential estimation of quantiles", Bernoulli 28, for the distance of distributions.

Observations have to be independent of each other: callers count one per group.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
# Shares of the capital that are bet, each with the same part of it; dense near 0, where small differences are found.
BETS: Floats = np.linspace(0, 1, 202)[1:-1] ** 2
STEPS = 40  # halvings: bounds to twelve digits


@dataclass(frozen=True)
class Pairs:
    """Labelled texts that two versions answered: only the new one was right, both or none, only the other one."""

    won: int = 0
    tied: int = 0
    lost: int = 0

    @property
    def num(self) -> int:
        """Return how many there are."""
        return self.won + self.tied + self.lost

    @property
    def difference(self) -> float:
        """Return the new version's accuracy less the other's."""
        return (self.won - self.lost) / self.num if self.num else 0.0


def log_evidence(values: Floats, counts: npt.NDArray[np.int64], limit: float) -> Floats:
    """Return the logarithm of the evidence that the mean is above a limit, [...].

    `values` [V] in 0-1 were seen `counts` [..., V] times; 0 < limit < 1. Each bet w multiplies its capital by
    1 - w + w * value / limit, which is 1 or less on average while the mean is not above the limit.
    """
    factors = np.log1p(BETS[:, None] * (values[None, :] / limit - 1))  # [W, V]
    capital: Floats = np.asarray(counts, dtype=np.float64) @ factors.T  # [..., W]
    largest = capital.max(axis=-1, keepdims=True)
    total: Floats = largest[..., 0] + np.log(np.exp(capital - largest).mean(axis=-1))
    return total


def is_share_above(hits: int, trials: int, limit: float, error_rate: float) -> bool:
    """Say whether a share is shown to be above a limit; wrong in at most `error_rate` of endless series."""
    counts = np.array([trials - hits, hits])
    return bool(log_evidence(np.array([0.0, 1.0]), counts, limit) >= -math.log(error_rate))


def is_worse(pairs: Pairs, margin: float, error_rate: float) -> bool:
    """Say whether the new version is shown to lose more accuracy than the margin; errs as `is_share_above` does."""
    return bool(_log_evidence_of_gain(_swap(pairs), margin) >= -math.log(error_rate))


def is_no_worse(pairs: Pairs, margin: float, error_rate: float) -> bool:
    """Say whether it is shown that the new version loses less accuracy than the margin; errs as `is_worse` does."""
    return bool(_log_evidence_of_gain(pairs, -margin) >= -math.log(error_rate))


def bound_difference(pairs: Pairs, error_rate: float) -> tuple[float, float]:
    """Return an interval that, in all but `error_rate` of endless series, holds the true difference all the time."""
    wanted = -math.log(error_rate / 2)
    return _lower_bound(pairs, wanted), -_lower_bound(_swap(pairs), wanted)


def distance_radius(num: int, error_rate: float) -> float:
    """Return how far an empirical distribution function may ever be from the true one, but for `error_rate` of series.

    Howard & Ramdas 2022, corollary 2: the Dvoretzky-Kiefer-Wolfowitz inequality, uniform over time.
    """
    if num == 0:
        return 1.0
    iterated = math.log(math.log(math.e * num))
    return min(1.0, 0.85 * math.sqrt((iterated + 0.8 * math.log(1612 / error_rate)) / num))


def is_distance_above(distance: float, num: int, limit: float, error_rate: float) -> bool:
    """Say whether two distributions, each seen `num` times, are shown to be further apart than a limit."""
    return distance - 2 * distance_radius(num, error_rate / 2) > limit


def _log_evidence_of_gain(pairs: Pairs, margin: float) -> float:
    """Return the logarithm of the evidence that the mean difference, in -1 to 1, is above a margin."""
    counts = np.array([pairs.lost, pairs.tied, pairs.won])
    return float(log_evidence(np.array([0.0, 0.5, 1.0]), counts, (1 + margin) / 2))


def _lower_bound(pairs: Pairs, wanted: float) -> float:
    """Return the largest margin that the difference is shown to be above; evidence falls as the margin grows."""
    low, high = -1.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _log_evidence_of_gain(pairs, middle) >= wanted else (low, middle)
    return low


def _swap(pairs: Pairs) -> Pairs:
    return Pairs(pairs.lost, pairs.tied, pairs.won)
