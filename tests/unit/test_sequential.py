"""Sequential tests: their error rate by simulation, what they find, and their edges."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tasks.core.sequential import (
    Pairs,
    bound_difference,
    distance_radius,
    is_distance_above,
    is_no_worse,
    is_share_above,
    is_worse,
    log_evidence,
)

SERIES, LENGTH, ERROR_RATE = 300, 300, 0.05
ALLOWED = ERROR_RATE + 3 * math.sqrt(ERROR_RATE * (1 - ERROR_RATE) / SERIES)  # three standard errors of the simulation
DIFFERENCES, HALVES = np.array([-1.0, 0.0, 1.0]), np.array([0.0, 0.5, 1.0])


def draw_counts(shares: tuple[float, ...], seed: int) -> npt.NDArray[Any]:
    """Return how often each value was seen after each observation of each series, [S, N, V]."""
    drawn = np.random.default_rng(seed).choice(len(shares), size=(SERIES, LENGTH), p=shares)
    counts: npt.NDArray[Any] = (drawn[:, :, None] == np.arange(len(shares))).cumsum(axis=1)
    return counts


def share_ever_above(counts: npt.NDArray[Any], values: npt.NDArray[Any], limit: float) -> float:
    """Return the share of series in which the test fires at any of its looks, one after every observation."""
    fires = log_evidence(values, counts, limit) >= -math.log(ERROR_RATE)
    return float(fires.any(axis=1).mean())


@pytest.mark.parametrize("limit", [0.01, 0.25, 0.5])
def test_a_share_at_its_limit_seldom_fires_however_often_one_looks(limit: float) -> None:
    counts = draw_counts((1 - limit, limit), seed=1)
    assert share_ever_above(counts, np.array([0.0, 1.0]), limit) <= ALLOWED


@pytest.mark.parametrize(
    ("margin", "lost", "tied", "won"),
    [(0.0, 0.1, 0.8, 0.1), (0.02, 0.07, 0.88, 0.05), (0.1, 0.35, 0.4, 0.25)],
)
def test_a_version_at_the_margin_is_seldom_taken_back(margin: float, lost: float, tied: float, won: float) -> None:
    """The mean difference lies exactly on the margin: the hardest case that is still within the limit."""
    assert won - lost == pytest.approx(-margin)
    counts = draw_counts((won, tied, lost), seed=2)  # as losses: the evidence is that the mean of these is above
    assert share_ever_above(counts, HALVES, (1 + margin) / 2) <= ALLOWED


def test_looking_at_an_ordinary_test_all_the_time_would_err_far_more_often() -> None:
    """The simulation can fail: the usual z-test, looked at after each observation, breaks its promise in it."""
    counts = draw_counts((0.5, 0.5), seed=1)
    trials = np.arange(1, LENGTH + 1)
    z = (counts[:, :, 1] - trials / 2) / np.sqrt(trials / 4)
    assert (z[:, 20:] > 1.645).any(axis=1).mean() > 3 * ERROR_RATE


def test_intervals_hold_the_truth_at_all_times() -> None:
    counts = draw_counts((0.08, 0.8, 0.12), seed=3)
    truth, half = 0.12 - 0.08, -math.log(ERROR_RATE / 2)
    too_high = log_evidence(HALVES, counts, (1 + truth) / 2) >= half  # the interval lies above the truth
    too_low = log_evidence(HALVES, counts[:, :, ::-1], (1 - truth) / 2) >= half
    assert (too_high | too_low).any(axis=1).mean() <= ALLOWED
    low, high = bound_difference(Pairs(won=72, tied=480, lost=48), ERROR_RATE)
    assert -0.05 < low < 0.04 < high < 0.13


def test_a_worse_version_is_found() -> None:
    counts = draw_counts((0.02, 0.83, 0.15), seed=4)  # loses 13 points
    assert share_ever_above(counts, HALVES, 1.02 / 2) > 0.9


def test_the_radius_holds_the_distribution_at_all_times() -> None:
    drawn = np.random.default_rng(5).random((200, 400))
    misses = 0
    for series in drawn:
        for num in (1, 2, 5, 10, 20, 50, 100, 200, 400):
            ordered = np.sort(series[:num])
            steps = np.arange(1, num + 1) / num
            farthest = max((steps - ordered).max(), (ordered - steps + 1 / num).max())
            if farthest > distance_radius(num, ERROR_RATE):
                misses += 1
                break
    assert misses / len(drawn) <= ERROR_RATE


@pytest.mark.parametrize(
    ("say", "expected"),
    [
        (lambda: is_share_above(0, 0, 0.1, 0.05), False),
        (lambda: is_share_above(5, 5, 0.001, 0.01), True),
        (lambda: is_share_above(1, 1000, 0.001, 0.01), False),
        (lambda: is_share_above(30, 100, 0.25, 0.05), False),
        (lambda: is_share_above(60, 100, 0.25, 0.05), True),
        (lambda: is_worse(Pairs(), 0.02, 0.05), False),
        (lambda: is_worse(Pairs(won=2, tied=60, lost=38), 0.02, 0.05), True),
        (lambda: is_worse(Pairs(won=38, tied=60, lost=2), 0.02, 0.05), False),
        (lambda: is_no_worse(Pairs(), 0.02, 0.05), False),
        (lambda: is_no_worse(Pairs(won=5, tied=990, lost=5), 0.02, 0.05), True),
        (lambda: is_no_worse(Pairs(won=5, tied=20, lost=5), 0.02, 0.05), False),
        (lambda: is_distance_above(0.9, 10, 0.2, 0.05), False),
        (lambda: is_distance_above(0.9, 500, 0.2, 0.05), True),
        (lambda: is_distance_above(0.1, 100_000, 0.2, 0.05), False),
    ],
)
def test_answers(say: Callable[[], bool], expected: bool) -> None:
    assert say() is expected


def test_bounds_without_labels_say_nothing_and_narrow_with_them() -> None:
    assert bound_difference(Pairs(), 0.05) == pytest.approx((-1, 1))
    widths = [np.subtract(*bound_difference(Pairs(n, 8 * n, n), 0.05)[::-1]) for n in (1, 10, 100, 1000)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.05


def test_swapping_the_versions_swaps_the_interval() -> None:
    low, high = bound_difference(Pairs(12, 70, 3), 0.05)
    assert bound_difference(Pairs(3, 70, 12), 0.05) == pytest.approx((-high, -low))
    assert Pairs(12, 70, 3).difference == pytest.approx(9 / 85)
    assert (Pairs().difference, Pairs(1, 2, 3).num) == (0.0, 6)
