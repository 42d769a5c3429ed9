import numpy as np
import pytest

from tasks.core.permutations import min_p


def test_many_tests_do_not_make_firing_impossible() -> None:
    random = np.random.default_rng(0)
    statistics = random.normal(size=(1000, 12))
    statistics[0, 3] = 9.0
    corrected, own = min_p(statistics, [1.0] * 12)
    assert own[3] == pytest.approx(0.001)
    assert corrected[3] == pytest.approx(0.001)  # it stands out further than the largest split of any other test
    assert min(corrected[:3]) > 0.001


@pytest.mark.parametrize("weights", [[1.0] * 6, [1.0, 1.0, 0.25, 0.25, 0.25, 0.25]])
def test_the_smallest_p_value_keeps_the_rate_whatever_the_weights(weights: list[float]) -> None:
    random = np.random.default_rng(1)
    smallest = [min(min_p(random.normal(size=(200, 6)), weights)[0]) for _ in range(1000)]
    assert 0.03 <= np.mean(np.array(smallest) <= 0.05) <= 0.07  # 0.05 +- three standard errors


def test_a_light_test_needs_a_smaller_p_value_than_a_heavy_one() -> None:
    statistics = np.random.default_rng(2).normal(size=(1000, 4))
    statistics[0, [0, 1]] = np.sort(statistics[1:], axis=0)[-8, [0, 1]]  # both: seven splits are larger
    corrected, own = min_p(statistics, [1.0, 0.25, 1.0, 1.0])
    assert own[0] == pytest.approx(own[1], abs=0.002)
    assert corrected[1] > 2 * corrected[0]


def test_a_constant_statistic_is_no_evidence() -> None:
    assert min_p(np.zeros((100, 2)), [1.0, 1.0]) == ([1.0, 1.0], [1.0, 1.0])
