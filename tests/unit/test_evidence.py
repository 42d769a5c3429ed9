import numpy as np
import pandas as pd
import pytest

from tasks.core.behaviour import CaseResult
from tasks.core.evidence import (
    build_reference,
    list_hardest_errors,
    tabulate_cases,
    tabulate_classes,
    tabulate_slices,
)
from tasks.core.metrics import score_predictions
from tasks.core.promotion import SliceVerdict
from tasks.core.slices import Cut, score_slices

LABELS = ["bad", "good"]
TEST = pd.DataFrame(
    {
        "row_id": ["1", "2", "3"],
        "text": ["all good", "quite bad here", "good"],
        "label": ["good", "bad", "bad"],
        "group": ["a", "a", "b"],
        "source": ["s", "s", "s"],
    }
)
PROBABILITIES = np.array([[0.1, 0.9], [0.6, 0.4], [0.2, 0.8]])
GOLD = np.array([1, 0, 0])


def test_the_reference_keeps_numbers_and_no_text() -> None:
    reference = build_reference(TEST, PROBABILITIES, np.array([4, 5, 3]), np.eye(3, dtype=np.float32), LABELS)
    assert "text" not in reference.columns
    assert reference["predicted"].tolist() == ["good", "bad", "good"]
    assert reference["n_words"].tolist() == [2, 3, 1]
    assert reference[["p_bad", "p_good"]].to_numpy() == pytest.approx(PROBABILITIES)
    assert np.stack(reference["embedding"].tolist()).shape == (3, 3)


def test_the_reference_is_as_exact_as_the_log() -> None:
    sure = np.array([[1e-9, 1 - 1e-9], [0.123456789, 0.876543211], [1.0, 0.0]])
    reference = build_reference(TEST, sure.astype(np.float32), np.array([4, 5, 3]), np.eye(3, dtype=np.float32), LABELS)
    assert reference["p_bad"].tolist() == [0.0, 0.123457, 1.0]
    assert reference["score"].tolist() == [1.0, 0.876543, 1.0]


def test_the_hardest_errors_come_first() -> None:
    errors = list_hardest_errors(TEST, PROBABILITIES, LABELS)
    assert errors[["row_id", "predicted", "score"]].values.tolist() == [["3", "good", 0.8]]


def test_slices_as_a_table() -> None:
    cuts = [Cut("short", "1 to 2 words", np.array([True, False, True])), Cut("none", "never", np.zeros(3, dtype=bool))]
    slices = score_slices(cuts, GOLD, PROBABILITIES, PROBABILITIES[::-1], ["a", "a", "b"], 200, 0.95)
    table = tabulate_slices(slices, [SliceVerdict("short", "lost", 0.01), SliceVerdict("none", "no rows")])
    assert table["slice"].tolist() == ["short", "none"]
    assert table.loc[0, ["n", "groups", "accuracy", "verdict"]].tolist() == [2, 2, 0.5, "lost"]
    assert table.loc[0, "difference"] == table.loc[0, "accuracy"] - table.loc[0, "champion_accuracy"]
    assert table.loc[1, "n"] == 0
    assert np.isnan(table.loc[1, "accuracy"])
    assert list(tabulate_slices((), []).columns) == ["slice", "verdict"]


def test_cases_as_a_table_show_failures_first() -> None:
    cases = [CaseResult(1, "must", True, "good", "good", "good", 0.9, "plain"),
             CaseResult(2, "must", False, "not good", "bad", "good", 0.7, "negation")]  # fmt: skip
    table = tabulate_cases(cases)
    assert table[["case", "passed", "text", "expected", "answered"]].values.tolist() == [
        [2, False, "not good", "bad", "good"],
        [1, True, "good", "good", "good"],
    ]
    assert tabulate_cases([]).empty


def test_classes_as_a_table() -> None:
    scores = score_predictions(GOLD, PROBABILITIES, ["a", "a", "b"])
    table = tabulate_classes(GOLD, PROBABILITIES, scores, LABELS).set_index("label")
    assert table.loc["bad", ["n", "precision", "recall"]].tolist() == [2, 1.0, 0.5]
    assert table.loc["good", ["n", "precision", "recall"]].tolist() == [1, 0.5, 1.0]
    assert table.loc["bad", "f1"] == pytest.approx(2 / 3, abs=1e-4)
    assert table.loc["good", "average_precision"] == 1.0
