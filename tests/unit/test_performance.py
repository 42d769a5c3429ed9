import numpy as np
import pytest

from tasks.core.performance import estimate_accuracy, measure_accuracy


def test_measured_accuracy_counts_labelled_rows() -> None:
    measured = measure_accuracy(predicted=["a", "b", "a", "b"], gold=["a", "b", "b", "b"], groups=["1", "2", "3", "4"])
    assert measured is not None
    assert (measured.accuracy, measured.n) == (0.75, 4)
    assert measured.low <= 0.75 <= measured.high


def test_nothing_is_measured_without_labels() -> None:
    assert measure_accuracy(predicted=[], gold=[], groups=[]) is None


def test_rows_of_few_groups_give_a_wide_interval() -> None:
    gold = ["a", "b"] * 60
    widths = []
    for groups in ([str(row) for row in range(120)], [str(row // 30) for row in range(120)]):
        measured = measure_accuracy(predicted=["a"] * 60 + gold[60:], gold=gold, groups=groups)
        assert measured is not None
        widths.append(measured.high - measured.low)
    assert widths[1] > 2 * widths[0]


@pytest.mark.parametrize(("gold", "low", "high"), [("a", 0.69, 1.0), ("b", 0.0, 0.31)])
def test_all_right_or_all_wrong_is_not_certain(gold: str, low: float, high: float) -> None:
    measured = measure_accuracy(predicted=["a"] * 10, gold=[gold] * 10, groups=[str(row) for row in range(10)])
    assert measured is not None
    assert [measured.low, measured.high] == pytest.approx([low, high], abs=0.01)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        right = np.repeat(random.beta(4, 1, size=60), 3)  # rows of a group are about as hard
        gold = np.where(random.random(180) < right, "a", "b").tolist()
        groups = [str(row // 3) for row in range(180)]
        measured = measure_accuracy(predicted=["a"] * 180, gold=gold, groups=groups, seed=seed)
        assert measured is not None
        covered += measured.low <= 0.8 <= measured.high
    assert covered >= 89


def test_estimated_accuracy_follows_the_scores_of_an_overconfident_model() -> None:
    random = np.random.default_rng(0)
    scores = random.uniform(0.5, 1, 4000)
    correct = random.random(4000) < scores - 0.15
    harder = random.uniform(0.5, 0.7, 1000)
    estimated = estimate_accuracy(reference_scores=scores, reference_correct=correct, current_scores=harder)
    assert estimated is not None
    assert estimated.accuracy == pytest.approx(0.45, abs=0.03)
    assert estimated.n == 1000


@pytest.mark.parametrize(("num_reference", "num_current"), [(29, 10), (100, 0)])
def test_nothing_is_estimated_from_too_little(num_reference: int, num_current: int) -> None:
    scores = np.full(num_reference, 0.9)
    correct = np.ones(num_reference, dtype=bool)
    current = np.full(num_current, 0.9)
    assert estimate_accuracy(reference_scores=scores, reference_correct=correct, current_scores=current) is None
