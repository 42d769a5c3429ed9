"""When a question is open, when its answer still counts, and what a person reads."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tasks.core.approval import Question, describe_end, describe_question, find_question, judge_question

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
QUESTION = Question("3", "2", NOON, NOON + timedelta(days=7))


@dataclass(frozen=True)
class Row:
    action: str
    to_version: str | None
    from_version: str | None = "2"
    who: str = "retrain"
    why: str = ""
    at: datetime = NOON


@pytest.mark.parametrize(
    ("rows", "waits"),
    [
        ([], None),
        ([Row("ask", "3")], "3"),
        ([Row("promote", "2"), Row("ask", "3")], "3"),
        ([Row("ask", "3"), Row("promote", "3")], None),
        ([Row("ask", "3"), Row("release", "3")], None),  # released past the question
        ([Row("ask", "3"), Row("refuse", "3")], None),
        ([Row("ask", "3"), Row("lapse", "3")], None),
        ([Row("ask", "3"), Row("withdraw", "3"), Row("ask", "4")], "4"),
        ([Row("ask", "3"), Row("refuse", "4")], "3"),  # the gate refused a newer one
        ([Row("ask", "3"), Row("rollback", "1")], "3"),  # stands until somebody judges it
        ([Row("ask", "3"), Row("refuse", "3"), Row("ask", "3")], "3"),  # another registry's version 3
    ],
)
def test_a_question_is_open_until_the_log_says_what_became_of_its_version(rows: list[Row], waits: str | None) -> None:
    question = find_question(rows, days=7)
    assert (question.version if question else None) == waits


def test_a_question_knows_the_champion_it_was_judged_against_and_its_end() -> None:
    assert find_question([Row("ask", "3")], days=7) == QUESTION


@pytest.mark.parametrize(
    ("champion", "exists", "hours", "action", "reason"),
    [
        ("2", True, 1, "stand", ""),
        ("2", True, 7 * 24, "stand", ""),
        ("2", True, 7 * 24 + 0.01, "lapse", "nobody answered until 2026-03-08 12:00 UTC"),
        ("1", True, 1, "withdraw", "it was judged against version 2, and now version 1 serves"),
        (None, True, 1, "withdraw", "it was judged against version 2, and now no champion serves"),
        ("3", True, 1, "stand", ""),  # released, and the log was not written: to be finished
        ("2", False, 1, "withdraw", "version 3 is no longer in the registry"),
    ],
)
def test_an_answer_counts_in_time_and_against_the_same_champion(
    champion: str | None, exists: bool, hours: float, action: str, reason: str
) -> None:
    ruling = judge_question(QUESTION, champion, exists, NOON + timedelta(hours=hours))
    assert (ruling.action, ruling.reason) == (action, reason)


@pytest.mark.parametrize(
    ("rows", "version", "told"),
    [
        ([], None, None),
        ([Row("ask", "3")], None, None),
        ([Row("ask", "3"), Row("refuse", "3", who="ann", why="slow")], None, "version 3 was refused by ann"),
        ([Row("ask", "3"), Row("lapse", "3"), Row("ask", "4"), Row("promote", "4")], "3", "version 3 was let go"),
        ([Row("ask", "3"), Row("lapse", "3"), Row("ask", "4"), Row("promote", "4")], None, "version 4 was released"),
        ([Row("ask", "3"), Row("lapse", "3")], "9", None),
    ],
)
def test_how_a_question_ended_can_be_told(rows: list[Row], version: str | None, told: str | None) -> None:
    end = describe_end(rows, version)
    assert (end is None) if told is None else (end or "").startswith(told)


def test_a_person_reads_rules_and_both_models_in_one_table() -> None:
    scores = {"accuracy": 0.8, "accuracy_ci": [0.7, 0.9], "macro_f1": 0.75, "ece": 0.04, "n": 708}
    rules = [{"name": "floor", "passed": True, "reason": "macro-F1 0.750 reaches 0.600"}]
    evidence = {"scores": scores, "champion_scores": {**scores, "accuracy": 0.78}, "decision": {"rules": rules}}
    text = describe_question("toy", QUESTION, evidence, {"MLflow version": "http://mlflow/3"})
    lines = text.splitlines()
    assert lines[0] == "**toy version 3** passes the gate and waits for a yes. Version 2 serves meanwhile."
    assert "| accuracy                | 0.800 [0.700, 0.900] | 0.780 [0.700, 0.900] |" in lines
    assert "- ok, **floor**: macro-F1 0.750 reaches 0.600" in lines
    assert "Asked 2026-03-01 12:00 UTC; let go without an answer after 2026-03-08 12:00 UTC." in lines
    assert "- MLflow version: http://mlflow/3" in lines


def test_a_first_version_has_nothing_to_be_compared_with() -> None:
    scores = {"accuracy": 0.8, "macro_f1": 0.75, "ece": 0.04, "n": 708}
    evidence: dict[str, Any] = {"scores": scores, "champion_scores": None, "decision": {"rules": []}}
    text = describe_question("toy", Question("1", None, NOON, NOON), evidence, {})
    assert "Nothing serves meanwhile." in text
    assert "| accuracy                | 0.800     | – |" in text.splitlines()
