import numpy as np
import pytest

from tasks.core.metrics import (
    accuracy,
    class_f1,
    confusion_matrix,
    expected_calibration_error,
    fit_temperature,
    group_confusions,
    interval,
    macro_f1,
    resample_groups,
    score_predictions,
)
from tasks.core.predictor import softmax


def test_scores_of_a_known_confusion() -> None:
    gold = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 1, 0])
    counts = confusion_matrix(gold, predicted, 3)
    assert counts.tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert accuracy(counts) == pytest.approx(4 / 6)
    assert class_f1(counts).tolist() == pytest.approx([2 / 3, 0.8, 0.0])
    assert macro_f1(counts) == pytest.approx((2 / 3 + 0.8) / 3)


def test_group_confusions_add_up_to_the_whole() -> None:
    random = np.random.default_rng(1)
    gold, predicted = random.integers(0, 3, 200), random.integers(0, 3, 200)
    groups = [f"g{number // 7}" for number in range(200)]
    counts = group_confusions(gold, predicted, groups, 3)
    assert counts.shape == (29, 3, 3)
    assert (counts.sum(0) == confusion_matrix(gold, predicted, 3)).all()


def test_the_interval_of_clustered_rows_is_wider_than_that_of_single_rows() -> None:
    """Twenty groups whose rows are all right or all wrong carry the information of twenty rows, not of four hundred."""
    gold = np.zeros(400, dtype=np.int64)
    probabilities = np.tile([0.9, 0.1], (400, 1))
    probabilities[np.repeat(np.arange(20) % 4 == 0, 20)] = [0.1, 0.9]
    clustered = score_predictions(gold, probabilities, [str(number // 20) for number in range(400)])
    single = score_predictions(gold, probabilities, [str(number) for number in range(400)])
    width = [scores.accuracy_ci[1] - scores.accuracy_ci[0] for scores in (clustered, single)]
    assert clustered.accuracy == single.accuracy == pytest.approx(0.75)
    assert width[0] > 3 * width[1]


def test_the_interval_covers_the_truth_at_its_stated_rate() -> None:
    """Of 200 data sets of true accuracy 0.7, about 95 % of intervals hold 0.7; fewer than 180 would be p < 0.005."""
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        is_right = np.repeat(random.random(60) < 0.7, 5)
        probabilities = np.where(is_right[:, None], [0.8, 0.2], [0.2, 0.8])
        groups = [str(number // 5) for number in range(300)]
        low, high = score_predictions(np.zeros(300, dtype=np.int64), probabilities, groups, resamples=400).accuracy_ci
        covered += low <= 0.7 <= high
    assert covered >= 180


def test_resampling_keeps_the_number_of_groups_and_repeats_with_its_seed() -> None:
    ones = np.ones((50, 1))
    assert (resample_groups(ones, 100, seed=3) == 50).all()
    values = np.arange(50.0)[:, None]
    assert (resample_groups(values, 10, seed=3) == resample_groups(values, 10, seed=3)).all()
    assert (resample_groups(values, 10, seed=3) != resample_groups(values, 10, seed=4)).any()


def test_interval_is_the_percentile_one() -> None:
    assert interval(np.arange(101.0), 0.9) == pytest.approx((5.0, 95.0))


def test_calibration_error_of_an_overconfident_model() -> None:
    probabilities = np.tile([0.9, 0.1], (100, 1))
    gold = np.array([0] * 60 + [1] * 40)
    assert expected_calibration_error(gold, probabilities) == pytest.approx(0.3)


def test_temperature_finds_the_factor_that_made_logits_overconfident() -> None:
    random = np.random.default_rng(2)
    logits = random.normal(size=(4000, 3))
    gold = np.array([random.choice(3, p=row) for row in softmax(logits.astype(np.float32)).astype(float).round(6)
                     / softmax(logits.astype(np.float32)).astype(float).round(6).sum(1, keepdims=True)])  # fmt: skip
    assert fit_temperature(3.0 * logits, gold) == pytest.approx(3.0, rel=0.1)


def test_temperature_stays_bounded_when_validation_has_no_error() -> None:
    logits = np.array([[4.0, 0.0], [0.0, 4.0]] * 20)
    assert fit_temperature(logits, np.array([0, 1] * 20)) == pytest.approx(0.5, abs=0.01)
