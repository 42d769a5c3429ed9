import numpy as np
import pytest
from scipy import sparse
from scipy.stats import norm
from sklearn.metrics import average_precision_score, f1_score

from tasks.core.metrics import (
    accuracy,
    accuracy_of_counts,
    average_precision,
    class_f1,
    confusion_matrix,
    count_answers,
    expand,
    expected_calibration_error,
    f1_of_counts,
    group_confusions,
    interval,
    macro_f1,
    number_groups,
    precision_recall,
    resample_groups,
    resample_sums,
    score_predictions,
    uncalibrate,
)
from tasks.core.predictor import softmax
from tasks.core.temperature import fit_temperature


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


def test_counts_of_answers_give_the_scores_of_the_confusion_matrix() -> None:
    random = np.random.default_rng(1)
    gold, predicted = random.integers(0, 4, 200), random.integers(0, 4, 200)
    codes, num_groups = number_groups([f"g{number // 7}" for number in range(200)])
    counts = count_answers(gold, predicted, codes, num_groups, 4)
    assert counts.shape == (12, 29)
    total, matrix = np.asarray(counts.sum(1)), confusion_matrix(gold, predicted, 4)
    assert float(accuracy_of_counts(total, 4)) == pytest.approx(float(accuracy(matrix)))
    assert f1_of_counts(total, 4) == pytest.approx(class_f1(matrix))


def test_groups_that_are_drawn_together_vary_as_groups_that_are_drawn_alone() -> None:
    """Fifty equal right groups and fifty equal wrong ones are two kinds; their number right is Binomial(100, 1/2)."""
    values = sparse.csr_array(np.array([[1.0] * 50 + [0.0] * 50, [1.0] * 100]))
    right, drawn = resample_sums(values, 20_000, seed=5)
    assert (drawn == 100).all()
    assert right.mean() == pytest.approx(50, abs=0.2)
    assert right.std() == pytest.approx(5, abs=0.15)


def test_few_groups_widen_the_interval_as_students_t_does() -> None:
    assert expand(0.05, None) == 0.05
    assert expand(0.05, 1) == 0.05
    assert expand(0.05, 100_000) == pytest.approx(0.05, abs=1e-4)
    assert expand(0.05, 5) == pytest.approx(norm.cdf(np.sqrt(5 / 4) * -2.132), abs=1e-4)


def test_every_score_has_an_interval_around_it() -> None:
    random = np.random.default_rng(2)
    gold = random.integers(0, 3, 400)
    probabilities = 0.5 * np.eye(3)[gold] + 0.5 * random.dirichlet(np.ones(3), 400)
    found = score_predictions(gold, probabilities, [str(number // 4) for number in range(400)])
    assert found.ece_ci is not None
    pairs = [(found.accuracy, found.accuracy_ci), (found.macro_f1, found.macro_f1_ci), (found.ece, found.ece_ci),
             *zip(found.per_class_f1, found.per_class_f1_ci, strict=True)]  # fmt: skip
    assert len(pairs) == 6
    assert all(low <= value <= high and high - low < 0.2 for value, (low, high) in pairs)


def test_average_precision_is_scikit_learns_ties_included() -> None:
    random = np.random.default_rng(6)
    is_class = random.random(300) < 0.3
    scores = np.round(random.random(300) + 0.5 * is_class, 1)  # many equal scores
    assert average_precision(is_class, scores) == pytest.approx(average_precision_score(is_class, scores))
    precision, recall = precision_recall(is_class, scores)
    assert (precision[-1], recall[-1]) == pytest.approx((is_class.mean(), 1.0))
    assert np.isnan(average_precision(np.zeros(5, dtype=np.bool_), np.arange(5.0)))


def test_probabilities_without_their_temperature() -> None:
    logits = np.random.default_rng(3).normal(size=(50, 3)).astype(np.float32)
    assert uncalibrate(softmax(logits / 2.5), 2.5) == pytest.approx(softmax(logits), abs=1e-5)


def test_a_class_without_rows_does_not_pull_macro_f1_down() -> None:
    gold = np.array([0, 0, 1, 1] * 10)
    predicted = np.where(np.arange(40) % 8 == 0, 1, gold)
    probabilities = 0.1 + 0.6 * np.eye(4)[predicted]
    groups = [str(number) for number in range(40)]
    wanted = f1_score(gold, predicted, average="macro")
    found = score_predictions(gold, probabilities, groups)
    assert found.macro_f1 == pytest.approx(wanted)
    assert found.macro_f1_ci[0] < wanted < found.macro_f1_ci[1]
    assert macro_f1(confusion_matrix(gold, predicted, 4)) == pytest.approx(wanted)
    answered = np.where(np.arange(40) == 3, 3, predicted)  # a class that is only predicted counts, with 0
    assert macro_f1(confusion_matrix(gold, answered, 4)) == pytest.approx(f1_score(gold, answered, average="macro"))


def test_one_group_alone_says_nothing_about_a_score() -> None:
    gold = np.array([0, 1, 1, 0])
    found = score_predictions(gold, np.eye(2)[[0, 1, 0, 0]], ["only"] * 4)
    assert found.accuracy_ci == found.macro_f1_ci == (0.0, 1.0)
