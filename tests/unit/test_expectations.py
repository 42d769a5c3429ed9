from typing import Any

import pandas as pd
import pytest

from configs.schema import Expectation, SetExpectation
from tasks.core.errors import DataError
from tasks.core.expectations import validate

BETWEEN = "expect_column_values_to_be_between"
ROWS = pd.DataFrame({"row_id": ["s:a", "s:b", "s:c", "s:d"], "n_chars": [0, 5, 5, 900], "label": ["p", "q", "p", "zz"]})


def row(kind: str, reason: str = "why", **kwargs: Any) -> Expectation:
    return Expectation(type=kind, kwargs=kwargs, reason=reason)


def whole(kind: str, severity: Any = "critical", **kwargs: Any) -> SetExpectation:
    return SetExpectation(type=kind, kwargs=kwargs, reason="why", severity=severity)


def test_failing_rows_are_named_and_results_keep_the_order() -> None:
    length, label = validate(
        ROWS,
        [
            row(BETWEEN, "too short or long", column="n_chars", min_value=1, max_value=100),
            row("expect_column_values_to_be_in_set", column="label", value_set=["p", "q"]),
        ],
    )
    assert (length.success, length.unexpected_ids, length.reason) == (False, ["s:a", "s:d"], "too short or long")
    assert (length.severity, length.column, length.observed) == ("row", "n_chars", "2 of 4 rows")
    assert (label.success, label.unexpected_ids) == (False, ["s:d"])


def test_ids_come_also_where_mostly_forgives() -> None:
    (result,) = validate(ROWS, [whole(BETWEEN, "warning", column="n_chars", max_value=100, mostly=0.7)])
    assert (result.success, result.unexpected_ids, result.severity) == (True, ["s:d"], "warning")


def test_another_id_column() -> None:
    frame = ROWS.rename(columns={"row_id": "prediction_id"})
    (result,) = validate(frame, [row(BETWEEN, column="n_chars", max_value=100)], id_column="prediction_id")
    assert result.unexpected_ids == ["s:d"]


def test_expectations_on_the_whole_set() -> None:
    count, unique = validate(
        ROWS,
        [
            whole("expect_table_row_count_to_be_between", min_value=500),
            whole("expect_column_proportion_of_unique_values_to_be_between", "warning", column="label", min_value=0.5),
        ],
    )
    assert (count.success, count.severity, count.observed, count.unexpected_ids) == (False, "critical", "4", [])
    assert (unique.success, unique.severity, unique.observed) == (True, "warning", "0.75")


def test_no_value_of_a_row_is_shown() -> None:
    (result,) = validate(ROWS, [whole("expect_column_distinct_values_to_be_in_set", column="label", value_set=["p"])])
    assert (result.success, result.observed) == (False, "2 unexpected")


@pytest.mark.parametrize(
    ("expectation", "problem"),
    [
        (row(BETWEEN, column="n_tokens", min_value=1), 'column "n_tokens" in BatchData does not exist'),
        (row("expect_column_values_to_be_lovely", column="label"), "expect_column_values_to_be_lovely not found"),
        (row(BETWEEN, column="n_chars"), "min_value and max_value cannot both be None"),
        (row(BETWEEN, min_value=1), "validation error"),
    ],
)
def test_a_check_that_cannot_be_computed_is_an_error_of_the_suite(expectation: Expectation, problem: str) -> None:
    with pytest.raises(DataError, match=f"expectation {expectation.type}.*why.*cannot be computed") as caught:
        validate(ROWS, [expectation])
    assert problem in str(caught.value)
    assert "data.expectations" in str(caught.value)


def test_nothing_asked_nothing_found() -> None:
    assert validate(ROWS, []) == []


def test_no_rows() -> None:
    (result,) = validate(ROWS[:0], [row(BETWEEN, column="n_chars", min_value=1)])
    assert (result.success, result.unexpected_ids) == (True, [])


def test_it_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    validate(ROWS, [row(BETWEEN, column="n_chars", min_value=1)])
    assert capfd.readouterr() == ("", "")
