"""Estimates with 95 % intervals that resample whole groups, the seeds' scores averaged inside each resample.

A model that was trained with S seeds is S confusion matrices per group. Every seed is resampled with the same groups,
and so is every model that is compared on the same rows: a difference is paired. The intervals speak of other test
rows, not of other seeds. Shapes: S seeds, G groups, C classes, R resamples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.core.metrics import class_f1, group_confusions, interval, resample_groups

Counts = Sequence[npt.NDArray[np.int64]]  # S times [G, C, C]
Metric = Callable[[npt.NDArray[np.number]], npt.NDArray[np.float64]]  # [..., C, C] to [...]
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval, and the number of test rows."""

    mean: float
    low: float
    high: float
    n: int

    def as_list(self) -> list[float]:
        """Return mean, low, high, n, as the bench's last line holds them."""
        return [round(self.mean, 4), round(self.low, 4), round(self.high, 4), self.n]

    def __format__(self, spec: str) -> str:
        return format(f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]", spec)


def count_answers(
    gold: npt.NDArray[np.int64], answers: Sequence[Sequence[int]], groups: Sequence[str], num_classes: int
) -> Counts:
    """Return one [G, C, C] per seed from the seeds' answers, each a class number per row."""
    return [group_confusions(gold, np.asarray(one, dtype=np.int64), groups, num_classes) for one in answers]


def estimate(counts: Counts, metric: Metric, n: int) -> Estimate:
    """Return the metric's mean over seeds."""
    mean = float(np.mean([metric(one.sum(0)) for one in counts]))
    return Estimate(mean, *interval(_resampled(counts, metric), 0.95), n)


def estimate_difference(first: Counts, second: Counts, metric: Metric, n: int) -> Estimate:
    """Return by how much the first model is better than the second on the same rows."""
    mean = float(np.mean([metric(one.sum(0)) for one in first]) - np.mean([metric(one.sum(0)) for one in second]))
    return Estimate(mean, *interval(_resampled(first, metric) - _resampled(second, metric), 0.95), n)


def weighted_f1(counts: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    """Return the mean F1 of the classes, each weighted by how many rows truly are of it, [...]."""
    support = counts.sum(-1)
    mean: npt.NDArray[np.float64] = np.asarray(
        (class_f1(counts) * support).sum(-1) / np.maximum(support.sum(-1), 1), dtype=np.float64
    )
    return mean


def _resampled(counts: Counts, metric: Metric) -> npt.NDArray[np.float64]:
    """Return the mean over seeds in each of R resamples of groups; the same groups for whoever has as many."""
    seeds = [metric(resample_groups(one, RESAMPLES, seed=0)) for one in counts]
    mean: npt.NDArray[np.float64] = np.mean(seeds, axis=0)
    return mean
