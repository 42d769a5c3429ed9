"""What the best of several trials gains: its size, its noise, and how easily chance gives as much."""

import numpy as np
import pytest

from tasks.core.gain import Choice, Gain, choose_recipe, judge_gain
from tasks.core.metrics import confusion_matrix, macro_f1


def answers(gold: np.ndarray, wrong: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    flip = random.random(len(gold)) < wrong
    return np.where(flip, (gold + 1) % 3, gold)[None]


@pytest.fixture
def gold() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, 600)


def test_a_clear_gain_is_more_than_noise(gold: np.ndarray) -> None:
    predicted = {0: answers(gold, 0.4, 1), 3: answers(gold, 0.2, 2), 4: answers(gold, 0.4, 3)}
    gain = judge_gain(gold, [str(row // 3) for row in range(600)], predicted, today=0, best=3, num_classes=3)
    expected = [macro_f1(confusion_matrix(gold, predicted[number][0], 3)) for number in (0, 3)]
    assert gain.gain == pytest.approx(float(expected[1] - expected[0]))
    assert 0.01 < gain.standard_error < 0.05
    assert gain.chance < 0.01
    assert gain.is_real(0.95)
    assert (gain.n_rows, gain.n_groups) == (600, 200)


def test_the_best_of_many_equal_recipes_is_seen_through(gold: np.ndarray) -> None:
    predicted = {number: answers(gold, 0.3, number) for number in range(20)}
    values = {number: float(macro_f1(confusion_matrix(gold, found[0], 3))) for number, found in predicted.items()}
    order = sorted(values, key=lambda number: values[number])
    gain = judge_gain(gold, [str(row) for row in range(600)], predicted, order[10], order[-1], num_classes=3)
    assert gain.gain > 0
    assert gain.chance > 0.1


def test_the_luckiest_of_twenty_equal_recipes_is_seldom_written() -> None:
    """At a confidence of 95 % chance writes 1 search in 20; one standard error alone would write three in four."""
    written = lucky = 0
    for search in range(40):
        gold = np.random.default_rng(search).integers(0, 3, 300)
        predicted = {number: answers(gold, 0.3, 1000 * search + number) for number in range(20)}
        best = max(predicted, key=lambda number: float(macro_f1(confusion_matrix(gold, predicted[number][0], 3))))
        if best == 0:
            continue  # today's recipe is the best
        gain = judge_gain(gold, [str(row) for row in range(300)], predicted, 0, best, 3, resamples=200)
        written += gain.is_real(0.95)
        lucky += gain.gain > gain.standard_error
    assert written <= 6  # 97.5 % of all simulations at a true rate of 5 % have no more than 5; one for 200 resamples
    assert lucky >= 20


def test_groups_that_answer_alike_widen_the_error(gold: np.ndarray) -> None:
    copies = np.repeat(gold[:100], 6)
    predicted = {
        0: np.repeat(answers(gold[:100], 0.4, 1), 6, axis=1),
        1: np.repeat(answers(gold[:100], 0.2, 2), 6, axis=1),
    }
    by_row = judge_gain(copies, [str(row) for row in range(600)], predicted, 0, 1, 3)
    by_group = judge_gain(copies, [str(row // 6) for row in range(600)], predicted, 0, 1, 3)
    assert by_group.gain == pytest.approx(by_row.gain)
    assert by_group.standard_error > 2 * by_row.standard_error


def test_several_seeds_are_averaged(gold: np.ndarray) -> None:
    today = np.concatenate([answers(gold, 0.3, seed) for seed in (1, 2)])
    best = np.concatenate([answers(gold, 0.1, seed) for seed in (3, 4)])
    gain = judge_gain(gold, [str(row) for row in range(600)], {0: today, 1: best}, 0, 1, 3)
    mean = [np.mean([macro_f1(confusion_matrix(gold, row, 3)) for row in rows]) for rows in (today, best)]
    assert gain.gain == pytest.approx(mean[1] - mean[0])


GAIN = Gain(0.03, 0.01, 0.04, 300, 120)


@pytest.mark.parametrize(
    ("best", "today", "gain", "change", "reason"),
    [
        (None, None, None, False, "no trial was finished"),
        (2, None, None, False, "so nothing can be said of a gain; a search with --trials 10 tries it again"),
        (2, 0, None, False, "the answers of today's recipe or the best are gone"),
        (0, 0, None, False, "today's recipe is the best of 9 trials"),
        (
            4,
            0,
            GAIN,
            True,
            "trial 4 is +0.0300 macro-F1 from today's recipe on 300 validation rows (120 groups), standard ",
        ),
        (4, 0, GAIN, True, "the best of 9 recipes no better than today's would look as good in 4.0% of cases (5% "),
        (4, 0, Gain(0.03, 0.01, 0.06, 300, 120), False, "within noise; the best of 9 recipes no better than today's"),
        (4, 0, Gain(0.005, 0.01, 0.9, 300, 120), False, "within noise"),
    ],
)
def test_choice(best: int | None, today: int | None, gain: Gain | None, change: bool, reason: str) -> None:
    choice = choose_recipe(best, today, gain, 9, 0.95)
    assert isinstance(choice, Choice)
    assert choice.change == change
    assert reason in choice.reason
