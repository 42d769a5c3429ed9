import numpy as np
import pytest

from configs.schema import Gate
from tasks.core.metrics import Scores
from tasks.core.promotion import Parity, decide_promotion, measure_parity, paired_accuracy_differences

GATE = Gate(min_macro_f1=0.7, max_accuracy_loss=0.02, min_test_rows=100)
SAME = Parity(1.0, 0.0001)


def scores(macro_f1: float = 0.8, n: int = 500) -> Scores:
    return Scores(0.8, macro_f1, 0.02, n, (0.78, 0.82), (0.77, 0.83), (0.8, 0.8))


@pytest.mark.parametrize(
    ("challenger", "parity", "mean_difference", "promote", "reason"),
    [
        (scores(), SAME, None, True, "no champion yet"),
        (scores(0.69), SAME, None, False, "macro-F1 0.690 is below the floor 0.700"),
        (scores(n=99), SAME, None, False, "99 rows, 100 needed"),
        (scores(), Parity(0.99, 0.0001), None, False, "agrees with checkpoint on 99.00% of rows (99.50% needed)"),
        (scores(), Parity(1.0, 0.05), None, False, "largest difference 0.0500 (0.0200 allowed)"),
        (scores(), SAME, 0.0, True, "accuracy +0.000 against the champion"),
        (scores(), SAME, 0.05, True, "accuracy +0.050"),
        (scores(), SAME, -0.03, False, "accuracy -0.030"),
    ],
)
def test_gate(challenger: Scores, parity: Parity, mean_difference: float | None, promote: bool, reason: str) -> None:
    differences = None if mean_difference is None else mean_difference + np.linspace(-0.005, 0.005, 1001)
    decision = decide_promotion(challenger, parity, GATE, differences)
    assert decision.promote is promote
    assert reason in "\n".join(decision.reasons)
    assert len(decision.rules) == 4


def test_refusals_are_told_first() -> None:
    decision = decide_promotion(scores(0.1), SAME, GATE, None)
    assert decision.reasons[0].startswith("refused: floor")
    assert all(reason.startswith("ok: ") for reason in decision.reasons[1:])


def make_pair(random: np.random.Generator, loss: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Return gold, challenger, champion and groups: the challenger's expected accuracy is lower by `loss`.

    Both models see the same texts, so three quarters of their luck is shared, as with two fine-tunings of one model.
    """
    num_rows = 900
    gold = np.zeros(num_rows, dtype=np.int64)
    ease = np.repeat(random.normal(0, 0.1, num_rows // 3), 3)
    right = np.clip(0.8 + ease, 0, 1)
    luck = random.random(num_rows)
    other_luck = np.where(random.random(num_rows) < 0.75, luck, random.random(num_rows))
    champion = np.where((luck < right)[:, None], [0.9, 0.1], [0.1, 0.9])
    challenger = np.where((other_luck < right - loss)[:, None], [0.9, 0.1], [0.1, 0.9])
    return gold, challenger, champion, [str(row // 3) for row in range(num_rows)]


@pytest.mark.parametrize(("loss", "at_least", "at_most"), [(0.02, 0, 0.09), (-0.03, 0.9, 1)])
def test_gate_error_rates(loss: float, at_least: float, at_most: float) -> None:
    """A challenger at the margin passes in about 5 % of gates (200 gates: at most 9 %); one 3 points better in 90 %."""
    random = np.random.default_rng(7)
    passed = 0
    for _ in range(200):
        gold, challenger, champion, groups = make_pair(random, loss)
        differences = paired_accuracy_differences(gold, challenger, champion, groups, resamples=400)
        passed += decide_promotion(scores(), SAME, GATE, differences).promote
    assert at_least <= passed / 200 <= at_most


def test_parity_measures_labels_and_probabilities() -> None:
    export = np.array([[0.6, 0.4], [0.45, 0.55]])
    checkpoint = np.array([[0.61, 0.39], [0.52, 0.48]])
    parity = measure_parity(export, checkpoint)
    assert (parity.agreement, parity.largest_difference) == pytest.approx((0.5, 0.07))
