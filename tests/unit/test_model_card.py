import numpy as np

from tasks.core.behaviour import CaseResult, KindResult
from tasks.core.engine_choice import Trial
from tasks.core.metrics import score_predictions
from tasks.core.model_card import (
    CUT,
    MAX_DESCRIPTION,
    cut_description,
    list_cases,
    list_engines,
    list_slices,
    write_model_card,
)
from tasks.core.paired import Difference
from tasks.core.promotion import GateDecision, Rule, SliceVerdict
from tasks.core.slices import SliceScores

SCORES = score_predictions(np.array([1, 0, 0]), np.array([[0.1, 0.9], [0.6, 0.4], [0.2, 0.8]]), ["a", "a", "b"])
DECISION = GateDecision(False, (Rule("test rows", True, "3 rows"), Rule("floor", False, "macro-F1 is low")))
SLICE = SliceScores("short", "1 to 8 words", False, "", 120, 80, 0.75, (0.7, 0.8), 0.7, (0.6, 0.8), 0.8, 0.72,
                    Difference(-0.05, (-0.1, 0.0), -0.09, 0.02))  # fmt: skip
FAILED = CaseResult(7, "must", False, "not | good", "bad", "good", 0.8, "negation")

ENGINES = [
    Trial("onnx-fp32", "", False, 1.0, 0.0, 0.75, 120.0, 90.0, 32, 9.0, 90.4),
    Trial("openvino-bf16", "", True, 0.997, 0.013, 0.749, 240.0, 400.0, 32, 33.0, 90.4),
    Trial("torch-cuda", "there is no CUDA device"),
]


def test_the_card_tells_scores_with_interval_gate_slices_cases_and_origin() -> None:
    verdict = SliceVerdict("short", "kept", 0.08)
    kinds = [KindResult("must", 9, 10, 0.8, (7,))]
    card = write_model_card(
        "toy", "A toy.", SCORES, None, DECISION, {"device": "cpu"}, [(SLICE, verdict)], kinds, [FAILED], ENGINES
    )
    assert "| accuracy | 0.667 [" in card
    assert "| ece | 0." in card
    assert "**Gate: not promoted**" in card
    assert card.index("refused: floor") < card.index("ok: test rows")
    assert "| short | 120 | 0.750 [0.700, 0.800] | 0.700 [0.600, 0.800] | 0.800 | -0.050 [-0.100, +0.000] |" in card
    assert "| kept, p 0.080 |" in card
    assert "| must | 9 of 10 | 80% |" in card
    assert "- case 7 (negation): not / good Expected bad, answered good." in card
    assert "| device | cpu |" in card
    assert "| engine, on validation rows | agreement |" in card
    assert "| in batches of 32 |" in card
    assert "| onnx-fp32 | 100.00% | 0.0000 | 0.750 | 120 | 90 | 90.4 | slower |" in card
    assert "| openvino-bf16 | 99.70% | 0.0130 | 0.749 | 240 | 400 | 90.4 | **serves** |" in card
    assert "| torch-cuda | – | – | – | – | – | – | there is no CUDA device |" in card


def test_a_slice_without_rows_or_champion_is_a_dash() -> None:
    empty = SliceScores("newest", "newest 20% of groups", True, "no test row has a date", 0, 0)
    lines = list_slices([(empty, SliceVerdict("newest", "no test row has a date"))])
    assert lines[2] == "| newest | 0 | – | – | – | – | no test row has a date |"
    assert list_slices([]) == list_cases([]) == list_engines([]) == []


def test_a_description_keeps_to_mlflows_length_and_names_the_rest() -> None:
    card = "\n".join(f"| fact {number} | value |" for number in range(1000))
    short = cut_description(card)
    assert len(short) <= MAX_DESCRIPTION
    assert short.endswith(f"| value |{CUT}")
    assert cut_description("short") == "short"
