from itertools import product

import numpy as np
import pytest
from scipy.stats import norm

from tasks.core.metrics import resample_groups
from tasks.core.paired import LARGEST_EXACT_SUM, correct_for_many, loss_p_value, summarise_difference


@pytest.mark.parametrize(
    "differences", [[-1, -1, -1], [-2, 1, 0, 3], [1, 1, 1], [-3, -1, 2, -2], [-1] * 8, [2, -2]], ids=str
)
def test_the_p_value_is_that_of_all_signs(differences: list[int]) -> None:
    sums = [np.dot(signs, differences) for signs in product([1, -1], repeat=len(differences))]
    assert loss_p_value(np.array(differences)) == pytest.approx(np.mean(np.array(sums) <= sum(differences)))


def test_no_difference_is_no_loss() -> None:
    assert loss_p_value(np.zeros(50, dtype=np.int64)) == 1.0
    assert loss_p_value(np.array([], dtype=np.int64)) == 1.0


def test_many_discordant_rows_go_on_where_exactness_ends() -> None:
    for num_groups in (LARGEST_EXACT_SUM, LARGEST_EXACT_SUM + 2):
        differences = np.where(np.arange(num_groups) < 0.508 * num_groups, -1, 1)
        z = (differences.sum() + 1) / np.sqrt(num_groups)
        assert loss_p_value(differences) == pytest.approx(norm.cdf(z), rel=0.05)


def test_the_p_value_of_clustered_rows_keeps_its_rate() -> None:
    """Equally good models whose rows come in groups of five: p <= 0.05 in at most 5 % (1,000 draws: 6.4 %)."""
    random = np.random.default_rng(3)
    false = 0
    for _ in range(1000):
        signs = random.choice([-1, 1], 60) * random.integers(0, 6, 60)
        false += loss_p_value(signs) <= 0.05
    assert 0 < false <= 64


@pytest.mark.parametrize(
    ("given", "corrected"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # Holm: 3 x 0.01, 2 x 0.03, and never below the one before
        ([0.9, 0.8], [1.0, 1.0]),
        ([0.5, 0.001, 0.01, 0.5], [1.0, 0.004, 0.03, 1.0]),
    ],
)
def test_holm(given: list[float], corrected: list[float]) -> None:
    assert correct_for_many(given) == pytest.approx(corrected)


def test_a_difference_tells_its_interval_and_lower_bound() -> None:
    random = np.random.default_rng(1)
    by_row = random.choice([-1, 0, 1], 400, p=[0.05, 0.85, 0.1])
    codes = np.arange(400)
    resampled = resample_groups(by_row[:, None].astype(float), 2000, 0)[:, 0] / 400
    found = summarise_difference(by_row, codes, 400, resampled, 0.95)
    error = by_row.std(ddof=1) / np.sqrt(400)
    assert found.value == pytest.approx(by_row.mean())
    assert found.lower == pytest.approx(found.value - 1.645 * error, abs=0.004)
    assert found.ci == pytest.approx((found.value - 1.96 * error, found.value + 1.96 * error), abs=0.005)


def test_one_group_proves_nothing() -> None:
    """A hundred rows of one user say nothing of other users."""
    found = summarise_difference(np.ones(100, dtype=np.int64), np.zeros(100, dtype=np.int64), 1, np.ones(200), 0.95)
    assert (found.lower, found.ci) == (-1.0, (-1.0, 1.0))
