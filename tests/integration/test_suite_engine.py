"""The contract with Great Expectations: what we ask of it, and that its answers have the shape that we read."""

import pandas as pd
import pytest

from tasks.core.suite_engine import Question, SuiteMistake, ask

FRAME = pd.DataFrame({"row_id": ["a", "b", "c", "d"], "text": ["one", "two", "two", ""], "n": [3, 3, 30, 0]})
SHORT = Question("expect_column_values_to_be_between", {"column": "n", "min_value": 1, "max_value": 10})
DIFFERENT = Question("expect_column_proportion_of_unique_values_to_be_between", {"column": "text", "min_value": 0.9})
MANY = Question("expect_table_row_count_to_be_between", {"min_value": 2}, "critical")


def test_each_question_gets_its_answer_in_order_with_the_rows_that_fail() -> None:
    rows, share, count = ask(FRAME, [SHORT, DIFFERENT, MANY], "row_id")
    assert (rows.success, rows.unexpected_ids) == (False, ["c", "d"])
    assert (rows.details["unexpected_count"], rows.details["element_count"]) == (2, 4)
    assert (share.success, share.unexpected_ids, share.details["observed_value"]) == (False, [], 0.75)
    assert (count.success, count.details["observed_value"]) == (True, 4)
    assert [answer.success for answer in ask(FRAME, [MANY, SHORT], "row_id")] == [True, False]


def test_no_answer_holds_a_value_of_a_row() -> None:
    hidden = FRAME.assign(text="secret")
    [found] = ask(
        hidden, [Question("expect_column_values_to_be_in_set", {"column": "text", "value_set": ["x"]})], "row_id"
    )
    assert found.unexpected_ids == ["a", "b", "c", "d"]
    assert "secret" not in str(found.details)


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        (Question("expect_the_moon", {}), "expect_the_moon"),
        (Question("expect_column_values_to_be_between", {"column": "n"}), "min_value and max_value cannot both be"),
        (Question("expect_column_values_to_be_between", {"column": "gone", "min_value": 1}), "gone"),
    ],
)
def test_a_question_that_cannot_be_answered_is_named_by_its_place(question: Question, problem: str) -> None:
    with pytest.raises(SuiteMistake, match=problem) as caught:
        ask(FRAME, [SHORT, question], "row_id")
    assert caught.value.place == 1
