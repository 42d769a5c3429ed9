"""How challenger and champion differ on the same rows: an interval, and exact tests for many slices.

A row's difference is 1 where only the challenger is right, -1 where only the champion is, else 0; a group's is the sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, norm

from tasks.core.metrics import Floats, Ints, expand, interval

LARGEST_EXACT_SUM = 20_000  # discordant rows; beyond it the normal approximation is as good


@dataclass(frozen=True)
class Difference:
    """Challenger minus champion in accuracy, with its interval, one-sided lower bound, and the test for a loss."""

    value: float
    ci: tuple[float, float]  # two-sided
    lower: float  # one-sided
    p_loss: float  # chance of such a loss or a larger one if both were equally good


def summarise_difference(
    differences: Ints, codes: Ints, num_groups: int, resampled: Floats, confidence: float
) -> Difference:
    """Return what differences of rows [N], of groups `codes` [N] below G, and resampled means of them [R] say.

    The lower bound takes off half a row: an accuracy moves in steps of 1/N, and a bound that lies right on a margin
    would count as above it. Without that, up to 7 % instead of 5 % of models at the margin passed.
    """
    lower = -1.0
    if num_groups > 1:
        lower = float(np.nanquantile(resampled, expand(1 - confidence, num_groups))) - 0.5 / len(differences)
    return Difference(
        float(differences.mean()),
        interval(resampled, confidence, num_groups) if num_groups > 1 else (-1.0, 1.0),
        lower,
        loss_p_value(np.bincount(codes, differences, num_groups).astype(np.int64)),
    )


def loss_p_value(differences_G: Ints) -> float:
    """Return the one-sided p-value of a loss: the exact sign-flip test over whole groups.

    If both models are equally good, a group's difference could as well have had the other sign. The distribution of the
    sum over all signs is exact for any size, so p-values of small slices, and after a correction for many, hold.
    """
    sizes, times = np.unique(np.abs(differences_G[differences_G != 0]), return_counts=True)
    largest, observed = int(sizes @ times), int(differences_G.sum())
    if largest == 0:
        return 1.0
    if largest > LARGEST_EXACT_SUM:
        return float(norm.cdf((observed + 0.5) / np.sqrt((sizes**2) @ times)))
    chances = np.ones(1)
    for size, number in zip(sizes.tolist(), times.tolist(), strict=True):
        of_size = np.zeros(2 * size * number + 1)
        of_size[:: 2 * size] = binom.pmf(np.arange(number + 1), number, 0.5)
        chances = np.convolve(chances, of_size)
    return float(min(1.0, chances[: observed + largest + 1].sum()))


def correct_for_many(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: comparing each with alpha keeps the chance of any false alarm below it.

    Holm 1979, Scandinavian Journal of Statistics 6: valid whatever the dependence, so slices may overlap.
    """
    given: npt.NDArray[np.float64] = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(given, kind="stable")
    factors = np.arange(len(given), 0, -1)
    adjusted = np.empty(len(given))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(given[order] * factors)) if len(given) else []
    return [float(value) for value in adjusted]
