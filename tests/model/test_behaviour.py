"""The cases of a loop, asked of an exported model that was trained here: the gate's own way, end to end."""

import numpy as np
import pytest

from configs.schema import Behaviour, Case, Training
from tasks.core.behaviour import CaseResult, count_by_kind, judge_cases
from tasks.core.export import export_bundle
from tasks.core.fine_tuning import fine_tune
from tasks.core.predictor import Predictor
from tests.support.tiny_base import BAD, GOOD, make_rows, write_tiny_base

LABELS = ["negative", "positive"]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("model")
    base = write_tiny_base(folder / "base")
    training = Training(base_model=str(base), epochs=8, early_stopping_patience=None, learning_rate=3e-3,
                        head_learning_rate=1e-2, precision="fp32")  # fmt: skip
    rows = make_rows(330)
    train, validation = rows.iloc[:270], rows.iloc[270:]
    tuned = fine_tune(train, validation, LABELS, training, str(base), folder / "trainer", lambda _: None)
    gold = np.array([LABELS.index(label) for label in validation["label"]])
    texts = validation["text"].tolist()
    return export_bundle(tuned.classifier, tuned.tokenizer, "toy", texts, gold, folder / "bundle")


def ask(predictor: Predictor, *cases: Case) -> list[CaseResult]:
    return list(judge_cases(Behaviour(cases=list(cases)), predictor.labels, predictor.predict))


def test_it_must_know_every_word_that_tells_the_label(predictor: Predictor) -> None:
    cases = [Case(kind="must", text=f"the camera is {word}", label="positive") for word in GOOD]
    cases += [Case(kind="must", text=f"the camera is {word}", label="negative") for word in BAD]
    assert [result.text for result in ask(predictor, *cases) if not result.passed] == []


def test_the_product_does_not_matter(predictor: Predictor) -> None:
    cases = [
        Case(kind="invariance", text=f"the camera was {word}", variants=[f"the {thing} was {word}" for thing in
                                                                        ("phone", "battery", "screen", "gizmo")])
        for word in (*GOOD, *BAD)
    ]  # fmt: skip
    assert [result.text for result in ask(predictor, *cases) if not result.passed] == []


def test_praise_and_complaint_move_the_answer_their_way(predictor: Predictor) -> None:
    found = ask(
        predictor,
        Case(kind="direction", label="positive", text="this phone is great", variants=["this phone is awful"],
             margin=0.5),
        Case(kind="direction", label="negative", text="this phone is awful", variants=["this phone is great"],
             margin=0.5),
    )  # fmt: skip
    assert all(result.passed for result in found)


def test_what_the_model_does_not_know_is_told(predictor: Predictor) -> None:
    """It never read "not": the case fails, and the record says what it answered."""
    cases = [
        Case(kind="must", text="it is great", label="positive"),
        Case(kind="must", text="it is not great", label="negative", why="negation"),
        Case(kind="direction", label="negative", text="it is not great", variants=["it is great"], margin=0.3),
    ]
    behaviour = Behaviour(cases=cases, min_passed_share={"must": 0.5})
    found = judge_cases(behaviour, predictor.labels, predictor.predict)
    assert [result.passed for result in found] == [True, False, False]
    assert (found[1].answered, found[1].why) == ("positive", "negation")
    assert found[1].score > 0.5
    assert [(kind.kind, kind.is_met) for kind in count_by_kind(found, behaviour)] == [
        ("must", True),
        ("direction", False),
    ]
