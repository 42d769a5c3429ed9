from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.core.evidence import (
    build_reference,
    list_hardest_errors,
    plot_confusion,
    plot_reliability,
    write_model_card,
)
from tasks.core.metrics import score_predictions
from tasks.core.promotion import GateDecision, Rule

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


def test_plots_are_pictures(tmp_path: Path) -> None:
    plot_confusion(GOLD, PROBABILITIES, LABELS, tmp_path / "confusion.png")
    plot_reliability(GOLD, PROBABILITIES, 0.1, tmp_path / "reliability.png")
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5000


def test_the_card_tells_scores_with_interval_gate_and_origin() -> None:
    scores = score_predictions(GOLD, PROBABILITIES, ["a", "a", "b"])
    decision = GateDecision(False, (Rule("floor", False, "macro-F1 is low"), Rule("test rows", True, "3 rows")))
    card = write_model_card("toy", "A toy.", scores, None, decision, {"device": "cpu"})
    assert "| accuracy | 0.667 [" in card
    assert "**Gate: not promoted**" in card
    assert card.index("refused: floor") < card.index("ok: test rows")
    assert "| device | cpu |" in card
