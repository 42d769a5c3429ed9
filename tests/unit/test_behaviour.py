from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from configs.load import load_loop
from configs.schema import Behaviour, Case
from tasks.core.behaviour import KindResult, count_by_kind, describe_kind, judge_cases
from tasks.core.errors import DataError

LABELS = ["negative", "positive"]


@dataclass
class Answers:
    probabilities: npt.NDArray[np.float32]
    answers: list[str]


def answer(texts: Sequence[str]) -> Answers:
    """Positive by the share of words that are "good"; unknown without a word that it knows."""
    chances = np.array([np.mean([word == "good" for word in text.split()]) for text in texts], dtype=np.float32)
    answers = [
        "unknown" if text == "?" else LABELS[int(chance > 0.5)] for text, chance in zip(texts, chances, strict=True)
    ]
    return Answers(np.stack([1 - chances, chances], axis=1), answers)


@pytest.mark.parametrize(
    ("case", "passed", "text", "expected", "answered"),
    [
        (Case(kind="must", text="good", label="positive"), True, "good", "positive", "positive"),
        (Case(kind="must", text="a good day", label="positive"), False, "a good day", "positive", "negative"),
        (Case(kind="must", text="?", label="unknown"), True, "?", "unknown", "unknown"),
        (Case(kind="must", text="?", label="negative"), False, "?", "negative", "unknown"),
        (Case(kind="invariance", text="x", variants=["y", "?"]), False, "?", "negative", "unknown"),
        (Case(kind="invariance", text="good", variants=["good good"]), True, "good", "positive", "positive"),
        (Case(kind="invariance", text="good", variants=["good good", "bad", "x"]), False, "bad", "positive",
         "negative"),
        (Case(kind="direction", label="positive", text="good", variants=["good x", "x"]), True, "good x",
         "positive below 1.0000", "positive 0.5000"),
        (Case(kind="direction", label="positive", text="good x", variants=["x", "good"]), False, "good",
         "positive below 0.5000", "positive 1.0000"),
        (Case(kind="direction", label="negative", text="x", variants=["good x"], margin=0.5), True, "good x",
         "negative below 0.5000", "negative 0.5000"),
        (Case(kind="direction", label="negative", text="x", variants=["good x"], margin=0.6), False, "good x",
         "negative below 0.4000", "negative 0.5000"),
        (Case(kind="direction", label="positive", text="good", variants=["good good"]), False, "good good",
         "positive below 1.0000", "positive 1.0000"),
    ],
)  # fmt: skip
def test_cases(case: Case, passed: bool, text: str, expected: str, answered: str) -> None:
    (found,) = judge_cases(Behaviour(cases=[case]), LABELS, answer)
    assert (found.passed, found.text, found.expected, found.answered) == (passed, text, expected, answered)


def test_cases_keep_their_number_and_are_asked_in_one_go() -> None:
    asked: list[int] = []

    def count(texts: Sequence[str]) -> Answers:
        asked.append(len(texts))
        return answer(texts)

    cases = [
        Case(kind="invariance", text="good", variants=["good", "good"]),
        Case(kind="must", text="bad", label="positive"),
        Case(kind="must", text="good", label="positive"),
    ]
    found = judge_cases(Behaviour(cases=cases), LABELS, count)
    assert asked == [5]
    assert [(result.number, result.passed) for result in found] == [(1, True), (2, False), (3, True)]


def test_no_cases_ask_nothing() -> None:
    assert judge_cases(Behaviour(), LABELS, answer) == ()
    assert count_by_kind((), Behaviour()) == ()


def test_a_label_that_the_model_lacks_is_named() -> None:
    behaviour = Behaviour(cases=[Case(kind="direction", text="good", label="great", variants=["bad"])])
    with pytest.raises(DataError, match=r"case 1 asks for the label 'great'; the model answers \['negative'"):
        judge_cases(behaviour, LABELS, answer)


def test_shares_are_counted_by_kind_and_default_to_all() -> None:
    cases = [Case(kind="must", text=text, label="positive") for text in ("good", "bad", "good", "x")]
    cases.append(Case(kind="invariance", text="good", variants=["x"]))
    behaviour = Behaviour(cases=cases, min_passed_share={"must": 0.5})
    must, invariance = count_by_kind(judge_cases(behaviour, LABELS, answer), behaviour)
    assert must == KindResult("must", 2, 4, 0.5, (2, 4))
    assert invariance == KindResult("invariance", 0, 1, 1.0, (5,))
    assert (must.is_met, invariance.is_met) == (True, False)


def test_a_reason_names_the_first_failed_cases() -> None:
    failed = KindResult("must", 1, 12, 0.9, tuple(range(2, 13)))
    assert describe_kind(failed) == "must 1 of 12 (90% needed, failed: 2, 3, 4, 5, 6, 7, 8, 9 and 3 more)"
    assert describe_kind(KindResult("must", 3, 3, 1.0, ())) == "must 3 of 3 (100% needed)"


def test_the_shipped_cases_are_many_and_different() -> None:
    behaviour = load_loop(Path("configs/loops/product-sentiment.yaml")).behaviour
    kinds = [case.kind for case in behaviour.cases]
    assert len(kinds) >= 40
    assert min(kinds.count(kind) for kind in ("must", "invariance", "direction")) >= 10
    texts = [text for case in behaviour.cases for text in (case.text, *case.variants)]
    assert {text for text in texts if texts.count(text) > 1} <= {"This is a good player."}
    assert all(case.why for case in behaviour.cases)
    assert set(behaviour.min_passed_share) == {"must", "invariance", "direction"}
