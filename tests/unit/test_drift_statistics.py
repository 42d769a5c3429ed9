import numpy as np
import pytest

from tasks.core.drift_statistics import MAX_CUTS, compare_distributions, compare_vectors
from tasks.core.permutations import Bools, Floats, Ints, permute

ROWS = 100  # of each side, each a group of its own
CODES: Ints = np.arange(2 * ROWS)
IS_REFERENCE: Bools = CODES < ROWS


def splits(permutations: int = 99) -> Bools:
    return permute(IS_REFERENCE, permutations, 0)


def sides(reference: Floats, current: Floats) -> Floats:
    return np.concatenate([reference, current])


def test_the_distance_of_distributions_is_that_of_the_farthest_column() -> None:
    same = np.tile(np.arange(ROWS), 2) / ROWS
    shifted = sides(np.zeros(ROWS), (np.arange(ROWS) < 30).astype(float))
    assert compare_distributions(np.stack([same, shifted], axis=1), CODES, splits()).effect == pytest.approx(0.3)


def test_many_values_are_compared_at_some_of_them() -> None:
    values = np.random.default_rng(0).normal(size=20 * MAX_CUTS)
    values[len(values) // 2 :] += 1.0
    codes = np.arange(len(values))
    distance = compare_distributions(values[:, None], codes, permute(codes < len(values) // 2, 99, 0))
    assert distance.effect == pytest.approx(0.38, abs=0.03)  # 2 Phi(1/2) - 1
    assert (distance.statistics[0] > distance.statistics[1:]).all()


def test_rows_that_say_nothing_are_left_out() -> None:
    values = sides(np.zeros(ROWS), np.ones(ROWS))
    values[50:ROWS] = np.nan
    assert compare_distributions(values[:, None], CODES, splits()).effect == 1.0
    values[:ROWS] = np.nan
    values[ROWS:150] = 0.0
    only_current = compare_distributions(values[:, None], CODES, splits())
    assert only_current.effect == 0.0
    assert np.isfinite(only_current.statistics).all()


@pytest.mark.parametrize(("num_odd", "effect"), [(9, 0.0), (10, 0.1)])
def test_a_few_odd_rows_are_no_distribution(num_odd: int, effect: float) -> None:
    odd = sides(np.zeros(ROWS), (np.arange(ROWS) < num_odd).astype(float))
    assert compare_distributions(odd[:, None], CODES, splits()).effect == pytest.approx(effect)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0.0, 0.1), (1.0, 0.4, 0.8), (9.0, 0.99, 1.0)])
def test_the_effect_of_vectors_is_how_well_sides_can_be_told_apart(
    whiten: bool, shift: float, low: float, high: float
) -> None:
    vectors = np.random.default_rng(0).normal(size=(2 * ROWS, 3))
    vectors[ROWS:, 0] += shift
    assert low <= compare_vectors(vectors, CODES, splits(), whiten=whiten).effect <= high


def test_a_small_shift_beside_a_large_spread_is_seen_whitened_only() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(2 * ROWS, 8)) * np.array([20.0, 20.0, *[8.0] * 6])
    vectors[:, 7] = random.normal(size=2 * ROWS) + 6.0 * ~IS_REFERENCE
    plain, whitened = (compare_vectors(vectors, CODES, splits(), whiten=whiten) for whiten in (False, True))
    assert (whitened.statistics[0] > whitened.statistics[1:]).all()
    assert whitened.effect > 2 * plain.effect


def test_the_effect_does_not_grow_with_the_number_of_rows() -> None:
    effects = []
    for num_rows in (100, 800):
        vectors = np.random.default_rng(0).normal(size=(2 * num_rows, 3))
        vectors[num_rows:, 0] += 0.5
        codes = np.arange(2 * num_rows)
        effects.append(compare_vectors(vectors, codes, permute(codes < num_rows, 9, 0)).effect)
    assert effects[1] == pytest.approx(effects[0], abs=0.12)
